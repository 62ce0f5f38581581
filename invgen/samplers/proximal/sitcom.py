"""Alkhouri, Liang, Huang, Dai, Qu, Ravishankar & Wang, "SITCOM: step-wise triple-consistent diffusion sampling for inverse
problems" (ICML 2025), Algorithm 1."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from invgen.diffusion import Denoiser
from invgen.linalg import dot
from invgen.noise import Gaussian, Noiseless
from invgen.numerics.optimise import minimise, noise_floor
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler, published
from invgen.validation.hints import Count, NonNegative, Positive

_TASKS = {  # (steps, iterations), released ablation table, FFHQ
    "super-resolution": (20, 20),
    "gaussian deblurring": (20, 30),
    "motion deblurring": (20, 30),
    "nonlinear deblurring": (20, 30),
    "random inpainting": (20, 30),
    "high dynamic range": (20, 30),
    "phase retrieval": (20, 25),
}


@dataclass(frozen=True)
class SITCOM(Sampler):
    """At each level, moves the network's input until its output explains the data, then puts the noise back.

    Any differentiable operator, any noise. Adam on lam |v - x|^2 - log p(y | D(v)) from v = x, for each sample until the
    residual is that of the noise; a sample that is there waits for the others (a loss has no such level). A point
    estimate at each level: its samples spread less than the posterior, and differ by the noise that is put back.

    The released scripts return the step with the best PSNR against the ground truth; this class returns the last.

    Args:
        iterations: of Adam at each level, at most (the paper's K, 20 to 30).
        lr: of Adam, in units of the standard deviation sqrt(data_std^2 + sigma^2) of the input (0.02 in the paper, whose
            inputs have one of about 1 in total).
        lam: weight of |v - x|^2, in units of the input's variance; the released code has 0.
        margin: the residual at which a sample stops, over the noise level (0.051 / 0.05 in the released code).
    """

    steps: Count = 20
    iterations: Count = 30
    lr: Positive = 0.02
    lam: NonNegative = 0.0
    margin: Positive = 1.02

    noiseless: ClassVar[bool] = True
    family: ClassVar[str] = "guided"
    backprop: ClassVar[bool] = True

    @classmethod
    def paper(cls, task: str = "super-resolution") -> "SITCOM":
        """Returns the published steps and iterations of a task, on DDPM's schedule."""
        steps, iterations = published("SITCOM", _TASKS, task)
        return cls(steps=steps, schedule="vp", iterations=iterations)

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, exact = post.prior, isinstance(post.noise, Noiseless)
        floor = None if exact else noise_floor(post, self.margin)
        soft = replace(post, noise=Gaussian(1.0)) if exact else post  # exact measurements: the residual alone
        for s, s_next in self.levels(prior):
            unit = math.sqrt(prior.data_std**2 + s**2)

            def misfit(v: Tensor, x: Tensor = x, s: float = s, unit: float = unit) -> tuple[Tensor, Tensor]:
                x0 = prior(v, s)
                return self.lam * dot(v - x, v - x).flatten() / unit**2 - soft.log_likelihood(x0), x0

            *_, (_, _, x0) = minimise(misfit, x, self.iterations, self.lr * unit, floor)
            x = x0 + s_next * randn(x0) if s_next > 0 else x0
            yield x
