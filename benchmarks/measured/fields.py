"""Priors made of smooth Gaussian fields, which know no measured object, and the most probable signal under them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.benchmarks.methods.classical import Classical
from invgen.forward import Operator
from invgen.numerics.optimise import lbfgs
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.pushforward import Generator
from invgen.validation.hints import Count


def field_root(size: int, length: float) -> Tensor:
    """Returns the filter that makes white noise on a periodic grid, (size, size), a field of variance one.

    Its correlation is exp(-d^2 / (2 length^2)), `length` in pixels.
    """
    frequency = torch.fft.fftfreq(size, dtype=torch.float64) * 2 * math.pi
    power = torch.exp(-0.5 * length**2 * (frequency[:, None] ** 2 + frequency**2))
    return (size * (power / power.sum()).sqrt()).float()


def filtered(z: Tensor, root: Tensor) -> Tensor:
    """Returns white noise (B, n, n) as a field."""
    return torch.fft.ifft2(torch.fft.fft2(z) * root.to(z.dtype)).real


class PositiveField(Generator):
    """x = softmax(f), the exponential of a smooth Gaussian field f, of sum one: positive, smooth, and of any form.

    Args:
        size: pixels along a side.
        length: in pixels, over which f is smooth (`field_root`).
        spread: standard deviation of f, the logarithm of the brightness.
        width: of a round envelope exp(-r^2 / (2 width^2)) in pixels: what lies far from the middle is dark.
    """

    network = False
    root: Tensor
    envelope: Tensor

    def __init__(self, size: int, length: float, spread: float, width: float) -> None:
        super().__init__((size, size), (size, size), value_range=(0.0, 20 / size**2))
        d = torch.arange(size, dtype=torch.float64) - size // 2
        self.register_buffer("root", spread * field_root(size, length))
        self.register_buffer("envelope", (-(d[:, None] ** 2 + d**2) / (2 * width**2)).float())

    def forward(self, z: Tensor) -> Tensor:
        field = filtered(z, self.root) + self.envelope.to(z.dtype)
        return field.flatten(1).softmax(1).reshape(field.shape)


class Discs(Generator):
    """One disc of a material of value 1 with holes of any form, where a smooth Gaussian field is above a level.

    The level-set prior of Iglesias, Lu and Stuart (Interfaces and Free Boundaries 18, 2016), within a disc whose centre,
    radius and value are unknown too. Edges are one pixel wide.

    Args:
        size: pixels along a side.
        pixel: their size, mm.
        radius: mean of the disc's radius, mm; its standard deviation is 1 %, as that of the material's value.
        length: over which the field is smooth, mm: about the size of small holes.
        solid: the part of the disc without holes, on average.
    """

    network = False
    root: Tensor
    place: Tensor

    def __init__(self, size: int, pixel: float, radius: float, length: float = 3.0, solid: float = 0.75) -> None:
        super().__init__((1, size, size), (size * size + 4,), value_range=(0.0, 1.0))
        self.size, self.pixel, self.radius = size, pixel, radius
        self.level = math.sqrt(2) * torch.erfinv(torch.tensor(2 * solid - 1)).item()
        self.steep = length / pixel  # of the field's slope: an edge is a pixel wide
        self.register_buffer("root", field_root(size, length / pixel))
        self.register_buffer("place", (torch.arange(size) - (size - 1) / 2) * pixel)

    def forward(self, z: Tensor) -> Tensor:
        field = filtered(z[:, 4:].reshape(-1, self.size, self.size), self.root)
        right, down, radius, density = z[:, :4].T[..., None, None]
        d = self.place.to(z.dtype)
        r = ((d - 0.03 * self.radius * right) ** 2 + (d[:, None] - 0.03 * self.radius * down) ** 2).sqrt()
        disc = torch.sigmoid(3 * (self.radius * (1 + 0.01 * radius) - r) / self.pixel)
        solid = torch.sigmoid(3 * self.steep * (self.level - field))
        return ((1 + 0.01 * density) * disc * solid)[:, None]


@dataclass(frozen=True)
class MostProbable(Classical):
    """The decoded code of least |z|^2 / 2 - log p(y | g(z)), by L-BFGS from several starts: the mode of the posterior of z.

    Radio astronomers call it regularised maximum likelihood.

    Args:
        steps: points that each start tries.
        starts: draws of the prior that it starts from; the best end counts.
    """

    steps: Count = 300
    starts: Count = 8
    A: ClassVar[type] = Operator
    prior: ClassVar[type] = Generator
    gradient: ClassVar[bool] = True

    def reconstruct(self, post: Posterior[Generator]) -> Tensor:
        """Returns the mode of each measurement, (B, *shape)."""
        return torch.stack([self._mode(post.rows(torch.tensor([row]))) for row in range(len(post.y))])

    def _mode(self, post: Posterior[Generator]) -> Tensor:
        many = post.rows(torch.zeros(self.starts, dtype=torch.long))

        def loss(z: Tensor) -> tuple[Tensor, Tensor]:
            x = post.prior(z)
            return 0.5 * z.flatten(1).square().sum(1) - many.log_likelihood(x), x

        shape: Sequence[int] = (self.starts, *post.prior.latent_shape)
        value, x = torch.zeros(0), torch.zeros(0)
        with torch.enable_grad():
            for state in lbfgs(loss, Streams(0, range(self.starts))(torch.empty(shape)), self.steps):
                _, value, x = state
        return x[value.argmin()].detach()
