"""The catalogue of priors."""

from invgen.priors.exact import Atoms, GaussianMixture, GaussianPrior
from invgen.priors.load import load, names

__all__ = ["Atoms", "GaussianMixture", "GaussianPrior", "load", "names"]
