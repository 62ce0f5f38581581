"""Janati, Moufad, Durmus, Moulines & Olsson, "Divide-and-conquer posterior sampling for denoising diffusion priors"
(NeurIPS 2024), Algorithm 1."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, step_kernel
from invgen.forward import LinearOperator
from invgen.linalg import norm
from invgen.numerics.gradients import differentiating, leaf
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.samplers.proximal._fits import fit_gaussian, step_width
from invgen.validation.hints import Count, Index, Positive


@dataclass(frozen=True)
class DCPS(Sampler):
    """Divides the diffusion into blocks, each with a posterior of its own at its lower end, and goes from one to the next.

    Any differentiable operator, any noise with a density, any loss. At the lower end of a block, noise level k, the
    posterior is p_k(x_k) p(y | A x_k)^(1 / (1 + (k / data_std)^2)): for Gaussian noise the paper's N(sqrt(alpha_bar) y;
    A x, sigma_y^2) in its own coordinates. A nonlinear operator is not informative about a signal under noise many times
    its size (one that saturates is flat there): it takes D(x_k, k) in place of x_k, whose mean over the steps from any
    higher level s is D(x_s, s), so that it costs no further evaluation. A block begins with tamed Langevin steps on the
    posterior that it starts from, then takes guided steps, each a draw of the step of the prior times what one further step
    says about y at k. More blocks are shorter, and the bias falls.

    Each step of a block fits a Gaussian with independent values by Adam on random draws. (The released code has normalised
    gradients of length 1.5 over the whole image in place of Adam, and one norm over the batch in its potentials.)
    `ConjugateDCPS` draws by perturbing and conjugate gradients instead, in any units.

    Args:
        blocks: the paper's L - 1.
        iterations: gradient steps of a fit, one network evaluation each.
        langevin_steps: at the start of a block.
        gamma: size of those steps, in units of data_std^2 + sigma^2 (the paper's, for signals in [-1, 1]).
        lr: of Adam, in units of the standard deviation of the step.
    """

    steps: Count = 300
    schedule: str | Sequence[float] = "vp"
    blocks: Count = 3
    iterations: Count = 2
    langevin_steps: Index = 5
    gamma: Positive = 1e-3
    lr: Positive = 0.1

    family: ClassVar[str] = "guided"
    backprop: ClassVar[bool] = True

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, levels = post.prior, self.levels(post.prior)
        blocks = min(self.blocks, len(levels))
        ends = [round(i * len(levels) / blocks) for i in range(blocks + 1)]
        for begin, end in zip(ends, ends[1:], strict=False):
            low = levels[end - 1][1]
            x = self.langevin(post, x, levels[begin][0], low, randn)
            for s, s_next in levels[begin:end]:
                mean, std = step_kernel(x, prior(x, s), s, s_next)
                x = self.draw(post, mean, std, step_width(post, std, s, s_next), s_next, low, randn) if s_next > 0 else mean
                yield x

    def draw(
        self, post: Posterior[Denoiser], mean: Tensor, std: float, width: float, s: float, low: float, randn: Streams
    ) -> Tensor:
        """Returns a draw of N(u; mean, std^2 I) g(u), where g is the likelihood after one step from (u, s) to low.

        `width`, of `step_width`, bounds the moves of conjugate gradients.
        """
        prior, weight = post.prior, self.weight(post, low)

        def log_g(u: Tensor) -> Tensor:
            if not isinstance(post.A, LinearOperator):
                return weight * post.log_likelihood(prior(u, s))
            there, spread = step_kernel(u, prior(u, s), s, low) if s > low else (u, 0.0)
            return weight * post.log_likelihood(there + spread * randn(mean))

        mean, spread = fit_gaussian(mean, std, log_g, self.iterations, self.lr, randn)
        return mean + spread * randn(mean)

    def weight(self, post: Posterior[Denoiser], low: float) -> float:
        """Returns the temper of the likelihood at a noise level, alpha_bar in the paper's coordinates."""
        return 1 / (1 + (low / post.prior.data_std) ** 2)

    def kept(self, post: Posterior[Denoiser], s: float, low: float) -> float:
        """Returns the weight k of u in D + k (u - D), the point at which the likelihood of a block is taken."""
        return (low / s) ** 2 if isinstance(post.A, LinearOperator) else 0.0

    def langevin(self, post: Posterior[Denoiser], x: Tensor, s: float, low: float, randn: Streams) -> Tensor:
        """Returns x after tamed Langevin steps (Brosse et al., 2019) on p_s(x) g(x), g and low as in `draw`."""
        unit = math.sqrt(post.prior.data_std**2 + s**2)
        for _ in range(self.langevin_steps):
            with differentiating():
                u = leaf(x)
                x0 = post.prior(u, s)
                there = x0 + self.kept(post, s, low) * (u - x0)
                log_g = self.weight(post, low) * post.log_likelihood(there)
                (grad,) = torch.autograd.grad(log_g.sum(), u)
            drift = unit * (grad + (x0.detach() - x) / s**2)
            x = x + unit * (self.gamma / (1 + self.gamma * norm(drift)) * drift + math.sqrt(2 * self.gamma) * randn(x))
        return x
