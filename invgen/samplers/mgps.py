"""Moufad, Janati, Bedin, Durmus, Douc, Moulines & Olsson, "Variational diffusion posterior sampling with midpoint guidance"
(ICLR 2025), Algorithm 1."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invgen.diffusion import step_kernel
from invgen.errors import OptionError
from invgen.guidance import fit_gaussian
from invgen.posterior import Posterior
from invgen.random import Streams
from invgen.sampler import Sampler


@dataclass(frozen=True)
class MGPS(Sampler):
    """Midpoint guidance: from each level draws the state at a lower one given y, then bridges back to the next level.

    Any differentiable operator, any noise with a density, any loss. At the midpoint m < s the likelihood of y is taken at
    the denoised signal, p(y | D(x_m, m)), which is nearer to the truth than at s; the price is p(x_m | x_s) as one Gaussian
    step. The draw comes from a Gaussian with independent values, fitted by a few gradient steps. The bias falls with the
    iterations down to that of the two approximations, which alpha trades.

    The paper's warm start at high noise, a second fit at time 0, is left out.

    Args:
        alpha: the midpoint, as a share of the steps that are left (0.5); 1 guides at the next level itself.
        iterations: gradient steps a level (2 in the paper, and 20 at every tenth and at the end).
        last_iterations: at every tenth level and over the last ten.
        lr: of Adam, in units of the standard deviation of the step; the paper has 0.03 to 0.1, in those of the data.
    """

    alpha: float = 0.5
    iterations: int = 5
    last_iterations: int = 20
    lr: float = 0.3

    family: ClassVar[str] = "guided"
    backprop: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.alpha <= 1 and self.iterations >= 1 and self.last_iterations >= 1 and self.lr > 0):
            raise OptionError(
                f"MGPS needs 0 < alpha <= 1, iterations of at least 1 and lr > 0, got {self.alpha!r}, {self.iterations!r}, "
                f"{self.last_iterations!r} and {self.lr!r}"
            )

    @classmethod
    def paper(cls, steps: int = 300) -> "MGPS":
        """The published numbers of steps and iterations on DDPM's schedule."""
        return cls(steps=steps, schedule="vp", iterations=2, last_iterations=20)

    def run(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, levels = post.prior, self.levels(post.prior)
        for k, (s, s_next) in enumerate(levels):
            x0 = prior(x, s)
            left = len(levels) - k - 1  # steps from s_next down to 0
            if left == 0:
                yield x0
                return
            middle = levels[len(levels) - max(math.floor(self.alpha * left), 1)][0]

            def log_g(u: Tensor, middle: float = middle) -> Tensor:
                return post.log_likelihood(prior(u, middle))

            iterations = self.last_iterations if left % 10 == 0 or left <= 10 else self.iterations
            mean, spread = step_kernel(x, x0, s, middle)
            mean, spread = fit_gaussian(mean, spread, log_g, iterations, self.lr, randn)
            mid = mean + spread * randn(x)
            # x at s_next between x at s and mid, of variances that grow with sigma^2: a Brownian bridge
            weight = (s_next**2 - middle**2) / (s**2 - middle**2)
            x = mid + weight * (x - mid) + math.sqrt(weight * (s**2 - s_next**2)) * randn(x)
            yield x
