"""Zheng, Chu, Wang, Kovachki, Baptista & Yue, "Ensemble Kalman diffusion guidance: a derivative-free method for inverse
problems" (TMLR 2025), Algorithm 1."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invgen.diffusion import noise_levels, step
from invgen.linalg import solve_positive
from invgen.noise import Gaussian
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.samplers.derivative_free._ensemble import centred, combined, whitened
from invgen.samplers.smc.base import Cloud, EnsembleSampler, by_rows
from invgen.validation.hints import Count, Positive, Share


@dataclass(frozen=True)
class EnKG(EnsembleSampler):
    """Ensemble Kalman diffusion guidance: the gradient of the data term from the spread of an ensemble, not from A.

    Any operator, no derivatives of it nor of the network, Gaussian noise. Particles are guided within their span only.

    form="regression" (default): D_y = D + s^2 H^T (Gamma + A V A^T)^-1 (y - A(D)), where H is the linear regression of
    A(D_j) on x_j over the ensemble and A V A^T the covariance of A(D_j + sqrt(v) z) about A(D_j), v the variance of the
    denoiser. On a white Gaussian prior with a linear operator this is the exact guidance as particles grow. Two evaluations
    of A for each particle and step.

    form="paper": before each Euler step `updates` moves x_j <- x_j - scale / |C|_F sum_k C_jk (x_k - mean), C_jk =
    <A(u_j) - y, A(u_k) - mean> / J, u_j the end of the probability-flow ODE from x_j (at most 20 steps). The move is
    preconditioned by the ensemble's covariance and its size does not know the noise level: a point estimate, whose
    spread is that of the ensemble's collapse. `updates` evaluations of A for each particle and step.

    Args:
        eta: 1 for ancestral steps, 0 for Euler steps of the probability-flow ODE, the paper's, whose errors stay.
        scale, updates: of form="paper"; 2 and 2 for Navier-Stokes, 3.5 and 1 for black holes.
        factor: of form="paper", steps left for each step of the inner ODE.
    """

    eta: Share = 1.0
    form: Literal["regression", "paper"] = "regression"
    scale: Positive = 2.0
    updates: Count = 2
    factor: Count = 8

    noise: ClassVar[type] = Gaussian
    gradient: ClassVar[bool] = False
    family: ClassVar[str] = "derivative-free"
    exact: ClassVar[str] = "for white Gaussian priors and linear operators, as particles and steps grow"

    @classmethod
    def paper(cls, particles: int = 2048) -> "EnKG":
        """The released settings for Navier-Stokes; every particle is returned."""
        return cls(steps=80, particles=particles, draws=particles, eta=0.0, form="paper")

    def run(self, post: Posterior, x: Tensor, randn: Streams, cloud: Cloud) -> Iterator[Tensor]:
        J, levels = self.particles, self.levels(post.prior)
        for k, (s, s_next) in enumerate(levels):
            if self.form == "paper" and 0 < k < len(levels) - 1:
                ends = noise_levels(min(1 + (len(levels) - k) // self.factor, 20), min(levels[-1][0], s / 2), s)
                for _ in range(self.updates):
                    u = x
                    for a, b in ends:
                        u = step(u, self._denoise(post, u, a, cloud), a, b, 0.0, randn)
                    r = whitened(post, self._measure(post, u, cloud), J)
                    C = -r @ (r.mean(1, keepdim=True) - r).mT / J
                    size = torch.linalg.matrix_norm(C).clamp(min=1e-300)[:, None, None]
                    x = x - combined(self.scale / size * C, centred(x, J), x)
            x0 = self._denoise(post, x, s, cloud)
            guided = x0
            if self.form == "regression":
                r = whitened(post, self._measure(post, x0, cloud), J)
                near = x0 + post.prior.variance(s) ** 0.5 * randn(x0)
                spread = whitened(post, self._measure(post, near, cloud), J) - r
                guided = x0 + s**2 * _regression(centred(x, J), r, spread).reshape(x.shape).to(x.dtype)
            x = step(x, guided, s, s_next, self.eta, randn)
            yield x

    def _denoise(self, post: Posterior, x: Tensor, s: float, cloud: Cloud) -> Tensor:
        return by_rows(lambda p, u: (p.prior(u, s),), cloud.split, x, post=post)[0]

    def _measure(self, post: Posterior, x: Tensor, cloud: Cloud) -> Tensor:
        return by_rows(lambda p, u: (p.A(u),), cloud.split, x, post=post)[0]


def _regression(X: Tensor, r: Tensor, spread: Tensor) -> Tensor:
    """The gradients of log N(y; A(D(x_j)), Gamma + A V A^T) by regression on the particles, (C, J, n).

    Every system is solved in the smaller of its two forms: particles, or values of the signal or the measurement.

    Args:
        X: deviations of the particles, (C, J, n).
        r, spread: residuals and draws from N(0, A V A^T), in units of the noise, (C, J, m).
    """
    J, n, m = *X.shape[1:], r.shape[2]
    Y = r.mean(1, keepdim=True) - r
    # r (I + S^T S / J)^-1, then times Y^T X (X^T X + ridge)^-1 = Y^T (X X^T + ridge)^-1 X
    if m <= J:
        r = solve_positive(spread.mT @ spread / J + _eye(m, X), r.mT).mT
    else:
        r = r - solve_positive(spread @ spread.mT + J * _eye(J, X), spread @ r.mT).mT @ spread
    # the ridge is a thousandth of the mean eigenvalue: directions that the ensemble hardly explores carry no slope
    ridge = 1e-3 * X.square().sum((1, 2)) / max(min(J - 1, n), 1)
    ridge = ridge[:, None, None].clamp(min=1e-300)
    if n <= J:
        return r @ solve_positive(X.mT @ X + ridge * _eye(n, X), X.mT @ Y).mT
    return r @ Y.mT @ solve_positive(X @ X.mT + ridge * _eye(J, X), X)


def _eye(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)
