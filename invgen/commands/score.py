"""The job of `invgen score`: files and a prior in, a table, p-values and ROC curves out."""

import csv
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invgen import __version__
from invgen.diffusion import Prior
from invgen.errors import FileError
from invgen.files import reader
from invgen.files.writing import atomic_folder
from invgen.inference.score import Scores, detector, score
from invgen.names.prepare import prepared


def run(
    folder: str | Path,
    *,
    prior: str,
    reference: str | Path | None = None,
    made: str | Path | None = None,
    num_samples: int = 100,
    noise: float = 0.0,
    steps: int = 8,
    seed: int = 0,
    out: str | Path = "out",
    size: tuple[int, ...] | None = None,
    rescale: tuple[float, float] = (1.0, 0.0),
    max_batch: int | None = None,
    device: str = "cpu",
) -> str:
    """Scores the files of a folder and writes, all or nothing, into `out`: scores.csv (a line each), roc.png, summary.json.

    Args:
        folder: of signals, or one file.
        prior: its name with options.
        reference: a folder of signals that are known to fit the prior; samples of the prior without it.
        made: a folder of signals that a model made: then a detector is learnt from `reference` and these, and scores.csv
            has the probability that each file was made too.
        num_samples, noise, steps, seed, max_batch: as for `invgen.score`.
        out: the folder of results.
        size: shape of the signal, for a prior that knows several.
        rescale: (scale, shift) of the prior's units.
        device: of torch, "cpu" or "cuda".

    Returns:
        The table, as text.

    Raises:
        InvgenError: one sentence about what does not fit.
    """
    from invgen.plots import show_roc

    p = prepared(prior, size, rescale, device)
    paths, x = _signals(folder, p)
    known = None if reference is None else _signals(reference, p)[1]
    with atomic_folder(out) as target:
        options = {"num_samples": num_samples, "noise": noise, "steps": steps, "seed": seed, "max_batch": max_batch}
        scores = score(x, p, known, **options)
        columns = {"p_value": scores.p_value, **scores.values}
        if made is not None:
            examples = score(_signals(made, p)[1], p, known, **options)
            columns["made"] = detector(examples.reference, examples.values)(scores.values).sigmoid()
        _write(target, paths, columns, scores)
        show_roc(scores, target / "roc.png")
        summary: dict[str, Any] = {
            "folder": str(folder),
            "prior": prior,
            "reference": scores.source,
            "auroc": {name: [a.value, a.low, a.high] for name, a in scores.auroc().items()},
            "noise": noise,
            "steps": steps,
            "seed": seed,
            "invgen": __version__,
            "torch": torch.__version__,
        }
        (target / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    text = str(scores)
    if made is not None:
        text += f"\n{int((columns['made'] > 0.5).sum())} of {len(x)} files look made, by what was learnt from {made}"
    return text


def _signals(folder: str | Path, prior: Prior) -> tuple[list[Path], Tensor]:
    """Returns the files of a folder, in the order of their names, and their signals, (B, *shape)."""
    root = Path(folder)
    paths = [root] if root.is_file() else sorted(p for p in root.glob("*") if p.is_file() and p.name[0] != ".")
    if not paths:
        raise FileError(f"there are no files in {root}: give a file, or a folder of pictures, arrays or recordings")
    return paths, torch.stack([reader.fit(reader.read(path), prior)[0] for path in paths])


def _write(target: Path, paths: list[Path], columns: dict[str, Tensor], scores: Scores) -> None:
    with (target / "scores.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", *columns])
        for k, path in enumerate(paths):
            table.writerow([path.name, *(f"{column[k].item():.6g}" for column in columns.values())])
