"""Base of sequential Monte Carlo in the coordinates v = V^T x of A = U diag(s) V^T.

There y_i = v_i + tau_i eps with tau_i = sigma_y / s_i: a measured coordinate has the law of the state at noise level tau_i,
so that conditioning on the measurement is conditioning coordinate i of the diffusion on being y_i when it passes that level
(Cardoso et al., ICLR 2024). Noise is drawn in the space of signals and transformed, so that any unitary V works, complex
ones too.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from invgen.forward import LinearOperator
from invgen.noise import Gaussian
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian
from invgen.samplers.projection.base import Spectral
from invgen.samplers.smc.base import Cloud, ParticleSampler

ROUNDING = 1e-5  # two levels that are nearer to each other are one: the lower, by which both have passed


class Measured(Spectral):
    """The measurement coordinate by coordinate, with densities; `s_y` is tau."""

    def __init__(self, post: LinearGaussian, highest: float = math.inf) -> None:
        super().__init__(post, highest)
        self.post = post

    def ahead(self, s: float) -> Tensor:
        """Returns the measured coordinates whose level lies below s."""
        return self.seen & (self.s_y < s)

    def log_normal(self, gap: Tensor, var: Tensor, where: Tensor) -> Tensor:
        """Returns log N(gap; 0, var) summed over the coordinates `where`, (B,)."""
        var = var.where(where, 1)
        log = -0.5 * (gap.abs().square() / var + (2 * math.pi * var).log())
        return torch.where(where, log, 0).flatten(1).double().sum(1)

    def log_scale(self) -> Tensor:
        """Returns log p(y) - log p(self.y), (B,): the Jacobian, and the density of what only the noise explains."""
        y, sigma, s = self.post.y, self.post.noise.sigma, self.A.s.double()
        out = -s.where(self.seen, 1).log().sum().expand(len(y))
        if sigma > 0:
            explained = (s * self.y.abs()).square().flatten(1).sum(1)
            rest = (y.abs().double().square().flatten(1).sum(1) - explained).clamp(min=0)
            count = y.shape[1:].numel() * (2 if y.is_complex() else 1) - self.seen.sum()
            out = out - 0.5 * (rest / sigma**2 + count * math.log(2 * math.pi * sigma**2))
        return out

    def passing(self, v: Tensor, v0: Tensor, s: float, s_next: float) -> tuple[Tensor, Tensor]:
        """Returns the mean and variance of each coordinate at its level tau in [s_next, s), given v at s and the
        denoised v0.

        Those of the ancestral step; at s_next = 0, where it has no width, those of v_0 + tau eps about the denoiser's.
        """
        if s_next == 0:
            return v0, self.post.prior.variance(s) + self.s_y**2
        r2 = (self.s_y / s) ** 2
        return v0 + r2 * (v - v0), self.s_y**2 * (1 - r2)

    def passed(self, v0: Tensor, s: float, s_next: float, z: Tensor) -> Tensor:
        """Returns coordinates at s_next, given y at tau in [s_next, s), for the denoised v0 and standard normal z."""
        if s_next == 0:
            r2 = self.post.prior.variance(s)
            gain = r2 / (r2 + self.s_y**2)
            return v0 + gain * (self.y - v0) + gain.sqrt() * self.s_y * z
        r2 = (s_next / self.s_y.clamp(min=s_next)) ** 2
        return v0 + r2 * (self.y - v0) + s_next * (1 - r2).sqrt() * z


@dataclass(frozen=True)
class SpectralParticles(ParticleSampler):
    """The base: an operator with its SVD, Gaussian noise of one level."""

    A: ClassVar[type] = LinearOperator
    svd: ClassVar[bool] = True
    gradient: ClassVar[bool] = False
    noise: ClassVar[type] = Gaussian
    one_level: ClassVar[bool] = True

    def measured(self, post: LinearGaussian) -> Measured:
        """Returns the measured coordinates; those noisier than the highest level are not used."""
        return Measured(post, self.levels(post.prior)[0][0])


@dataclass(frozen=True)
class PassingParticles(SpectralParticles):
    """The base of those that condition coordinate i on being y_i at level tau_i, on levels that contain every tau_i.

    Where there are more of them than half the steps, the levels stay as they are, and a coordinate that passes its tau
    between two of them does so with the denoised signal of the upper one. At most as many steps as asked for.
    """

    noiseless: ClassVar[bool] = True

    def hitting(self, post: LinearGaussian) -> "PassingParticles":
        """Returns this sampler on levels that contain every tau. A schedule of numbers is taken as it is."""
        levels = [s for s, _ in self.levels(post.prior)]
        tau: list[float] = []
        for t in self.measured(post).s_y.cpu().unique().tolist():  # rising; equal singular values differ by round-off
            if levels[-1] < t < levels[0] and not (tau and t <= tau[-1] * (1 + ROUNDING)):
                tau.append(t)
        if not isinstance(self.schedule, str) or len(tau) > self.steps // 2:
            return self
        rest = replace(self, steps=self.steps - len(tau)).levels(post.prior)
        return replace(self, schedule=tuple(sorted({*tau, *(s for s, _ in rest)}, reverse=True)))

    def run(self, post: LinearGaussian, x: Tensor, randn: Streams, cloud: Cloud) -> Iterator[Tensor]:
        yield from super(PassingParticles, self.hitting(post)).run(post, x, randn, cloud)

    def last(self, post: LinearGaussian, x: Tensor) -> Tensor:
        return self.measured(post).log_scale()
