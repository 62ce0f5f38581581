"""ReSample whose width does not depend on the number of steps: our variant, of no paper."""

from collections.abc import Sequence
from dataclasses import dataclass

from invgen.samplers.latent.resample import ReSample
from invgen.validation.hints import Count, Positive


@dataclass(frozen=True)
class InvariantReSample(ReSample):
    """ReSample that noises back as much at whatever number of steps: the width is gamma s'^2 at the next level s'.

    Any differentiable operator, any noise with a density, a generator.

    Args:
        corrections, inner_steps, stop: see ReSample.
        gamma: the width over the variance of the next level.
    """

    steps: Count = 100
    schedule: str | Sequence[float] = "edm"
    inner_steps: Count = 20
    gamma: Positive = 1.0

    def width(self, s: float, s_next: float) -> float:
        return self.gamma * s_next**2
