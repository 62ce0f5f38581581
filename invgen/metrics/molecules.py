"""Distances between structures of points."""

import torch
from torch import Tensor

from invgen.errors import ShapeError


def rmsd(x: Tensor, truth: Tensor, *, mirror: bool = False) -> Tensor:
    """Returns the root mean square distance of points after the best shift and turn, (*batch), in their units.

    Source: Kabsch, "A solution for the best rotation to relate two sets of vectors" (Acta Crystallographica A, 1976).

    Args:
        x, truth: points, (*batch, points, dimensions), whose batch axes broadcast.
        mirror: turn the mirror image of x, to see whether the handedness is right.

    Raises:
        ShapeError: the points differ in number or dimension.
    """
    if x.shape[-2:] != truth.shape[-2:]:
        raise ShapeError(f"rmsd compares points (*batch, n, d), got {tuple(x.shape)} and {tuple(truth.shape)}")
    a, b = (p - p.mean(-2, keepdim=True) for p in (x, truth))
    a = a * (1 - 2 * torch.nn.functional.one_hot(torch.tensor(0), a.shape[-1]).to(a)) if mirror else a
    U, S, Vh = torch.linalg.svd(a.mT @ b)
    turn = torch.sign(torch.linalg.det(U) * torch.linalg.det(Vh))
    best = S[..., :-1].sum(-1) + turn * S[..., -1]
    total = a.square().sum((-1, -2)) + b.square().sum((-1, -2)) - 2 * best
    return (total.clamp(min=0) / x.shape[-2]).sqrt()
