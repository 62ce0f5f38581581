"""Yu, Wang, Zhao, Ghanem & Zhang, "FreeDoM: training-free energy-guided conditional diffusion model" (ICCV 2023),
Algorithms 1 and 2 (time travel)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invgen.data_term import paper_misfit
from invgen.diffusion import step, travel_back
from invgen.numerics.gradients import differentiating, leaf
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import published
from invgen.samplers.guided.base import GuidedSampler, likelihood_guidance
from invgen.validation.hints import Count, NonNegative, Share

_RHO = {"parsing": 0.2, "sketch": 20.0, "landmarks": 500.0, "face identity": 100.0}


@dataclass(frozen=True)
class FreeDoM(GuidedSampler):
    """Energy guidance with time travel: in the middle of the noise levels each step is taken several times.

    Any differentiable operator, any noise with a density, any loss (the energy is -log p(y | x); see `invgen.Energy`). The
    guidance is that of DPS at the denoised signal, with its bias; travelling back and repeating a step lets the levels at
    which the content is decided come closer to their own law.

    form="score" (default): as DPS's score form. form="paper": after each step x' - rho sqrt(alpha_bar) grad_x |y - A(D)|
    in the paper's variance-preserving coordinates: `FreeDoM.paper`. (The released code has a second rule for text, a step
    of a fixed share of the denoiser's noise; it takes one norm over the batch, this class one per sample.)

    Args:
        repeats: how often each step within `travel` is taken, the paper's r.
        travel: noise levels, in units of data_std, between which to repeat; the paper's 500 to 800 of DDPM's 1000 times.
        zeta: strength of the guidance; rho for form="paper".
        share: see DPS.
    """

    repeats: Count = 3
    travel: tuple[float, float] = (1.0, 10.0)
    zeta: NonNegative = 1.0
    form: Literal["score", "paper"] = "score"
    share: Share = 2 / 3

    noiseless: ClassVar[bool] = True

    @classmethod
    def paper(cls, task: str = "parsing", rho: float | None = None, steps: int = 100, repeats: int = 1) -> "FreeDoM":
        """The released settings for faces (eta = 0.5, no travel there; 10 repeats for ImageNet), for data in [-1, 1]."""
        rho = published("FreeDoM", _RHO, task) if rho is None else rho
        return cls(steps, "vp", 0.5, repeats, travel=(6.9, 51.0), zeta=rho, form="paper")  # d = 0.5: sigma of t = 500, 800

    def run(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        d = post.prior.data_std
        for s, s_next in self.levels(post.prior):
            trips = self.repeats if self.travel[0] * d <= s <= self.travel[1] * d else 1
            for trip in range(trips):
                if trip:
                    x = travel_back(x, s, s_next, randn)
                x = self.move(post, x, s, s_next, randn)
            yield x

    def move(self, post: Posterior, x: Tensor, s: float, s_next: float, randn: Streams) -> Tensor:
        """One guided step."""
        if self.form == "score":
            x0, ascent = likelihood_guidance(post, x, s, self.share)
            return step(x, x0 + self.zeta * ascent, s, s_next, self.eta, randn)
        with differentiating():
            x = leaf(x)
            x0 = post.prior(x, s)
            (grad,) = torch.autograd.grad(paper_misfit(post, x0).sum(), x)
        # rho / sqrt(1 + s^2) times the gradient in x / sqrt(1 + s^2), applied to x' / sqrt(1 + s'^2), written in x
        return step(x, x0, s, s_next, self.eta, randn).detach() - self.zeta * math.sqrt(1 + s_next**2) * grad
