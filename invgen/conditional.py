"""Conditional priors p(x | c) for a class, a text or another image c, and classifier-free guidance of them.

A conditional prior is a Denoiser like any other, so that every sampler runs on it: p(x | c) takes the place of p(x).
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, Sigma, per_sample_sigma
from invgen.errors import OptionError, ShapeError, UnsupportedError
from invgen.validation.hints import Interval, Range


@runtime_checkable
class Conditional(Protocol):
    """A prior that can be conditioned: one with a method `condition` that gives the prior of a class, a text, ..."""

    def condition(self, *args: Any, **kwargs: Any) -> Denoiser:  # of any signature
        """Returns p(x | condition), a denoiser over the same signals."""
        ...


class ConditionalDenoiser(Denoiser):
    """A network that knows conditions: a subclass writes `forward(x, sigma, condition=None)`, None for the unconditional.

    It is its own unconditional prior; `condition(c)` is p(x | c).
    """

    def forward(self, x: Tensor, sigma: Sigma, condition: Any = None) -> Tensor:
        """Returns E[x_0 | x_sigma = x, condition], (B, *shape); a tensor as condition has B rows."""
        raise TypeError(f"{type(self).__name__} must define forward(self, x, sigma, condition=None)")

    def condition(self, condition: Any) -> "Conditioned":
        """Returns p(x | condition), the condition without batch axis: a label, an embedding, ..."""
        return Conditioned(self, condition)


class DenoiserOf(Denoiser):
    """A denoiser made of another, in the same units, by default over the same signals."""

    def __init__(self, prior: Denoiser, shape: int | Sequence[int] | None = None) -> None:
        super().__init__(
            prior.shape if shape is None else shape,
            sigma_min=prior.sigma_min,
            sigma_max=prior.sigma_max,
            value_range=prior.value_range,
            data_mean=prior.data_mean,
            data_std=prior.data_std,
            sampling_rate=prior.sampling_rate,
        )
        self.prior, self.consistency = prior, prior.consistency

    @property
    def dtype(self) -> torch.dtype:
        return self.prior.dtype

    def variance(self, sigma: float) -> float:
        return self.prior.variance(sigma)

    def start(self, z: Tensor, sigma: float) -> Tensor:
        return self.prior.start(z, sigma)


class Conditioned(DenoiserOf):
    """p(x | c) of a `ConditionalDenoiser`, with one condition for all samples."""

    given: Tensor | None
    prior: ConditionalDenoiser

    def __init__(self, prior: ConditionalDenoiser, condition: Any) -> None:
        super().__init__(prior)
        self.register_buffer("given", condition if isinstance(condition, Tensor) else None)
        self.other = None if isinstance(condition, Tensor) else condition

    def forward(self, x: Tensor, sigma: Sigma) -> Tensor:
        given = self.other if self.given is None else self.given.expand(len(x), *self.given.shape)
        return self.prior(x, sigma, given)


class ClassifierFree(DenoiserOf):
    """Ho & Salimans, "Classifier-free diffusion guidance" (2022), equation 6: U + scale (C - U).

    With C = D(x; c) and U = D(x). Its score is that of p_sigma(x | c)^scale p_sigma(x)^(1 - scale): the conditional prior
    for scale = 1, exactly; above 1 sharper towards the condition, and no longer the diffusion of any fixed law (for two
    Gaussians of one covariance it is: N(m_U + scale (m_C - m_U), S)). Two network evaluations a call, one where only one
    counts.

    Args:
        conditional: the denoiser of p(x | c).
        unconditional: the denoiser of p(x), over the same shape and in the same units.
        scale: 1 + w in the paper's notation.
        interval: noise levels (low, high) in units of x within which to guide; outside, the conditional alone
            (Kynkaanniemi et al., "Applying guidance in a limited interval", NeurIPS 2024).
    """

    def __init__(
        self,
        conditional: Denoiser,
        unconditional: Denoiser,
        scale: Annotated[float, Range(0), "1 is the conditional prior"] = 1.0,
        interval: Interval = (0.0, math.inf),
    ) -> None:
        if conditional.shape != unconditional.shape:
            raise ShapeError(
                f"the conditional prior is over {tuple(conditional.shape)} but the unconditional over "
                f"{tuple(unconditional.shape)}"
            )
        if not interval[0] <= interval[1]:
            raise OptionError(f"the guidance interval must be noise levels low <= high, got {interval!r}")
        super().__init__(conditional)
        self.unconditional, self.scale, self.interval = unconditional, float(scale), tuple(map(float, interval))
        self.sigma_min = max(conditional.sigma_min, unconditional.sigma_min)
        self.sigma_max = min(conditional.sigma_max, unconditional.sigma_max)

    @classmethod
    def of(cls, prior: Conditional, *condition: Any, scale: float = 1.0, **options: Any) -> "ClassifierFree":
        """Returns a prior that can be conditioned, guided towards a condition.

        Raises:
            UnsupportedError: the prior has no method `condition`.
        """
        if not isinstance(prior, Conditional):
            raise UnsupportedError(
                f"classifier-free guidance needs a prior with a method condition(c), and {type(prior).__name__} has none"
            )
        return cls(prior.condition(*condition), cast(Denoiser, prior), scale, **options)  # the constructor looks

    def forward(self, x: Tensor, sigma: Sigma) -> Tensor:
        if isinstance(sigma, Tensor) and sigma.ndim:  # a level per sample: each with its own scale
            inside = (sigma >= self.interval[0]) & (sigma <= self.interval[1])
            scale = per_sample_sigma(1 + (self.scale - 1) * inside, x)
        else:
            scale = self.scale if self.interval[0] <= sigma <= self.interval[1] else 1.0
            if scale == 1:
                return self.prior(x, sigma)
            if scale == 0:
                return self.unconditional(x, sigma)
        plain = self.unconditional(x, sigma)
        return plain + scale * (self.prior(x, sigma) - plain)
