"""Chains of atoms with a fixed bond length, from a mixture over their virtual angles."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invgen.errors import ShapeError
from invgen.pushforward import Generator

BOND = 3.8  # angstrom between neighbouring C-alpha atoms
CENTRE, WIDTH = 1.8, 0.3  # radian: where the bond angles of proteins lie


class AngleMixture(Generator):
    """C-alpha chains, (n, 3) in angstrom: a Gaussian mixture over n - 2 bond angles and n - 3 torsions, as sine and cosine.

    Codes are standard normals: the first chooses the component, the others are moved and turned to its mean and covariance,
    so that TemperedSMC draws from the posterior of a chain. Proteins turn to the right, and so do what it has learned.

    Args:
        means: (K, 3 n - 8), of (angle - 1.8) / 0.3, sines and cosines.
        weights: (K,).
        roots: (K, 3 n - 8, 3 n - 8), Cholesky factors of the covariances.
    """

    network = False
    means: Tensor
    edges: Tensor
    roots: Tensor

    def __init__(self, means: Tensor, weights: Tensor, roots: Tensor) -> None:
        n, left = divmod(means.shape[1] + 8, 3)
        if left or roots.shape != (*means.shape, means.shape[1]) or weights.shape != means.shape[:1]:
            got = f"{tuple(means.shape)}, {tuple(weights.shape)} and {tuple(roots.shape)}"
            raise ShapeError(f"a mixture over angles has means (K, 3 n - 8), weights (K,) and roots (K, d, d), got {got}")
        size = BOND * n / 2
        super().__init__((n, 3), (1 + means.shape[1],), value_range=(-size, 2 * size), data_std=size / 2)
        self.register_buffer("means", means)
        self.register_buffer("edges", weights.cumsum(0)[:-1] / weights.sum())
        self.register_buffer("roots", roots)

    @classmethod
    def fit(cls, chains: np.ndarray, components: int = 12, seed: int = 0) -> "AngleMixture":
        """Returns the mixture that scikit-learn fits to chains (N, n, 3)."""
        from sklearn.mixture import GaussianMixture

        found: Any = GaussianMixture(components, reg_covar=2e-2, random_state=seed, max_iter=50).fit(features(chains))
        tables = (found.means_, found.weights_, np.linalg.cholesky(found.covariances_))
        return cls(*(torch.as_tensor(t, dtype=torch.float32) for t in tables))

    @classmethod
    def load(cls, path: Path | str) -> "AngleMixture":
        """Returns the mixture of a file that `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(*(torch.as_tensor(arrays[k].astype(np.float32)) for k in ("means", "weights", "roots")))

    def forward(self, z: Tensor) -> Tensor:
        k = torch.searchsorted(self.edges, torch.special.ndtr(z[:, 0].detach()).contiguous())
        order = k.argsort()  # a product of matrices for each component, not one for each chain
        parts = z[order, 1:].split(k.bincount(minlength=len(self.means)).tolist())
        moved = torch.cat([part @ root.T for part, root in zip(parts, self.roots, strict=True)])
        f = self.means[k] + moved[order.argsort()]
        n = self.shape[0]
        angle, s, c = CENTRE + WIDTH * f[:, : n - 2], f[:, n - 2 : 2 * n - 5], f[:, 2 * n - 5 :]
        r = (s * s + c * c + 1e-6).sqrt()
        return build(angle, s / r, c / r)


def build(angle: Tensor, sine: Tensor, cosine: Tensor) -> Tensor:
    """Returns atoms (B, n, 3) of bond angles (B, n - 2) and the sine and cosine of torsions (B, n - 3)."""
    ca, sa, sine, cosine = (t.T.contiguous() for t in (angle.cos(), angle.sin(), sine, cosine))  # chains last: no strides
    zero, one = torch.zeros_like(ca[0]), torch.ones_like(ca[0])
    along = torch.stack([-ca[0], sa[0], zero])  # direction of the last bond
    normal = torch.stack([zero, zero, one])  # of the plane of the last two bonds
    first = BOND * torch.stack([one, zero, zero])
    atoms = [torch.zeros_like(first), first, first + BOND * along]
    for a, b, s, c in zip(ca[1:], sa[1:], sine, cosine, strict=True):
        side, before = _cross(normal, along), along
        along = -a * along + b * (c * side + s * normal)
        normal = torch.nn.functional.normalize(_cross(before, along), dim=0)
        atoms.append(atoms[-1] + BOND * along)
    return torch.stack(atoms).permute(2, 0, 1)


def _cross(u: Tensor, v: Tensor) -> Tensor:
    return torch.stack([u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]])


def features(chains: np.ndarray) -> np.ndarray:
    """Returns (angle - 1.8) / 0.3, sines and cosines of torsions of chains (N, n, 3), (N, 3 n - 8)."""
    bond = np.diff(chains, axis=-2)
    bond = bond / np.linalg.norm(bond, axis=-1, keepdims=True)
    angle = np.arccos((-(bond[:, :-1] * bond[:, 1:]).sum(-1)).clip(-1, 1))
    normal = np.cross(bond[:, :-1], bond[:, 1:])
    torsion = np.arctan2(
        (np.cross(normal[:, :-1], normal[:, 1:]) * bond[:, 1:-1]).sum(-1), (normal[:, :-1] * normal[:, 1:]).sum(-1)
    )
    return np.concatenate([(angle - CENTRE) / WIDTH, np.sin(torsion), np.cos(torsion)], -1)
