"""The noise models of deepinv as noises here."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from invgen.errors import OptionError, UnsupportedError
from invgen.noise import Gaussian, Noise, Noiseless, Poisson
from invgen.validation.arguments import checked


class Law(Noise):
    """A law of deepinv that invgen has no class of its own for, by its functions.

    Args:
        name: for messages.
        draw: (clean, generator) -> y.
        log_density: (y, clean) -> the log-density of each value, of their shape.
        spread: clean -> the standard deviation of each value.
    """

    def __init__(
        self,
        name: str,
        draw: Callable[[Tensor, Any], Tensor],
        log_density: Callable[[Tensor, Tensor], Tensor],
        spread: Callable[[Tensor], Tensor],
    ) -> None:
        self.name, self.draw, self.log_density, self.spread = name, draw, log_density, spread

    def __repr__(self) -> str:
        return self.name

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.draw(clean, generator)

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        return self.log_density(y, clean).flatten(1).sum(1)

    def std(self, clean: Tensor) -> Tensor:
        return self.spread(clean)


@checked
def noise_from_deepinv(noise: nn.Module) -> Noise:
    """Returns the noise of a physics of deepinv, or a noise model of its.

    Zero, Gaussian, Poisson, Laplace, Uniform, Gamma, Rician, LogPoisson (its law of counts, with y as given) and
    PoissonGaussian (by the Gaussian of its mean and variance, which is close where gain is small against sigma or counts
    are 10 and more).

    Raises:
        UnsupportedError: a model without a density, or with a parameter for each measurement.
    """
    is_model = any(c.__name__ == "NoiseModel" for c in type(noise).__mro__)
    model = noise if is_model else getattr(noise, "noise_model", noise)
    kind = type(model).__name__
    if kind == "ZeroNoise":
        return Noiseless()
    if kind == "GaussianNoise":
        sigma = _number(model, "sigma")
        return Gaussian(sigma) if sigma > 0 else Noiseless()
    if kind == "PoissonNoise":
        gain = _number(model, "gain")
        if not bool(model.normalize) and gain != 1:
            raise UnsupportedError(
                f"PoissonNoise with normalize=False counts photons of A(x) / gain: use (1 / {gain:g}) * A with Poisson()"
            )
        return Poisson(gain)
    laws = {
        "LaplaceNoise": lambda: _laplace(_number(model, "b")),
        "UniformNoise": lambda: _uniform(_number(model, "a")),
        "GammaNoise": lambda: _gamma(_number(model, "l")),
        "RicianNoise": lambda: _rician(_number(model, "sigma")),
        "LogPoissonNoise": lambda: _log_poisson(_number(model, "N0"), _number(model, "mu")),
        "PoissonGaussianNoise": lambda: _poisson_gaussian(_number(model, "gain"), _number(model, "sigma")),
    }
    if kind not in laws:
        if not any(c.__name__ == "NoiseModel" for c in type(model).__mro__):
            raise OptionError(f"expected a physics or a noise model of deepinv, got {type(noise).__name__}")
        raise UnsupportedError(f"{kind} has no density here; write an invgen.Noise with sample, log_prob and std")
    return laws[kind]()


def _number(model: nn.Module, name: str) -> float:
    value = torch.as_tensor(getattr(model, name))
    if value.numel() != 1:
        raise UnsupportedError(
            f"{type(model).__name__} has {value.numel()} values of {name}, one for each measurement; give "
            "invgen.Gaussian(sigma) with batch axes instead, or one value"
        )
    return float(value)


def _rand(like: Tensor, g: Any) -> Tensor:
    return torch.rand(like.shape, dtype=like.dtype, device=like.device, generator=g)


def _randn(like: Tensor, g: Any) -> Tensor:
    return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=g)


def _laplace(b: float) -> Law:
    def draw(clean: Tensor, g: Any) -> Tensor:
        u = _rand(clean, g) - 0.5
        return clean - b * u.sign() * torch.log1p(-2 * u.abs())

    return Law(
        f"LaplaceNoise(b={b:g})",
        draw,
        lambda y, clean: -(y - clean).abs() / b - math.log(2 * b),
        lambda clean: torch.full_like(clean, math.sqrt(2) * b),
    )


def _uniform(a: float) -> Law:
    return Law(
        f"UniformNoise(a={a:g})",
        lambda clean, g: clean + a * (2 * _rand(clean, g) - 1),
        lambda y, clean: torch.where((y - clean).abs() <= a, -math.log(2 * a), -torch.inf),
        lambda clean: torch.full_like(clean, a / math.sqrt(3)),
    )


def _gamma(shape: float) -> Law:
    """Returns y ~ Gamma(l, rate l / clean): speckle of mean clean and standard deviation clean / sqrt(l)."""

    def draw(clean: Tensor, g: Any) -> Tensor:
        # torch's gamma sampler takes no generator: a seed drawn from it, in a fork of the global state
        seed = int(torch.randint(2**31, (1,), generator=g))
        with torch.random.fork_rng(devices=[clean.device] if clean.is_cuda else []):
            torch.manual_seed(seed)
            return torch.distributions.Gamma(torch.full_like(clean, shape), shape / clean).sample()

    def log_density(y: Tensor, clean: Tensor) -> Tensor:
        rate = shape / clean.clamp(min=1e-12)
        return shape * rate.log() + (shape - 1) * y.log() - rate * y - math.lgamma(shape)

    return Law(f"GammaNoise(l={shape:g})", draw, log_density, lambda clean: clean.abs() / math.sqrt(shape))


def _rician(sigma: float) -> Law:
    """Returns the modulus of a complex Gaussian of mean clean."""

    def draw(clean: Tensor, g: Any) -> Tensor:
        return torch.hypot(clean + sigma * _randn(clean, g), sigma * _randn(clean, g))

    def log_density(y: Tensor, clean: Tensor) -> Tensor:
        u = y * clean.abs() / sigma**2
        return (y / sigma**2).log() - (y - clean.abs()) ** 2 / (2 * sigma**2) + torch.special.i0e(u).log()

    return Law(f"RicianNoise(sigma={sigma:g})", draw, log_density, lambda clean: torch.full_like(clean, sigma))


def _log_poisson(N0: float, mu: float) -> Law:
    """Returns y = -log(N / N0) / mu, N ~ Poisson(N0 exp(-mu clean)); a count of zero, an infinite y, is taken for 0.1
    photons."""

    def draw(clean: Tensor, g: Any) -> Tensor:
        count = torch.poisson(N0 * torch.exp(-mu * clean), generator=g)
        return -torch.log(count.clamp(min=0.1) / N0) / mu

    def log_density(y: Tensor, clean: Tensor) -> Tensor:
        count, rate = N0 * torch.exp(-mu * y), N0 * torch.exp(-mu * clean)
        # of y, whose values are count / (mu count) apart: the same for every clean
        return torch.xlogy(count, rate) - rate - torch.lgamma(count + 1)

    return Law(
        f"LogPoissonNoise(N0={N0:g}, mu={mu:g})",
        draw,
        log_density,
        lambda clean: torch.exp(mu * clean / 2) / (mu * N0**0.5),
    )


def _poisson_gaussian(gain: float, sigma: float) -> Law:
    def draw(clean: Tensor, g: Any) -> Tensor:
        return gain * torch.poisson(clean.clamp(min=0) / gain, generator=g) + sigma * _randn(clean, g)

    def variance(clean: Tensor) -> Tensor:
        return gain * clean.clamp(min=0) + sigma**2

    return Law(
        f"PoissonGaussianNoise(gain={gain:g}, sigma={sigma:g})",
        draw,
        lambda y, clean: -0.5 * ((y - clean) ** 2 / variance(clean) + (2 * math.pi * variance(clean)).log()),
        lambda clean: variance(clean).sqrt(),
    )
