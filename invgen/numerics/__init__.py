"""Numerical tools: counter-based random numbers, optimisers, gradients, densities by the probability-flow ODE."""
