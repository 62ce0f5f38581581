"""Zheng, Chu, Wang, Kovachki, Baptista & Yue, "Ensemble Kalman diffusion guidance: a derivative-free method for inverse
problems" (TMLR 2025), Algorithm 1."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, noise_levels, step
from invgen.forward import Operator
from invgen.noise import Gaussian
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.samplers.derivative_free._ensemble import centred, combined, denoised, measured, whitened
from invgen.samplers.smc.base import Cloud, EnsembleSampler
from invgen.validation.hints import Count, Positive


@dataclass(frozen=True)
class EnKG(EnsembleSampler):
    """Ensemble Kalman diffusion guidance: the gradient of the data term from the spread of an ensemble, not from A.

    Any operator, no derivatives of it nor of the network, Gaussian noise. Before each Euler step of the probability-flow
    ODE `updates` moves x_j <- x_j - scale / |C|_F sum_k C_jk (x_k - mean), C_jk = <A(u_j) - y, A(u_k) - mean> / J, u_j the
    end of the ODE from x_j (at most 20 steps). The move is preconditioned by the ensemble's covariance and its size does
    not know the noise level: a point estimate, whose spread is that of the ensemble's collapse. `updates` evaluations of A
    for each particle and step. The defaults are the released settings for Navier-Stokes. `RegressionEnKG` draws samples.

    Args:
        particles, draws: the ensemble, of which every particle may be returned.
        scale, updates: 2 and 2 for Navier-Stokes, 3.5 and 1 for black holes.
        factor: steps left for each step of the inner ODE.
    """

    steps: Count = 80
    particles: Count = 2048
    draws: Count = 2048
    scale: Positive = 2.0
    updates: Count = 2
    factor: Count = 8

    noise: ClassVar[type] = Gaussian
    gradient: ClassVar[bool] = False
    family: ClassVar[str] = "derivative-free"
    exact: ClassVar[str] = ""

    def refuses(self, post: Posterior) -> str | None:
        if self.draws > self.particles:
            return (
                f"gives at most one sample for each of its {self.particles} particles: pass draws={self.particles} or less"
            )
        return super().refuses(post)

    def run(
        self, post: Posterior[Denoiser, Operator, Gaussian], x: Tensor, randn: Streams, cloud: Cloud
    ) -> Iterator[Tensor]:
        J, levels = self.particles, self.levels(post.prior)
        for k, (s, s_next) in enumerate(levels):
            if 0 < k < len(levels) - 1:
                ends = noise_levels(min(1 + (len(levels) - k) // self.factor, 20), min(levels[-1][0], s / 2), s)
                for _ in range(self.updates):
                    u = x
                    for a, b in ends:
                        u = step(u, denoised(post, u, a, cloud), a, b, 0.0, randn)
                    r = whitened(post, measured(post, u, cloud), J)
                    C = -r @ (r.mean(1, keepdim=True) - r).mT / J
                    size = torch.linalg.matrix_norm(C).clamp(min=1e-300)[:, None, None]
                    x = x - combined(self.scale / size * C, centred(x, J), x)
            x = step(x, denoised(post, x, s, cloud), s, s_next, 0.0, randn)
            yield x
