"""Fourier transforms at any frequencies, and what is measured with them: radio interferometry, non-Cartesian MRI."""
