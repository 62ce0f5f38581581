"""Venkatakrishnan, Bouman & Wohlberg, "Plug-and-play priors for model based reconstruction" (GlobalSIP 2013); Chan, Wang &
Elgendy, "Plug-and-play ADMM for image restoration" (IEEE Transactions on Computational Imaging, 2017), Algorithm 1."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from invgen.linalg import norm
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian, Posterior
from invgen.samplers.plug_and_play.base import PlugAndPlay
from invgen.validation.hints import Count, Positive, Range


@dataclass(frozen=True)
class PnPADMM(PlugAndPlay):
    """Alternating directions with a denoiser as the prior's step: solve the data problem, denoise, add up the difference.

    Linear operators, Gaussian noise or none; a denoiser of one level is enough. One point, no uncertainty. With rho = lam /
    sigma^2 the three steps are x = argmin |y - A x|^2 / (2 sigma_y^2) + rho / 2 |x - (v - u)|^2, v = D(x + u, sigma),
    u += x - v. For a Gaussian prior they end, at any sigma, at the most likely x when the prior's precision is multiplied
    by lam: with lam = 1 at the posterior mean.

    Args:
        sigma: level of the denoiser as a fraction of the width of the prior's value range, within the prior's levels. By
            default the level of a denoiser that has one alone, else 0.05.
        lam: weight of the prior, the papers' lambda for an exact likelihood.
        gamma: 1 keeps rho as it is. Above 1 rho grows by this factor where a step has not become smaller (Chan et al.,
            adaptive rule), and sigma falls by its root, to the prior's least level.
        eta: by what factor a step has to become smaller for rho to stay, in [0, 1); 0: rho grows at every step.
    """

    steps: Count = 50
    lam: Positive = 1.0
    gamma: Annotated[float, Range(1)] = 1.0
    eta: Annotated[float, Range(0, 1, below=True)] = 0.95

    @classmethod
    def adaptive(cls, sigma: float = 0.2, gamma: float = 1.2, **options: Any) -> "PnPADMM":
        """Returns Chan et al.'s form: from a high level down, rho growing by 1.2 where a step is not 0.95 times the
        last."""
        return cls(sigma=sigma, gamma=gamma, **options)

    def refuses(self, post: Posterior) -> str | None:
        if self.gamma > 1 and getattr(post.prior, "one_level", False):
            return "with gamma > 1 needs a denoiser of many noise levels"
        return super().refuses(post)

    def run(self, post: LinearGaussian, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, var_y = post.prior, post.noise.var
        sigma, moved = self.level(prior), torch.inf
        v, u = x, torch.zeros_like(x)
        for _ in range(self.steps):
            before = x, v, u
            x = post.A.prox(v - u, post.y, sigma**2 / self.lam, var_y)
            v = prior(x + u, sigma.flatten() if isinstance(sigma, Tensor) else sigma)
            u = u + x - v
            if self.gamma > 1:
                last, moved = moved, sum((norm(a - b) for a, b in zip((x, v, u), before, strict=True)), x.new_zeros(()))
                lower = (sigma / torch.full_like(moved, self.gamma) ** 0.5).clamp(min=prior.sigma_min)
                sigma = torch.where(moved >= self.eta * last, lower, sigma)
            yield v
