"""The catalogue of priors."""

from invgen.priors.diffusers import DiffusersDenoiser, from_diffusers
from invgen.priors.exact import Atoms, GaussianMixture, GaussianPrior
from invgen.priors.load import load, names

__all__ = ["Atoms", "DiffusersDenoiser", "GaussianMixture", "GaussianPrior", "from_diffusers", "load", "names"]
