"""Exact solves and the singular value decomposition of a tomographic scan, from the blocks of A A^T."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from invgen.forward import SVDOperator, Variance
from invgen.messages import announced
from invgen.operators.ct import _symmetry as symmetry
from invgen.operators.ct.projectors.choice import Projector
from invgen.operators.ct.projectors.sparse import SparseMatrix

if TYPE_CHECKING:
    from invgen.operators.ct.base import Tomography

# Relative to the largest eigenvalue of A A^T: smaller ones count as zero in a pseudo-inverse and in the decomposition.
# Right singular vectors A^T u / s are orthogonal to the rounding error of A A^T over the eigenvalue, 1e-16 / 1e-10 in
# double precision.
RTOL = {torch.float32: 1e-8, torch.float64: 1e-10}


class Spectrum:
    """Eigenvalues and eigenvectors of A A^T for one slice: A A^T = Q E diag(values) E^T Q^T.

    Q (sparse, orthonormal) takes ray sums to the symmetric basis, E is block diagonal. Tables are made at first use,
    in the precision of the input, from a file if there is one. Rays that miss the image have no coordinate.
    """

    def __init__(self, operator: "Tomography") -> None:
        assert isinstance(operator.matrix, Projector)  # `Tomography` looks
        self.matrix = operator.matrix.matrix
        self.count, self.pixels = operator.matrix.shape
        seen = operator.matrix.apply(torch.ones(1, self.pixels, dtype=torch.float64), False)[0].numpy()
        rays = np.flatnonzero(seen > 1e-9 * seen.max())  # without the matrix, which is built when it is diagonalised
        centred = operator.det_offset == 0
        symmetries = symmetry.ray_symmetries(operator.angles, operator.det_count, centred, operator.size, operator.fan)
        self.blocks = symmetry.blocks(symmetries, rays, self.count)
        self.sizes = [len(block.reps) for block in self.blocks]
        self.copies = [block.copies for block in self.blocks]
        self.key = operator.geometry()
        self.missed = torch.ones(self.count, dtype=torch.bool)
        self.missed[rays] = False
        joined = partial(_join, [block.basis for block in self.blocks], self.count)
        self.basis = SparseMatrix(joined, (self.count, len(rays)))
        self.files: list[str] = []  # that tables were read from
        self._tables: dict[tuple[torch.dtype, torch.device], tuple[Tensor, list[Tensor]]] = {}

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_tables": {}, "files": []}

    def __deepcopy__(self, memo: dict) -> "Spectrum":
        return self  # immutable: copies of an operator share it

    @property
    def work(self) -> float:
        """The sum of cubed block sizes: some 3e-10 CPU seconds each for the eigendecomposition."""
        return float(sum(k**3 for k in self.sizes))

    def tables(self, like: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns eigenvalues (K,) and the eigenvectors of each block, in columns."""
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        key = (dtype, like.device)
        if key not in self._tables:
            kind = np.dtype(np.float64 if dtype == torch.float64 else np.float32)
            file = symmetry.cache_file((*self.key, kind.str))
            systems = symmetry.load(file, self.sizes, kind)
            if systems is not None:
                self.files.append(str(file))
            else:
                with announced(f"diagonalising the projector, blocks of up to {max(self.sizes, default=0)} rays"):
                    exact = symmetry.eigensystems(self.matrix.build(), self.pixels, self.blocks)
                systems = [(values.astype(kind), vectors.astype(kind)) for values, vectors in exact]
                if sum(k * k for k in self.sizes) >= symmetry.KEEP_ENTRIES:
                    symmetry.save(file, systems)
            values = np.concatenate([np.tile(v, c) for (v, _), c in zip(systems, self.copies, strict=True)])
            values = values.clip(min=0)
            vectors = [torch.from_numpy(e).to(like.device) for _, e in systems]
            self._tables[key] = torch.from_numpy(values).to(like.device), vectors
        return self._tables[key]

    def significant(self, values: Tensor) -> Tensor:
        """Which eigenvalues count as not zero."""
        return values > RTOL[values.dtype] * values.amax()

    def analyse(self, y: Tensor) -> Tensor:
        """Returns E^T Q^T y: (N, rays) -> (N, K)."""
        return self._rotate(self.basis(y, turned=True), turned=False)

    def synthesise(self, w: Tensor) -> Tensor:
        """Returns Q E w: (N, K) -> (N, rays)."""
        return self.basis(self._rotate(w, turned=True))

    def _rotate(self, w: Tensor, turned: bool) -> Tensor:
        vectors = self.tables(w)[1]
        widths = [k * c for k, c in zip(self.sizes, self.copies, strict=True)]
        parts = zip(w.split(widths, dim=1), vectors, self.sizes, strict=True)
        turn = [(part.reshape(-1, k).to(e.dtype) @ (e.mT if turned else e)).reshape(part.shape) for part, e, k in parts]
        return torch.cat(turn, dim=1).to(w.dtype)

    def solve(self, b: Tensor, var_x: Variance, var_y: Variance) -> Tensor:
        """Returns (var_x A A^T + var_y I)^-1 b for b (N, rays), variances numbers or (N, 1); a pseudo-inverse if var_y =
        0."""
        values = self.tables(b)[0]
        level = torch.as_tensor(var_y, dtype=b.dtype, device=b.device)
        seen = self.significant(values) | (level > 0)
        total = var_x * values + level
        out = self.synthesise(torch.where(seen, 1 / total.where(seen, 1), 0) * self.analyse(b))
        missed = self.missed.to(b.device) & (level > 0)
        return (out + torch.where(missed, b / level.where(level > 0, 1), 0)).to(b.dtype)


class SpectralCT(SVDOperator):
    """A tomographic operator in spectral coordinates, exactly equal to it.

    The range of A^T has the right singular vectors V_r = A^T U / s; the pixels' null space is too large for a basis,
    so it is kept as an image. The coordinates of a slice x are Vt(x) = [V_r^T x, x - V_r V_r^T x], with s = [s_r, 0],
    and V([z_r, z_0]) = V_r z_r + (I - V_r V_r^T) z_0: Vt is an isometry and V Vt = I, a tight frame in place of a
    basis. White noise in the coordinates is white noise in the image, which is what spectral samplers rely on.

    Shapes: `s` has [C,] K + H W coordinates for K rays that meet the image.
    """

    def __init__(self, base: "Tomography", spectrum: Spectrum) -> None:
        super().__init__(base.in_shape)
        self.out_shape = base.out_shape
        self.base, self.spectrum = base, spectrum
        values = spectrum.tables(base._anchor)[0]  # in double precision after base.double(): more singular values count
        self.count = len(values)
        s = torch.cat([torch.where(spectrum.significant(values), values.sqrt(), 0), values.new_zeros(spectrum.pixels)])
        self.register_buffer("s", s.expand(*self.in_shape[:-2], -1).clone(), persistent=False)

    @property
    def _kept(self) -> Tensor:
        """Which of the first coordinates have a singular value, (K,)."""
        return self.s.reshape(-1, self.s.shape[-1])[0, : self.count] > 0

    def _inverse(self, like: Tensor) -> Tensor:
        """Returns 1 / s on the first coordinates, zero where s is zero, in the precision of `like`."""
        values = self.spectrum.tables(like)[0]
        return torch.where(self._kept, values.where(self._kept, 1).rsqrt(), 0)

    def U(self, z: Tensor) -> Tensor:
        rows = z.reshape(-1, z.shape[-1])[:, : self.count] * self._kept
        return self.spectrum.synthesise(rows).reshape(len(z), *self.out_shape)

    def Ut(self, y: Tensor) -> Tensor:
        rows = self.spectrum.analyse(y.reshape(-1, self.spectrum.count)) * self._kept
        return torch.nn.functional.pad(rows, (0, self.spectrum.pixels)).reshape(len(y), *self.s.shape)

    def V(self, z: Tensor) -> Tensor:
        rows = z.reshape(-1, z.shape[-1])
        z_r, z_0 = rows[:, : self.count], rows[:, self.count :]
        return (self._range(z_r) + z_0 - self._range(self._coordinates(z_0))).reshape(len(z), *self.in_shape)

    def Vt(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.spectrum.pixels)
        z_r = self._coordinates(rows)
        return torch.cat([z_r, rows - self._range(z_r)], dim=1).reshape(len(x), *self.s.shape)

    def _range(self, z: Tensor) -> Tensor:
        """Returns V_r z."""
        return self.base.matrix(self.spectrum.synthesise(z * self._inverse(z)), turned=True)

    def _coordinates(self, rows: Tensor) -> Tensor:
        """Returns V_r^T x."""
        return self.spectrum.analyse(self.base.matrix(rows)) * self._inverse(rows)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.base.adjoint(y)

    def solve(self, b: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        return self.base.solve(b, var_x, var_y)

    def weighted_adjoint(self, r: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        return self.base.weighted_adjoint(r, var_x, var_y)

    def prox(self, x: Tensor, y: Tensor, var_x: Variance = 1.0, var_y: Variance = 1.0) -> Tensor:
        return self.base.prox(x, y, var_x, var_y)

    def pinv(self, y: Tensor, rtol: float | None = None) -> Tensor:
        return self.base.pinv(y)


def _join(bases: list, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    import scipy.sparse

    joined = scipy.sparse.csr_array(scipy.sparse.hstack(bases, format="csr") if bases else (count, 0))
    return joined.indptr.astype(np.int64), joined.indices.astype(np.int32), joined.data
