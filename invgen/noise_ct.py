"""Noise of low-dose computed tomography: photon counts, and the Gaussian model of their logarithm."""

import math
from typing import Any

import torch
from torch import Tensor

from invgen.errors import OptionError
from invgen.noise import Noise


class TransmissionPoisson(Noise):
    """Photon counts behind an object with line integrals p: y ~ Poisson(I0 exp(-p) + background) + N(0, electronic^2).

    The pre-log model of transmission tomography (Lange & Carson, J. Comput. Assist. Tomogr. 8(2), 1984; with
    electronic noise Snyder et al., J. Opt. Soc. Am. A 10(5), 1993). `clean` is the output of a CT operator on
    attenuation in 1/mm, a pure number; y is in counts.

    Args:
        I0: photons per detector pixel without an object, a number or a tensor broadcastable to one measurement (a
            bowtie filter, a flat field). LoDoPaB-CT has 4096; 1e3 to 1e5 are low to clinical dose.
        background: mean of the counts that do not come through the object (scatter, dark current).
        electronic: standard deviation of the read-out noise, in counts (5 to 10 in practice).
    """

    def __init__(self, I0: float | Tensor, background: float | Tensor = 0.0, electronic: float = 0.0) -> None:
        _check("I0", I0, positive=True)
        _check("background", background)
        _check("electronic", electronic)
        self.I0, self.background, self.electronic = I0, background, float(electronic)

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={_shown(getattr(self, name))}" for name in ("I0", "background", "electronic"))
        return f"TransmissionPoisson({values})"

    def to(self, *args: Any, **kwargs: Any) -> "TransmissionPoisson":
        moved = (v.to(*args, **kwargs) if isinstance(v, Tensor) else v for v in (self.I0, self.background))
        return TransmissionPoisson(*moved, self.electronic)

    def mean(self, clean: Tensor) -> Tensor:
        """Expected counts for line integrals `clean`."""
        return self.I0 * torch.exp(-clean) + self.background

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        counts = torch.poisson(self.mean(clean), generator=generator)
        if self.electronic:
            normal = torch.randn(clean.shape, dtype=clean.dtype, device=clean.device, generator=generator)
            counts = counts + self.electronic * normal
        return counts

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """log p(counts | line integrals), (B,). Without electronic noise the Poisson law; with it the shifted Poisson
        model,
        y + electronic^2 ~ Poisson(mean + electronic^2), which has the right mean and variance (Snyder et al. 1993)."""
        shift = self.electronic**2
        rate, count = self.mean(clean) + shift, (y + shift).clamp(min=0)
        log = torch.xlogy(count, rate.clamp(min=torch.finfo(rate.dtype).tiny)) - rate - torch.lgamma(count + 1)
        return log.flatten(1).sum(1)

    def std(self, clean: Tensor) -> Tensor:
        """Standard deviation of the counts, at least that of one photon."""
        return (self.mean(clean) + self.electronic**2).clamp(min=1.0).sqrt()


def log_transform(
    counts: Tensor, I0: float | Tensor, min_count: float = 1.0, *, background: float | Tensor = 0.0, electronic: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Line integrals and their variances from photon counts: the post-log model, `Gaussian(variance.sqrt())`.

    p = -log(max(N - background, min_count) / I0), Var(p) = (N + electronic^2) / (N - background)^2 to first order
    (Bouman & Sauer, IEEE Trans. Image Process. 5(3), 1996: the weights of penalised weighted least squares).

    Args:
        counts: photons, any shape.
        I0: photons without an object, as in :class:`TransmissionPoisson`.
        min_count: what a smaller count is taken for: a pixel that saw no photon has no logarithm. 1, or 0.1 as in
            LoDoPaB-CT.

    Returns:
        line integrals (pure numbers) and variances, both of the shape of `counts`.
    """
    if not (isinstance(min_count, int | float) and math.isfinite(min_count) and min_count > 0):
        raise OptionError(f"min_count must be a positive number of photons, got {min_count!r}")
    net = (counts - background).clamp(min=min_count)
    variance = ((net + background).clamp(min=min_count) + electronic**2) / net**2
    return -torch.log(net / I0), variance


def _check(name: str, value: float | Tensor, positive: bool = False) -> None:
    number = isinstance(value, int | float | Tensor) and not isinstance(value, bool)
    t = torch.as_tensor(value if number else math.nan, dtype=torch.float64)
    if not bool((torch.isfinite(t) & (t > 0 if positive else t >= 0)).all()):
        raise OptionError(
            f"{name} must be {'positive' if positive else 'finite and not negative'}, in counts, got {value!r}"
        )


def _shown(value: float | Tensor) -> str:
    return f"tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) and value.ndim else f"{float(value):g}"
