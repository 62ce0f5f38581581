"""Iglesias, Law & Stuart, "Ensemble Kalman methods for inverse problems" (Inverse Problems, 2013), with the step size h of
Schillings & Stuart (SIAM J. Numer. Anal., 2017), which Emerick & Reynolds (2013) call multiple data assimilation."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, Prior
from invgen.forward import Operator
from invgen.linalg import solve_positive
from invgen.noise import Gaussian
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.pushforward import Flow
from invgen.samplers.derivative_free._ensemble import centred, combined, whitened
from invgen.samplers.smc.base import Cloud, EnsembleSampler, by_rows
from invgen.validation.hints import Count, Positive


@dataclass(frozen=True)
class EKI(EnsembleSampler):
    """Ensemble Kalman inversion: an ensemble of prior samples, moved to the measurement in steps of Kalman's rule.

    x_j <- x_j + C_xy (C_yy + Gamma / h)^-1 (y + eta_j - A(x_j)), eta_j ~ N(0, Gamma / h), h = time / steps, with the
    covariances of the ensemble. Any operator, no derivatives, Gaussian noise.

    For a Gaussian prior and a linear operator each step is Bayes' rule for y with noise Gamma / h as particles grow (an
    error of order 1 / sqrt(particles)): at time = 1 the law is the posterior, at any number of steps. Elsewhere it is the
    Gaussian closure: multimodal posteriors blur. Particles stay in the span of the first ensemble, so that fewer of them
    than the measurement has degrees of freedom cannot fit it.

    Costs 2 `prior_steps` - 1 network evaluations and `steps` evaluations of the operator for each particle, and a sample
    needs all particles of its chain; draws = particles returns them all.

    Args:
        steps: Kalman steps; more of them follow a curved operator better.
        schedule: of the probability-flow ODE that draws the first ensemble.
        time: 1 for the posterior; time = steps is h = 1, the method of 2013, which goes on to fit the noise unless it is
            stopped. (Public code with 500 steps of size 2 / |C| and no eta shrinks the ensemble to a point.)
        prior_steps: Heun steps of that ODE.
    """

    steps: Count = 10
    particles: Count = 128
    time: Positive = 1.0
    prior_steps: Count = 18

    noise: ClassVar[type] = Gaussian
    gradient: ClassVar[bool] = False
    family: ClassVar[str] = "derivative-free"
    exact: ClassVar[str] = "for Gaussian priors and linear operators, as particles grow"

    def start(self, post: Posterior, randn: Streams, rows: int) -> Tensor:
        """Returns standard normals, which `run` turns into samples of the prior."""
        return randn(torch.empty(rows, *post.prior.shape, dtype=post.prior.dtype, device=post.prior.device))

    def levels(self, prior: Prior) -> list[tuple[float, float]]:
        """Returns None: the moves are of signals without noise."""
        return []

    def run(
        self, post: Posterior[Denoiser, Operator, Gaussian], x: Tensor, randn: Streams, cloud: Cloud
    ) -> Iterator[Tensor]:
        flow = Flow(post.prior, self.prior_steps, self.schedule, "heun")
        (x,) = by_rows(lambda p, z: (flow(z),), cloud.split, x, post=post)
        J, h = self.particles, self.time / self.steps
        eye = torch.eye(J, dtype=torch.float64, device=x.device)
        for _ in range(self.steps):
            (clean,) = by_rows(lambda p, u: (p.A(u),), cloud.split, x, post=post)
            r = whitened(post, clean, J)
            Y = r.mean(1, keepdim=True) - r  # deviations of A(x_j), in units of the noise
            perturbed = r + randn(r.flatten(0, 1)).reshape(r.shape) / math.sqrt(h)
            # C_xy (C_yy + I / h)^-1 with covariances over J - 1, in the J x J form
            gain = solve_positive(Y @ Y.mT + (J - 1) / h * eye, Y @ perturbed.mT).mT if J > 1 else 0 * eye
            x = x + combined(gain, centred(x, J), x)
            yield x
