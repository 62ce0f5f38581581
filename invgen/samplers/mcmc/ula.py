"""Laumont, De Bortoli, Almansa, Delon, Durmus & Pereyra, "Bayesian imaging using plug & play priors: when Langevin meets
Tweedie" (SIAM Journal on Imaging Sciences, 2022): PnP-ULA."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.diffusion import Denoiser
from invgen.forward import LinearOperator
from invgen.noise import Gaussian
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.samplers.mcmc.base import langevin, largest_curvature
from invgen.samplers.mcmc.daps import DAPS
from invgen.validation.hints import Count, Index, Positive


@dataclass(frozen=True)
class ULA(Sampler):
    """Unadjusted Langevin steps on p_sigma(x) p(y | x), with the denoiser's score at one small noise level.

    Any differentiable operator, any noise with a density. Each sample is the end of a chain of its own: `steps` is the
    burn-in. The law is that of the prior blurred by sigma, its variance too large along a direction of precision q by
    1 / (1 - h q / 2) (`step` / 2 along the stiffest at most). A chain at a small noise level does not cross between distant
    modes: it stays with that of its start. The paper's term that pulls the chain back into a box is left out.

    Args:
        steps: Langevin steps, a network evaluation each.
        sigma: noise level of the score, in units of the prior's data_std (within the prior's levels).
        step: h = step / (|A|^2 / sigma_y^2 + 1 / sigma^2), the inverse of a bound on the curvature; stable below 2. Where
            the operator is not linear or the noise not Gaussian, the curvature is the largest met in the first half.
        warm: levels of DAPS, a network evaluation each, that the start comes from; 0: a Gaussian of the prior's moments,
            with which a denoiser of one level is enough.
    """

    steps: Count = 200
    sigma: Positive = 0.1
    step: Positive = 0.25
    warm: Index = 20

    many_levels: ClassVar[bool] = False
    family: ClassVar[str] = "mcmc"
    exact: ClassVar[str] = "as sigma and step fall and steps grow"

    def levels(self, prior: Denoiser) -> list[tuple[float, float]]:
        sigma = min(max(self.sigma * prior.data_std, prior.sigma_min), prior.sigma_max)
        return self.steps * [(sigma, sigma)]

    def refuses(self, post: Posterior) -> str | None:
        if self.warm and getattr(post.prior, "one_level", False):
            return "with warm > 0 needs a denoiser of many noise levels; with warm=0 it takes this one"
        return super().refuses(post)

    def start(self, post: Posterior[Denoiser], randn: Streams, rows: int) -> Tensor:
        if not self.warm:
            return super().start(post, randn, rows)
        warm = DAPS(steps=self.warm, schedule=self.schedule, ode_steps=1)
        *_, x = warm.run(post, warm.start(post, randn, rows), randn)
        return x + self.levels(post.prior)[0][0] * randn(x)

    def bounds(self, post: Posterior[Denoiser], x: Tensor, sigma: float, k: int, last: Tensor | None) -> Tensor:
        """Returns a bound on the curvature of the target at step k, (B, 1, ..., 1); last: that of the step before."""
        constant = isinstance(post.A, LinearOperator) and isinstance(post.noise, Gaussian)
        if last is not None and (k >= self.steps // 2 or constant):
            return last
        # no smoothed prior is more curved than 1 / sigma^2
        bound = largest_curvature(post, x, sigma) + 1 / sigma**2
        return bound if last is None else torch.maximum(bound, last)

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        bound = None
        for k, (sigma, _) in enumerate(self.levels(post.prior)):
            bound = self.bounds(post, x, sigma, k, bound)
            x = langevin(
                x, lambda u, s=sigma: post.prior.score(u, s) + post.likelihood_score(u), self.step / bound, 1, randn
            )
            yield x
