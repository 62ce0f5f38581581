"""Exact laws with closed-form posteriors: Gaussians, mixtures, atoms."""
