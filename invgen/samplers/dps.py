"""Chung, Kim, Mccann, Klasky & Ye, "Diffusion posterior sampling for general noisy inverse problems" (ICLR 2023),
Algorithm 1."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invgen.diffusion import step
from invgen.errors import OptionError
from invgen.forward import per_sample
from invgen.guidance import GuidedSampler
from invgen.linalg import dot, norm
from invgen.posterior import Posterior
from invgen.random import Streams


@dataclass(frozen=True)
class DPS(GuidedSampler):
    """Diffusion posterior sampling, for any differentiable operator.

    form="score" (default): D_y = D + zeta sigma^2 grad_x log N(y; A(D), v), where v is the noise variance plus what the
    uncertainty of D adds along the residual r: r^T J C J^T r / |r|^2 with J the Jacobian of A and C = sigma^2 dD/dx. The
    guidance is then in the units of the score and depends on neither the number of steps, nor the size of the image, nor
    the units; no product is needed that the gradient has not computed.

    form="paper": after each ancestral step x' - zeta grad_x |y - A(D)|, one norm per sample, in the paper's
    variance-preserving coordinates, for 1000 steps of DDPM's schedule and data in [-1, 1]: use DPS.paper(). The released
    code and this class take zeta times the gradient of the norm; the paper's text writes a factor of 2 more.

    Args:
        zeta: strength of the guidance; the code's values for form="paper" are 0.3 (super-resolution, deblurring), 0.5
            (random inpainting) and 1 (phase retrieval).
    """

    zeta: float = 1.0
    form: Literal["score", "paper"] = "score"

    noiseless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in ("score", "paper"):
            raise OptionError(f"unknown form of DPS {self.form!r}; there are 'score' and 'paper'")

    @classmethod
    def paper(cls, zeta: float = 0.3, steps: int = 1000) -> "DPS":
        """The published algorithm with its schedule."""
        return cls(steps=steps, schedule="vp", zeta=zeta, form="paper")

    def guide(self, post: Posterior, x: Tensor, s: float) -> Tensor:
        x0, vjp = post.prior.vjp(x, s)
        with torch.enable_grad():
            u = x0.requires_grad_()
            clean = post.A(u)
        clean, outputs = clean.detach(), clean
        r, std = post.y - clean, post.noise.std(clean)
        if not isinstance(std, Tensor) and std == 0:  # noiseless: a level far below the data
            std = 1e-4 * norm(post.y) / math.sqrt(r[0].numel()) + 1e-12
        (pull,) = torch.autograd.grad(outputs, u, r / std**2)
        guidance = s**2 * vjp(pull)
        # variance of the residual along itself, in units of the noise: 1 + r^T J C J^T r / |r|^2 with C = sigma^2 dD/dx
        spread = dot(pull, guidance) / per_sample(dot(r / std, r / std).clamp(min=1e-30), x)
        return x0.detach() + self.zeta / (1 + spread.clamp(min=0)) * guidance

    def run(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        if self.form == "score":
            yield from super().run(post, x, randn)
            return
        for s, s_next in self.levels(post.prior):
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                x0 = post.prior(x, s)
                misfit = norm(post.residual(x0)).sum()  # one norm per sample: their gradients do not mix
            (grad,) = torch.autograd.grad(misfit, x)
            # a step in x / sqrt(1 + sigma^2) before and after, written in x
            scale = math.sqrt((1 + s**2) * (1 + s_next**2))
            x = step(x, x0, s, s_next, self.eta, randn).detach() - self.zeta * scale * grad
            yield x
