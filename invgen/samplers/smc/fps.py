"""Dou & Song, "Diffusion posterior sampling for linear inverse problem solving: a filtering perspective" (ICLR 2024),
Algorithm 2: FPS-SMC."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from invgen.diffusion import step_kernel
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian
from invgen.samplers.smc._measured import Measured, SpectralParticles
from invgen.samplers.smc.base import Cloud, Resampling, by_rows
from invgen.validation.hints import Count, Fraction, Range


@dataclass(frozen=True)
class FPS(SpectralParticles):
    """Filtering posterior sampling: a path of noised measurements y_s, and a particle filter that follows it.

    Operators with an SVD, Gaussian noise of one level. A chain draws y_s down to y at level 0 once; its particles follow by
    the optimal kernel for N(y_s; A x_s, sigma_y^2).

    The potentials are multiplied over all levels, as if each y_s were another measurement, although y_s - A x_s is the same
    noise at every level: the target is too narrow along what was measured, more so with more steps, whatever the particles,
    and log_evidence has no meaning. `CorrectedFPS` has the posterior as its target. Public code compares the particles at
    the next level with y_s of the current one.

    Args:
        fresh: c, for fresh noise of variance c s_next^2 in a step (InverseBench has 0.72). A prior simulated with more
            fresh noise than an ancestral step has loses variance, with any number of steps; None is the ancestral step.
    """

    steps: Count = 1000
    particles: Count = 5
    resampling: Resampling = "multinomial"
    threshold: Fraction = 1.0
    fresh: Annotated[float, Range(0, 1, above=True)] | None = 0.95

    exact: ClassVar[str] = ""

    def spread(self, s_next: float) -> float:
        """Returns the variance that a potential at level s_next has beyond the noise's, in units of the signal."""
        return 0.0

    def divide_out(self, cloud: Cloud, m: Measured, path: Tensor, v: Tensor, var: Tensor) -> None:
        """Removes the potential of a level at the next; `CorrectedFPS` does so, the paper does not.

        Args:
            cloud: whose weights change.
            m: the measurement by coordinates.
            path: the measurement at this level.
            v: the particles, by coordinates.
            var: of the potential.
        """

    def kernel(self, v: Tensor, v0: Tensor, s: float, s_next: float) -> tuple[Tensor, float]:
        """Returns mean and standard deviation of a step from s to s_next.

        Args:
            v: the state by coordinates, of a particle or of the path of the measurement.
            v0: its denoised signal, or the measurement.
            s, s_next: the noise levels.
        """
        eta = 1.0 if self.fresh is None else math.sqrt(self.fresh / (1 - (s_next / s) ** 2))
        return step_kernel(v, v0, s, s_next, eta)

    def run(self, post: LinearGaussian, x: Tensor, randn: Streams, cloud: Cloud) -> Iterator[Tensor]:
        of_chain, levels, m = randn.every(self.particles), self.levels(post.prior), self.measured(post)
        noise = of_chain.every(1)

        def shared() -> Tensor:
            return m.A.Vt(noise(x[:: self.particles])).repeat_interleave(self.particles, 0)

        path = m.y + levels[0][0] * shared()
        for s, s_next in levels:
            (x0,) = by_rows(lambda p, u, s=s: (p.prior(u, s),), cloud.split, x, post=post)
            centre, std = self.kernel(path, m.y, s, s_next)
            path = centre + std * shared()
            mean, _ = self.kernel(m.A.Vt(x), m.A.Vt(x0), s, s_next)
            var = m.s_y**2 + self.spread(s_next)
            self._weigh(cloud, m.log_normal(path - mean, var + std**2, m.seen))
            (mean,) = self._resample(cloud, of_chain, mean)
            gain = torch.where(m.seen, std**2 / (var + std**2).where(m.seen, 1), 0)
            z = m.A.Vt(randn(x))
            v = mean + gain * (path - mean) + std * (1 - gain).sqrt() * z
            if s_next > 0:
                self.divide_out(cloud, m, path, v, var)
            x = m.A.V(v)
            yield x
        self._weigh(cloud, m.log_scale())
        cloud.log_z = cloud.log_z + cloud.log_w.logsumexp(1) - math.log(self.particles)
