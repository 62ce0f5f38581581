"""Janati, Moufad, Abou El Qassime, Durmus, Moulines & Olsson, "A mixture-based framework for guiding diffusion models"
(ICML 2025), Algorithm 1."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, Sigma, noise_levels, per_sample_sigma
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.samplers.proximal._fits import fit_gaussian
from invgen.validation.hints import Count, Fraction, Positive

_TIMES = 1000  # of DDPM, among which the paper draws a time


@dataclass(frozen=True)
class MGDM(Sampler):
    """Mixture guidance by Gibbs steps: y guides at a random lower level, then x_0 and the state are drawn again.

    Any differentiable operator, any noise with a density, any loss. The likelihood of a state is a mixture over lower
    levels tau of p(y | D(x_tau, tau)). A Gibbs sweep at a level draws x_tau between the state and x_0, given y, by a
    Gaussian with independent values that Adam fits; x_0 from x_tau, by ancestral steps; and the state from x_tau and
    the level before. The mixture and the fit bias it, which longer fits and more sweeps do not mend.

    Args:
        repeats: Gibbs sweeps a level (1 for images, 6 for audio).
        denoise_steps: ancestral steps from tau to 0, one network evaluation each.
        iterations: gradient steps of a fit, one network evaluation each.
        last_iterations: the same over the `last` fraction of the levels.
        mixed: the fraction of the levels at which tau is random, uniform in DDPM's time; below them it is the next level.
        lr: of Adam, for the mean in units of sqrt(data_std^2 + tau^2), and for the logarithm of the deviations.
    """

    steps: Count = 100
    schedule: str | Sequence[float] = "vp"
    repeats: Count = 1
    denoise_steps: Count = 20
    iterations: Count = 5
    last_iterations: Count = 20
    last: Fraction = 0.3
    mixed: Fraction = 0.7
    lr: Positive = 0.03

    family: ClassVar[str] = "mcmc"
    backprop: ClassVar[bool] = True

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, levels = post.prior, self.levels(post.prior)
        x0 = prior(x, levels[0][0])
        yield x0
        for k, ((s, t), (_, below)) in enumerate(zip(levels, levels[1:-1], strict=False)):
            before, x = x, bridge(x, x0, s, 0.0, t, randn)
            iterations = self.last_iterations if k >= (1 - self.last) * len(levels) else self.iterations
            ladder = self.ladder(prior, x, below, randn if k < self.mixed * len(levels) else None)
            tau = ladder[0]
            for _ in range(self.repeats):
                u = self.guided(post, x, x0, t, tau, iterations, randn)
                x0 = u
                for a, b in zip(ladder, [*ladder[1:], torch.zeros_like(tau)], strict=True):
                    x0 = bridge(x0, prior(x0, a), a, 0.0, b, randn)
                x = bridge(before, u, s, tau, t, randn)
            yield x0

    def ladder(self, prior: Denoiser, x: Tensor, top: float, randn: Streams | None) -> list[Tensor]:
        """Returns tau, (B,), and the lower levels that the ancestral steps pass; tau is random below `top`, else `top`."""
        table = noise_levels(_TIMES, prior.sigma_min, prior.sigma_max, self.schedule, prior.data_std)
        grid = x.new_tensor([a for a, _ in table if a <= top * (1 + 1e-6)][::-1])
        highest = torch.full_like(x.flatten(1)[:, :1], len(grid) - 1.0)
        lowest = min(len(table) // 100, len(grid) - 1)  # the paper's time 10 of 1000
        at = highest if randn is None else lowest + randn.uniform(highest) * (highest - lowest)
        return list(grid[(at * torch.linspace(1, 0, self.denoise_steps).to(at)).round().long()].unbind(1))

    def guided(
        self, post: Posterior[Denoiser], x: Tensor, x0: Tensor, t: float, tau: Tensor, iterations: int, randn: Streams
    ) -> Tensor:
        """Returns a draw near p(x_tau | x_t, x_0) p(y | D(x_tau, tau)), (B, *shape).

        Args:
            post: the problem.
            x, t: the state, (B, *shape), and its level.
            x0: the clean signal, (B, *shape).
            tau: the lower level of each row, (B,).
            iterations: of Adam.
            randn: the source of noise.
        """
        mean, std = bridge_kernel(x, x0, t, 0.0, tau)
        unit = (post.prior.data_std**2 + per_sample_sigma(tau, x) ** 2).sqrt()
        lr = self.lr * torch.stack([unit / std, torch.ones_like(std)], 1)
        mean, std = fit_gaussian(mean, std, lambda u: post.log_likelihood(post.prior(u, tau)), iterations, lr, randn)
        return mean + std * randn(mean)


def bridge_kernel(x: Tensor, low: Tensor, s: Sigma, s_low: Sigma, t: Sigma) -> tuple[Tensor, Tensor]:
    """Returns mean, (B, *shape), and deviation, (B, 1, ..., 1), of x_t given x_s = x and x_{s_low} = low, s_low < t < s."""
    s, s_low, t = (
        per_sample_sigma(torch.as_tensor(level, dtype=x.dtype, device=x.device).expand(len(x)), x) ** 2
        for level in (s, s_low, t)
    )
    part = ((t - s_low) / (s - s_low)).clamp(0, 1)  # variances grow with sigma^2, as in a Brownian bridge
    return low + part * (x - low), (part * (s - t)).clamp(min=0).sqrt()


def bridge(x: Tensor, low: Tensor, s: Sigma, s_low: Sigma, t: Sigma, randn: Streams) -> Tensor:
    """Returns a draw of `bridge_kernel`, (B, *shape); with s_low = 0 and low = D it is the ancestral step.

    Args:
        x, s: the state, (B, *shape), and its level, a number or (B,).
        low, s_low: the state at a lower level.
        t: the level between.
        randn: the source of noise.
    """
    mean, std = bridge_kernel(x, low, s, s_low, t)
    return mean + std * randn(x)
