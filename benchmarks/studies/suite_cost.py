"""Measures the cost of the machinery of suites: `invgen bench study suite-cost` prints it and writes data/scale.csv.

The cells have a trivial prior, operator and sampler, so that what is measured is everything else: expansion, the posterior,
two metrics, the files. CPU time stands beside wall time: other programs of the machine spoil the latter alone.
"""

import argparse
import csv
import io
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invgen.benchmarks.engine.executor import environments
from invgen.benchmarks.engine.local import pool
from invgen.benchmarks.engine.runner import run
from invgen.benchmarks.engine.store import Store
from invgen.benchmarks.report.page import report
from invgen.benchmarks.suite.expand import expand
from invgen.files.writing import write_text
from invgen.method import Method, Run
from invgen.posterior import Posterior
from invgen.priors import GaussianPrior

SIZES = (10, 100, 1000, 10_000)
DATA = Path(__file__).parents[1] / "data" / "scale.csv"
HERE = "invgen.benchmarks.studies.suite_cost"

prior = GaussianPrior(shape=(1, 8, 8))


@dataclass(frozen=True)
class Blank(Method):
    """Takes no time: its samples are zero."""

    def solve(self, post: Posterior, num_samples: int, seed: int | Tensor, run: Run) -> Tensor:
        return torch.zeros(num_samples, *post.batch, *post.prior.shape)


def asleep(samples: Tensor, truth: Tensor, posterior: Posterior, seconds: float = 1.0) -> float:
    """Waits, as a metric; only where a cell is computed, and not where `expand` tries metrics.

    Args:
        samples, truth, posterior: of a metric.
        seconds: to wait.
    """
    if "INVGEN_SCALE" in os.environ:
        time.sleep(seconds)
    return 0.0


def at_work(samples: Tensor, truth: Tensor, posterior: Posterior, seconds: float = 1.0) -> float:
    """Computes, as a metric, until it has used so much CPU time.

    Args:
        samples, truth, posterior: of a metric.
        seconds: of CPU time.
    """
    if "INVGEN_SCALE" in os.environ:
        _spin(seconds)
    return 0.0


def _spin(seconds: float) -> None:
    x, end = torch.randn(128, 128), time.process_time() + seconds
    while time.process_time() < end:
        x = torch.tanh(x @ x / 128)


def suite(cells: int, data: Path, **changed: Any) -> dict[str, Any]:
    """Returns a suite of so many cells, in images of `data` (10) times seeds."""
    return {
        "data": str(data),
        "priors": f"{HERE}:prior",
        "problems": {"operator": "Identity", "noise": 0.1},
        "samplers": f"{HERE}:Blank",
        "seeds": cells // 10,
        "metrics": ["psnr", "residual"],
        **changed,
    }


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    what: str
    value: float
    unit: str
    target: str = ""


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Seconds of CPU and of wall time that the block took."""
    found, cpu, wall = {}, time.process_time(), time.perf_counter()
    yield found
    found |= {"CPU": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def machinery(folder: Path, data: Path, sizes: tuple[int, ...], say: Callable[[Figure], None]) -> None:
    """Measures the milliseconds a cell of a serial run, for several sizes of suites; resumes and reports the largest.

    Args:
        folder: for results.
        data: the folder of signals.
        sizes: cells of the suites.
        say: gets the figures.
    """
    run(suite(10, data), folder / "warm", progress=False)  # imports and caches
    with timed() as spent:
        _spin(1.0)
    say(Figure("a second of CPU takes, wall", spent["wall"], "s"))
    for cells in sizes:
        out = folder / str(cells)
        with timed() as spent:
            done = run(suite(cells, data), out, progress=False)
        assert done.computed == cells, done
        for clock, seconds in spent.items():
            say(Figure(f"a cell of {cells}, {clock}", 1e3 * seconds / cells, "ms", "< 10"))
    with timed() as spent:
        again = run(suite(cells, data), out, progress=False)
    assert again.computed == 0, again
    for clock, seconds in spent.items():
        say(Figure(f"resuming {cells} cells, {clock}", seconds, "s", "< 5"))
    with timed() as spent:
        report(out)
    for clock, seconds in spent.items():
        say(Figure(f"report of {cells} cells, {clock}", seconds, "s", "< 60"))


def speed_up(folder: Path, data: Path, metric: str, seconds: float, cells: int) -> float:
    """Returns the cells a second with two worker processes over those with one, once the workers have started.

    Args:
        folder: for results.
        data: the folder of signals.
        metric: the one that takes the time.
        seconds: of a cell.
        cells: of the suite.
    """
    rates, chosen = [], suite(cells, data, metrics=[f"{HERE}:{metric}(seconds={seconds})"])
    tasks = [(cell,) for cell in expand(chosen)]
    for workers in (1, 2):
        store = Store(folder / f"{metric}-{workers}")
        store.prepare()
        which = [{**environment, "INVGEN_SCALE": "1"} for environment in environments(workers, "cpu")]
        ends = []
        for _, outcome in pool(tasks, store, which):
            assert outcome == "done", outcome
            ends.append(time.perf_counter())
        # the first cells of a worker pay for imports, and at the end one worker may have nothing to do
        first, last = 2 * workers, len(ends) - workers
        rates.append((last - first) / (ends[last] - ends[first]))
    return rates[1] / rates[0]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(prog="invgen bench study suite-cost", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--most", type=int, default=SIZES[-1], help="cells of the largest suite (10000)")
    parser.add_argument("--cells", type=int, default=40, help="cells of a second for two workers against one (40)")
    parser.add_argument("--folder", type=Path, help="to work in, kept; a temporary one by default")
    parser.add_argument("--csv", type=Path, default=DATA)
    given = parser.parse_args(argv)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="invgen-scale-"))
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    figures = [Figure("load of the machine at the start", load, "programs"), Figure("cores", os.cpu_count() or 0, "")]

    def say(figure: Figure) -> None:
        figures.append(figure)
        print(f"{figure.what:34} {figure.value:9.2f} {figure.unit:8} {figure.target}", flush=True)

    print(f"{platform.platform()}, torch {torch.__version__}, {os.cpu_count()} cores, load {load:.1f}")
    try:
        data = folder / "images"
        data.mkdir(parents=True, exist_ok=True)
        _images(data)
        machinery(folder, data, tuple(n for n in SIZES if n <= given.most), say)
        for metric in ("asleep", "at_work"):
            ratio = speed_up(folder, data, metric, 1.0, given.cells)
            say(Figure(f"2 workers over 1, a second {metric.replace('_', ' ')}", ratio, "times", "> 1.9"))
    finally:
        if given.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["what", "value", "unit", "target"])
    writer.writerows([f.what, f"{f.value:.3g}", f.unit, f.target] for f in figures)
    write_text(given.csv, text.getvalue())
    print(f"written to {given.csv}")


def _images(folder: Path) -> None:
    """Ten images of noise."""
    import numpy as np

    for k in range(10):
        np.save(folder / f"{k}.npy", np.random.default_rng(k).standard_normal((1, 8, 8)).astype(np.float32))
