"""Base of the geometries of tomography: one projector for every slice of a batch, and its solvers."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, NoReturn

import numpy as np
from torch import Tensor

from invgen.errors import OptionError, UnsupportedError
from invgen.forward import Variance, per_entry, per_sample
from invgen.linalg import cg, solves_ahead
from invgen.operators.ct._projected import Projected
from invgen.operators.ct._spectrum import SpectralCT, Spectrum
from invgen.operators.ct.projectors.astra import AstraProjector
from invgen.operators.ct.projectors.choice import Projector, matrix_of
from invgen.operators.ct.projectors.folded import FoldedMatrix
from invgen.operators.ct.projectors.lanes import Beam
from invgen.operators.ct.projectors.matrix_free import MatrixFree
from invgen.operators.ct.projectors.sparse import SparseMatrix

# Work of conjugate gradients for a solve and an entry of the matrix, in the unit of `max_work`: 50 iterations of 3 ns. At
# 256 pixels and 60 views a solve takes 1.1 CPU seconds, the diagonalisation 50.
PER_SOLVE = 500.0


class Tomography(Projected):
    """Base of the CT operators. A subclass sets `matrix` (rays of one slice x pixels of one slice) and `spacing`.

    `solve`, `prox` and `pinv` are exact, at any variances, where the blocks of A A^T can be diagonalised (`svd` is
    there too): solver="auto" does so if it takes some seconds at most, in a sampler's run up to a minute if a solve in each
    step by conjugate gradients would take longer, whatever files there are; "exact" wherever the largest block has at
    most `max_block` rays, "cg" never. Elsewhere they are conjugate gradients to a relative residual
    of `tolerance` (1e-5 in single precision, 1e-10 in double). So they are for a var_y that differs
    between rays (low-dose counts), preconditioned by the exact solver at the geometric mean of var_y: 2 to 20
    iterations instead of hundreds, for which "auto" spends up to `max_work_uneven`, once.

    Args:
        image_shape: of one signal, (..., H, W); every (H, W) slice is measured alike.
        angles: of the views, in radians.
        det_count, det_spacing, det_offset: pixels of the detector, their distance and its shift, in mm.
        pixel_size: of the image, in mm.
        solver: "auto", "exact" or "cg", see above.
    """

    max_bytes: ClassVar[int] = 4 * 2**30  # what a matrix and its transpose may take in single precision
    max_block: ClassVar[int] = 6000  # rays of the largest block of the exact solver
    max_work: ClassVar[float] = 3e10  # sum of cubed block sizes that "auto" diagonalises unasked: about 8 CPU seconds
    max_work_uneven: ClassVar[float] = 1.5e11  # the same for a preconditioner of uneven var_y: about 45 CPU seconds
    max_work_run: ClassVar[float] = 2e11  # the same where the steps of a run repay it: about 60 CPU seconds
    fan: ClassVar[bool] = False

    matrix: Projector | AstraProjector
    spacing: float  # distance of neighbouring rays of a view at the rotation axis, mm

    def __init__(
        self, image_shape: Sequence[int], angles: np.ndarray, det_count: int, det_spacing: float, det_offset: float,
        pixel_size: float, solver: str,
    ) -> None:  # fmt: skip
        super().__init__(tuple(image_shape))
        self.angles, self.det_count, self.pixel_size = angles, det_count, float(pixel_size)
        self.det_spacing, self.det_offset = float(det_spacing), float(det_offset)
        self.size = (self.in_shape[-2], self.in_shape[-1])
        self.out_shape = (*self.in_shape[:-2], len(angles), det_count)
        self._anchored()
        self.solver = solver
        self._blocks: Spectrum | None = None

    @property
    def density(self) -> float:
        return len(self.angles) * self.pixel_size**2 / self.spacing

    def geometry(self) -> tuple:
        """Returns all that determines the matrix: the key of what is kept on disk."""
        detector = (self.det_count, self.det_spacing, self.det_offset, self.pixel_size)
        return type(self).__name__, self.size, self.angles, *detector

    def rays(self) -> tuple[Tensor, Tensor]:
        """Returns the line of each measured value, x cos(angle) + y sin(angle) = s: radians and mm, both (A, D) float64."""
        raise TypeError(f"{type(self).__name__} must define rays(self)")

    def _along(self, borders: bool = False) -> np.ndarray:
        """Returns where detector pixels lie, from where the rotation axis projects, (D,), in mm; their D + 1 borders."""
        count = self.det_count + borders
        return (np.arange(count) - (count - 1) / 2) * self.det_spacing - self.det_offset

    def _projector(
        self, backend: str, lines: tuple[np.ndarray, np.ndarray], gain: np.ndarray, source: float, per_pixel: float
    ) -> Projector:
        """Returns the projector of rays, or with a strip of what lies between lines.

        Args:
            backend: "auto" or "sparse".
            lines: fan angles and distances from the origin at view 0, radians and mm.
            gain, source: as of `Beam`, in mm.
            per_pixel: entries of the matrix for a pixel and a view that sees it.
        """
        strip, p = len(lines[0]) > self.det_count, self.pixel_size
        beam = Beam(self.angles, lines[0], lines[1] / p, gain, source / p, strip, p, self.det_offset == 0)
        free = MatrixFree(self.size, beam)
        matrix = SparseMatrix(partial(matrix_of, free), free.shape)
        seen = min(1.0, self.det_count * self.spacing / (max(self.size) * p))
        entries = len(self.angles) * math.prod(self.size) * per_pixel * seen
        folded = FoldedMatrix(partial(matrix_of, free), self.size, beam, free.shape)
        projector = Projector(matrix, folded, free if backend == "auto" else None, entries, self.max_bytes)
        if backend == "sparse":
            projector.check_memory()
        return projector

    def _spectrum(self) -> Spectrum | None:
        """Returns the diagonalised blocks, or None where they would be too large."""
        if not isinstance(self.matrix, Projector):
            raise UnsupportedError("the exact solver needs the projector's matrix; use backend='auto'")
        if len(self.angles) * self.det_count > 8 * self.max_block and self._blocks is None:
            return None  # even the best symmetry leaves a block of a quarter of the rays that meet the image
        if self._blocks is None:
            self._blocks = Spectrum(self)
        return self._blocks if max(self._blocks.sizes, default=0) <= self.max_block else None

    def _exact(self, uneven: bool = False) -> Spectrum | None:
        """Returns the diagonalised blocks if the solver is to use them, for variances that are uneven as a
        preconditioner."""
        if self.solver == "cg" or not isinstance(self.matrix, Projector):
            return None
        spectrum = self._spectrum()
        if self.solver == "auto":
            repaid = min((solves_ahead() - 1) * PER_SOLVE * self.matrix.entries, self.max_work_run)
            most = max(self.max_work_uneven if uneven else self.max_work, repaid)
            return spectrum if spectrum and spectrum.work <= most else None
        return spectrum or (None if uneven else self._too_large())

    @property
    def files(self) -> list[str]:
        """The files on this machine that solves have read: eigenvectors that an earlier run has kept."""
        return self._blocks.files if self._blocks is not None else []

    def _too_large(self) -> NoReturn:
        rays = len(self.angles) * self.det_count
        size = f"{max(self._blocks.sizes)}" if self._blocks else f"more than {self.max_block}"
        raise UnsupportedError(
            f"the exact solver needs blocks of at most {self.max_block} rays, the largest of these {rays} rays has {size}; "
            "take fewer views, angles that are uniform and a centred detector, or solver='cg'"
        )

    def svd(self) -> SpectralCT:
        """Returns this operator in spectral coordinates, for samplers that need a singular value decomposition (DDRM,
        DDNM+).

        Raises:
            UnsupportedError: the largest block of A A^T has more than `max_block` rays.
        """
        return SpectralCT(self, self._spectrum() or self._too_large())

    def solve(self, b: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        """Returns (var_x A A^T + var_y I)^-1 b, exact or by conjugate gradients (see the class); a pseudo-inverse if
        var_y = 0."""
        var_x, var_y = per_sample(var_x, b), per_sample(var_y, b)
        uneven = per_entry(var_y, b)
        precondition: Callable[[Tensor], Tensor] | None = None
        spectrum = None if per_entry(var_x, b) else self._exact(uneven)
        if spectrum and not uneven:
            return self._solve_even(spectrum, b, var_x, var_y)
        if isinstance(var_y, Tensor) and uneven and bool((var_y > 0).all()):
            # var_x A A^T + var_y is about root (var_x A A^T + level) root; where the first term is the larger one root is 1
            level = var_y.expand_as(b).log().flatten(1).mean(1).exp().reshape(-1, *[1] * (b.ndim - 1))
            signal = var_x * (spectrum.tables(b)[0].mean() if spectrum else 0)
            root = ((signal + var_y) / (signal + level)).sqrt()

            def whitened(r: Tensor) -> Tensor:
                return self._solve_even(spectrum, r / root, var_x, level) / root if spectrum else r / var_y

            precondition = whitened

        self._warn_unmatched()
        return cg(
            lambda v: var_x * self(self.adjoint(v)) + var_y * v,
            b,
            tol=self.tolerance,
            max_iter=self.max_iter,
            precondition=precondition,
        )

    def _solve_even(self, spectrum: Spectrum, b: Tensor, var_x: Variance, var_y: Variance) -> Tensor:
        """Returns (var_x A A^T + var_y I)^-1 b for variances that are numbers or one per sample."""
        slices = math.prod(b.shape[1:-2])
        rows = b.reshape(-1, self.matrix.shape[0])
        return spectrum.solve(rows, _per_slice(var_x, slices), _per_slice(var_y, slices)).reshape(b.shape)

    def pinv(self, y: Tensor) -> Tensor:
        """Returns A^+ y, the least-squares image of least norm, exact or by conjugate gradients (see the class).

        In the exact one singular values below 1e-4 (double precision: 1e-5) of the largest count as zero.
        """
        return self.adjoint(self.solve(y)) if self._exact() else super().pinv(y)

    def weighted_adjoint(self, r: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        """Returns A^T (var_x A A^T + var_y I)^-1 r, by `solve` where blocks are diagonalised, else as `Projected` does."""
        if not per_entry(var_x, r) and self._exact(per_entry(var_y, r)):
            return self.adjoint(self.solve(r, var_x, var_y))
        return super().weighted_adjoint(r, var_x, var_y)


def _per_slice(variance: Variance, slices: int) -> Variance:
    """Returns a variance per sample, (B, 1, ..., 1), as one per slice, (B slices, 1)."""
    if not isinstance(variance, Tensor):
        return variance
    return variance.reshape(()) if variance.numel() == 1 else variance.reshape(-1, 1).repeat_interleave(slices, dim=0)


def check_rays(operator: Tomography) -> None:
    """Refuses a detector that the image's shadow never meets."""
    radius = math.hypot(*operator.size) * operator.pixel_size / 2
    nearest = operator.rays()[1].abs().min().item()
    if nearest > radius:
        raise OptionError(
            f"no ray meets the image: the nearest passes {nearest:g} mm from its middle, half its diagonal is {radius:g}; "
            "check det_offset (in mm, not pixels), det_spacing and pixel_size"
        )
