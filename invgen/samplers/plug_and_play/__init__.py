"""Plug-and-play methods: a denoiser in place of the proximal step of a prior; they find one point.

`base` has the skeleton.
"""
