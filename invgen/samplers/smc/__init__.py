"""Sequential Monte Carlo: weighted particles along a diffusion, exact in the limit of many.

`base` has the skeleton.
"""
