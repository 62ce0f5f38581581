"""Jalal, Arvinte, Daras, Price, Dimakis & Tamir, "Robust compressed sensing MRI with deep generative priors" (NeurIPS
2021): annealed Langevin dynamics."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from invgen.forward import LinearOperator
from invgen.linalg import norm
from invgen.noise import Gaussian
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.samplers.mcmc.base import langevin
from invgen.validation.hints import Count, Positive


@dataclass(frozen=True)
class ALD(Sampler):
    """Annealed Langevin dynamics: at each noise level a few Langevin steps on p_sigma(x) times a likelihood as wide.

    Linear operators, Gaussian noise. The likelihood at level sigma is N(y; A x, sigma_y^2 I + sigma^2 A A^T), as if x_sigma
    and its noise were independent; it becomes the true one as sigma falls. (The paper's gamma_t^2 is sigma^2 where A A^T is
    the identity.) The last state is denoised, as in Song & Ermon (2020).

    Args:
        steps: noise levels.
        iterations: Langevin steps at each, a network evaluation each.
        step: size of a Langevin step, in units of sigma^2; stable below 1. The same Langevin time in more, shorter steps
            costs more and is hardly closer.
        likelihood: "annealed", or "paper", the released code's: the gradient A^T (y - A x) scaled to `weight` times the
            norm of the score (there over the batch, here per sample), whatever the noise; an earlier version of the code
            took `weight` / sigma^2 times the gradient.
        weight: of likelihood="paper".
    """

    iterations: Count = 3
    step: Positive = 0.5
    likelihood: Literal["annealed", "paper"] = "annealed"
    weight: Positive = 5.0

    A: ClassVar[type] = LinearOperator
    noise: ClassVar[type] = Gaussian
    family: ClassVar[str] = "mcmc"
    exact: ClassVar[str] = "as steps grow and the last level falls"

    @classmethod
    def paper(cls, iterations: int = 3) -> "ALD":
        """The released configuration: 3 iterations for knees, 4 for brains and abdomens.

        1156 of 2311 levels from 232 to 0.0066 (the first half is skipped), steps of 5e-5 at the last, for images whose
        99th percentile is 1.
        """
        levels = tuple(232 * (0.0066 / 232) ** (k / 2310) for k in range(1155, 2311))
        return cls(len(levels), levels, iterations, step=5e-5 / 0.0066**2, likelihood="paper")

    def pull(self, post: Posterior, x: Tensor, s: float, score: Tensor) -> Tensor:
        """The gradient of the log-likelihood at level s, (B, *shape)."""
        post = post.near(x, s**2)
        A, r, var_y = post.A, post.residual(x), post.noise.var
        if self.likelihood == "annealed":
            var_y = var_y[(None,) * (r.ndim - var_y.ndim)] if isinstance(var_y, Tensor) else var_y  # per value, not sample
            return A.pull(r, s**2, var_y)
        gradient = A.adjoint(r)
        return self.weight * norm(score) / norm(gradient).clamp(min=1e-30) * gradient

    def run(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        def slope(u: Tensor) -> Tensor:
            score = post.prior.score(u, s)
            return score + self.pull(post, u, s, score)

        for s, s_next in self.levels(post.prior):
            x = langevin(x, slope, self.step * s**2, self.iterations, randn)
            x = post.prior(x, s) if s_next == 0 else x
            yield x
