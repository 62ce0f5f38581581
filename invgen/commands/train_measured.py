"""The job of `invgen train --measured`: measurements of a folder, the operator of each, and a prior trained on them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invgen.errors import FileError, OptionError
from invgen.files.arrays import read_npy, read_npz_tables
from invgen.forward import LinearOperator, Operator
from invgen.names import resolve
from invgen.priors.recipes import RECIPES
from invgen.priors.training.measured import train_measured

EXPECTED = "expected NPY files of measurements, or NPZ files with `y` and the operator's options, one for each measurement"


def train(
    folder: Path,
    operator: str | None,
    noise: float | None,
    shape: str | None,
    recipe: str | None,
    out: Path,
    **options: Any,
) -> Path:
    """Reads the measurements of a folder, trains a prior on them, and returns the path of its weights.

    Args:
        folder: see `measurements`.
        operator: a name with options, as `invgen.names` reads them.
        noise: standard deviation in the units of y.
        shape: of the signals, such as "1x32x32", where there is no recipe.
        recipe: a recipe by name.
        out: the folder of the run.
        options: of `train_measured`.

    Raises:
        OptionError: an option that is needed is missing.
    """
    if operator is None or noise is None:
        raise OptionError(
            '--measured needs --operator, such as "Mask.random(keep=0.25)", and --noise, its standard deviation'
        )
    if (shape is None) == (recipe is None):
        raise OptionError(
            "--measured needs the shape of the signals: pass --shape, such as 1x32x32, or the name of a recipe"
        )
    if recipe is not None and recipe not in RECIPES:
        raise OptionError(f"'{recipe}' is not trained from measurements; there are: {', '.join(RECIPES)}")
    size = _shape(shape) if shape is not None else tuple(RECIPES[recipe or ""].shape)
    y, operators = measurements(folder, operator, size)
    return train_measured(y, operators, noise, out, recipe, **options)


def measurements(folder: Path | str, operator: str, shape: Sequence[int]) -> tuple[list[Tensor], list[LinearOperator]]:
    """Returns the measurements under a folder and the operator of each.

    An NPY file holds what `operator` measured as it stands: (*out_shape) or (N, *out_shape). An NPZ file holds `y`,
    (N, *out_shape), and arrays with the names of options of the operator, (N, ...), a value for each measurement: `seed`,
    `mask`, `angles`. Measurements of other lengths go into files of their own. Files are read in the order of their names.

    Args:
        folder: with such files.
        operator: a name with options, as `invgen.names` reads them.
        shape: of the signals.

    Raises:
        FileError: there is no such file, or one of another form.
        OptionError: the operator is not linear, or does not make such measurements.
    """
    files = sorted(
        p for p in Path(folder).rglob("*") if p.suffix.lower() in (".npy", ".npz") and not p.name.startswith(".")
    )
    if not files:
        raise FileError(f"there are no measurements under {folder}: {EXPECTED}")
    y, operators, shared = list[Tensor](), list[LinearOperator](), None
    for path in files:
        arrays = {"y": read_npy(path)} if path.suffix.lower() == ".npy" else read_npz_tables(path)
        if "y" not in arrays:
            raise FileError(f"{path} has no array `y`, it holds {', '.join(arrays) or 'nothing'}; {EXPECTED}")
        rows = arrays.pop("y")
        if not (rows.is_floating_point() or rows.is_complex()):
            rows = rows.float()
        if not arrays:
            shared = shared or _linear(resolve.operator(operator, shape), operator)
            if rows.shape == shared.out_shape:
                rows = rows[None]
            many: Sequence[LinearOperator] = [shared] * len(rows)
        else:
            many = _of_each(operator, shape, arrays, len(rows), path)
        for row, A in zip(rows, many, strict=True):
            if row.shape != A.out_shape:
                raise FileError(
                    f"a measurement of {path} has shape {tuple(row.shape)}, the operator gives {tuple(A.out_shape)}"
                )
            y.append(row.to(torch.complex64 if row.is_complex() else torch.float32))
            operators.append(A)
    return y, operators


def _of_each(
    operator: str, shape: Sequence[int], arrays: Mapping[str, Tensor], count: int, path: Path
) -> list[LinearOperator]:
    """Returns an operator for each measurement of a file; the same one where all its options are the same."""
    for key, values in arrays.items():
        if values.ndim == 0 or len(values) != count:
            raise FileError(
                f"{path}:{key} has shape {tuple(values.shape)}, expected {count} values, one for each measurement"
            )
    made: dict[tuple[bytes, ...], LinearOperator] = {}
    out = []
    for k in range(count):
        own = {key: values[k].item() if values.ndim == 1 else values[k] for key, values in arrays.items()}
        same = tuple(np.ascontiguousarray(values[k].numpy()).tobytes() for values in arrays.values())
        if same not in made:
            made[same] = _linear(resolve.operator(operator, shape, own), operator)
        out.append(made[same])
    return out


def _linear(A: Operator, spec: str) -> LinearOperator:
    if not isinstance(A, LinearOperator):
        raise OptionError(f"training from measurements needs a linear operator, got {spec}")
    return A


def _shape(text: str) -> tuple[int, ...]:
    """Returns "1x32x32" as (1, 32, 32)."""
    parts = text.lower().split("x")
    if not all(p.isdigit() and int(p) for p in parts):
        raise OptionError(f"cannot read the shape {text!r}; expected CxHxW or CxL, such as 1x32x32")
    return tuple(map(int, parts))
