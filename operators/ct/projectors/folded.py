"""A sparse matrix of the rays that stand for their mirror images: up to 8 times smaller, the same product."""

from collections.abc import Callable
from functools import cached_property, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from invgen.operators.ct import _symmetry as symmetry
from invgen.operators.ct.projectors.lanes import Beam
from invgen.operators.ct.projectors.product import MatrixLike
from invgen.operators.ct.projectors.sparse import Csr, SparseMatrix, product

# Columns of one product, images times turns. Measured with one thread at 64 to 256 pixels and 23 to 60 views: more leave
# the cache, and the whole matrix is as fast or faster.
COLUMNS = {torch.float32: 64, torch.float64: 16}


class FoldedMatrix(MatrixLike):
    """The product with the matrix of a scan whose views map onto each other, of which some rows alone are kept.

    Mirrors, half a turn and a swap of the axes, 2, 4 or 8 `turns` in all, permute the rays: the projection of a turned
    image at one ray is that of the image at another. So the rows of one ray of each orbit, applied to the turned images,
    are the product with all, and each row is read once for all of them.

    Args:
        build: makes the rows of some rays, (rays,) booleans, in float64.
        size: of the image, in pixels.
        beam: its lines.
        shape: of the whole matrix.
    """

    def __init__(
        self, build: Callable[[np.ndarray], Csr], size: tuple[int, int], beam: Beam, shape: tuple[int, int]
    ) -> None:
        self.build, self.size, self.beam, self.shape = build, size, beam, shape
        self._tables: dict[torch.device, tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    def __getstate__(self) -> dict:
        given = {name: getattr(self, name) for name in ("build", "size", "beam", "shape")}
        return {**given, "_tables": {}}

    @cached_property
    def turns(self) -> tuple[list[Callable], np.ndarray]:
        """The turns of an image and the ray that each ray becomes, (turns, rays); none without symmetry."""
        beam = self.beam
        found = symmetry.ray_symmetries(beam.angles, beam.det_count, beam.centred, self.size, beam.source > 0)
        return symmetry.mirrors(found, self.shape[0])

    @property
    def order(self) -> int:
        """How many times smaller it is than the whole matrix, but for rays that are their own mirror images; 1 if none."""
        return max(1, len(self.turns[0]))

    @cached_property
    def kept(self) -> np.ndarray:
        """Which rays stand for their orbits, (rays,)."""
        return self.turns[1].min(axis=0) == np.arange(self.shape[0])

    @cached_property
    def rows(self) -> SparseMatrix:
        """The rows that are kept."""
        return SparseMatrix(partial(self.build, self.kept), (int(self.kept.sum()), self.shape[1]))

    def suits(self, x: Tensor) -> bool:
        """Tells whether one product takes the whole batch (N, ...)."""
        return len(x) * self.order <= COLUMNS[_precision(x)]

    def apply(self, x: Tensor, turned: bool) -> Tensor:
        most = max(1, COLUMNS[_precision(x)] // self.order)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            work = self._adjoint if turned else self._forward
            parts = [work(part.to(_precision(x))) for part in x.detach().split(most)] if len(x) else []
        return torch.cat(parts).to(x.dtype) if parts else x.new_zeros(0, self.shape[1 if turned else 0])

    def _forward(self, x: Tensor) -> Tensor:
        matrix, (pixels, rays, _, _) = self.rows.pair(x.dtype, x.device)[0], self._places(x.device)
        columns = _side_by_side(x)
        turned = columns.index_select(0, pixels).reshape(self.shape[1], -1)
        sums = product(matrix, turned).reshape(-1, *columns.shape[1:])
        return sums.index_select(0, rays).t().reshape(len(x), -1)

    def _adjoint(self, y: Tensor) -> Tensor:
        matrix, (_, _, orbits, images) = self.rows.pair(y.dtype, y.device)[1], self._places(y.device)
        columns = _side_by_side(F.pad(y, (0, 1)))  # a zero for whom another stands
        sums = product(matrix, columns.index_select(0, orbits).reshape(len(orbits) // self.order, -1)).reshape(-1, len(y))
        if y.dtype == torch.float32:
            return F.embedding_bag(images, sums, mode="sum").t().contiguous()
        # in double precision the loop is 2 to 3 times as fast
        total = sums.index_select(0, images[:, 0])
        for turn in images[:, 1:].unbind(1):
            total += sums.index_select(0, turn)
        return total.t().contiguous()

    def _places(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns where values come from, the turns of a pixel or ray side by side.

        For each pixel of the turned images the pixel of the image, (pixels turns,); for each ray the place among the sums
        of the kept rays, (rays,); for each of these the ray, one beyond the last where another stands for it, (kept
        turns,); for each pixel its places in the turned images, (pixels, turns).
        """
        if device not in self._tables:
            turns, maps = self.turns
            order, pixels = len(turns), np.arange(self.shape[1])
            turned = np.stack([turn(pixels.reshape(self.size)).ravel() for turn in turns])
            rays = np.unique(maps[:, self.kept].T.ravel(), return_index=True)[1]  # of several the first
            orbits = np.full(order * int(self.kept.sum()), self.shape[0])
            orbits[rays] = np.arange(self.shape[0])
            images = np.argsort(turned, axis=1).T * order + np.arange(order)
            tables = turned.T.ravel(), rays, orbits, images
            found = [torch.from_numpy(np.ascontiguousarray(t, np.int32)).to(device) for t in tables]
            self._tables[device] = found[0], found[1], found[2], found[3]
        return self._tables[device]


def _precision(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _side_by_side(x: Tensor) -> Tensor:
    """Returns x (N, n) as (n, N); as (n,) for one, of which places are found in half the time."""
    return x[0] if len(x) == 1 else x.t().contiguous()
