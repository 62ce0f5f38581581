"""Exact eigendecomposition of A A^T for tomography, in blocks that the symmetry of the scan makes independent.

Mirroring a rectangular image about its axes, turning it by 180 degrees and, if it is square, swapping x and y
permutes the rays of a scan whose angles map onto each other (any uniform set; a limited arc still has the half turn).
A A^T commutes with these permutations, so that it is block diagonal in a basis of symmetric and antisymmetric sums of
rays, one block per irreducible representation (Serre, Linear Representations of Finite Groups, 1977, section 2.6):
four of a quarter of the rays for the rectangle's group, four of an eighth and one of a quarter, used twice, for the
square's. Each block is diagonalised in float64.
"""

import hashlib
import itertools
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from invgen.operators.ct.projectors.sparse import Csr

KEEP_ENTRIES = 2_000_000  # eigenvectors with more entries than this are worth a file
VERSION = 1  # of the meaning of a file


@dataclass(frozen=True)
class Block:
    """One irreducible representation: `copies` runs of len(reps) coordinates each, all with the same Gram matrix."""

    reps: np.ndarray  # the ray that stands for each orbit
    scale: np.ndarray  # Gram row = scale * (row of A A^T at the rays) in the symmetric basis
    basis: Any  # sparse (rays, copies * len(reps)), orthonormal columns
    copies: int


def ray_symmetries(
    angles: np.ndarray, det_count: int, centred: bool, size: tuple[int, int], fan: bool
) -> dict[str, np.ndarray]:
    """Returns the permutations of the rays that the symmetries of the image make: name -> (rays,), the image of each ray.

    Args:
        angles: of the views, (A,), in radians.
        det_count: detector pixels of a view.
        centred: whether the detector is centred on the axis.
        size: of the image, in pixels.
        fan: whether the beam is a fan, not parallel.
    """
    # a symmetry takes the view t to sign * t + shift; a reflection turns the detector of a fan round, and a parallel
    # view half a turn away is the same view with its detector turned round
    maps = {"x": (-1, math.pi), "y": (-1, 0.0), "half": (1, math.pi), "swap": (-1, math.pi / 2)}
    if fan:
        maps = {"x": (-1, 0.0), "y": (-1, math.pi), "half": (1, math.pi), "swap": (-1, -math.pi / 2)}
    period = 2 * math.pi if fan else math.pi
    near = _turns(angles[:, None] - angles, period)[1] < 1e-9
    if near.sum() > len(angles):  # a repeated view: which copy a ray maps to would be ambiguous
        return {}
    detector, found = np.arange(det_count), {}
    for name, (sign, shift) in maps.items():
        if name == "swap" and size[0] != size[1]:
            continue
        turns, distance = _turns((sign * angles + shift)[:, None] - angles, period)
        view, target = np.nonzero(distance < 1e-9)
        if len(view) < len(angles):
            continue
        flip = np.full(len(view), sign < 0) if fan else turns[view, target] % 2 == 1
        if flip.any() and not centred:
            continue
        found[name] = (target[:, None] * det_count + np.where(flip[:, None], detector[::-1], detector)).ravel()
    return found


def _turns(difference: np.ndarray, period: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the nearest whole number of periods in an angle, and the distance that remains."""
    turns = np.round(difference / period)
    return turns.astype(int), np.abs(difference - turns * period)


# from the largest group of symmetries to the smallest, by what generates it; "half" is "x" after "y"
GROUPS = (("x", "y", "swap"), ("x", "y"), ("half", "swap"), ("half",), ("x",), ("y",), ("swap",))


def _generators(symmetries: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Returns what generates the largest group, () if there is none."""
    return next((names for names in GROUPS if all(name in symmetries for name in names)), ())


def mirrors(symmetries: dict[str, np.ndarray], rays: int, least: int = 2) -> tuple[list[Callable], np.ndarray]:
    """Returns the turns of an image that permute the rays, and the ray that each ray becomes, (turns, rays).

    The projection of turn(x) at a ray is that of x at the ray that it becomes. The first turn is none.

    Args:
        symmetries: of `ray_symmetries`.
        rays: how many there are.
        least: turns that are worth it; with fewer there are none, and maps (0, rays).
    """
    generators: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "x": lambda image: image[:, ::-1],
        "y": lambda image: image[::-1],
        "half": lambda image: image[::-1, ::-1],
        "swap": lambda image: image[::-1, ::-1].T,
    }
    turns: list[Callable] = [lambda image: image]
    maps = [np.arange(rays)]
    for name in _generators(symmetries):
        turns += [lambda image, old=old, new=generators[name]: old(new(image)) for old in turns]
        maps += [symmetries[name][old] for old in maps]
    return (turns, np.stack(maps)) if len(turns) >= least else ([], np.empty((0, rays), int))


def blocks(symmetries: dict[str, np.ndarray], rays: np.ndarray, count: int) -> list[Block]:
    """Returns the blocks of A A^T restricted to `rays` (those that meet the image) out of `count`."""
    names = _generators(symmetries)
    square = len(names) == 3
    elements, powers = np.arange(count)[None], np.zeros((1, 0), int)
    for name in reversed(names):
        elements = np.concatenate([elements, symmetries[name][elements]])
        powers = np.block([[np.zeros((len(powers), 1), int), powers], [np.ones((len(powers), 1), int), powers]])
    signs = np.array(list(itertools.product((1, -1), repeat=len(names)))).reshape(2 ** len(names), -1)
    result = []
    for sign in signs:
        if square and sign[0] != sign[1]:
            continue  # the two-dimensional representation, below
        result.append(_block(elements, np.prod(sign**powers, axis=1), rays, None))
    if square:
        mirrors = powers[:, 2] == 0
        character = np.prod(np.array([1, -1]) ** powers[mirrors, :2], axis=1)
        result.append(_block(elements[mirrors], character, rays, symmetries["swap"]))
    return [block for block in result if len(block.reps)]


def _block(elements: np.ndarray, character: np.ndarray, rays: np.ndarray, partner: np.ndarray | None) -> Block:
    """Returns the sums over the orbits of the group `elements` (order, rays) that transform with `character` (order,)."""
    import scipy.sparse

    count = elements.shape[1]
    reps = rays[elements[:, rays].min(axis=0) == rays]
    data = np.broadcast_to(character[:, None].astype(float), (len(elements), len(reps)))
    columns = np.broadcast_to(np.arange(len(reps)), data.shape)
    entries = (data.ravel(), (elements[:, reps].ravel(), columns.ravel()))
    sums = scipy.sparse.coo_array(entries, shape=(count, len(reps))).tocsc()
    length = np.sqrt(np.asarray(sums.multiply(sums).sum(axis=0)).ravel())
    alive = length > 0.5  # an orbit that a symmetry maps on itself may have no sum of this character
    basis = sums[:, alive] @ scipy.sparse.diags_array(1 / length[alive])
    scale = len(elements) / length[alive]
    if partner is None:
        return Block(reps[alive], scale, basis, 1)
    back = np.empty(count, np.int64)
    back[partner] = np.arange(count)
    return Block(reps[alive], scale, scipy.sparse.hstack([basis, basis.tocsr()[back]], format="csc"), 2)


def eigensystems(matrix: Csr, pixels: int, parts: Sequence[Block]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns eigenvalues (k,), from the largest, and eigenvectors (k, k), in columns, of each block's Gram matrix,
    float64."""
    import scipy.linalg
    import scipy.sparse

    a = scipy.sparse.csr_array((matrix[2], matrix[1], matrix[0]), shape=(len(matrix[0]) - 1, pixels))
    turned, systems = a.T.tocsr(), []
    for part in parts:
        k = len(part.reps)
        gram = part.scale[:, None] * (a[part.reps] @ (turned @ part.basis[:, :k].tocsr())).toarray()
        values, vectors = scipy.linalg.eigh((gram + gram.T) / 2, overwrite_a=True, check_finite=False, driver="evd")
        systems.append((values[::-1].copy(), vectors[:, ::-1].copy()))
    return systems


def cache_file(key: Sequence[object]) -> Path:
    """Returns the folder for eigensystems of geometries: $INVGEN_CACHE, by default ~/.cache/invgen."""
    folder = Path(os.environ.get("INVGEN_CACHE") or Path.home() / ".cache" / "invgen")
    text = repr((VERSION, *(part.tobytes() if isinstance(part, np.ndarray) else part for part in key)))
    return folder / f"ct-{hashlib.sha256(text.encode()).hexdigest()[:24]}.npz"


def load(file: Path, sizes: Sequence[int], dtype: np.dtype) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Returns the eigensystems in a file, or None if there is no file or it is damaged or holds something else."""
    import zipfile

    try:
        with np.load(file, allow_pickle=False) as saved:
            systems = [(saved[f"values{i}"], saved[f"vectors{i}"]) for i in range(len(sizes))]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    pairs = zip(systems, sizes, strict=True)
    fits = all(v.shape == (k,) and e.shape == (k, k) and v.dtype == e.dtype == dtype for (v, e), k in pairs)
    return systems if fits and all(np.isfinite(v).all() for v, _ in systems) else None


def save(file: Path, systems: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Writes under a temporary name and renames: no reader sees half a file. Does nothing in a read-only home."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, suffix=".part")
    except OSError:
        return
    arrays: dict[str, Any] = {f"values{i}": values for i, (values, _) in enumerate(systems)}
    arrays |= {f"vectors{i}": vectors for i, (_, vectors) in enumerate(systems)}
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, **arrays)
        os.replace(name, file)
    except OSError:
        Path(name).unlink(missing_ok=True)
