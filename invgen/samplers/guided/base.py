"""A guided denoiser is a denoiser. Half of the field is a choice of D_y(x) = E[x_0 | x_sigma, y], put through the one step.

D_y = D + C A^T (noise + A C' A^T)^-1 (y - A D). A sampler of this family writes `guide`, the few lines that choose C and
C'; the base class below holds the loop that they share.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, Stepper
from invgen.noise import Noiseless
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.samplers.data_term import line_search, local_fit
from invgen.validation.hints import Count, Fraction, Range


@dataclass(frozen=True)
class GradientGuided(Sampler):
    """The base of samplers that are guided by a gradient, which may be kept in a subspace of the state: DiffStateGrad.

    Zirvi, Tolooshams & Anandkumar, "Diffusion state-guided projected gradient for inverse problems" (ICLR 2025),
    Algorithm 1. A channel of the state is a matrix U S V^T, and a gradient G of the data becomes U_r U_r^T G V_r V_r^T.
    The rank r is each channel's own; the released code takes the mean of three.

    It is a remedy for guidance that is too strong, and takes from guidance that is right.

    Args:
        subspace: r is the least rank with this share of the squared singular values, 0.99 in the paper; 1 projects nothing.
        subspace_every: project at the first of so many steps; 1 in the released code.
    """

    subspace: Annotated[float, Range(0, 1, above=True)] = field(default=1.0, kw_only=True)
    subspace_every: Count = field(default=1, kw_only=True)

    def refuses(self, post: Posterior) -> str | None:
        why = super().refuses(post)
        if why is None and self.subspace < 1:
            shape = (post.latent() if self._through_latent(post) else post).prior.shape
            if len(shape) not in (2, 3):
                why = f"needs signals of shape (H, W) or (C, H, W) for subspace < 1, got {tuple(shape)}; set subspace=1"
        return why

    def within(self, prior: Denoiser, x: Tensor, s: float, gradient: Tensor) -> Tensor:
        """Returns the gradient of the data, (B, *shape), in the subspace of the state x at level s, if one is asked for."""
        if self.subspace == 1:
            return gradient
        if self.subspace_every > 1 and sum(level > s for level, _ in self.levels(prior)) % self.subspace_every:
            return gradient
        # a state that has diverged has no singular vectors; that it has is seen after the step
        U, S, Vh = torch.linalg.svd(x.detach().nan_to_num(0, 0, 0), full_matrices=False)
        power = S.square()
        # kept while those before fall short of the share
        kept = power.cumsum(-1) - power < self.subspace * power.sum(-1, keepdim=True)
        left, right = U * kept.unsqueeze(-2), Vh * kept.unsqueeze(-1)
        return left @ (left.mH @ gradient @ right.mH) @ right


@dataclass(frozen=True)
class GuidedSampler(GradientGuided):
    """Denoise, guide, step.

    Args:
        eta: 1 for ancestral steps (DDPM), 0 for the probability-flow ODE (DDIM).
        order: 2 remembers the guided denoiser of the step before, for the right variance at few steps and at no cost; 1 is
            the plain step. See `Stepper`.
    """

    schedule: str | Sequence[float] = "log"
    eta: Fraction = 1.0
    order: Literal[1, 2] = 2

    family: ClassVar[str] = "guided"
    backprop: ClassVar[bool] = True

    def guide(self, post: Posterior[Any, Any, Any], x: Tensor, s: float) -> Tensor:
        """Returns D_y, an estimate of E[x_0 | x_sigma = x, y], (B, *shape)."""
        raise TypeError(f"{type(self).__name__} must define guide(self, post, x, s)")

    def run(self, post: Posterior[Denoiser, Any, Any], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        move = Stepper(post.prior, self.eta, self.order, randn)
        for s, s_next in self.levels(post.prior):
            x = move(x, self.guide(post, x, s), s, s_next)
            yield x


def likelihood_guidance(post: Posterior[Denoiser], x: Tensor, s: float, fraction: float) -> tuple[Tensor, Tensor]:
    """Returns D(x, s) and the guidance of the likelihood at D, both (B, *shape): sigma^2 grad_x log p(y | A(D)), damped.

    Damped by 1 + fraction * (the variance of D in the measurement along the residual, over the noise), so that steps do not
    overshoot; fraction = 0 is the plain gradient. Exact measurements are fitted along that line.
    """
    x0, vjp = post.prior.vjp(x, s)
    gradient, curvature = local_fit(post, x0, math.sqrt(post.prior.variance(s)))
    d = s**2 * vjp(gradient)
    exact = isinstance(post.noise, Noiseless)
    return x0, (
        line_search(gradient, d, curvature, 0.0) if exact else line_search(gradient, d, curvature, fraction=fraction)
    ) * d
