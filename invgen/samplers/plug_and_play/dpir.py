"""Zhang, Li, Zuo, Zhang, Van Gool & Timofte, "Plug-and-play image restoration with deep denoiser prior" (IEEE Transactions
on Pattern Analysis and Machine Intelligence, 2021), Algorithm 1: DPIR."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian
from invgen.sampler import published
from invgen.samplers.plug_and_play.base import PlugAndPlay
from invgen.validation.hints import Count, Positive

_STEPS = {"deblurring": 8, "super-resolution": 24, "demosaicing": 40}


@dataclass(frozen=True)
class DPIR(PlugAndPlay):
    """Half-quadratic splitting in a few steps: solve the data problem, denoise, while the level falls to that of the noise.

    Linear operators, Gaussian noise or none; no gradient of the network. One point, no uncertainty. Levels are even in log
    sigma from `sigma` to sigma_y / |A|, both within the levels of the prior; the data problem of a step is
    argmin |y - A x|^2 / sigma_y^2 + lam / sigma^2 |x - z|^2. On a Gaussian prior the result is no
    minimiser, it depends on the levels.

    Args:
        steps: the paper takes 8 for deblurring, 24 for super-resolution, 40 for demosaicing.
        sigma: the first level as a fraction of the width of the prior's value range.
        lam: weight of the prior.
        ensemble: turn and mirror the image differently at each step for the network (the paper's periodical geometric
            self-ensemble), quarter turns only where it is square.
    """

    steps: Count = 8
    sigma: Positive = 49 / 255
    lam: Positive = 0.23
    ensemble: bool = False

    many_levels: ClassVar[bool] = True

    @classmethod
    def paper(cls, task: str = "deblurring") -> "DPIR":
        """Returns the published number of steps of a task, with the self-ensemble."""
        return cls(steps=published("DPIR", _STEPS, task), ensemble=True)

    def run(self, post: LinearGaussian, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, var_y = post.prior, post.noise.var
        noise = math.sqrt(torch.as_tensor(var_y).double().mean().item()) / post.A.norm()
        first = self.level(prior)
        last = min(max(noise, prior.sigma_min), first)
        for k in range(self.steps):
            s = first * (last / first) ** (k / max(self.steps - 1, 1))
            x = post.A.prox(x, post.y, s**2 / self.lam, var_y)
            x = turned(prior(turned(x, k), s), k, back=True) if self.ensemble else prior(x, s)
            yield x


def turned(x: Tensor, k: int, back: bool = False) -> Tensor:
    """Returns the k-th of the eight turns and mirrors of the last two axes, or its inverse; of the four for oblong
    images."""
    if x.ndim < 4:  # (B, C, n) has one axis to mirror
        return x.flip(-1) if k % 2 else x
    turns = k % 4 if x.shape[-1] == x.shape[-2] else 2 * (k % 2)
    mirror = k // (4 if x.shape[-1] == x.shape[-2] else 2) % 2
    if back:
        return torch.rot90(x.flip(-1) if mirror else x, -turns, (-2, -1))
    x = torch.rot90(x, turns, (-2, -1))
    return x.flip(-1) if mirror else x
