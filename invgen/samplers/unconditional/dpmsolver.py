"""Lu et al., "DPM-Solver++: Fast solver for guided sampling of diffusion probabilistic models" (2022)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from invgen.diffusion import Denoiser
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.samplers.unconditional.ancestral import Unconditional
from invgen.validation.hints import Count


@dataclass(frozen=True)
class DPMSolver(Unconditional):
    """DPM-Solver++: a multistep method on the probability-flow ODE, one network evaluation a step.

    With h = log(s / s'), the exact solution x' = s'/s x + int_0^h exp(u - h) D du takes for D the polynomial through its
    last values, in log s: Algorithm 2 (2M) for order 2. First and last steps are of lower order, and the step to 0 is D
    itself, as in diffusers' DPMSolverMultistepScheduler, which orders 1 and 2 equal. At order 3 the authors' code and
    diffusers add half of the second derivative, which makes a method of order 2; here it is whole.

    Args:
        order: 1 (DDIM), 2 or 3.
    """

    steps: Count = 20
    order: Literal[1, 2, 3] = 2

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        levels, clean, steps = self.levels(post.prior), [], []
        for k, (s, s_next) in enumerate(levels):
            clean = [post.prior(x, s), *clean[: self.order - 1]]  # the newest first
            order = min(len(clean), len(levels) - k)
            if s_next == 0:
                yield clean[0]
                return
            h = math.log(s / s_next)
            x = s_next / s * x - math.expm1(-h) * clean[0]
            if order == 2:
                x = x - 0.5 * math.expm1(-h) * h / steps[0] * (clean[0] - clean[1])
            if order == 3:
                slope, before = (clean[0] - clean[1]) / steps[0], (clean[1] - clean[2]) / steps[1]
                curve = (slope - before) / (steps[0] + steps[1])
                first = math.expm1(-h) + h  # int_0^h exp(u - h) u du
                x = x + first * (slope + steps[0] * curve) + (h**2 - 2 * first) * curve
            steps = [h, *steps[:1]]
            yield x
