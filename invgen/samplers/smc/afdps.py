"""Chen, Ren, Min, Ying & Izzo, "Solving inverse problems via diffusion-based priors: an approximation-free ensemble
sampling approach" (NeurIPS 2025), AFDPS-SDE, with the exact guidance step of the released code."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from invgen.diffusion import step
from invgen.forward import LinearOperator, SVDOperator, as_svd
from invgen.linalg import dot
from invgen.noise import Gaussian
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian
from invgen.samplers.smc.base import ParticleSampler
from invgen.validation.hints import Count, Positive


@dataclass(frozen=True)
class AFDPS(ParticleSampler):
    """Particles on the path p_s(x) N(y; A x, r_s^2 I): the likelihood of the state itself, no estimate of x_0 in it.

    Operators with an SVD, Gaussian noise of one level, r_s^2 = sigma_y^2 + gamma^2 |A|^2 s^2. The reverse SDE with the
    gradient of that likelihood in its drift does not keep this path; what is missing is a weight, s (|g|^2 - tr A^T A /
    r_s^2) - 2 s score . g and the change of r_s, a unit of s, with g the gradient of its negative logarithm. No network is
    differentiated. The weights are those of Euler's steps; the SDE takes ancestral steps, where Euler's, as released, are
    unstable if few, and the guidance is exact. The first particles are drawn from N(data_mean, data_std^2 + s^2) times the
    likelihood.

    Euler's weights have an error of first order: the evidence is too low at few steps.

    Args:
        particles: the released scripts have 16 (waves) and 512 (scattering).
        gamma: how much the noise grows with that of the state.
    """

    steps: Count = 200
    particles: Count = 16
    gamma: Positive = 1.0

    A: ClassVar[type] = LinearOperator
    noise: ClassVar[type] = Gaussian
    svd: ClassVar[bool] = True
    one_level: ClassVar[bool] = True

    def variance(self, post: LinearGaussian, A: SVDOperator, s: float) -> Tensor:
        """Returns r_s^2, without axes, on the device."""
        return post.noise.var + (self.gamma * A.s.double().max() * s) ** 2

    def start(self, post: LinearGaussian, randn: Streams, rows: int) -> Tensor:
        prior, s = post.prior, self.levels(post.prior)[0][0]
        mean = torch.full((rows, *prior.shape), prior.data_mean, dtype=prior.dtype, device=prior.device)
        loud = replace(post, A=as_svd(post.A), noise=Gaussian(math.sqrt(self.variance(post, as_svd(post.A), s).item())))
        return loud.draw(mean, s**2 + prior.data_std**2, randn)

    def potential(self, post: LinearGaussian, x: Tensor, s: float, s_next: float, *before: Tensor) -> tuple[Tensor, ...]:
        log = x.new_zeros(len(x), dtype=torch.float64)
        return (log if before else log + self.first_evidence(post, x, s)), post.prior(x, s)

    def first_evidence(self, post: LinearGaussian, x: Tensor, s: float) -> Tensor:
        """Returns log N(y; A m, v A A^T + r^2 I), (B,), the weight that all of the first particles have."""
        A, v, r2 = as_svd(post.A), s**2 + post.prior.data_std**2, self.variance(post, as_svd(post.A), s).item()
        gap = post.residual(torch.full_like(x, post.prior.data_mean))
        spread = (2 * math.pi * (r2 + v * A.s.double() ** 2)).log().where(A.s > 0, 0).sum()
        rest = (gap[0].numel() - A.rank) * math.log(2 * math.pi * r2)
        return -0.5 * (dot(gap, A.solve(gap, v, r2)).flatten().double() + spread + rest)

    def move(
        self, post: LinearGaussian, x: Tensor, s: float, s_next: float, randn: Streams, potential: Tensor, *seen: Tensor
    ) -> tuple[Tensor, ...]:
        A, x0 = as_svd(post.A), seen[0]
        r2, r2_next = (self.variance(post, A, level) for level in (s, s_next))
        gap = post.residual(x)
        g = -A.adjoint(gap) / r2.to(x.real.dtype)
        trace, count = A.s.double().square().sum(), gap[0].numel()
        log_w = 0.5 * (s**2 - s_next**2) * (dot(g, g).flatten().double() - trace / r2)
        log_w = log_w + (1 - (s_next / s) ** 2) * dot(x - x0, g).flatten().double()
        # the change of log N(y; A x, r^2 I) with r at this x
        misfit = dot(gap, gap).flatten().double()
        log_w = log_w - 0.5 * (misfit * (1 / r2_next - 1 / r2) + count * (r2_next / r2).log())
        x = step(x, x0, s, s_next, 1.0, randn)
        # the ODE of the guidance over the step: coordinate i of the misfit falls by (r_next / r)^(2 (s_i / gamma |A|)^2)
        fall = (r2_next / r2) ** ((A.s / (self.gamma * A.s.max())) ** 2)
        change = ((1 - fall) / A.s.where(A.s > 0, 1)).where(A.s > 0, 0)
        return x + A.V(change * A.Ut(post.residual(x))), log_w, log_w

    def last(self, post: LinearGaussian, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), dtype=torch.float64)  # the path ends at the posterior
