"""Magnetic resonance imaging: Fourier sampling, coils and their sensitivities, sampling masks."""
