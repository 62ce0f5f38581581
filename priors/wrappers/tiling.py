"""Priors for signals larger than a network was trained on: tiles of an image or a volume, patches at random places.

All are denoisers made of a smaller one that sees windows of the signal. The windows go through the network in batches, and
under autograd each batch is recomputed on the way back (gradient checkpointing), so that memory is that of one batch
whatever the size of the signal.
"""

import hashlib
import itertools
import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from invgen.conditional import DenoiserOf
from invgen.diffusion import Denoiser, Sigma
from invgen.errors import OptionError, ShapeError

Window = tuple[int, Tensor]  # where it starts along one axis, and the weights of its entries there


class Windowed(DenoiserOf):
    """Base: D(x) is made of what `prior` makes of windows of x, in the units of `prior`, some windows at a time."""

    start = Denoiser.start  # the prior's own is for one window

    def __init__(self, prior: Denoiser, shape: int | Sequence[int], max_batch: int | None) -> None:
        super().__init__(prior, shape)
        if max_batch is not None and max_batch < 1:
            raise OptionError(f"max_batch must be a positive whole number, got {max_batch!r}")
        self.max_batch = max_batch

    def evaluate(self, x: Tensor, sigma: Sigma) -> Tensor:
        """Returns prior(x, sigma), whose activations are computed again for a gradient instead of kept."""
        if torch.is_grad_enabled() and x.requires_grad:
            return checkpoint(self.prior, x, sigma, use_reentrant=False, preserve_rng_state=False)
        return self.prior(x, sigma)


class Tiled(Windowed):
    """A denoiser of large signals from overlapping tiles, whose results are blended smoothly.

    Each tile's weight rises over the overlap as a squared sine, and the weights of all tiles add up to one; at the border
    of the signal, where no tile overlaps, they stay one. Within `margin` of an edge that lies inside the signal a tile's
    result is not used: for a network that looks no further than `margin`, D is that of the whole signal, exactly. What a
    network knows beyond one tile (the layout of a face) is lost.

    Args:
        prior: the denoiser of one tile, of shape prior.shape.
        shape: of the signals, of the rank of prior.shape, nowhere smaller. Any rank: (C, L), (C, H, W), (C, D, H, W), (L,);
            for two axes and more the first is that of the channels and the same.
        overlap: of neighbouring tiles at least, as a fraction of the tile; a quarter costs 1.8 times the evaluations of
            tiles side by side in two dimensions.
        margin: entries by inner edges whose results are not used; less than half the overlap.
        multiple: tiles start at multiples of it, but for the last along an axis: with the stride of the network, which
            halves the signal some times, tiles are cut as the network cuts the whole. Ignored where tiles are too small.
        max_batch: tiles to denoise at once.
    """

    def __init__(
        self,
        prior: Denoiser,
        shape: int | Sequence[int],
        *,
        overlap: float = 0.25,
        margin: int = 0,
        multiple: int = 8,
        max_batch: int | None = 16,
    ) -> None:
        super().__init__(prior, shape, max_batch)
        _check_sizes(prior, self.shape)
        if not 0 <= overlap < 1 or margin < 0 or multiple < 1:
            raise OptionError(
                f"tiles need an overlap in [0, 1), a margin of at least 0 and a multiple of at least 1, got {overlap!r}, "
                f"{margin!r} and {multiple!r}"
            )
        self.overlap, self.margin = float(overlap), int(margin)
        self.axes = [
            _tiles(total, tile, round(overlap * tile), margin, multiple)
            for total, tile in zip(self.shape, prior.shape, strict=True)
        ]

    def forward(self, x: Tensor, sigma: Sigma) -> Tensor:
        return _blend(self, x, sigma, [self.axes])


class PatchAveraged(Windowed):
    """A denoiser of large signals from patches side by side, whose places differ with every noise level.

    The patch-based prior of Hu et al., "Learning image priors through patch-based diffusion models for solving inverse
    problems" (PaDIS, NeurIPS 2024): the signal is cut into patches at a random offset, each is denoised alone,
    and since every step of a sampler cuts elsewhere, no seam stays. Two deviations: the patches at the border are moved
    into the signal (and averaged where they overlap), where the paper pads with zeros that its network was trained with;
    and no position is given to the network. The offset is a function of `seed` and sigma, so that D is a function too, and
    a run can be repeated; steps at one and the same level cut alike.

    Args:
        prior, shape, max_batch: as for `Tiled`.
        offsets: how many cuts to average; 1 in the paper.
        seed: of the offsets.
    """

    def __init__(
        self, prior: Denoiser, shape: int | Sequence[int], *, offsets: int = 1, seed: int = 0, max_batch: int | None = 16
    ) -> None:
        super().__init__(prior, shape, max_batch)
        _check_sizes(prior, self.shape)
        if offsets < 1:
            raise OptionError(f"patches are averaged over at least one cut, got offsets={offsets!r}")
        self.offsets, self.seed = int(offsets), int(seed)

    def forward(self, x: Tensor, sigma: Sigma) -> Tensor:
        if not isinstance(sigma, Tensor) or sigma.numel() == 1:
            return _blend(self, x, sigma, self._cuts(float(sigma)))
        # a level for each signal: each has cuts of its own
        return torch.cat(
            [_blend(self, x[i : i + 1], sigma[i : i + 1], self._cuts(s)) for i, s in enumerate(sigma.tolist())]
        )

    def _cuts(self, sigma: float) -> list[list[list[Window]]]:
        cuts = []
        for k in range(self.offsets):
            draws = _uniforms(self.seed, sigma, k, len(self.shape))
            pairs = zip(self.shape, self.prior.shape, draws, strict=True)
            cuts.append([_patches(total, patch, int(u * patch)) for total, patch, u in pairs])
        return cuts


def _check_sizes(prior: Denoiser, shape: torch.Size) -> None:
    small = tuple(prior.shape)
    if len(shape) != len(small) or (len(shape) > 1 and shape[0] != small[0]):
        raise ShapeError(f"the prior is over {small}; expected a shape of as many axes and channels, got {tuple(shape)}")
    if any(total < tile for total, tile in zip(shape, small, strict=True)):
        raise ShapeError(
            f"signals of {tuple(shape)} are smaller than the prior's {small}; load the prior for a smaller shape first"
        )


def _tiles(total: int, tile: int, overlap: int, margin: int, multiple: int) -> list[Window]:
    """Returns the tiles along one axis, evenly spaced, their weights adding up to one at every entry."""
    if total == tile:
        return [(0, torch.ones(tile, dtype=torch.float64))]
    if overlap <= 2 * margin and margin:
        raise OptionError(
            f"tiles of {tile} that overlap by {overlap} leave nothing between margins of {margin}; raise overlap"
        )
    multiple = multiple if tile - overlap >= multiple else 1
    furthest = (tile - overlap) // multiple * multiple  # from one start to the next
    count = 1 + math.ceil((total - tile) / furthest)
    spacing = math.ceil((total - tile) / (count - 1) / multiple) * multiple
    starts = sorted({min(k * spacing, total - tile) for k in range(count)})
    count = len(starts)
    windows = []
    for k, start in enumerate(starts):
        weights = torch.ones(tile, dtype=torch.float64)
        for neighbour in (k - 1, k + 1):
            if 0 <= neighbour < count:
                shared = tile - abs(start - starts[neighbour]) - 2 * margin
                rise = ((torch.arange(shared, dtype=torch.float64) + 0.5) / max(shared, 1) * (math.pi / 2)).sin() ** 2
                ramp = torch.cat([torch.zeros(margin, dtype=torch.float64), rise])
                ramp = torch.cat([ramp, torch.ones(tile - len(ramp), dtype=torch.float64)])
                weights = weights * (ramp if neighbour < k else ramp.flip(0))
        windows.append((start, weights))
    return _normalised(windows, total)


def _patches(total: int, patch: int, offset: int) -> list[Window]:
    """Patches side by side from a first one that starts `offset` before the signal; those outside are moved into it."""
    starts = sorted({min(max(start, 0), total - patch) for start in range(-offset, total, patch)})
    return _normalised([(start, torch.ones(patch, dtype=torch.float64)) for start in starts], total)


def _normalised(windows: list[Window], total: int) -> list[Window]:
    weight = torch.zeros(total, dtype=torch.float64)
    for start, w in windows:
        weight[start : start + len(w)] += w
    return [(start, w / weight[start : start + len(w)]) for start, w in windows]


def _uniforms(seed: int, sigma: float, cut: int, count: int) -> Iterator[float]:
    """Yields numbers in [0, 1) that depend on these values alone."""
    for k in range(count):
        digest = hashlib.blake2b(struct.pack("<qdqq", seed, sigma, cut, k), digest_size=8).digest()
        yield int.from_bytes(digest, "little") / 2**64


def _blend(prior: Windowed, x: Tensor, sigma: Sigma, cuts: list[list[list[Window]]]) -> Tensor:
    """Returns the mean over all cuts of the weighted sum of denoised windows; each cut has a list of windows along each
    axis."""
    if x.shape[1:] != prior.shape:
        raise ShapeError(f"the prior denoises (B, {', '.join(map(str, prior.shape))}), got {tuple(x.shape)}")
    per_call = max(1, (prior.max_batch or 2**62) // max(len(x), 1))
    cells = [cell for axes in cuts for cell in itertools.product(*axes)]
    out = torch.zeros_like(x)
    for k in range(0, len(cells), per_call):
        out = _add(prior, x, sigma, cells[k : k + per_call], out)
    return out / len(cuts)


def _add(prior: Windowed, x: Tensor, sigma: Sigma, cells: Sequence[Sequence[Window]], out: Tensor) -> Tensor:
    """Returns `out` plus the denoised windows of some cells, in one batch of the network (split further if x alone is
    larger)."""
    places = [(..., *(slice(start, start + len(w)) for start, w in cell)) for cell in cells]
    windows = torch.cat([x[place] for place in places])
    level: Any = sigma.expand(len(x)).repeat(len(cells)) if isinstance(sigma, Tensor) and sigma.ndim else sigma
    parts = list(windows.split(prior.max_batch or max(len(windows), 1)))
    levels = per_part(level, parts)
    done = torch.cat([prior.evaluate(p, s) for p, s in zip(parts, levels, strict=True)])
    out = out.clone() if torch.is_grad_enabled() else out
    for cell, place, clean in zip(cells, places, done.split(max(len(x), 1)), strict=True):
        weight = cell[0][1]
        for _, w in cell[1:]:
            weight = weight[..., None] * w
        out[place] = out[place] + weight.to(x.device, x.dtype) * clean
    return out


def per_part(sigma: Sigma, parts: list[Tensor]) -> list[Sigma]:
    """Returns the level of each part of a batch: the same number, or its rows of one a sample."""
    if isinstance(sigma, Tensor) and sigma.ndim:
        return list(sigma.split([len(p) for p in parts]))
    return [sigma] * len(parts)
