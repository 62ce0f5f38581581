"""Pokle, Muckley, Chen & Karrer, "Training-free linear image inverses via flows" (TMLR 2024), Algorithm 1: OT-ODE."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from torch import Tensor

from invgen.diffusion import Denoiser, flow_time, noise_levels
from invgen.forward import LinearOperator
from invgen.noise import Gaussian
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian
from invgen.samplers.guided.base import GuidedSampler
from invgen.samplers.guided.pigdm import PiGDM
from invgen.validation.hints import Fraction, Range


@dataclass(frozen=True)
class OTODE(GuidedSampler):
    """The flow's ODE with pseudoinverse guidance, started part of the way, from a draw that knows the measurement.

    Linear operators, Gaussian or no noise. p(x_0 | x_sigma) is taken as N(D, r^2 I), and the guidance is PiGDM's: with t =
    1 at data, Euler's step on the paper's velocity v + (1 - t) / t grad log p(y | x_t) is the shared step with eta = 0, and
    its r^2 = (1 - t)^2 / (t^2 + (1 - t)^2) is sigma^2 d^2 / (sigma^2 + d^2) with d the prior's data_std, the unit of the
    flow. The settings are those that Martin et al. (ICLR 2025) found by task; the defaults are those of super-resolution.

    Args:
        order: 1 is Euler's step, the paper's; see `GuidedSampler`.
        begin: the paper's time t, 0 at noise, at which the ODE starts: 0.1 for super-resolution and inpainting, 0.3 for
            denoising, 0.4 for deblurring; 0 is from noise.
        weight: of the guidance, "constant" 1 (super-resolution, random inpainting), or "sqrt", sqrt(t^2 / (t^2 + (1 -
            t)^2)) (denoising, deblurring, box inpainting).
        carry: the x_0 to which noise is added at the start: "adjoint", A^T y, as in public code, which has no meaning where
            A^T A is far from the identity, or "draw", from the posterior under a white prior N(m, d^2 I).
    """

    eta: Fraction = 0.0
    order: Literal[1, 2] = 1
    schedule: str | Sequence[float] = "flow"
    begin: Annotated[float, Range(0, 1, below=True)] = 0.1
    weight: Literal["constant", "sqrt"] = "constant"
    carry: Literal["adjoint", "draw"] = "adjoint"

    A: ClassVar[type] = LinearOperator
    noise: ClassVar[type] = Gaussian
    noiseless: ClassVar[bool] = True
    family: ClassVar[str] = "flow"
    exact: ClassVar[str] = "for white Gaussian priors started from a draw, as steps grow"

    guide = PiGDM.guide

    def width(self, post: LinearGaussian, s: float) -> float:
        """Returns r^2, the variance of x_0 given x_sigma that the guidance assumes."""
        d = post.prior.data_std
        return s**2 * d**2 / (s**2 + d**2)

    def levels(self, prior: Denoiser) -> list[tuple[float, float]]:
        top, d = prior.sigma_max, prior.data_std
        if self.begin > 0:
            top = min(top, max(d * (1 - self.begin) / self.begin, 2 * prior.sigma_min))
        return noise_levels(self.steps, prior.sigma_min, top, self.schedule, d)

    def run(self, post: LinearGaussian, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, y = post.prior, post.y
        if self.begin > 0:
            white = x.new_full(x.shape, prior.data_mean)
            x0 = post.A.adjoint(y) if self.carry == "adjoint" else post.draw(white, prior.data_std**2, randn)
            x = x0 + self.levels(prior)[0][0] * randn(x)
        yield from super().run(post, x, randn)

    def gain(self, post: LinearGaussian, s: float) -> float:
        """Returns the weight of the guidance at a noise level."""
        t = 1 - flow_time(s, post.prior.data_std)
        return 1.0 if self.weight == "constant" else t / math.sqrt(t**2 + (1 - t) ** 2)
