"""Trippe, Yim, Tischer, Baker, Broderick, Barzilay & Jaakkola, "Diffusion probabilistic modeling of protein backbones in 3D
for the motif-scaffolding problem" (ICLR 2023), Algorithm 1: SMCDiff."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from invgen.diffusion import step_kernel
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian
from invgen.samplers.smc._measured import PassingParticles
from invgen.samplers.smc.base import Cloud, Resampling, by_rows
from invgen.validation.hints import Count, Fraction


@dataclass(frozen=True)
class SMCDiff(PassingParticles):
    """Inpainting by replacement, made exact: one noised path of the measurement, particles weighed by how they explain it.

    Operators with an SVD, Gaussian noise of one level, or none (then A x = y holds in every sample). A chain draws its path
    once, by the forward process from y; its particles share the measured coordinates and differ in the others. The paper
    has exact values of some coordinates of the signal; a measurement with noise is treated as in MCGDiff, as a path that
    begins at tau_i = sigma_y / s_i, where coordinate i becomes free.

    Exact as particles and steps grow, whatever the path: above tau_i it has no more information about the signal than y.
    With few steps the reverse process does not retrace forward paths, which no number of particles repairs.

    exp(log_evidence) is unbiased, over chains, for the density of y under the ancestral steps from independent noise, read
    off as in MCGDiff. It varies from path to path; MCGDiff's varies less.

    Args:
        resampling: the paper's is "residual".
    """

    particles: Count = 64
    resampling: Resampling = "residual"
    threshold: Fraction = 1.0

    def run(self, post: LinearGaussian, x: Tensor, randn: Streams, cloud: Cloud) -> Iterator[Tensor]:
        of_chain, levels, prior = randn.every(self.particles), self.hitting(post).levels(post.prior), post.prior
        m, top, noise = self.measured(post), levels[0][0], of_chain.every(1)

        def shared() -> Tensor:
            return m.A.Vt(noise(x[:: self.particles])).repeat_interleave(self.particles, 0)

        still = m.ahead(top)
        path = m.y + (top**2 - m.s_y**2).clamp(min=0).sqrt() * shared()
        centre = m.A.Vt(torch.full_like(x, prior.data_mean))
        begin = torch.full_like(m.s_y, top**2 + prior.data_std**2)
        cloud.log_w = cloud.log_w + self.per_chain(
            m.log_normal(path - centre, begin, still) - m.log_normal(path - m.y, top**2 - m.s_y**2, still)
        )
        x = m.A.V(torch.where(still, path, m.A.Vt(x)))
        for s, s_next in levels:
            (x0,) = by_rows(lambda p, u, s=s: (p.prior(u, s),), cloud.split, x, post=post)
            v, v0, ahead, still = m.A.Vt(x), m.A.Vt(x0), m.ahead(s), m.ahead(s_next)
            # the path a level down, given its end y at tau: a Brownian bridge
            r = ((s_next**2 - m.s_y**2) / (s**2 - m.s_y**2).where(ahead, 1)).where(still, 0)
            bridge, width = m.y + r * (path - m.y), (s_next**2 - m.s_y**2) * (1 - r)
            path = bridge + width.clamp(min=0).sqrt() * shared()
            mean, std = step_kernel(v, v0, s, s_next)
            at_tau, var = m.passing(v, v0, s, s_next)
            self._weigh(
                cloud,
                m.log_normal(path - mean, torch.full_like(m.s_y, std**2), still)
                + m.log_normal(m.y - at_tau, var, ahead & ~still)
                - m.log_normal(path - bridge, width, still),
            )
            mean, v0 = self._resample(cloud, of_chain, mean, v0)
            z = m.A.Vt(randn(x))
            v = torch.where(ahead, m.passed(v0, s, s_next, z), mean + std * z)
            x = m.A.V(torch.where(still, path, v))
            yield x
        self._weigh(cloud, self.last(post, x))
        cloud.log_z = cloud.log_z + cloud.log_w.logsumexp(1) - math.log(self.particles)
