"""Priors, the one noise coordinate and the one step.

x_sigma = x_0 + sigma * eps. A diffusion prior is its denoiser D(x, sigma) = E[x_0 | x_sigma = x]; variance-preserving,
velocity and EDM networks are brought to this form by their loader, once.
"""

from invgen.diffusion.denoiser import Denoiser, Rescaled, Sigma, needs_levels, per_sample_sigma
from invgen.diffusion.levels import flow_time, noise_levels
from invgen.diffusion.prior import Prior, as_size
from invgen.diffusion.steps import Stepper, balanced_weight, extrapolate, step, step_kernel, travel_back

__all__ = [
    "Denoiser",
    "Prior",
    "Rescaled",
    "Sigma",
    "Stepper",
    "as_size",
    "balanced_weight",
    "extrapolate",
    "flow_time",
    "needs_levels",
    "noise_levels",
    "per_sample_sigma",
    "step",
    "step_kernel",
    "travel_back",
]
