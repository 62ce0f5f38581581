"""Numerical tools: random numbers, optimisers, gradients, densities by the probability-flow ODE, half precision."""
