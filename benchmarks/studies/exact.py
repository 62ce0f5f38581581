"""Every sampler on every family of problems with an exact posterior: `invgen bench study exact --full`.

Results are rows of a CSV file, appended the moment a run ends; started again, the command computes what is missing. Every
sampler gets the same number of network evaluations a sample, by its number of steps, or several such numbers in turn
(`--steps 10 25 100`); chains of particles give as many samples as they have particles. A run that fails is a row with its
error, and is counted in the table.
"""

import argparse
import csv
import io
import json
import math
import os
import tempfile
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from invgen import samplers
from invgen.benchmarks.studies import manifold, mixture
from invgen.benchmarks.studies.mixture import ALL_DIMS
from invgen.benchmarks.studies.problems import Family, Judged, families
from invgen.benchmarks.suite.parts import one_thread
from invgen.errors import DivergedError, FileError
from invgen.files.writing import write_text
from invgen.names import resolve
from invgen.posterior import Posterior
from invgen.sampler import Cost, Sampler
from invgen.samplers.smc.base import EnsembleSampler

RESULTS = Path(__file__).parents[1] / "data" / "exact_results.csv"
BUDGETS = (10, 25, 100)  # evaluations a sample, of the page of samplers
FLOOR = "floor"  # stands for a second exact set among the samplers; its budget is 0
Cell = tuple[str, str, int, int]


@dataclass(frozen=True)
class Run:
    """One sampler on one instance with a budget; distance is nan and error says why where it failed."""

    family: str
    sampler: str
    instance: int
    budget: int
    distance: float
    rmse: float = math.nan
    nfe: float = 0.0
    seconds: float = 0.0
    error: str = ""

    @property
    def key(self) -> Cell:
        return self.family, self.sampler, self.instance, self.budget

    @property
    def affordable(self) -> bool:
        """Says whether the sampler kept to the budget; one step of some takes more."""
        return self.sampler == FLOOR or "steps=" in self.sampler or self.nfe <= 1.25 * self.budget


def _price(sampler: Sampler, post: Posterior) -> tuple[float, float]:
    """Returns network evaluations a sample as a + b * steps, of a particle where there are chains.

    Measured with 8 and 16 steps on two samples; with more of both where so few diverge.
    """
    chain = isinstance(sampler, EnsembleSampler)
    for steps, count in ((8, 2), (64, 32), (256, 128)):
        few, spent = replace(sampler, particles=count, draws=count) if chain else sampler, [Cost(), Cost()]
        try:
            for k, cost in enumerate(spent):
                replace(few, steps=steps * (k + 1))(post, count, cost=cost)
        except DivergedError:
            continue
        low, high = (cost.nfe for cost in spent)
        return 2 * low - high, (high - low) / steps
    return 0.0, 0.0


def evaluations(sampler: Sampler, post: Posterior) -> float:
    """Returns network evaluations for one sample with the options as they are."""
    fixed, each = _price(sampler, post)
    chain = sampler.particles / sampler.draws if isinstance(sampler, EnsembleSampler) else 1
    return chain * (fixed + each * sampler.steps)


def at_budget(sampler: Sampler, post: Posterior, budget: int, count: int) -> Sampler:
    """Returns the sampler with as many steps as `budget` evaluations a sample allow; chains get `count` particles and
    draws.

    A sampler that cannot be had for so little takes one step.

    Args:
        sampler: with its options.
        post: the problem.
        budget: evaluations a sample.
        count: samples.
    """
    fixed, each = _price(sampler, post)
    steps = math.floor((budget - fixed) / each + 1e-9) if each > 0 else sampler.steps
    chain = {"particles": count, "draws": count} if isinstance(sampler, EnsembleSampler) else {}
    return replace(sampler, steps=max(steps, 1), **chain)


@lru_cache(maxsize=256)
def _candidate(spec: str, family: str, budget: int) -> Sampler:
    sampler, of = resolve.sampler(spec), families()[family]
    return sampler if "steps=" in spec else at_budget(sampler, of.make(0).posterior, budget, of.samples)


def specs(family: Family, chosen: Sequence[str] = ()) -> list[str]:
    """Returns the samplers that a family accepts: all of the catalogue and `mixture.PUBLISHED`, or of the chosen ones."""
    post = family.make(0).posterior
    every = chosen or [*(c.__name__ for c in samplers.catalogue().values()), *mixture.PUBLISHED]
    return [spec for spec in every if resolve.sampler(spec).refuses(post) is None]


def cells(key: str, chosen: Sequence[str], budgets: Sequence[int], instances: int | None) -> Iterator[Cell]:
    """Yields what there is to run on a family, instance by instance, so that a run that is cut off leaves rows of equal
    length; published settings with a number of steps of their own at the largest budget only.

    Args:
        key: of the family.
        chosen: the samplers; all by default.
        budgets: evaluations a sample.
        instances: at most so many.
    """
    family = families()[key]
    rows = specs(family, chosen)
    for i in range(min(family.count, instances or family.count)):
        yield key, FLOOR, i, 0
        for budget in budgets:
            yield from ((key, spec, i, budget) for spec in rows if "steps=" not in spec or budget == max(budgets))


def run_one(key: str, spec: str, instance: int, budget: int) -> Run:
    """Runs one cell.

    Args:
        key: of the family of problems.
        spec: of the sampler, or `FLOOR`.
        instance: of the family.
        budget: evaluations a sample.
    """
    family = families()[key]
    if spec == FLOOR:
        return Run(key, spec, instance, 0, **family.floor(instance))
    spent, problem, judged = Cost(), family.make(instance), Judged(distance=math.nan)
    try:
        x = _candidate(spec, key, budget)(problem.posterior, family.samples, seed=instance, cost=spent)
        judged, error = family.evaluate(x, instance), ""
    except Exception as failure:  # a cell that fails is a result: it is shown, and the others go on
        error = f"{type(failure).__name__}: {failure}"
    return Run(key, spec, instance, budget, **judged, nfe=round(spent.nfe, 2), seconds=round(spent.seconds, 3), error=error)


def load(path: Path) -> list[Run]:
    """Returns the runs of a file; a last line that was cut off is left out.

    Raises:
        FileError: not such a file.
    """
    if not path.exists():
        return []
    text = path.read_text()
    lines = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
    try:
        kinds: dict[str, Any] = {f.name: f.type for f in fields(Run)}
        return [Run(**{name: kinds[name](value) for name, value in line.items()}) for line in lines]
    except (TypeError, ValueError, KeyError) as error:
        raise FileError(f"{path} is no table of exact runs ({error}); name another file with --store") from error


def save(path: Path, runs: Iterable[Run]) -> None:
    """Writes a whole file, atomically."""
    rows = [",".join(f.name for f in fields(Run))]
    for run in sorted(runs, key=lambda r: r.key):
        rows.append(_line(run))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "\n".join(rows) + "\n")


def _line(run: Run) -> str:
    shown = asdict(run) | {"distance": f"{run.distance:.5g}", "rmse": f"{run.rmse:.5g}"}
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(shown.values())
    return text.getvalue()


def complete(
    path: Path,
    keys: Sequence[str],
    chosen: Sequence[str] = (),
    budgets: Sequence[int] = (100,),
    instances: int | None = None,
    workers: int | None = None,
    redo: Sequence[str] = (),
) -> list[Run]:
    """Computes what the file lacks, and returns its runs. One process at a time on a file: it is written anew at both ends.

    Args:
        path: the file.
        keys: of the families of problems.
        chosen: the samplers; all by default.
        budgets: evaluations a sample, each in turn.
        instances: at most so many of each family.
        workers: processes, each with one thread; by default as many as there are cores. One is this process.
        redo: samplers whose runs of these families and budgets are computed anew.
    """
    from tqdm.auto import tqdm

    runs = [r for r in load(path) if not (r.sampler in redo and r.family in keys and r.budget in budgets)]
    save(path, runs)
    done = {r.key for r in runs}
    todo = [cell for key in keys for cell in cells(key, chosen, budgets, instances) if cell not in done]
    if not todo:
        return runs
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the workers when they start
    with path.open("a") as file, tqdm(total=len(todo), desc="exact", leave=False) as bar:
        for run in _computed(todo, workers or os.cpu_count() or 1):
            runs.append(run)
            file.write(_line(run) + "\n")
            file.flush()
            bar.update()
    save(path, runs)
    return runs


def _computed(todo: Sequence[Cell], workers: int) -> Iterator[Run]:
    """Yields the runs of cells as they end, of processes with one thread each; one worker is this process."""
    if workers == 1:
        with one_thread():
            yield from (run_one(*cell) for cell in todo)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        pending, rest = set(), iter(todo)
        while True:
            # a few in flight for each worker, so that an interrupt loses little
            for cell in rest:
                pending.add(pool.submit(run_one, *cell))
                if len(pending) >= 2 * workers:
                    break
            if not pending:
                return
            ready, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in ready)


@dataclass(frozen=True)
class Line:
    """One row of a family's table."""

    sampler: str
    runs: tuple[Run, ...]

    @property
    def distances(self) -> np.ndarray:
        return np.array([r.distance for r in self.runs])

    @property
    def mean(self) -> float:
        kept = self.distances[np.isfinite(self.distances)]
        return float(kept.mean()) if len(kept) else math.inf


def lines(key: str, runs: Sequence[Run], budget: int = 100) -> list[Line]:
    """Returns the samplers of a family that kept to a budget, the floor first, then by their mean distance."""
    own = sorted(
        (r for r in runs if r.family == key and r.budget in (0, budget) and r.affordable), key=lambda r: r.instance
    )
    rows = [Line(name, tuple(r for r in own if r.sampler == name)) for name in dict.fromkeys(r.sampler for r in own)]
    return sorted(rows, key=lambda row: (row.sampler != FLOOR, row.mean))


def markdown(runs: Sequence[Run], budget: int = 100) -> str:
    """Returns a table for each family at a budget."""
    parts = []
    for key, family in families().items():
        rows = lines(key, runs, budget)
        if not rows:
            continue
        paired, dims = key.startswith("mixture"), key.split("-")[1:]
        floor = next((row.mean for row in rows if row.sampler == FLOOR), math.nan)
        head = ["sampler", "distance", "/ floor", "NFE", "s", "failed"]
        head += ["rmse"] if any(math.isfinite(r.rmse) for r in rows[0].runs) else []
        others, whole = paired or bool(family.published), max(len(row.runs) for row in rows)
        head += (["public code", "ours / public"] if paired else ["published"]) if others else []
        table = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
        for row in rows:
            bad = int((~np.isfinite(row.distances)).sum())
            part = "" if len(row.runs) == whole else f", {len(row.runs)} instances"
            cells = [row.sampler, mixture.cell(row.distances) + part, f"{row.mean / floor:.1f}"]
            some = [np.mean([getattr(r, name) for r in row.runs]) for name in ("nfe", "seconds")]
            cells += ["", "", ""] if row.sampler == FLOOR else [f"{some[0]:.0f}", f"{some[1]:.2f}", str(bad or "")]
            if "rmse" in head:
                cells.append(f"{np.nanmean([r.rmse for r in row.runs]):.2f}" if bad < len(row.runs) else "")
            if paired:
                column = "floor" if row.sampler == FLOOR else mixture.RERUNS.get(row.sampler.split("(")[0], "")
                d, dy = map(int, dims)
                other = [mixture.reruns().get((d, dy, r.instance), {}).get(column, math.nan) for r in row.runs]
                known = bool(np.isfinite(other).any())
                cells += [mixture.cell(other), f"{mixture.ratio(row.distances, other):.2f}"] if known else ["", ""]
            elif others:
                cells.append(family.published.get(row.sampler.split("(")[0], ""))
            table.append("| " + " | ".join(cells) + " |")
        short = "" if whole == family.count else f" {whole} of {family.count} instances so far."
        parts.append(f"### {family.title}\n\n{family.note[0].upper()}{family.note[1:]}{short}\n\n" + "\n".join(table))
    return "\n\n".join(parts) + "\n"


def best(runs: Sequence[Run], budget: int = 100) -> dict[str, tuple[str, float]]:
    """Returns the best sampler of each family at a budget and its distance over the floor."""
    out = {}
    for key in families():
        rows = lines(key, runs, budget)
        if len(rows) > 1 and rows[0].sampler == FLOOR:
            out[key] = (rows[1].sampler, rows[1].mean / rows[0].mean)
    return out


def command(args: Namespace) -> None:
    """Runs `invgen bench study exact`: computes what is missing, prints the tables, writes them to --out."""
    with tempfile.TemporaryDirectory() as scratch:
        path = args.store or (RESULTS if args.full else Path(scratch) / "runs.csv")
        runs = complete(path, args.families, args.samplers, args.steps, args.instances, args.workers, args.redo)
    runs = [r for r in runs if r.family in args.families]
    tables = {budget: markdown(runs, budget) for budget in args.steps}
    page = "\n".join(f"## {budget} evaluations a sample\n\n{table}" for budget, table in tables.items())
    page = page if len(tables) > 1 else tables[args.steps[0]]
    if args.full and args.manifold and set(args.families) == set(families()):
        results = manifold.table(range(args.manifold))
        write_text(path.with_name("exact_manifold.json"), json.dumps(results) + "\n")
        page += "\n" + manifold.markdown(results)
    print(page)
    if args.out is not None:
        write_text(args.out, page)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table for each family of problems, and writes them as Markdown with --out."""
    parser = argparse.ArgumentParser(prog="invgen bench study exact", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dims", nargs="+", default=["8"], help="the mixture: d or d,d_y, such as 8 or 80,4 (default: 8)")
    parser.add_argument(
        "--families", nargs="+", default=[], metavar="KEY", help="in place of --dims, such as gaussian or mask"
    )
    parser.add_argument(
        "--full", action="store_true", help="every family, into the shipped results unless --store is given"
    )
    parser.add_argument(
        "--samplers", nargs="+", default=[], metavar="SPEC", help='such as MMPS "DPS(zeta=0.5)"; all that fit'
    )
    parser.add_argument("--instances", type=int, default=None, metavar="N", help="at most so many of a family")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[100], metavar="N", help="network evaluations a sample (default: 100)"
    )
    parser.add_argument("--workers", type=int, default=None, metavar="N", help="processes; as many as there are cores")
    parser.add_argument("--store", type=Path, help="a CSV file of runs, which is completed")
    parser.add_argument("--redo", nargs="+", default=[], metavar="SPEC", help="samplers to compute anew")
    parser.add_argument(
        "--manifold", type=int, default=4, metavar="N", help="seeds of --full's covariance test (default: 4)"
    )
    parser.add_argument("--out", type=Path, help="a .md file to write the tables to")
    args = parser.parse_args(argv)
    known = [f"{d}" for d, _ in ALL_DIMS] + [f"{d},{dy}" for d, dy in ALL_DIMS]
    if any(text not in known for text in args.dims):
        parser.error("--dims takes 8, 80 or 800, or one of them with 1, 2 or 4 measurements, such as 80,4")
    if any(key not in families() for key in args.families):
        parser.error(f"--families takes {', '.join(families())}")
    if min(args.steps) < 1:
        parser.error("--steps takes positive numbers")
    if args.instances is not None and args.instances < 1:
        parser.error("--instances takes a positive number")
    if args.out is not None and args.out.suffix != ".md":
        parser.error("--out takes a file that ends in .md")
    if not args.families:
        chosen = [p for text in args.dims for p in ALL_DIMS if text in (f"{p[0]}", f"{p[0]},{p[1]}")]
        args.families = list(families()) if args.full else [f"mixture-{d}-{dy}" for d, dy in chosen]
    command(args)
