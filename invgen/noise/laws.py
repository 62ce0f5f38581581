"""Noise: the law of the measurement y given its clean value A(x). Parameters are in the units of y."""

import math
from collections.abc import Callable
from typing import Annotated, Any

import torch
from torch import Tensor

from invgen.errors import OptionError, ShapeError, UnsupportedError
from invgen.messages import warn
from invgen.validation.arguments import checked_class
from invgen.validation.hints import Positive, check, shown

RandnLike = Callable[[Tensor], Tensor]


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)


class Noise:
    """p(y | clean). A subclass writes `sample` and `log_prob`; it is stateless and compares by its repr."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        checked_class(cls)

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Returns a measurement, of the shape of `clean`; the global random state is used only if no generator is given."""
        raise UnsupportedError(f"{type(self).__name__} must define sample(self, clean, generator=None)")

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """Returns log p(y | clean), (B,), for y and clean of shape (B, *out_shape), differentiable in clean."""
        raise UnsupportedError(f"{type(self).__name__} must define log_prob(self, y, clean)")

    def std(self, clean: Tensor) -> Tensor | float:
        """Returns the standard deviation of y given clean: what a residual is measured against."""
        raise UnsupportedError(f"{type(self).__name__} must define std(self, clean)")

    def mean(self, clean: Tensor) -> Tensor:
        """Returns the mean of y given clean: clean itself, but for photon counts behind an object."""
        return clean

    def reduced(self, y: Tensor) -> "tuple[Tensor, Noise]":
        """Returns the same data as a y that is clean plus noise, and its law: what samplers see. y and self, but for
        counts."""
        return y, self

    def rows(self, index: Tensor, batch: tuple[int, ...], out_shape: tuple[int, ...]) -> "Noise":
        """Returns this noise for the rows `index` of the flattened batch: itself, unless a parameter carries batch axes."""
        return self

    def to(self, *args: Any, **kwargs: Any) -> "Noise":
        """Returns this noise with its tensors on another device or in another dtype."""
        return self


class Gaussian(Noise):
    """y = clean + sigma * eps, eps standard normal (real and imaginary part each, for complex measurements).

    Args:
        sigma: standard deviation in the units of y, a positive number, or a tensor broadcastable to one measurement (a
            different level for each detector element), or with batch axes, (*batch, *broadcastable to out_shape).
    """

    def __init__(self, sigma: Annotated[Positive, "for exact measurements use Noiseless()"] | Tensor) -> None:
        table = isinstance(sigma, Tensor) and sigma.ndim > 0
        if isinstance(sigma, Tensor) and not bool(((sigma > 0) & sigma.isfinite()).all()):
            entries = f"{shown(sigma)} with others in it" if table else shown(sigma)
            raise OptionError(
                f"the noise level must be a positive number, got {entries}; for exact measurements use invgen.Noiseless()"
            )
        self.sigma = sigma if table else float(sigma)

    def __repr__(self) -> str:
        sigma = f"tensor of shape {tuple(self.sigma.shape)}" if isinstance(self.sigma, Tensor) else f"{self.sigma:g}"
        return f"{type(self).__name__}(sigma={sigma})"

    @property
    def var(self) -> float | Tensor:
        return self.sigma**2

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if clean.is_complex():
            return torch.view_as_complex(self._add(torch.view_as_real(clean), generator))
        return self._add(clean, generator)

    def _add(self, clean: Tensor, generator: torch.Generator | None) -> Tensor:
        return clean + self.sigma * _normal(clean, generator)

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        r = (y - clean) / self.sigma
        square = torch.view_as_real(r).square() if r.is_complex() else r.square()
        values = square[0].numel() if len(square) else 0
        level = torch.as_tensor(self.sigma, dtype=square.dtype, device=y.device).log()
        per_value = (
            level.expand_as(r).flatten(1).sum(1) * (values / max(r[0].numel(), 1)) if level.ndim else (values * level)
        )
        return -0.5 * square.flatten(1).sum(1) - per_value - 0.5 * values * math.log(2 * math.pi)

    def std(self, clean: Tensor) -> Tensor | float:
        return self.sigma

    @property
    def least_std(self) -> float | Tensor:
        """One over the root of the largest curvature of -log p(y | clean) in clean."""
        return self.sigma

    def score(self, y: Tensor, clean: Tensor) -> Tensor:
        """Returns the derivative of log p(y | clean) in clean, (B, *out_shape)."""
        return (y - clean) / self.var

    def rows(self, index: Tensor, batch: tuple[int, ...], out_shape: tuple[int, ...]) -> "Gaussian":
        if not isinstance(self.sigma, Tensor):
            return self
        if self.sigma.ndim <= len(out_shape):
            # an explicit batch axis: (3,), for three detectors, would read as one level for each of three measurements
            return Gaussian(self.sigma[(None,) * (1 + len(out_shape) - self.sigma.ndim)])
        flat = self.sigma.expand(*batch, *self.sigma.shape[len(batch) :])
        return Gaussian(flat.reshape(-1, *flat.shape[len(batch) :])[index.to(flat.device)])

    def to(self, *args: Any, **kwargs: Any) -> "Gaussian":
        return Gaussian(self.sigma.to(*args, **kwargs)) if isinstance(self.sigma, Tensor) else self


class Noiseless(Gaussian):
    """y = clean, exactly. For samplers that project on the measurement; there is no density, so no log_prob."""

    def __init__(self) -> None:
        self.sigma = 0.0

    def __repr__(self) -> str:
        return "Noiseless()"

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return clean.clone()

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        raise UnsupportedError(
            "a noiseless measurement has no density; state a small noise level, such as Gaussian(0.01), or use a sampler "
            "that projects, such as DDNM"
        )


class Poisson(Noise):
    """y = gain * N, N ~ Poisson(clean / gain): photon counting, with `gain` in units of y per photon.

    The mean of y is clean, its variance gain * clean: a larger gain is fewer photons. Negative clean values count as zero.
    """

    def __init__(self, gain: Positive = 1.0) -> None:
        self.gain = float(gain)

    def __repr__(self) -> str:
        return f"Poisson(gain={self.gain:g})"

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        dark = (clean < -self.gain).double().mean().item()
        if dark:
            warn(
                f"{dark:.0%} of the clean values are below zero, down to {clean.min():g}, and Poisson counts them as zero: "
                "put the prior in units that start at zero, prior.rescaled(scale, shift) or --rescale SCALE SHIFT"
            )
        return self.gain * torch.poisson(clean.clamp(min=0) / self.gain, generator=generator)

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        if y.shape != clean.shape:
            raise ShapeError(f"y has shape {tuple(y.shape)} but the clean measurement {tuple(clean.shape)}")
        count, rate = y / self.gain, (clean / self.gain).clamp(min=1e-6)
        log = torch.xlogy(count, rate) - rate - torch.lgamma(count + 1) - math.log(self.gain)
        return log.flatten(1).sum(1)

    def std(self, clean: Tensor) -> Tensor:
        # never below one photon's worth, so that an empty detector element does not divide by zero
        return (self.gain * clean.clamp(min=self.gain)).sqrt()


class Energy(Noise):
    """y | x ~ exp(-loss(A(x), y)): any loss as a likelihood, for classifiers, embeddings, renderers, token scores.

    Samplers that ask for "any noise" and use the likelihood's gradient run on it; those that need Gaussian noise refuse it.
    The law of y is not normalised, so there is nothing to draw a measurement from, and evidences are relative.

    Args:
        loss: (clean, y) -> (B,) or (B, ...), summed over all but the first axis; clean = A(x) and y of shape
            (B, *out_shape), differentiable in clean, each row for itself. Its scale is the inverse temperature: twice the
            loss is twice the data.
        std: the standard deviation of the Gaussian noise that the loss stands for, in units of y, where something wants a
            scale to judge y - A(x) by (the residual of a result, step sizes of some samplers). 1 is right for
            |A(x) - y|^2 / 2; where y - A(x) has no meaning, neither has that figure.
    """

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor], std: Positive = 1.0) -> None:
        self.loss, self.scale = loss, float(std)

    def __repr__(self) -> str:
        return f"Energy(loss={getattr(self.loss, '__qualname__', type(self.loss).__name__)}, std={self.scale:g})"

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        raise UnsupportedError(
            "a loss is not a law of y that can be drawn from; give a measurement, or state the noise, such as Gaussian(0.1)"
        )

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """Returns -loss(clean, y), (B,): the density up to a factor that does not depend on clean."""
        value = self.loss(clean, y)
        if not isinstance(value, Tensor) or value.ndim < 1 or len(value) != len(clean):
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ShapeError(f"the loss must give one number for each of the {len(clean)} rows, shape (B,), got {got}")
        return -value.flatten(1).sum(1) if value.ndim > 1 else -value

    def std(self, clean: Tensor) -> float:
        return self.scale

    def to(self, *args: Any, **kwargs: Any) -> "Energy":
        """Returns this loss, moved where it is a module with tables of its own (an encoder); a plain function as it is."""
        return Energy(self.loss.to(*args, **kwargs), self.scale) if isinstance(self.loss, torch.nn.Module) else self


NoiseLike = Noise | Annotated[Positive, "for exact measurements use Noiseless()"]


def as_noise(noise: NoiseLike) -> Noise:
    """Returns a Noise from what users write: a Noise, or a number that means Gaussian noise of that standard deviation."""
    noise = check("noise", noise, NoiseLike)
    return noise if isinstance(noise, Noise) else Gaussian(noise)
