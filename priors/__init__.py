"""The catalogue of priors."""

from invgen.priors.exact import Atoms, GaussianMixture, GaussianPrior

__all__ = ["Atoms", "GaussianMixture", "GaussianPrior"]
