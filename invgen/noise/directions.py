"""The law of directions: unit vectors around a mean direction, such as embeddings of texts and pictures."""

import math

import torch
from torch import Tensor

from invgen.errors import ShapeError
from invgen.noise.laws import Noise, _normal
from invgen.validation.hints import Positive


class VonMisesFisher(Noise):
    """p(y | clean) = C exp(kappa <y, clean> / (|y| |clean|)) on the unit sphere (Fisher, 1953): lengths do not count.

    y is a vector, or a table of vectors along its last axis, each with a law of its own.

    Args:
        kappa: the concentration: the angle between y and clean has a standard deviation of about 1 / sqrt(kappa) radians
            along each tangent.
    """

    def __init__(self, kappa: Positive) -> None:
        self.kappa = float(kappa)

    def __repr__(self) -> str:
        return f"VonMisesFisher(kappa={self.kappa:g})"

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Returns unit vectors: the cosine by the rejection method of Wood (1994), then a uniform tangent."""
        d = clean.shape[-1]
        if d < 2:
            raise ShapeError(f"a direction has at least two coordinates, got {tuple(clean.shape)}")
        b = (d - 1) / (2 * self.kappa + math.sqrt(4 * self.kappa**2 + (d - 1) ** 2))
        x0 = (1 - b) / (1 + b)
        c = self.kappa * x0 + (d - 1) * math.log(1 - x0**2)
        rows = clean.shape[:-1].numel()
        cosine = clean.new_empty(rows)
        left = torch.arange(rows)
        while len(left):  # two draws of three are taken, at the least
            gammas = [_gamma((d - 1) / 2, len(left), generator) for _ in range(2)]
            z = (gammas[0] / (gammas[0] + gammas[1])).to(clean)
            w = (1 - (1 + b) * z) / (1 - (1 - b) * z)
            u = torch.rand(len(left), generator=generator).to(clean)
            fits = (self.kappa * w + (d - 1) * (1 - x0 * w).log() - c >= u.log()).to(left.device)
            cosine[left[fits]] = w[fits.to(w.device)]
            left = left[~fits]
        mean = torch.nn.functional.normalize(clean, dim=-1)
        z = _normal(mean, generator)
        tangent = torch.nn.functional.normalize(z - (z * mean).sum(-1, keepdim=True) * mean, dim=-1)
        w = cosine.reshape(*clean.shape[:-1], 1)
        return w * mean + (1 - w**2).clamp(min=0).sqrt() * tangent

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        cosine = torch.nn.functional.cosine_similarity(y, clean, dim=-1)
        return (self.kappa * cosine + self._log_constant(clean.shape[-1])).reshape(len(clean), -1).sum(1)

    def _log_constant(self, d: int) -> float:
        from scipy.special import ive

        v = d / 2 - 1
        scaled = float(ive(v, self.kappa))
        # for small kappa in many dimensions the function underflows; its series begins with (kappa / 2)^v / Gamma(v + 1)
        log_bessel = math.log(scaled) + self.kappa if scaled > 0 else v * math.log(self.kappa / 2) - math.lgamma(v + 1)
        return v * math.log(self.kappa) - (d / 2) * math.log(2 * math.pi) - log_bessel

    def std(self, clean: Tensor) -> float:
        return self.kappa**-0.5


def _gamma(shape: float, count: int, generator: torch.Generator | None) -> Tensor:
    """Returns draws of Gamma(shape, 1) in double precision, for a multiple of a half."""
    normal = torch.randn(int(2 * shape), count, dtype=torch.float64, generator=generator)
    return normal.square().sum(0) / 2
