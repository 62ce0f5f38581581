"""Rows of a CSV file, one a run, written the moment it ends."""

import csv
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from invgen.benchmarks.studies.exact import at_budget
from invgen.errors import FileError
from invgen.files.writing import write_text
from invgen.names import resolve
from invgen.posterior import Posterior
from invgen.sampler import Cost, Sampler

HEAD = ("problem", "sampler", "budget", "options", "nfe", "seconds", "figures", "error")
EXACT = "exact"  # stands for independent exact samples; its budget is 0
Figures = dict[str, float]


@dataclass(frozen=True)
class Row:
    """One sampler on one problem.

    Attributes:
        budget: network evaluations a sample that it was given.
        options: those that were chosen by a search, as a spec; "" without one.
        nfe, seconds: what it spent, a sample and in all, without the search.
        figures: what was measured.
        error: why it failed.
    """

    problem: str
    sampler: str
    budget: int
    options: str = ""
    nfe: float = 0.0
    seconds: float = 0.0
    figures: Figures | None = None
    error: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        return self.problem, self.sampler, self.budget


def load(path: Path) -> list[Row]:
    """Returns the rows of a file; none where there is no file.

    Raises:
        FileError: not such a file.
    """
    if not path.exists():
        return []
    try:
        lines = list(csv.DictReader(path.read_text().splitlines()))
        return [
            Row(
                line["problem"], line["sampler"], int(line["budget"]), line["options"], float(line["nfe"]),
                float(line["seconds"]), json.loads(line["figures"]) or None, line["error"],
            )
            for line in lines
        ]  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path} is no table of this study ({error}); name another file with --store") from error


def save(path: Path, rows: Iterable[Row]) -> None:
    """Writes a whole file, atomically, in the order of its keys."""
    import io

    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(HEAD)
    for row in sorted(rows, key=lambda r: r.key):
        figures = {k: None if math.isnan(v) else float(f"{v:.4g}") for k, v in (row.figures or {}).items()}
        table.writerow([*row.key, row.options, f"{row.nfe:.4g}", f"{row.seconds:.3g}", json.dumps(figures), row.error])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text.getvalue())


def run(sampler: Sampler, post: Posterior, budget: int, num_samples: int, judge: Callable[..., Figures], row: Row) -> Row:
    """Returns the row of a sampler with `budget` evaluations a sample; one that fails has the reason.

    Args:
        sampler: with its options but the number of steps.
        post: a batch of measurements.
        budget: evaluations a sample.
        num_samples: of each measurement.
        judge: samples (num_samples, *batch, *shape) -> figures.
        row: without its results.
    """
    spent = Cost()
    try:
        one = post.rows(torch.tensor([0])) if post.batch else post
        x = at_budget(sampler, one, budget, num_samples)(post, num_samples, seed=0, cost=spent)
        return replace(row, figures=judge(x), nfe=spent.nfe, seconds=spent.seconds)
    except Exception as failure:  # a run that fails is a result: it is shown, and the others go on
        return replace(row, nfe=spent.nfe, seconds=spent.seconds, error=f"{type(failure).__name__}: {failure}"[:300])


def best_of(specs: Sequence[str], score: Callable[[Sampler], float]) -> str:
    """Returns the spec with the smallest score; a sampler that fails has none."""

    def safe(spec: str) -> float:
        try:
            value = score(resolve.sampler(spec))
        except Exception:
            return math.inf
        return value if math.isfinite(value) else math.inf

    return min(specs, key=safe)
