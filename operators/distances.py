"""Distances between points: what NMR, cross-linking and co-evolution tell of a molecule."""

from collections.abc import Sequence

import torch
from torch import Tensor

from invgen.errors import OptionError
from invgen.forward import Operator


class Distances(Operator):
    """y_k = |x_i - x_j| for chosen pairs (i, j) of points, (n, 3) -> (pairs,), in the units of the points.

    It does not change with turns, shifts and mirrors: handedness is for the prior.

    Args:
        in_shape: (points, dimensions).
        pairs: (i, j), whole numbers from 0.
    """

    pairs: Tensor

    def __init__(self, in_shape: tuple[int, ...], pairs: Sequence[Sequence[int]] | Tensor) -> None:
        super().__init__(in_shape)
        table = torch.as_tensor(pairs)
        wrong = table.ndim != 2 or table.shape[1:] != (2,) or table.is_floating_point() or not len(table)
        if wrong or table.min() < 0 or table.max() >= in_shape[0] or (table[:, 0] == table[:, 1]).any():
            raise OptionError(
                f"pairs are two different points each, whole numbers from 0 to {in_shape[0] - 1}, got {tuple(table.shape)}"
            )
        self.register_buffer("pairs", table.long(), persistent=False)

    @classmethod
    def random(cls, in_shape: tuple[int, ...], count: int, apart: int = 1, seed: int = 0) -> "Distances":
        """Returns `count` pairs of points at least `apart` places from each other in the chain, drawn at random.

        Args:
            in_shape: (points, dimensions).
            count: how many.
            apart: least difference of their places.
            seed: of the draw.
        """
        every = torch.triu_indices(in_shape[0], in_shape[0], apart).T
        if not 0 < count <= len(every):
            raise OptionError(f"there are {len(every)} pairs at least {apart} apart, and {count} were asked for")
        order = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))
        return cls(in_shape, every[order[:count]])

    def forward(self, x: Tensor) -> Tensor:
        i, j = self.pairs.unbind(1)
        # smooth where two points meet, below any measurement
        return (x[:, i] - x[:, j]).square().sum(-1).add(1e-12).sqrt()
