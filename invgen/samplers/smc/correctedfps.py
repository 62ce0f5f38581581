"""FPS whose potentials are divided out again, so that the posterior is its target: our variant, of no paper."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from invgen.samplers.smc._measured import Measured
from invgen.samplers.smc.base import Cloud, Resampling
from invgen.samplers.smc.fps import FPS
from invgen.validation.hints import Count, Range


@dataclass(frozen=True)
class CorrectedFPS(FPS):
    """FPS with a right target: the potential of a level is divided out at the next, so that only p(y | x_0) remains.

    Operators with an SVD, Gaussian noise of one level. At level s the potential has variance sigma_y^2 I + (2 s)^2 A A^T,
    so that these ratios keep a variance. Exact as particles and steps grow, for any path; exp(log_evidence) is unbiased for
    the law of the discretised prior. It takes many particles: potentials about one noisy path may lose modes that y leaves
    open.

    Args:
        fresh: see FPS; None, the ancestral step, keeps the variance of the prior.
    """

    steps: Count = 100
    particles: Count = 32
    resampling: Resampling = "systematic"
    fresh: Annotated[float, Range(0, 1, above=True)] | None = None

    exact: ClassVar[str] = "as particles and steps grow"

    def spread(self, s_next: float) -> float:
        return (2 * s_next) ** 2

    def divide_out(self, cloud: Cloud, m: Measured, path: Tensor, v: Tensor, var: Tensor) -> None:
        cloud.log_w = cloud.log_w - self.per_chain(m.log_normal(path - v, var, m.seen))
