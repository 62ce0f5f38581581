"""The law of several measurements together, each with one of its own."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from invgen.noise.laws import Energy, Noise


class Joint(Energy):
    """The laws of several measurements, each flattened, in one vector: log p is their sum.

    It is a loss to samplers, as an Energy is, so that those take it that take any noise.

    Args:
        laws: of the parts.
        shapes: of one measurement of each.
    """

    def __init__(self, laws: Sequence[Noise], shapes: Sequence[Sequence[int]]) -> None:
        self.laws, self.shapes = tuple(laws), tuple(tuple(shape) for shape in shapes)
        super().__init__(lambda clean, y: -self._sum(y, clean))

    def __repr__(self) -> str:
        return f"Joint({', '.join(map(repr, self.laws))})"

    def split(self, y: Tensor) -> list[Tensor]:
        """Returns the parts of y, (*batch, total), each (*batch, *shape)."""
        parts = y.split([math.prod(shape) for shape in self.shapes], -1)
        return [p.reshape(*y.shape[:-1], *shape) for p, shape in zip(parts, self.shapes, strict=True)]

    def _sum(self, y: Tensor, clean: Tensor) -> Tensor:
        parts = zip(self.laws, self.split(y), self.split(clean), strict=True)
        return torch.stack([law.log_prob(b, c) for law, b, c in parts]).sum(0)

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Returns a measurement, (B, total), where each part has a law that can be drawn from."""
        parts = zip(self.laws, self.split(clean), strict=True)
        return torch.cat([law.sample(c, generator).flatten(1) for law, c in parts], 1)

    def mean(self, clean: Tensor) -> Tensor:
        parts = zip(self.laws, self.split(clean), strict=True)
        return torch.cat([law.mean(c).flatten(1) for law, c in parts], 1)

    def std(self, clean: Tensor) -> Tensor:
        parts = zip(self.laws, self.split(clean), strict=True)
        return torch.cat([torch.as_tensor(law.std(c)).expand(c.shape).flatten(1) for law, c in parts], 1)

    def rows(self, index: Tensor, batch: tuple[int, ...], out_shape: tuple[int, ...]) -> "Joint":
        laws = [law.rows(index, batch, shape) for law, shape in zip(self.laws, self.shapes, strict=True)]
        return Joint(laws, self.shapes)

    def to(self, *args: Any, **kwargs: Any) -> "Joint":
        return Joint([law.to(*args, **kwargs) for law in self.laws], self.shapes)
