"""The catalogue of priors."""

from invgen.priors.diffusers import DiffusersDenoiser, from_diffusers
from invgen.priors.exact import Atoms, GaussianMixture, GaussianPrior
from invgen.priors.from_network import FunctionDenoiser, NetworkDenoiser, from_denoiser, from_network
from invgen.priors.load import load, names
from invgen.priors.schedules import Schedule

__all__ = [
    "Atoms",
    "DiffusersDenoiser",
    "FunctionDenoiser",
    "GaussianMixture",
    "GaussianPrior",
    "NetworkDenoiser",
    "Schedule",
    "from_denoiser",
    "from_diffusers",
    "from_network",
    "load",
    "names",
]
