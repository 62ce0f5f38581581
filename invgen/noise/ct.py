"""Noise of low-dose computed tomography: photon counts, and the Gaussian model of their logarithm."""

import math
from typing import Any

import torch
from torch import Tensor

from invgen.errors import OptionError, ShapeError
from invgen.noise.laws import Gaussian, Noise

MOST = 1e15  # photons of a pixel that can be drawn one by one: beyond, torch.poisson gives no counts
RARE = 18.0  # nats below the top of a ray's likelihood from which on it falls as a square: six standard deviations


class TransmissionPoisson(Noise):
    """Photon counts behind an object with line integrals p: y ~ Poisson(I0 exp(-p) + background) + N(0, electronic^2).

    The pre-log model of transmission tomography (Lange & Carson, J. Comput. Assist. Tomogr. 8(2), 1984; with
    electronic noise Snyder et al., J. Opt. Soc. Am. A 10(5), 1993). `clean` is the output of a CT operator on
    attenuation in 1/mm, a pure number; y is in counts.

    Samplers see the same law through :class:`LineIntegrals`. The other way is :func:`log_transform`: line integrals with
    Gaussian noise, a good model above some thirty photons a ray.

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
        I0, background = (v.to(*args, **kwargs) if isinstance(v, Tensor) else v for v in (self.I0, self.background))
        return TransmissionPoisson(I0, background, self.electronic)

    def mean(self, clean: Tensor) -> Tensor:
        """Returns expected counts for line integrals `clean`."""
        return self.I0 * torch.exp(-clean) + self.background

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        mean = self.mean(clean)
        if not bool((mean <= MOST).all()):
            raise OptionError(
                f"line integrals down to {clean.min():.3g} let more photons out than came in, {mean.max():.3g} in a pixel: "
                "attenuation is not below zero; put the prior in units of attenuation, prior.rescaled(scale, shift) or "
                "--rescale SCALE SHIFT"
            )
        counts = torch.poisson(mean, generator=generator)
        if self.electronic:
            normal = torch.randn(clean.shape, dtype=clean.dtype, device=clean.device, generator=generator)
            counts = counts + self.electronic * normal
        return counts

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """Returns log p(counts | line integrals), (B,). Without electronic noise the Poisson law; with it the shifted
        Poisson
        model,
        y + electronic^2 ~ Poisson(mean + electronic^2), which has the right mean and variance (Snyder et al. 1993)."""
        shift = self.electronic**2
        rate, count = self.mean(clean) + shift, (y + shift).clamp(min=0)
        log = torch.xlogy(count, rate.clamp(min=torch.finfo(rate.dtype).tiny)) - rate - torch.lgamma(count + 1)
        return log.flatten(1).sum(1)

    def std(self, clean: Tensor) -> Tensor:
        """Returns standard deviation of the counts, at least that of one photon."""
        return (self.mean(clean) + self.electronic**2).clamp(min=1.0).sqrt()

    def reduced(self, y: Tensor) -> "tuple[Tensor, LineIntegrals]":
        """Returns the line integrals that `log_transform` finds, and the law of the counts as a function of line
        integrals."""
        if not self.electronic and bool((y < 0).any()):
            raise OptionError(
                f"photon counts cannot be negative, got {y.min():g}; state the read-out noise, TransmissionPoisson(I0, "
                "electronic=...), or give the counts without logarithm and offset correction"
            )
        lines, variance = log_transform(y, self.I0, background=self.background, electronic=self.electronic)
        shift = self.electronic**2
        tables = ((y + shift).clamp(min=0), self.I0, self.background + shift)
        counts, I0, background = (torch.as_tensor(t, dtype=y.dtype, device=y.device).expand(y.shape) for t in tables)
        return lines, LineIntegrals(lines, variance.sqrt(), counts, I0, background)


class LineIntegrals(Gaussian):
    """The law of photon counts, as samplers see it: of line integrals p, with one Gaussian law a ray that stands for it.

    With s = I0 exp(-p) photons through the object and background b, log p(counts | p) = N log(s + b) - s - b. The
    measurement that goes with this noise is the line integrals of `log_transform`, and `sigma` their standard deviations:
    what methods that know Gaussian noise alone use. `log_prob` is the law itself, but where p is so small that the counts
    are out of the question (18 nats below the top): from there on it continues as its second-order expansion, so that
    its curvature has a bound and exp(-p) never overflows. `near` is the Gaussian law that stands for it around a signal.

    Args:
        lines, sigma: of `log_transform`, (*batch, *out_shape).
        counts, I0, background: of the Poisson law, the variance of the electronic noise added to the first and the last
            (Snyder et al. 1993), each (*batch, *out_shape).
    """

    def __init__(self, lines: Tensor, sigma: Tensor, counts: Tensor, I0: Tensor, background: Tensor) -> None:
        super().__init__(sigma)
        self.lines, self.counts, self.I0, self.background = lines, counts, I0, background

    def _map(self, f: Any) -> "LineIntegrals":
        return LineIntegrals(*map(f, (self.lines, self.sigma, self.counts, self.I0, self.background)))

    def rows(self, index: Tensor, batch: tuple[int, ...], out_shape: tuple[int, ...]) -> "LineIntegrals":
        return self._map(lambda t: t.reshape(-1, *out_shape)[index.to(t.device)])

    def to(self, *args: Any, **kwargs: Any) -> "LineIntegrals":
        return self._map(lambda t: t.to(*args, **kwargs))

    @property
    def most(self) -> Tensor:
        """Photons through the object from which on the counts are out of the question, by Chernoff's bound."""
        n = self.counts
        return n + RARE + (RARE**2 + 2 * RARE * n).sqrt()

    @property
    def least_std(self) -> Tensor:
        """One over the root of the largest curvature of -log_prob, as `sigma` of a Gaussian law."""
        return self.most.rsqrt()

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """Returns log p(counts | clean + lines - y), (B,): y is `lines`, or has been moved, and the law moves with it."""
        if y.shape != clean.shape:
            raise ShapeError(f"y has shape {tuple(y.shape)} but the clean measurement {tuple(clean.shape)}")
        p, n, b = clean + (self.lines - y), self.counts, self.background
        low = (self.I0 / self.most).log()
        inside = torch.maximum(p, low)
        signal = self.I0 * torch.exp(-inside)
        # relative to the counts themselves, so that single precision keeps the differences
        rate = (signal + b).clamp(min=torch.finfo(p.dtype).tiny)
        log = n * (rate / n.clamp(min=1e-30)).log().where(n > 0, 0) - (rate - n)
        below = (p - low).clamp(max=0)
        slope, curvature = self._slope(low), self.most * (1 - n * b / (self.most + b) ** 2)
        top = torch.xlogy(n, n) - n - torch.lgamma(n + 1)
        return (log + slope * below - 0.5 * curvature * below**2 + top).flatten(1).sum(1)

    def score(self, y: Tensor, clean: Tensor) -> Tensor:
        """Returns the derivative of `log_prob` in clean, (B, *out_shape)."""
        p = clean + (self.lines - y)
        low = (self.I0 / self.most).log()
        curvature = self.most * (1 - self.counts * self.background / (self.most + self.background) ** 2)
        return self._slope(torch.maximum(p, low)) - curvature * (p - low).clamp(max=0)

    def _slope(self, p: Tensor) -> Tensor:
        signal = self.I0 * torch.exp(-p)
        return signal * (1 - self.counts / (signal + self.background).clamp(min=torch.finfo(p.dtype).tiny))

    def near(self, y: Tensor, clean: Tensor, var: Tensor) -> tuple[Tensor, Gaussian]:
        """Line integrals z and a Gaussian law that stand for the counts where the true line integral is N(clean, var).

        They have the gradient of log p(counts | p), and Fisher's information in place of its curvature, at the p* that
        maximises it plus log N(p; clean, var): Laplace's approximation, ray by ray. A ray with many photons gives what
        `log_transform` gives wherever it is seen from; one with few is read in the light of `clean`, without the bias of
        a logarithm.

        Args:
            y: `lines`, or lines that have been perturbed by as many `sigma` as the result shall be.
            clean: where the signal is thought to be, (B, *out_shape).
            var: how far off, squared, broadcastable to it, above 0.
        """
        p0, v, net = clean.double(), var.double(), (self.counts - self.background).double()
        I0, b = self.I0.double(), self.background.double()
        # With a background the score is kappa (s - net), kappa = s / (s + b): a Poisson law of kappa times the photons.
        signal = torch.maximum(net, torch.ones_like(net))
        for _ in range(8 if bool((b > 0).any()) else 1):
            kappa = signal / (signal + b)
            start = p0 - v * kappa * net
            p = start + _omega((v * kappa * I0).log() - start)  # the root of (p - p0) / v = kappa (I0 exp(-p) - net)
            signal = I0 * torch.exp(-p)
        kappa = signal / (signal + b)
        information = kappa * signal
        information = torch.maximum(information, 1e-4 * information.flatten(1).mean(1).reshape(-1, *[1] * (p.ndim - 1)))
        z, std = p + kappa * (signal - net) / information, information.rsqrt()
        z = z + (y - self.lines) / self.sigma * std
        # of a state that has diverged the samplers tell; here it must not look like wrong data or a wrong noise level
        good = z.isfinite() & std.isfinite() & (std > 0)
        z, std = z.where(good, y.to(z)), std.where(good, torch.as_tensor(self.sigma).to(std))
        return z.to(clean.dtype), Gaussian(std.to(clean.dtype))


def _omega(c: Tensor) -> Tensor:
    """Returns the u > 0 with u + log u = c, Wright's omega function of a real number, by Newton's method."""
    c = c.clamp(min=-600)
    u = torch.where(c > 1, c, c.clamp(max=1).exp() / (1 + c.clamp(max=1).exp()))
    for _ in range(6):
        u = u * (1 + c - u.log()) / (1 + u)
    return u


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
