"""The picture grids of a report: truth, measurement, baseline, and of each method samples, mean, standard deviation, error.

Every picture is a PNG in a data: URI, so that the page needs no other file.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from invgen.benchmarks.engine.store import Store
from invgen.benchmarks.report.results import Row
from invgen.benchmarks.report.tables import Line, Table
from invgen.errors import FileError

if TYPE_CHECKING:
    import numpy as np

SIDE = 128  # pixels: the longest side of a picture that is kept
SOUND = 1024  # values: a longer one-dimensional signal is drawn with its spectrogram too
WAVE = (128, 64)  # pixels of a waveform
SAMPLES = 2


@dataclass(frozen=True)
class Picture:
    """One picture: its caption, and the PNG as a data: URI."""

    caption: str
    uri: str


@dataclass(frozen=True)
class GridRow:
    """The pictures of one method, samples first; None where it has none of a kind."""

    line: Line
    pictures: Sequence[Picture | None]

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(len(picture.uri) for picture in self.pictures if picture is not None)


@dataclass(frozen=True)
class Grid:
    """The pictures of one image.

    Attributes:
        shared: truth, measurement, and a classical reconstruction where there is one.
        scale: what white is in the pictures of standard deviation and error, in the units of the signal.
        left_out: how many methods have arrays, but found no place.
    """

    image: str
    seed: int
    shared: Sequence[Picture]
    rows: Sequence[GridRow]
    scale: float
    left_out: int


def grids(store: Store, table: Table, images: int, budget: int) -> list[Grid]:
    """Returns grids of pictures for the first images of a problem, each with its first seed.

    Args:
        store: where the arrays lie.
        table: of the problem.
        images: at most so many.
        budget: in bytes, for all grids.
    """
    found = []
    for image in list(dict.fromkeys(row.image for line in table.lines for row in line.cells))[:images]:
        if budget <= 0:
            break
        rows = [row for line in table.lines for row in line.cells if row.image == image]
        seed = min((row.seed for row in rows if not row.error), default=None)
        grid = None if seed is None else _grid(store, table, image, seed, budget)
        if grid is not None:
            found.append(grid)
            budget -= sum(len(p.uri) for p in grid.shared) + sum(row.size for row in grid.rows)
    return found


def _grid(store: Store, table: Table, image: str, seed: int, budget: int) -> Grid | None:
    arrays = {}
    for line in table.lines:
        row = next((r for r in line.cells if r.image == image and r.seed == seed and not r.error), None)
        loaded = None if row is None else _arrays(store, row)
        if loaded is not None:
            arrays[line.number] = loaded
    lines = [line for line in table.lines if line.number in arrays]
    if not lines:
        return None
    first = arrays[lines[0].number]
    shared = [_picture("truth", first["truth"], _range(first["truth"])), *_measured(table.operator, first)]
    classical = next((line for line in lines if line.kind == "classical"), None)
    if classical is not None:
        caption = f"baseline: {classical.sampler}"
        shared.append(_picture(caption, arrays[classical.number]["mean"], _range(first["truth"])))
    scale = max(_high(_error(of)) for of in arrays.values()) or 1.0
    rows: list[GridRow] = []
    for line in lines:
        if budget <= 0:
            break
        rows.append(GridRow(line, _of_method(arrays[line.number], scale)))
        budget -= rows[-1].size
    return Grid(image, seed, shared, rows, scale, len(lines) - len(rows))


def _arrays(store: Store, row: Row) -> "dict[str, np.ndarray] | None":
    """Returns the arrays of a grid; None where it was not kept, or is damaged."""
    import numpy as np

    try:
        found = store.arrays(row.key)
    except FileError:
        return None
    good = {"truth", "measurement", "mean"} <= found.keys() and all(
        np.issubdtype(a.dtype, np.number) and a.size for a in found.values()
    )
    return found if good and found["mean"].shape == found["truth"].shape else None


def _of_method(arrays: "Mapping[str, np.ndarray]", scale: float) -> list[Picture | None]:
    """Returns samples, mean, standard deviation, error; None keeps a place empty, so that the columns of all methods
    agree."""
    limits = _range(arrays["truth"])
    samples = list(arrays.get("samples", ()))[:SAMPLES]
    if len(samples) == 1 or not arrays.get("std", arrays["mean"]).any():  # a point estimate
        found: list[Picture | None] = [None] * SAMPLES
        found += [_picture("reconstruction", arrays["mean"], limits), None]
    else:
        found = [_picture(f"sample {k + 1}", x, limits) for k, x in enumerate(samples)]
        found += [None] * (SAMPLES - len(samples))
        found.append(_picture("mean", arrays["mean"], limits))
        found.append(_picture("standard deviation", arrays["std"], (0.0, scale), "magma") if "std" in arrays else None)
    return [*found, _picture("error", _error(arrays), (0.0, scale), "magma")]


def _error(arrays: "Mapping[str, np.ndarray]") -> "np.ndarray":
    import numpy as np

    return np.abs(arrays["mean"] - arrays["truth"])


def _high(x: "np.ndarray") -> float:
    """Near the largest value: a few outliers do not darken all others."""
    import numpy as np

    finite = x[np.isfinite(x)]
    return float(np.quantile(finite, 0.995)) if finite.size else 0.0


def _range(truth: "np.ndarray") -> tuple[float, float]:
    import numpy as np

    if np.iscomplexobj(truth):
        return 0.0, float(np.abs(truth).max())
    drawn = _drawable(truth)  # of two channels, magnitudes
    return float(min(truth.min(), drawn.min())) if drawn.min() < 0 else float(drawn.min()), float(drawn.max())


def _measured(operator: str, arrays: "Mapping[str, np.ndarray]") -> list[Picture]:
    """Returns the measurement where it is a picture; kept pixels, k-space and other lists of an image's data as A^T y.

    In the truth's grey levels where it is of its kind, else in its own.
    """
    import numpy as np

    y, truth, caption = arrays["measurement"], arrays["truth"], "measurement"
    flat = _drawable(truth).ndim == 1
    if not flat and (y.ndim < 2 or min(y.shape[-2:]) < 4 or np.iscomplexobj(y)):
        found = _adjoint(operator, y, truth.shape)
        if found is None:
            return []
        y, caption = found, "measurement, Aᵀy"
    drawn = _drawable(y)
    limits, margin = _range(truth), 0.25 * np.ptp(_range(truth))
    alike = y.shape[: max(y.ndim - 2, 0)] == truth.shape[: max(truth.ndim - 2, 0)]
    if not alike or drawn.min() < limits[0] - margin or drawn.max() > limits[1] + margin:
        limits = float(drawn.min()), float(drawn.max())
    return [_picture(caption, y, limits)]


def _adjoint(operator: str, y: "np.ndarray", shape: tuple[int, ...]) -> "np.ndarray | None":
    """Returns A^T y; None for a nonlinear operator, and where it cannot be made again (a user's, from another folder)."""
    import torch

    from invgen.forward import LinearOperator
    from invgen.names import resolve

    try:
        A = resolve.operator(operator, shape)
        if not isinstance(A, LinearOperator):
            return None
        with torch.no_grad():
            return A.adjoint(torch.from_numpy(y)).numpy()
    except Exception:  # a user's code may raise anything, and the page can do without this picture
        return None


# -- drawing -------------------------------------------------------------------------------------------------------------


def _drawable(x: "np.ndarray") -> "np.ndarray":
    """Returns (H, W), (H, W, 3) or (N,), float."""
    import torch

    from invgen.plots import as_picture

    return as_picture(torch.from_numpy(x)).double().numpy()


def _picture(caption: str, x: "np.ndarray", limits: tuple[float, float], map_name: str | None = None) -> Picture:
    import numpy as np

    drawn = np.atleast_1d(_drawable(x))
    low, high = limits
    if drawn.ndim == 1:
        levels = _wave(drawn, (min(low, 0.0) if map_name else low, high))
        if drawn.size >= SOUND and map_name is None:
            levels = np.concatenate([levels, _spectrogram(drawn)])
        return Picture(caption, _uri(levels))
    unit = np.nan_to_num(np.clip((drawn - low) / ((high - low) or 1.0), 0, 1))
    if map_name is not None:
        unit = _coloured(unit.mean(-1) if unit.ndim == 3 else unit, map_name)
    return Picture(caption, _uri((unit * 255).round().astype(np.uint8)))


def _coloured(unit: "np.ndarray", map_name: str) -> "np.ndarray":
    from matplotlib import colormaps

    return colormaps[map_name](unit)[..., :3]


def _uri(levels: "np.ndarray") -> str:
    """Of (H, W) or (H, W, 3) bytes; large pictures are averaged down to SIDE."""
    from PIL import Image

    picture = Image.fromarray(levels)
    if max(picture.size) > 2 * min(picture.size):  # a sinogram of few angles is a thin strip
        picture = picture.resize([max(n, max(picture.size) // 2) for n in picture.size], Image.Resampling.NEAREST)
    if max(picture.size) > SIDE:
        shrink = SIDE / max(picture.size)
        size = (max(round(picture.width * shrink), 1), max(round(picture.height * shrink), 1))
        picture = picture.resize(size, Image.Resampling.BOX)
    data = io.BytesIO()
    picture.save(data, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def _wave(x: "np.ndarray", limits: tuple[float, float]) -> "np.ndarray":
    """Returns a waveform: in each column of pixels, from the least to the greatest of the values that fall there."""
    import numpy as np

    width, height = WAVE
    low, high = limits
    rows = np.clip((high - np.nan_to_num(x)) / ((high - low) or 1.0), 0, 1) * (height - 1)
    if len(rows) < width:  # few values are joined by lines
        rows = np.interp(np.linspace(0, max(len(rows) - 1, 0), width), np.arange(len(rows)), rows)
    levels = np.full((height, width), 255, np.uint8)
    if low < 0 < high:
        levels[round(high / (high - low) * (height - 1))] = 220  # zero
    before = rows[0]
    for column, part in enumerate(np.array_split(rows, width)):
        top, bottom = min(part.min(), before), max(part.max(), before)
        levels[int(round(top)) : int(round(bottom)) + 1, column] = 40
        before = part[-1]
    return np.stack([levels] * 3, -1)


def _spectrogram(x: "np.ndarray") -> "np.ndarray":
    """Returns log magnitudes of the short-time Fourier transform over 80 dB, low frequencies at the bottom."""
    import numpy as np
    import torch
    from PIL import Image

    n = 256
    found = torch.stft(
        torch.from_numpy(x),
        n,
        hop_length=max(len(x) // WAVE[0], 1),
        window=torch.hann_window(n).double(),
        return_complex=True,
    )
    db = 20 * np.log10(found.abs().numpy() + 1e-12)
    unit = np.clip((db - db.max()) / 80 + 1, 0, 1)[::-1]
    levels = (_coloured(unit, "magma") * 255).astype(np.uint8)
    return np.asarray(Image.fromarray(levels).resize(WAVE, Image.Resampling.BOX))
