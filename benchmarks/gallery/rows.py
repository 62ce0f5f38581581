"""Rows of the gallery: their figures with 95 % intervals, and the list of all systems."""

import dataclasses
import importlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from invgen.errors import OptionError

HERE = Path(__file__).parent
MEASURED = HERE / "measured"
SYSTEMS = {
    1: "Inverse graphics",
    2: "Stroke painting to picture",
    3: "Editing by strokes",
    4: "Pictures guided by language",
    5: "Sparse-view CT",
    6: "Outliers and purification",
    7: "GAN priors",
    8: "Diffusion priors",
    9: "Text to picture",
    10: "Super-resolution",
    11: "Inpainting",
    12: "Colourisation",
    13: "Editing by text",
    14: "Sound, sample by sample",
    15: "Text to speech: the vocoder",
    16: "Super-resolution of sound",
    17: "Text infilling",
    18: "Translation by a noisy channel",
    19: "Programs from tests",
    20: "Restoration of video",
    21: "Molecules from distances",
    22: "Detection of generated pictures",
    23: "Representation, learning, inference",
}


@dataclass(frozen=True)
class Figure:
    """One measured number of a row.

    Attributes:
        name: what was measured.
        value, low, high: the number and its 95 % interval; nan where there is none.
        unit: "px", "A", "%", ...
        least, most: the bounds that the value has to keep, where there are any.
        baseline: what it is compared with, name and number.
    """

    name: str
    value: float
    low: float = math.nan
    high: float = math.nan
    unit: str = ""
    least: float | None = None
    most: float | None = None
    baseline: str = ""

    @property
    def holds(self) -> bool:
        """Whether the value keeps its bounds; a nan keeps none."""
        return not (self.least is not None and not self.value >= self.least) and not (
            self.most is not None and not self.value <= self.most
        )

    @property
    def bound(self) -> str:
        """The bounds, in words."""
        parts = [f"{sign} {b:g}" for sign, b in ((">=", self.least), ("<=", self.most)) if b is not None]
        return " and ".join(parts)

    @property
    def text(self) -> str:
        """The value with its interval, and the unit."""
        inside = "" if math.isnan(self.low) else f" ({self.low:.3g} to {self.high:.3g})"
        return f"{self.value:.3g}{inside}{self.unit and ' ' + self.unit}"


@dataclass(frozen=True)
class Row:
    """The figures that a row has measured, the first one first.

    Attributes:
        number: of the system.
        figures: at least one.
        files: the picture, sound or clip that was written, the picture first.
        note: what a reader should know, such as a bound that is missed and why.
    """

    number: int
    figures: tuple[Figure, ...]
    files: tuple[Path, ...] = ()
    note: str = ""

    @property
    def system(self) -> str:
        """The name of the system."""
        return SYSTEMS[self.number]

    @property
    def holds(self) -> bool:
        """Whether all figures keep their bounds."""
        return all(f.holds for f in self.figures)

    def text(self) -> str:
        """Returns the table of the figures."""
        head = ("figure", "value (95 % interval)", "bound", "baseline", "")
        cells = [(f.name, f.text, f.bound, f.baseline, "" if f.holds else "MISSED") for f in self.figures]
        table = columns([head, *cells])
        after = f"\n{self.note}" if self.note else ""
        return f"{self.number}. {self.system}\n{table}{after}"

    def json(self) -> str:
        """Returns the row as JSON, without the folder of its files."""
        content = {"number": self.number, "figures": [dataclasses.asdict(f) for f in self.figures], "note": self.note}
        content["files"] = [path.name for path in self.files]
        return json.dumps(content, indent=1) + "\n"


def mean(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns the mean of independent cases and the ends of its 95 % t interval."""
    from invgen.benchmarks.report.statistics import interval

    found = interval({(str(i), 0): float(v) for i, v in enumerate(values)})
    return found.mean, found.low, found.high


def share(hits: Sequence[bool] | Sequence[float]) -> tuple[float, float, float]:
    """Returns the share of independent cases that hold, and the ends of its 95 % interval (Wilson)."""
    from scipy.stats import binomtest

    count = sum(bool(h) for h in hits)
    ci = binomtest(count, len(hits)).proportion_ci(method="wilson")
    return count / len(hits), float(ci.low), float(ci.high)


def bootstrap(statistic: Callable[..., float], *cases: Sequence[float]) -> tuple[float, float, float]:
    """Returns a statistic of one or more sets of independent cases and the ends of its 95 % percentile interval.

    Args:
        statistic: of one array for each set, such as numpy.median or an AUROC; each set is resampled by itself.
        cases: the sets.
    """
    import numpy as np

    sets, rng = [np.asarray(c) for c in cases], np.random.default_rng(0)
    draws = [statistic(*(rng.choice(s, len(s)) for s in sets)) for _ in range(999)]
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(statistic(*sets)), float(low), float(high)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows of cells as lines with aligned columns."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def script(number: int) -> Path | None:
    """Returns the file of a row, or None where it is not built yet."""
    found = sorted(HERE.glob(f"*/row{number:02d}_*.py"))
    return found[0] if found else None


def find(number: int) -> Callable[[Path, bool], Row]:
    """Returns the function `run(out, quick)` of a row.

    Raises:
        OptionError: there is no such system, or its row is not built yet.
    """
    if number not in SYSTEMS:
        raise OptionError(f"there is no row {number} in the gallery; the systems are numbered from 1 to {len(SYSTEMS)}")
    path = script(number)
    if path is None:
        built = ", ".join(str(n) for n in SYSTEMS if script(n)) or "none"
        raise OptionError(f"row {number}, {SYSTEMS[number].lower()}, is not built yet; there are {built}")
    return importlib.import_module(f"invgen.benchmarks.gallery.{path.parent.name}.{path.stem}").run


def measured(number: int) -> Row | None:
    """Returns the stored figures of the full run of a row, or None."""
    path = MEASURED / f"row{number:02d}.json"
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    figures = tuple(Figure(**f) for f in content["figures"])
    return Row(content["number"], figures, tuple(Path(name) for name in content["files"]), content["note"])


def listing() -> str:
    """Returns the table of all systems: number, system, status, and each figure beside its bound and its baseline."""
    cells: list[Sequence[str]] = [("row", "system", "status", "figure", "value (95 % interval)", "bound", "baseline")]
    for number, name in SYSTEMS.items():
        row = measured(number)
        if script(number) is None or row is None:
            cells.append((str(number), name, "not built yet" if script(number) is None else "not measured yet", *[""] * 4))
            continue
        for k, f in enumerate(row.figures):
            status = "reached" if f.holds else "missed"
            first = (str(number), name) if k == 0 else ("", "")
            cells.append((*first, status if f.bound else "", f.name, f.text, f.bound, f.baseline))
    return columns(cells)
