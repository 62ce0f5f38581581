"""Pokle, Muckley, Chen & Karrer, "Training-free linear image inverses via flows" (TMLR 2024), Algorithm 1: OT-ODE."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from torch import Tensor

from invgen.diffusion import Denoiser, flow_time, noise_levels
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import published
from invgen.samplers.guided.pigdm import PiGDM
from invgen.validation.hints import Range, Share

_TASKS = {  # begin, weight
    "denoising": (0.3, "sqrt"),
    "deblurring": (0.4, "sqrt"),
    "super-resolution": (0.1, "constant"),
    "box inpainting": (0.1, "sqrt"),
    "random inpainting": (0.1, "constant"),
}


@dataclass(frozen=True)
class OTODE(PiGDM):
    """The flow's ODE with pseudoinverse guidance, started part of the way, from a draw that knows the measurement.

    Linear operators, Gaussian or no noise. p(x_0 | x_sigma) is taken as N(D, r^2 I), and the guidance is PiGDM's: with
    t = 1 at data, Euler's step on the paper's velocity v + (1 - t) / t grad log p(y | x_t) is the shared step with eta = 0.
    The paper's r^2 = (1 - t)^2 / (t^2 + (1 - t)^2) is PiGDM's width="paper"; width="local" is the default here too.

    Args:
        begin: the paper's time t, 0 at noise, at which the ODE starts (0.1 to 0.4); 0 is from noise.
        weight: of the guidance, "constant" 1 or "sqrt", sqrt(t^2 / (t^2 + (1 - t)^2)).
        carry: the x_0 to which noise is added at the start: "draw", from the posterior under a white prior N(m, d^2 I), or
            "adjoint", A^T y, as in public code, which has no meaning where A^T A is far from the identity.
    """

    eta: Share = 0.0
    schedule: str | Sequence[float] = "flow"
    begin: Annotated[float, Range(0, 1, below=True)] = 0.2
    weight: Literal["constant", "sqrt"] = "constant"
    carry: Literal["draw", "adjoint"] = "draw"

    family: ClassVar[str] = "flow"
    exact: ClassVar[str] = "for white Gaussian priors, as steps grow"

    @classmethod
    def paper(cls, task: str = "super-resolution") -> "OTODE":
        """The settings that Martin et al. (ICLR 2025) found for a task, with public code's start."""
        begin, weight = published("OTODE", _TASKS, task)
        return cls(begin=begin, weight=weight, carry="adjoint", width="paper")

    def levels(self, prior: Denoiser) -> list[tuple[float, float]]:
        top, d = prior.sigma_max, prior.data_std
        if self.begin > 0:
            top = min(top, max(d * (1 - self.begin) / self.begin, 2 * prior.sigma_min))
        return noise_levels(self.steps, prior.sigma_min, top, self.schedule, d)

    def run(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, y = post.prior, post.y
        if self.begin > 0:
            white = x.new_full(x.shape, prior.data_mean)
            x0 = post.A.adjoint(y) if self.carry == "adjoint" else post.draw(white, prior.data_std**2, randn)
            x = x0 + self.levels(prior)[0][0] * randn(x)
        yield from super().run(post, x, randn)

    def gain(self, post: Posterior, s: float) -> float:
        t = 1 - flow_time(s, post.prior.data_std)
        return 1.0 if self.weight == "constant" else t / math.sqrt(t**2 + (1 - t) ** 2)
