"""The Gaussian whose consistency function is known exactly: the yardstick of samplers that take few steps."""

from torch import Tensor

from invgen.diffusion import Sigma, per_sample_sigma
from invgen.priors.laws.exact import GaussianPrior


class GaussianConsistency(GaussianPrior):
    """N(mean, C) by its consistency function f(x, sigma) = mean + C^(1/2) (C + sigma^2 I)^(-1/2) (x - mean).

    f is where the probability flow dx / dsigma = sigma (C + sigma^2 I)^-1 (x - mean) ends that goes through x at sigma.
    Density, exact samples and exact posteriors are those of the Gaussian. Its arguments are those of `GaussianPrior`.
    """

    consistency = True

    def forward(self, x: Tensor, sigma: Sigma) -> Tensor:
        """Returns f(x, sigma), (B, *shape)."""
        mean, spectrum = self.mean.flatten().to(x.dtype), self.spectrum.to(x.dtype)
        level = per_sample_sigma(sigma, x.flatten(1))
        z = self._rotate(x.flatten(1) - mean) * (spectrum / (spectrum + level**2)).sqrt()
        return (mean + (z if self.basis is None else z @ self.basis[0].to(x.dtype).T)).reshape(x.shape)
