"""Guided samplers: each step of a diffusion is moved by the gradient of log p(y | x), or by a fit of it.

`base` has the skeleton.
"""
