"""Diffusion priors, known by their denoiser D(x, sigma) = E[x_0 | x_0 + sigma eps = x].

Tweedie: score = (D - x) / sigma^2 and Cov[x_0 | x_sigma] = sigma^2 dD/dx.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from invgen.diffusion.levels import interpolate
from invgen.diffusion.prior import Prior
from invgen.errors import InvgenError, OptionError, UnsupportedError
from invgen.numerics.gradients import differentiating, leaf, power_of_two, running
from invgen.numerics.random import Streams
from invgen.validation.arguments import checked
from invgen.validation.signals import RAW, explain

Sigma = float | Tensor


class Denoiser(Prior):
    """A diffusion prior, known by its denoiser. A subclass writes `forward(x, sigma)`.

    Args:
        shape, value_range, data_mean, data_std, sampling_rate: as for `Prior`.
        sigma_min, sigma_max: see below.

    Attributes:
        sigma_min, sigma_max: the noise levels between which the denoiser is to be trusted, in units of x; equal for one
            that knows a single level, see `one_level`.
        mmse: pairs (sigma, mean squared error of D per value), if they have been measured; see `measure_mmse`.
        consistency: whether forward(x, sigma) is a consistency function, the end of the probability flow that goes through
            x at sigma (Song et al., 2023), instead of the mean E[x_0 | x_sigma = x].
    """

    consistency: bool = False

    def __init__(
        self,
        shape: int | Sequence[int],
        *,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        value_range: tuple[float, float] = (-1.0, 1.0),
        data_mean: float = 0.0,
        data_std: float = 0.5,
        sampling_rate: float | None = None,
    ) -> None:
        facts = {"data_mean": data_mean, "data_std": data_std, "sampling_rate": sampling_rate}
        super().__init__(shape, value_range=value_range, **facts)
        self.sigma_min, self.sigma_max = float(sigma_min), float(sigma_max)
        self.mmse: tuple[tuple[float, float], ...] = ()
        if not 0 < self.sigma_min <= self.sigma_max < math.inf:
            raise OptionError(f"noise levels must satisfy 0 < sigma_min <= sigma_max, got {sigma_min!r} and {sigma_max!r}")

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, sigma_min={self.sigma_min:.4g}, sigma_max={self.sigma_max:.4g}"

    def _facts(self) -> dict[str, Any]:
        low, high = f"{self.sigma_min:.4g}", f"{self.sigma_max:.4g}"
        return super()._facts() | {"noise levels": f"{low} alone" if self.one_level else f"{low} to {high}"}

    @property
    def one_level(self) -> bool:
        """Whether the denoiser knows a single noise level, as most small published ones do."""
        return self.sigma_min == self.sigma_max

    def require_levels(self, what: str) -> None:
        """Raises UnsupportedError, "{what} needs a denoiser of many noise levels", where there is a single one."""
        if self.one_level:
            raise UnsupportedError(f"{what} {needs_levels(self)}")

    def forward(self, x: Tensor, sigma: Sigma) -> Tensor:
        """Returns E[x_0 | x_0 + sigma eps = x], (B, *shape) for x of shape (B, *shape); sigma: a number or one per
        sample, (B,)."""
        raise UnsupportedError(f"{type(self).__name__} must define forward(self, x, sigma)")

    def __call__(self, x: Tensor, sigma: Sigma, *args: Any, **kwargs: Any) -> Tensor:
        try:
            return super().__call__(x, sigma, *args, **kwargs)
        except InvgenError:
            raise
        except RAW:
            explain(self, "", x, self.shape, sigma)
            raise

    if TYPE_CHECKING:

        def log_prob(self, x: Tensor, sigma: Sigma = 0.0) -> Tensor:
            """Returns log p_sigma(x), (B,), where the denoiser `has_density`."""
            ...

    def vjp(self, x: Tensor, sigma: Sigma) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Returns D(x, sigma) without a graph, and the map v -> (dD/dx)^T v, which may be called any number of times."""
        with differentiating():
            x = leaf(x)
            x0 = self(x, sigma)

        def pullback(v: Tensor) -> Tensor:
            size = power_of_two(v)  # at unit size, so that a network in half precision does not overflow
            return torch.autograd.grad(x0, x, v / size, retain_graph=True)[0] * size

        return x0.detach(), pullback

    def score(self, x: Tensor, sigma: Sigma) -> Tensor:
        """Returns the gradient of log p_sigma at x, (B, *shape)."""
        return (self(x, sigma) - x) / per_sample_sigma(sigma, x) ** 2

    @property
    def has_density(self) -> bool:
        """Whether there is log_prob(x, sigma), the log-density of x_sigma, (B,)."""
        return hasattr(self, "log_prob")

    def bits(self, x: Tensor, bin_width: float, *, steps: int = 16, seed: int = 0) -> tuple[Tensor, str] | None:
        """Returns bits a value, "exact" with a density, else of the "flow ODE"; None for one level, or consistency.

        Args:
            x, bin_width, steps, seed: as for `Prior.bits`.
        """
        from invgen.numerics.density import bits_per_dim, log_prob

        if self.has_density:
            return super().bits(x, bin_width)
        if self.one_level or self.consistency:
            return None
        return bits_per_dim(log_prob(self, x, steps=steps, seed=seed, max_batch=16), x[0].numel(), bin_width), "flow ODE"

    def variance(self, sigma: float) -> float:
        """Returns the variance of a value of x_0 given x_sigma, on average: the mean squared error of the best denoiser.

        From the measured table `mmse` where there is one (interpolated in log sigma; in proportion to sigma^2 below it,
        constant above), else as if values were independent N(data_mean, data_std^2): s^2 d^2 / (s^2 + d^2). For images the
        measured variance is several times smaller, because neighbours predict each other.
        """
        if not self.mmse:
            return sigma**2 * self.data_std**2 / (sigma**2 + self.data_std**2)
        if len(self.mmse) == 1:  # of one level
            return self.mmse[0][1] * min(1.0, sigma / self.mmse[0][0]) ** 2
        levels = torch.tensor([s for s, _ in self.mmse], dtype=torch.float64).log()
        errors = torch.tensor([e for _, e in self.mmse], dtype=torch.float64).log()
        if sigma < self.mmse[0][0]:
            return self.mmse[0][1] * (sigma / self.mmse[0][0]) ** 2
        return math.exp(interpolate(levels, errors, math.log(sigma)))

    @checked
    def measure_mmse(self, x0: Tensor, levels: Sequence[float] | None = None, seed: int = 0) -> "Denoiser":
        """Measures the table `mmse` on clean signals x0, (B, *shape), at `levels` (12 over the range), and returns self."""
        if levels is None and self.one_level:
            levels = [self.sigma_min]
        elif levels is None:
            levels = torch.logspace(
                math.log10(self.sigma_min), math.log10(self.sigma_max), 12, dtype=torch.float64
            ).tolist()
        randn = Streams(seed, list(range(len(x0))))
        with running(self):
            errors = [(self(x0 + s * randn(x0), s) - x0).square().mean().item() for s in sorted(levels)]
        # no denoiser errs more than its input; a network may, outside the levels it has seen
        self.mmse = tuple((float(s), min(max(e, 1e-30), s**2)) for s, e in zip(sorted(levels), errors, strict=True))
        return self

    def start(self, z: Tensor, sigma: float) -> Tensor:
        """Returns a draw from p_sigma for a sigma far above the signal's size, from a standard normal z."""
        return self.data_mean + math.sqrt(sigma**2 + self.data_std**2) * z

    def rescaled(self, scale: float, shift: float = 0.0) -> "Rescaled":
        """Returns the same prior for scale * x + shift: other units, noise levels rescaled with them."""
        return Rescaled(self, scale, shift)


def needs_levels(prior: Denoiser) -> str:
    """Returns the end of a sentence: what a sampler of many levels misses in a denoiser of one."""
    return f"needs a denoiser of many noise levels, and this one knows {prior.sigma_min:.4g} alone"


@overload
def per_sample_sigma(sigma: Tensor, x: Tensor) -> Tensor: ...
@overload
def per_sample_sigma(sigma: Sigma, x: Tensor) -> Sigma: ...
def per_sample_sigma(sigma: Sigma, x: Tensor) -> Sigma:
    """Returns a sigma given per sample, (B,), in the rank of x; a number unchanged."""
    if isinstance(sigma, Tensor) and sigma.ndim:
        return sigma.to(x.device, x.real.dtype if x.is_complex() else x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    return sigma


class Rescaled(Denoiser):
    """`prior` in other units: signals are scale * x + shift, for a positive scale."""

    def __init__(self, prior: Denoiser, scale: float, shift: float = 0.0) -> None:
        if not (scale > 0 and math.isfinite(scale) and math.isfinite(shift)):
            raise OptionError(f"a prior is rescaled by a positive scale and a finite shift, got {scale!r} and {shift!r}")
        low, high = prior.value_range
        super().__init__(
            prior.shape,
            sigma_min=scale * prior.sigma_min,
            sigma_max=scale * prior.sigma_max,
            value_range=(scale * low + shift, scale * high + shift),
            data_mean=scale * prior.data_mean + shift,
            data_std=scale * prior.data_std,
            sampling_rate=prior.sampling_rate,
        )
        self.prior, self.scale, self.shift = prior, float(scale), float(shift)
        self.consistency = prior.consistency
        self.mmse = tuple((scale * s, scale**2 * e) for s, e in prior.mmse)

    def variance(self, sigma: float) -> float:
        return self.scale**2 * self.prior.variance(sigma / self.scale)

    @property
    def has_density(self) -> bool:
        return self.prior.has_density

    def log_prob(self, x: Tensor, sigma: Sigma = 0.0) -> Tensor:
        """Returns log p_sigma(x), (B,), where the prior has a density."""
        return self.prior.log_prob((x - self.shift) / self.scale, sigma / self.scale) - x[0].numel() * math.log(self.scale)

    def start(self, z: Tensor, sigma: float) -> Tensor:
        return self.prior.start(z, sigma / self.scale) * self.scale + self.shift

    def forward(self, x: Tensor, sigma: Sigma) -> Tensor:
        return self.prior((x - self.shift) / self.scale, sigma / self.scale) * self.scale + self.shift
