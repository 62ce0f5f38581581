"""Moufad, Janati, Bedin, Durmus, Douc, Moulines & Olsson, "Variational diffusion posterior sampling with midpoint guidance"
(ICLR 2025), Algorithm 1."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from invgen.diffusion import Denoiser, step_kernel
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.samplers.proximal._fits import fit_gaussian, step_width
from invgen.validation.hints import Count, Positive, Range


@dataclass(frozen=True)
class MGPS(Sampler):
    """Midpoint guidance: from each level draws the state at a lower one given y, then bridges back to the next level.

    Any differentiable operator, any noise with a density, any loss. At the midpoint m < s the likelihood of y is taken at
    the denoised signal, p(y | D(x_m, m)), which is nearer to the truth than at s; the price is p(x_m | x_s) as one Gaussian
    step. The bias is that of these two approximations, which alpha trades; iterations do not remove it.

    The draw at m is of a Gaussian with independent values fitted by Adam on random draws. The paper's warm start at high
    noise, a second fit at time 0, is left out. `ConjugateMGPS` draws by perturbing and conjugate gradients instead.

    Args:
        alpha: the fraction of the steps left below the midpoint, between 0 and 1; 1 guides at the next level itself.
        iterations: gradient steps a level, one network evaluation each.
        last_iterations: at every tenth level and over the last ten.
        lr: of Adam, in units of the standard deviation of the step; the paper has 0.03 to 0.1, in those of the data.
    """

    steps: Count = 300
    schedule: str | Sequence[float] = "vp"
    alpha: Annotated[float, Range(0, 1, above=True)] = 0.5
    iterations: Count = 2
    last_iterations: Count = 20
    lr: Positive = 0.1

    family: ClassVar[str] = "guided"
    backprop: ClassVar[bool] = True

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, levels = post.prior, self.levels(post.prior)
        for k, (s, s_next) in enumerate(levels):
            x0 = prior(x, s)
            left = len(levels) - k - 1  # steps from s_next down to 0
            if left == 0:
                yield x0
                return
            middle, iterations = self.midpoint(levels, k), self.effort(left)
            mean, spread = step_kernel(x, x0, s, middle)
            width = step_width(post, spread, s, middle)
            mid = self.draw(post, mean, spread, width, middle, iterations, randn)
            # x at s_next between x at s and mid, of variances that grow with sigma^2: a Brownian bridge
            weight = (s_next**2 - middle**2) / (s**2 - middle**2)
            x = mid + weight * (x - mid) + math.sqrt(weight * (s**2 - s_next**2)) * randn(x)
            yield x

    def midpoint(self, levels: list[tuple[float, float]], k: int) -> float:
        """Returns the level at which step k is guided: alpha times the steps that are left."""
        left = len(levels) - k - 1
        return levels[len(levels) - max(math.floor(self.alpha * left), 1)][0]

    def effort(self, left: int) -> int:
        """Returns the gradient steps of a draw, with so many steps left."""
        return self.last_iterations if left % 10 == 0 or left <= 10 else self.iterations

    def draw(
        self, post: Posterior[Denoiser], mean: Tensor, std: float, width: float, s: float, iterations: int, randn: Streams
    ) -> Tensor:
        """Returns a draw of N(u; mean, std^2 I) p(y | D(u, s)) by so many iterations; `width` is that of `step_width`."""
        prior = post.prior
        mean, spread = fit_gaussian(mean, std, lambda u: post.log_likelihood(prior(u, s)), iterations, self.lr, randn)
        return mean + spread * randn(mean)
