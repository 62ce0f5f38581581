"""Kelvinius, Zhao & Lindsten, "Solving linear-Gaussian Bayesian inverse problems with decoupled diffusion sequential Monte
Carlo" (ICML 2025), Algorithm 1: DDSMC."""

from dataclasses import dataclass

import torch
from torch import Tensor

from invgen.diffusion import noise_levels, step_kernel
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian
from invgen.samplers.smc._measured import Measured, SpectralParticles
from invgen.validation.hints import Count, Fraction, NonNegative


@dataclass(frozen=True)
class DDSMC(SpectralParticles):
    """Decoupled diffusion with weights: estimate x_0, condition it on y as N(x0, rho^2 I), renoise, correct by weights.

    Operators with an SVD, Gaussian noise of one level. The prior's step from level s to t is N(k x0 + (1 - k) x_s, k t^2 I)
    with k = (s^2 - t^2) / (eta t^2 + s^2 - t^2), the potential N(y; A x0, sigma_y^2 I + rho^2 A A^T).

    Exact as particles grow for the law of that discretised prior, for which exp(log_evidence) is unbiased. That law tends
    to the prior as steps grow for eta = 1 with ode_steps = 1 (the ancestral step), and for eta = 0 with many ode_steps (the
    renoised ODE of DAPS); eta < 1 with one ODE step renoises a mean and loses variance.

    Args:
        eta: 1 keeps what an ancestral step keeps of the state, 0 only x0 (0.5 or 1 in the paper's experiments).
        ode_steps: Euler steps of the probability-flow ODE for x0; 1 is the denoiser.
        rho: rho^2 over `prior.variance(sigma)`: 0.5 is the paper's (1 - alpha_bar) / 2 for data of unit variance.

    At the last level the released code puts the estimate conditioned on y, and weighs it as if the prior's step had; here
    the last step is the prior's.
    """

    eta: Fraction = 1.0
    ode_steps: Count = 1
    rho: NonNegative = 0.5
    threshold: Fraction = 1.0

    @classmethod
    def paper(cls) -> "DDSMC":
        """Returns the configuration its authors give InverseBench: 200 steps, 16 particles, eta = 0.5, multinomial
        resampling."""
        return cls(steps=200, particles=16, eta=0.5, resampling="multinomial")

    def potential(self, post: LinearGaussian, x: Tensor, s: float, s_next: float) -> tuple[Tensor, ...]:
        x0, prior = x, post.prior
        for a, b in noise_levels(self.ode_steps, min(prior.sigma_min, s / 2), s):
            x0, _ = step_kernel(x0, prior(x0, a), a, b, eta=0.0)
        m = Measured(post)
        return m.log_normal(m.y - m.A.Vt(x0), m.s_y**2 + self.rho * prior.variance(s), m.seen), x0

    def move(
        self, post: LinearGaussian, x: Tensor, s: float, s_next: float, randn: Streams, potential: Tensor, *seen: Tensor
    ) -> tuple[Tensor, Tensor]:
        if s_next == 0:
            return seen[0], -potential
        m = Measured(post)
        v, v0 = m.A.Vt(x), m.A.Vt(seen[0])
        k = (s**2 - s_next**2) / (self.eta * s_next**2 + s**2 - s_next**2)
        mean, var = k * v0 + (1 - k) * v, torch.full_like(m.s_y, k * s_next**2)
        # a step much narrower than the prior's would have weights without a variance: y takes at most half of it
        rho2 = min(self.rho * post.prior.variance(s), 0.5 * s_next**2 / k)
        gain = torch.where(m.seen, rho2 / (rho2 + m.s_y**2).where(m.seen, 1), 0)
        guided, narrow = mean + k * gain * (m.y - v0), var - k**2 * rho2 * gain
        v = guided + narrow.sqrt() * m.A.Vt(randn(x))
        ratio = m.log_normal(v - mean, var, m.seen) - m.log_normal(v - guided, narrow, m.seen)
        return m.A.V(v), ratio - potential
