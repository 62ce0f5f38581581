"""Moufad, Janati, Bedin, Durmus, Douc, Moulines & Olsson, "Variational diffusion posterior sampling with midpoint guidance"
(ICLR 2025), Algorithm 1."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from torch import Tensor

from invgen.data_term import Bend, Pullback, local_fit
from invgen.diffusion import step_kernel
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.samplers.guided._fits import draw_near, fit_gaussian, perturbed, step_reach
from invgen.validation.hints import Count, Positive, Range


@dataclass(frozen=True)
class MGPS(Sampler):
    """Midpoint guidance: from each level draws the state at a lower one given y, then bridges back to the next level.

    Any differentiable operator, any noise with a density, any loss. At the midpoint m < s the likelihood of y is taken at
    the denoised signal, p(y | D(x_m, m)), which is nearer to the truth than at s; the price is p(x_m | x_s) as one Gaussian
    step. The bias is that of these two approximations, which alpha trades; iterations do not remove it.

    fit="line" (default): the draw at m by perturbing and conjugate gradients, in any units (`draw_near`).
    fit="adam": the paper's, a Gaussian with independent values fitted by Adam on random draws. Its warm start at high
    noise, a second fit at time 0, is left out.

    Args:
        alpha: how far down the midpoint is, between 0 and 1; 1 guides at the next level itself.
        midpoint: "level", alpha times the next noise level, or "step", alpha times the steps that are left, as in the
            paper (0.5), whose steps are even in the time of DDPM.
        iterations: gradient steps a level, one network evaluation each (2 in the paper).
        last_iterations: at every tenth level and over the last ten (20 in the paper); None for as many as elsewhere.
        lr: of Adam, in units of the standard deviation of the step; the paper has 0.03 to 0.1, in those of the data.
    """

    alpha: Annotated[float, Range(0, 1, above=True)] = 0.75
    midpoint: Literal["level", "step"] = "level"
    iterations: Count = 2
    last_iterations: Count | None = None
    fit: Literal["line", "adam"] = "line"
    lr: Positive = 0.1

    family: ClassVar[str] = "guided"
    backprop: ClassVar[bool] = True

    @classmethod
    def paper(cls, steps: int = 300) -> "MGPS":
        """The published numbers of steps and iterations on DDPM's schedule."""
        return cls(steps=steps, schedule="vp", alpha=0.5, midpoint="step", iterations=2, last_iterations=20, fit="adam")

    def run(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, levels = post.prior, self.levels(post.prior)
        for k, (s, s_next) in enumerate(levels):
            x0 = prior(x, s)
            left = len(levels) - k - 1  # steps from s_next down to 0
            if left == 0:
                yield x0
                return
            middle = max(self.alpha * s_next, levels[-1][0])
            if self.midpoint == "step":
                middle = levels[len(levels) - max(math.floor(self.alpha * left), 1)][0]

            often = self.last_iterations is not None and (left % 10 == 0 or left <= 10)
            iterations = self.last_iterations if often else self.iterations
            mean, spread = step_kernel(x, x0, s, middle)
            reach = step_reach(post, spread, s, middle)
            mid = self.draw(post, mean, spread, reach, middle, iterations, randn)
            # x at s_next between x at s and mid, of variances that grow with sigma^2: a Brownian bridge
            weight = (s_next**2 - middle**2) / (s**2 - middle**2)
            x = mid + weight * (x - mid) + math.sqrt(weight * (s**2 - s_next**2)) * randn(x)
            yield x

    def draw(
        self, post: Posterior, mean: Tensor, std: float, reach: float, s: float, iterations: int, randn: Streams
    ) -> Tensor:
        """A draw of N(u; mean, std^2 I) p(y | D(u, s))."""
        prior = post.prior
        if self.fit == "adam":
            mean, spread = fit_gaussian(mean, std, lambda u: post.log_likelihood(prior(u, s)), iterations, self.lr, randn)
            return mean + spread * randn(mean)
        width, data = math.sqrt(prior.variance(s)), perturbed(post, randn)

        def look(u: Tensor) -> tuple[Tensor, Bend, Pullback]:
            x0, vjp = prior.vjp(u, s)
            return *local_fit(data, x0, width, whole=True), vjp

        return draw_near(mean, std, look, iterations, randn, reach)
