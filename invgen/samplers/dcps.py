"""Janati, Moufad, Durmus, Moulines & Olsson, "Divide-and-conquer posterior sampling for denoising diffusion priors"
(NeurIPS 2024), Algorithm 1."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.diffusion import step_kernel
from invgen.errors import OptionError
from invgen.guidance import fit_gaussian
from invgen.linalg import norm
from invgen.posterior import Posterior
from invgen.random import Streams
from invgen.sampler import Sampler


@dataclass(frozen=True)
class DCPS(Sampler):
    """Divides the diffusion into blocks, each with a posterior of its own at its lower end, and goes from one to the next.

    Any differentiable operator, any noise with a density, any loss. At the lower end of a block, noise level k, the
    posterior is p_k(x_k) p(y | A(x_k))^(1 / (1 + (k / data_std)^2)): for Gaussian noise the paper's N(sqrt(alpha_bar) y;
    A x, sigma_y^2) in its own coordinates. A block begins with tamed Langevin steps on the posterior that it starts from,
    then takes guided steps, each a Gaussian with independent values fitted to the step of the prior times what one further
    step says about y at k. More blocks are shorter, and the bias falls; it also falls with the iterations.

    The released code takes normalised gradients of length 1.5 over the whole image in the fit, and one norm over the batch
    in its potentials; this class steps each value by Adam.

    Args:
        blocks: the paper's L - 1 (3).
        iterations: gradient steps of a fit (2).
        langevin_steps: at the start of a block (5).
        gamma: size of those steps, in units of data_std^2 + sigma^2 (1e-3, for data in [-1, 1]).
        lr: of Adam, in units of the standard deviation of the step.
    """

    steps: int = 100
    blocks: int = 3
    iterations: int = 2
    langevin_steps: int = 5
    gamma: float = 1e-3
    lr: float = 0.3

    family: ClassVar[str] = "guided"
    backprop: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blocks < 1 or self.iterations < 1 or self.langevin_steps < 0 or not (self.gamma > 0 and self.lr > 0):
            raise OptionError(
                f"DCPS needs blocks and iterations of at least 1, langevin_steps >= 0, gamma > 0 and lr > 0, got {self!r}"
            )

    @classmethod
    def paper(cls, steps: int = 300) -> "DCPS":
        """The published numbers of steps, blocks and iterations on DDPM's schedule."""
        return cls(steps=steps, schedule="vp")

    def run(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, levels = post.prior, self.levels(post.prior)
        blocks = min(self.blocks, len(levels))
        ends = [round(i * len(levels) / blocks) for i in range(blocks + 1)]
        for begin, end in zip(ends, ends[1:], strict=False):
            low = levels[end - 1][1]
            weight = 1 / (1 + (low / prior.data_std) ** 2)

            def log_g(u: Tensor, s: float, z: Tensor, low: float = low, weight: float = weight) -> Tensor:
                """log p(y | A(x_low)), tempered, for x_low one step of the prior from u at level s, with noise z."""
                if s > low:
                    mean, std = step_kernel(u, prior(u, s), s, low)
                    u = mean + std * z
                return weight * post.log_likelihood(u)

            x = self.langevin(post, x, levels[begin][0], log_g, randn)
            for s, s_next in levels[begin:end]:
                mean, spread = step_kernel(x, prior(x, s), s, s_next)
                if s_next > 0:
                    draws = randn

                    def potential(u: Tensor, s_next: float = s_next, draws: Streams = draws) -> Tensor:
                        return log_g(u, s_next, draws(u.detach()))

                    mean, spread = fit_gaussian(mean, spread, potential, self.iterations, self.lr, randn)
                    mean = mean + spread * randn(x)
                x = mean
                yield x

    def langevin(self, post: Posterior, x: Tensor, s: float, log_g: object, randn: Streams) -> Tensor:
        """Tamed Langevin steps (Brosse, Durmus, Moulines & Sabanis, 2019) on p_s(x) g(x)."""
        unit = math.sqrt(post.prior.data_std**2 + s**2)
        for _ in range(self.langevin_steps):
            with torch.enable_grad():
                u = x.detach().requires_grad_()
                x0 = post.prior(u, s)
                (grad,) = torch.autograd.grad(log_g(u, s, torch.zeros_like(x)).sum(), u)
            drift = unit * (grad + (x0.detach() - x) / s**2)
            x = x + unit * (self.gamma / (1 + self.gamma * norm(drift)) * drift + math.sqrt(2 * self.gamma) * randn(x))
        return x
