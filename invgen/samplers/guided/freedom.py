"""Yu, Wang, Zhao, Ghanem & Zhang, "FreeDoM: training-free energy-guided conditional diffusion model" (ICCV 2023),
Algorithms 1 and 2 (time travel)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, step, travel_back
from invgen.numerics.gradients import differentiating, leaf
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.samplers.data_term import paper_misfit
from invgen.samplers.guided.base import GradientGuided
from invgen.validation.hints import Count, Fraction, NonNegative


@dataclass(frozen=True)
class FreeDoM(GradientGuided):
    """Energy guidance with time travel: in the middle of the noise levels each step is taken several times.

    Any differentiable operator, any noise or a loss (the energy is |y - A(x)|, or the loss; see `invgen.Energy`). After
    each step x' - rho sqrt(alpha_bar) grad_x energy(D(x)), in the paper's variance-preserving coordinates, for signals in
    [-1, 1] and DDPM's schedule. The released code has a second rule for text, a step of a fixed fraction of the denoiser's
    noise, and takes one norm over the batch; this class takes one a sample. `DampedFreeDoM` depends on neither units nor
    steps.

    Args:
        eta: fraction of fresh noise, 1 for DDPM, 0 for DDIM.
        repeats: how often each step within `travel` is taken, the paper's r: 1 for faces, 10 for ImageNet.
        travel: noise levels, in units of data_std, between which to repeat; those of the times 500 and 800 of DDPM's 1000
            for signals of standard deviation 1/2.
        zeta: the paper's rho, which belongs to one energy: 0.2 for parsing maps, 20 for sketches, 500 for landmarks and 100
            for the identity of a face.
    """

    schedule: str | Sequence[float] = "vp"
    eta: Fraction = 0.5
    repeats: Count = 1
    travel: tuple[NonNegative, NonNegative] = (6.9, 51.0)
    zeta: NonNegative = 0.2

    noiseless: ClassVar[bool] = True
    backprop: ClassVar[bool] = True

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        d = post.prior.data_std
        for s, s_next in self.levels(post.prior):
            trips = self.repeats if self.travel[0] * d <= s <= self.travel[1] * d else 1
            for trip in range(trips):
                if trip:
                    x = travel_back(x, s, s_next, randn)
                x = self.move(post, x, s, s_next, randn)
            yield x

    def move(self, post: Posterior[Denoiser], x: Tensor, s: float, s_next: float, randn: Streams) -> Tensor:
        """Returns the state after one guided step."""
        with differentiating():
            x = leaf(x)
            x0 = post.prior(x, s)
            (grad,) = torch.autograd.grad(paper_misfit(post, x0).sum(), x)
        grad = self.within(post.prior, x, s, grad)
        # rho / sqrt(1 + s^2) times the gradient in x / sqrt(1 + s^2), applied to x' / sqrt(1 + s'^2), written in x
        return step(x, x0, s, s_next, self.eta, randn).detach() - self.zeta * math.sqrt(1 + s_next**2) * grad
