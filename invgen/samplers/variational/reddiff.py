"""Mardani, Song, Kautz & Vahdat, "A variational perspective on solving inverse problems with diffusion models" (ICLR 2024),
Algorithm 1."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invgen.diffusion import Denoiser
from invgen.forward import LinearOperator
from invgen.numerics.optimise import Adam
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.validation.hints import Count, NonNegative, Positive


@dataclass(frozen=True)
class REDdiff(Sampler):
    """Regularisation by denoising diffusion: Adam on -log p(y | mu) plus the gradient of the denoiser as the noise falls.

    Any differentiable operator, any noise with a density. A point estimate: its samples spread less than the posterior.
    The loss is a sum over values with the true noise variance; the paper's code takes means and no variance, so that its
    lambda of 0.25 belongs to sigma_y = 1.

    Args:
        lr: of Adam, in units of the prior's data_std.
        lam: weight of the prior.
    """

    steps: Count = 200
    lr: Positive = 0.1
    lam: NonNegative = 1.0

    family: ClassVar[str] = "variational"

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, mu = post.prior, first_point(post, x, randn)
        adam = Adam(self.lr * prior.data_std, betas=(0.9, 0.99), eps=1e-8 / prior.data_std)
        for s, _ in self.levels(prior):
            z = randn(mu)
            gradient = (mu + s * z - prior(mu + s * z, s)) / s - z  # eps_hat - z
            # sigma_t / alpha_t times (eps_hat - z) is mu - D; over data_std^2 it is in the units of a score
            mu = adam.step(mu, self.lam * s * gradient / prior.data_std**2 - post.likelihood_score(mu))
            yield mu


def first_point(post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Tensor:
    """Returns where the optimisation starts, (B, *shape): A^T y / |A|^2, which is A^+ y where A has orthonormal rows.

    For a nonlinear operator it is near the prior's mean, off it so that no symmetry is kept.
    """
    if isinstance(post.A, LinearOperator):
        return post.A.adjoint(post.y) / post.A.norm() ** 2
    return post.prior.data_mean + 1e-3 * post.prior.data_std * randn(x)
