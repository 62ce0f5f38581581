"""Proximal samplers: each step solves a small problem, the data near a point of the diffusion, or draws from it.

`_fits` has the draws that DCPS and MGPS share.
"""
