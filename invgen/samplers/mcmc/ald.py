"""Jalal, Arvinte, Daras, Price, Dimakis & Tamir, "Robust compressed sensing MRI with deep generative priors" (NeurIPS
2021): annealed Langevin dynamics."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invgen.forward import LinearOperator
from invgen.linalg import norm
from invgen.noise import Gaussian
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian
from invgen.sampler import Sampler
from invgen.samplers.mcmc.base import langevin
from invgen.validation.hints import Count, Positive


@dataclass(frozen=True)
class ALD(Sampler):
    """Annealed Langevin dynamics: at each noise level a few Langevin steps on p_sigma(x) times a likelihood.

    Linear operators, Gaussian noise. As released: the gradient A^T (y - A x) scaled to `weight` times the norm of the score
    (there over the batch, here per sample), whatever the noise; an earlier version of the code took `weight` / sigma^2
    times the gradient. `WidenedALD` has a likelihood as wide as its level. The last state is denoised, as in Song & Ermon
    (2020).

    Args:
        steps: noise levels.
        iterations: Langevin steps at each, a network evaluation each: 3 for knees, 4 for brains and abdomens.
        step: size of a Langevin step, in units of sigma^2; stable below 1. The same Langevin time in more, shorter steps
            costs more and is hardly closer. It belongs to the number of levels; the paper's are in `paper`.
        weight: of the data.
    """

    iterations: Count = 3
    step: Positive = 0.5
    weight: Positive = 5.0

    counts: ClassVar[bool] = False
    A: ClassVar[type] = LinearOperator
    noise: ClassVar[type] = Gaussian
    family: ClassVar[str] = "mcmc"

    @classmethod
    def paper(cls, iterations: int = 3) -> "ALD":
        """Returns the released configuration.

        1156 of 2311 levels from 232 to 0.0066 (the first half is skipped), steps of 5e-5 at the last, for images whose
        99th percentile is 1.
        """
        levels = tuple(232 * (0.0066 / 232) ** (k / 2310) for k in range(1155, 2311))
        return cls(len(levels), levels, iterations, step=5e-5 / 0.0066**2)

    def likelihood_gradient(self, post: LinearGaussian, x: Tensor, s: float, score: Tensor) -> Tensor:
        """Returns the gradient of the log-likelihood at level s, (B, *shape)."""
        post = post.near(x, s**2)
        gradient = post.A.adjoint(post.residual(x))
        return self.weight * norm(score) / norm(gradient).clamp(min=1e-30) * gradient

    def run(self, post: LinearGaussian, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        def slope(u: Tensor) -> Tensor:
            score = post.prior.score(u, s)
            return score + self.likelihood_gradient(post, u, s, score)

        for s, s_next in self.levels(post.prior):
            x = langevin(x, slope, self.step * s**2, self.iterations, randn)
            x = post.prior(x, s) if s_next == 0 else x
            yield x
