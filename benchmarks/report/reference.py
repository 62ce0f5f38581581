"""The reference results of the shipped suites, and the tables of them in README.md and docs/suites.md.

reference/NAME.csv is the table of `invgen bench report` for a run of the suite NAME; `invgen bench compare` reads it as it
reads a folder. `invgen bench reference --keep NAME FOLDER` puts a new one in its place, `--write README.md` (and
docs/results.md, docs/suites.md) bring the pages up to date.
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from invgen.benchmarks.report.result_tables import write_csv
from invgen.benchmarks.report.results import Results, Row, read
from invgen.benchmarks.report.statistics import interval, paired
from invgen.benchmarks.report.tables import values_of
from invgen.benchmarks.suite.expand import expand
from invgen.benchmarks.suite.file import load, shipped_names
from invgen.errors import InvgenError

FOLDER = Path(__file__).parents[1] / "reference"
ORDER = ("photo", "photo20", "ct", "ct_patients", "mri", "speech", "exact", "peers")  # quick says nothing of quality
ENOUGH = 5  # signals, from which paired intervals are shown
METRICS = {
    "distance": "sliced Wasserstein-1 distance to the exact posterior, in units of the signal; less is better",
    "psnr": "PSNR of the mean of the samples, dB; more is better. In parentheses: values in the central 50 % intervals",
    "snr": "signal-to-noise ratio of the mean of the samples, dB; more is better. In parentheses: values in the central "
    "50 % intervals",
}
COVERAGE = "coverage(level=0.5)"
PEER_METRICS = {"PSNR": "psnr", "energy score": "energy", "residual": "residual"}
PEER_COSTS = ("network evaluations", "seconds a sample")


def path_of(name: str) -> Path:
    """Returns the path of the reference of a suite."""
    return FOLDER / f"{name}.csv"


def table(results: Results) -> str:
    """Returns problems by methods, in Markdown: one metric, averaged over images and seeds, and beside it, in parentheses,
    the share of values that the samples' central 50 % intervals hold.

    Classical methods that fit every problem have a column each; of the others the best on a problem is shown, with its
    name: chosen by the truth, an advantage that no sampler gets.
    """
    metric = next(m for m in METRICS if m in results.metrics)
    problems = list(dict.fromkeys(row.problem for row in results.rows))
    methods = dict.fromkeys((row.sampler, row.kind) for row in results.rows)
    values = {(p, m): _mean(results.rows, p, m, metric) for p in problems for m, _ in methods}
    everywhere = [m for m, _ in methods if all(values[p, m] is not None for p in problems)]
    some = [m for m, kind in methods if kind == "classical" and m not in everywhere]
    shown = [m for m, kind in methods if m in everywhere or kind != "classical"]
    heads = ["problem", *(["best classical method"] if some else []), *(f"`{m}`" for m in shown)]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for problem in problems:
        entries = [_text(values[problem, m]) + _covered(results, problem, m, metric) for m in shown]
        if some:
            there = [(values[problem, m], m) for m in some if values[problem, m] is not None]
            best = (min if metric == "distance" else max)(there, default=None)
            entries.insert(0, f"{_text(best[0])} ({best[1].partition('(')[0]})" if best else "")
        lines.append([problem, *entries])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _mean(rows: Sequence[Row], problem: str, method: str, metric: str) -> float | None:
    found = [r.values[metric] for r in rows if (r.problem, r.sampler) == (problem, method) and metric in r.values]
    return sum(found) / len(found) if found else None


def _covered(results: Results, problem: str, method: str, metric: str) -> str:
    """Returns the coverage in parentheses; nothing beside a distance, which judges the spread itself, nor of one point."""
    spread = [row for row in results.rows if row.kind != "classical"]
    share = None if metric == "distance" else _mean(spread, problem, method, COVERAGE)
    return f" ({share:.0%})" if share else ""  # none of a point's values lies within its spread


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def markdown() -> str:
    """Returns the tables of all references that there are, with a line each on what they show."""
    names = [n for n in ORDER if path_of(n).is_file() and n != "peers"]
    return "\n\n".join(_section(name) for name in names)


def _section(name: str) -> str:
    results = read(path_of(name))
    metric = next(m for m in METRICS if m in results.metrics)
    images, seeds = (len({getattr(row, of) for row in results.rows}) for of in ("image", "seed"))
    samples = max(row.num_samples for row in results.rows)
    about = f"{images} signal{'s' * (images > 1)}, {seeds} seed{'s' * (seeds > 1)}, {samples} samples"
    text = f"**{load(name).content['title']}** (`invgen bench run {name}`; {about}): {METRICS[metric]}.\n\n{table(results)}"
    return f"{text}\n\n{differences(results, metric)}" if images >= ENOUGH and metric != "distance" else text


def differences(results: Results, metric: str) -> str:
    """Returns, in Markdown, each sampler less the classical method that is best on average in its problem, paired over
    signals, with the 95 % interval."""
    kinds = {row.sampler: row.kind for row in results.rows}
    samplers = [name for name, kind in kinds.items() if kind != "classical"]
    lines = [["problem", "best classical method", *(f"`{name}`" for name in samplers)]]
    lines.append(["---", "---", *["---:"] * len(samplers)])
    for problem in dict.fromkeys(row.problem for row in results.rows):
        rows = [row for row in results.rows if row.problem == problem]
        values = {name: values_of([row for row in rows if row.sampler == name], metric) for name in kinds}
        known = [name for name in values if values[name] and kinds[name] == "classical"]
        if not known:
            continue
        best = max(known, key=lambda name: interval(values[name]).mean)
        found = [paired(values[name], values[best]) for name in samplers]
        entries = [f"{d.mean:+.2f} ({d.low:+.2f} to {d.high:+.2f})" if d.images else "" for d in found]
        lines.append([problem, best.partition("(")[0], *entries])
    head = "Less the classical method that is best on average, over the same signals, with the 95 % interval:"
    return f"{head}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def keep(name: str, folder: str | Path) -> None:
    """Puts the results in a folder in place of the reference of a suite: its cells, and no others that lie there."""
    wanted = {(c.problem, c.facts()["prior"], c.sampler, c.image, c.seed) for c in expand(name)}
    results = read(folder)
    write_csv(replace(results, rows=tuple(row for row in results.rows if row.identity in wanted)), path_of(name))


def side_by_side(results: Results) -> str:
    """Methods by problems, in Markdown: PSNR, energy score, residual, and what a sample costs; peers are marked."""
    problems = list(dict.fromkeys(row.problem for row in results.rows))
    lines = [["", *(f"{p}: {m}" for p in problems for m in PEER_METRICS), *PEER_COSTS]]
    lines.append(["---", *["---:"] * (len(lines[0]) - 1)])
    for (sampler, kind), of in _by_method(results).items():
        per = {"nfe": 1, "seconds": of[0].num_samples}
        values = [_text(_mean(of, p, sampler, m)) for p in problems for m in PEER_METRICS.values()]
        costs = [_text(sum(row.values[cost] for row in of) / len(of) / n) for cost, n in per.items()]
        lines.append([f"`{sampler}`" + " (peer)" * (kind == "peer"), *values, *costs])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _by_method(results: Results) -> dict[tuple[str, str], list[Row]]:
    found: dict[tuple[str, str], list[Row]] = {}
    for row in results.rows:
        found.setdefault((row.sampler, row.kind), []).append(row)
    return found


def refreshed(page: str) -> str:
    """Returns a page with the table of each suite NAME between its markers, `results-NAME:begin` and `results-NAME:end`,
    made anew.

    Raises:
        FileError: it has no such markers.
    """
    from invgen.commands.catalogue import between

    found = re.findall(r"<!-- results-(\w+):begin -->", page)
    for name in found or ORDER[:1]:
        page = between(page, f"results-{name}", side_by_side(read(path_of(name))) if name == "peers" else _section(name))
    return page


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables, writes them to a page, or keeps the results of a run as the reference."""
    from invgen.commands import catalogue

    parser = argparse.ArgumentParser(prog="invgen bench reference", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", type=Path, metavar="PAGE", help="README.md, docs/results.md or docs/suites.md")
    parser.add_argument(
        "--keep", nargs=2, metavar=("NAME", "FOLDER"), help="the results of a run as the reference of a suite"
    )
    args = parser.parse_args(argv)
    if args.keep:
        name, folder = args.keep
        if name not in shipped_names():
            parser.error(f"{name} is no shipped suite; there are {', '.join(shipped_names())}")
        try:
            keep(name, folder)
        except InvgenError as error:
            parser.error(str(error))
    if args.write:
        catalogue.write(args.write, refreshed)
    elif not args.keep:
        print(markdown())
