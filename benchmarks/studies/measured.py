"""Reconstructions of real measurements: `invgen bench study measured --data FOLDER`, docs/measured.md.

Each row is written the moment it ends; a row that is there is not computed again. A picture for each case lies beside them.
"""

import argparse
import csv
import importlib
from pathlib import Path

import torch

from invgen.benchmarks.measured.case import Case, Found, solved
from invgen.errors import OptionError
from invgen.files.writing import replace
from invgen.names.spelling import hint

INSTRUMENTS = {
    "levin": "eight measured camera-shake kernels on photographs",
    "single-pixel": "a single-pixel camera in Haar patterns",
    "htc": "limited-angle fan-beam CT of acrylic discs, Helsinki Tomography Challenge 2022",
    "tooth": "synchrotron micro-CT of a tooth, 23 of 181 views",
    "pet": "PET transmission scan of a thorax phantom, by counts",
    "lensless": "DiffuserCam, a camera without a lens",
    "kspace": "k-space of a brain, eight coils, an eighth of it sampled",
    "m87": "the black hole M87*, Event Horizon Telescope 2017",
}
COLUMNS: tuple[str, ...] = ("instrument", "case", "method", "kind", "score", "value", "residual", "evaluations", "seconds")


def main(argv: list[str] | None = None) -> None:
    """Runs the study and prints its table."""
    parser = argparse.ArgumentParser(prog="invgen bench study measured", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of the measurements (docs/measured.md)")
    parser.add_argument("--out", type=Path, default=Path("measured"), help="a folder for measured.csv and the pictures")
    parser.add_argument("--only", action="append", metavar="NAME", help=f"of {', '.join(INSTRUMENTS)}; all by default")
    parser.add_argument("--samples", type=int, default=4, help="of each sampler, whose mean is judged")
    parser.add_argument("--quick", action="store_true", help="smaller pictures, fewer cases and steps")
    args = parser.parse_args(argv)
    for name in args.only or INSTRUMENTS:
        if name not in INSTRUMENTS:
            raise OptionError(f"unknown instrument {name!r}; {hint(name, INSTRUMENTS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    table = args.out / "measured.csv"
    rows = _read(table)
    for name in args.only or INSTRUMENTS:
        for case in importlib.import_module(f"invgen.benchmarks.measured.{name.replace('-', '_')}").cases(
            args.data, args.quick
        ):
            if all(any(_key(row) == (case.instrument, case.name, m) for row in rows) for m in case.methods):
                continue
            found = []
            for one in solved(case, args.samples):
                found.append(one)
                rows = [row for row in rows if _key(row) != (case.instrument, case.name, one.method)] + _rows(one)
                _write(table, rows)
                print(_line(one), flush=True)
            draw(case, found, args.out / f"{case.instrument}-{case.name.replace(' ', '-').replace(',', '')}.png")
    print(f"the table is {table}, pictures lie beside it")


def _key(row: dict[str, str]) -> tuple[str, str, str]:
    return row["instrument"], row["case"], row["method"]


def _rows(found: Found) -> list[dict[str, str]]:
    case = found.case
    first = {"instrument": case.instrument, "case": case.name, "method": found.method, "kind": found.kind}
    costs = {
        "residual": f"{found.residual:.4g}",
        "evaluations": f"{found.evaluations:.4g}",
        "seconds": f"{found.seconds:.3g}",
    }
    return [first | {"score": key, "value": f"{value:.4g}"} | costs for key, value in found.scores.items()]


def _line(found: Found) -> str:
    scores = ", ".join(f"{key} {value:.4g}" for key, value in found.scores.items())
    rest = f"residual {found.residual:.3g}, {found.evaluations:.0f} evaluations, {found.seconds:.0f} s"
    return f"{found.case.instrument}, {found.case.name}: {found.method}: {scores} ({rest})"


def _read(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    def write(unfinished: Path) -> None:
        with unfinished.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    replace(path, write)


def draw(case: Case, found: list[Found], path: Path) -> None:
    """Writes the reference and what each method found as one picture, each under its name and its first score."""
    from matplotlib.figure import Figure

    panels = [] if case.reference is None else [("reference", case.reference)]
    for one in found:
        name, value = next(iter(one.scores.items()))
        panels.append((f"{one.method}\n{name} {value:.3g}", one.picture))
    figure = Figure(figsize=(2.4 * len(panels), 2.9), layout="constrained")
    for axes, (title, picture) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        shown = picture.movedim(0, -1) if picture.ndim == 3 else picture
        axes.imshow(torch.as_tensor(shown).float().numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(title, fontsize=8)
        axes.set_axis_off()
    replace(path, lambda unfinished: figure.savefig(unfinished, dpi=110, format="png"))
