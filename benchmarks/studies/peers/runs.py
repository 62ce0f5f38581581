"""The runs: one sampler on one problem with so many evaluations, a row of a CSV file the moment it ends."""

import csv
import io
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import get_type_hints

from torch import Tensor

from invgen.benchmarks.methods import catalogue
from invgen.benchmarks.studies.peers.candidates import GRIDS, LEFT_OUT, OURS, TUNED_AT, settings, with_evaluations
from invgen.benchmarks.studies.peers.problems import PROBLEMS, Part
from invgen.benchmarks.suite.parts import one_thread
from invgen.errors import DivergedError, FileError
from invgen.files.writing import write_text
from invgen.inference.precision import Precision
from invgen.metrics import crps_ensemble, interval_coverage
from invgen.posterior import Posterior
from invgen.sampler import Cost

STORE = Path(__file__).parents[2] / "data" / "peers_curves.csv"
SAMPLES = 3  # for each signal: the truth lies between the least and the largest of three in half of all cases
LEVEL = 0.5
WORST = 1.5  # a peer whose tuned score is so many times the best peer's, at all budgets of the search, is not run in full


@dataclass(frozen=True)
class Run:
    """One sampler on the signals of one problem.

    Attributes:
        part: "judged" or "tuning".
        sampler: without its steps.
        budget: evaluations a sample that it may take; nfe and vjps, those and the products with the Jacobian that it took.
        psnr: of the mean of ever more samples, mean over signals, dB: the squared error of the mean of a few, less their
            variance over their number (`figures`). psnr_of_mean: of the few as they are.
        coverage: share of values in the central 50 % interval.
        crps: the fair one, in units of the range.
        seconds: of a processor, a sample.
        psnrs, coverages: of each signal.
        error: why it failed; figures are nan then.
    """

    part: str
    problem: str
    sampler: str
    budget: int
    psnr: float = math.nan
    psnr_of_mean: float = math.nan
    coverage: float = math.nan
    crps: float = math.inf
    nfe: float = math.nan
    vjps: float = math.nan
    seconds: float = math.nan
    precision: str = ""
    psnrs: str = ""
    coverages: str = ""
    error: str = ""

    @property
    def key(self) -> tuple[str, str, str, int]:
        return self.part, self.problem, self.sampler, self.budget


def figures(samples: Tensor, truth: Tensor, data_range: float) -> dict[str, Tensor]:
    """Returns the figures of samples, (num_samples, N, *shape), for each of N signals (N, *shape)."""
    dims, n = truth.ndim - 1, len(samples)
    axes = tuple(range(-dims, 0))
    error = (samples.mean(0) - truth).square().mean(axes)
    # E |mean of n - truth|^2 = |limit - truth|^2 + variance / n; no more is taken off than of samples that spread as they
    # should, 1 / (n + 1) of the error: of those that spread far too much a few tell the limit badly
    limit = (error - samples.var(0).mean(axes) / n).maximum(error * n / (n + 1))
    return {
        "psnr": 10 * (data_range**2 / limit).log10(),
        "psnr_of_mean": 10 * (data_range**2 / error).log10(),
        "coverage": interval_coverage(samples, truth, LEVEL, dims=dims),
        "crps": crps_ensemble(samples, truth, fair=True, dims=dims) / data_range,
    }


def run_one(part: Part, problem: str, sampler: str, budget: int, post: Posterior, truth: Tensor, precision: str) -> Run:
    """Returns the run of a sampler; one that diverges is a result too.

    Args:
        part, problem, sampler, budget: which run it is.
        post: the problem, of all its signals.
        truth: its signals, (N, *shape).
        precision: of the network, for the table.
    """
    spent, begin = Cost(), time.process_time()
    method = catalogue.method(with_evaluations(sampler, budget))
    try:
        x = method(post, SAMPLES, 0, cost=spent)
    except DivergedError as error:
        return Run(part, problem, sampler, budget, precision=precision, error=str(error).partition(",")[0])
    seconds = (time.process_time() - begin) / (SAMPLES * len(truth))
    low, high = post.prior.value_range
    of = figures(x.float(), truth, high - low)
    mean = {name: round(v.mean().item(), 5) for name, v in of.items()}
    psnrs, coverages = (" ".join(f"{v:.4g}" for v in of[name].tolist()) for name in ("psnr", "coverage"))
    return Run(
        *(part, problem, sampler, budget),
        *(mean[name] for name in ("psnr", "psnr_of_mean", "coverage", "crps")),
        nfe=round(spent.nfe, 2),
        vjps=round(spent.vjps, 2),
        seconds=float(f"{seconds:.3g}"),
        precision=precision,
        psnrs=psnrs,
        coverages=coverages,
    )


def load(path: Path = STORE) -> list[Run]:
    """Returns the runs of a file, none where there is none.

    Raises:
        FileError: not such a file.
    """
    if not path.exists():
        return []
    hints = get_type_hints(Run)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [Run(**{f.name: hints[f.name](row[f.name]) for f in fields(Run)}) for row in csv.DictReader(file)]
    except (KeyError, ValueError, TypeError) as error:
        raise FileError(f"{path} is no table of these runs ({error!r}); name another file with --store") from error


def save(path: Path, runs: Iterable[Run]) -> None:
    """Writes a whole file, atomically, a row a run."""
    text = io.StringIO()
    table = csv.DictWriter(text, [f.name for f in fields(Run)], lineterminator="\n")
    table.writeheader()
    table.writerows(asdict(run) for run in runs)
    write_text(path, text.getvalue())


def chosen(runs: Sequence[Run], problem: str, name: str, budget: int) -> str | None:
    """Returns the setting of a peer with the least CRPS on the signals for tuning, at the nearer budget of the search.

    None where it has not been tuned, where all its settings failed, or where it is `WORST` times worse than the best peer.

    Args:
        runs: those of the search among them.
        problem, name: of the peer.
        budget: evaluations a sample.
    """
    best = {
        at: _best([r for r in runs if r.part == "tuning" and r.problem == problem and r.budget == at]) for at in TUNED_AT
    }
    if not any(name in of and of[name].crps <= WORST * min(r.crps for r in of.values()) for of in best.values()):
        return None
    of = best[TUNED_AT[budget > 15]]
    return of[name].sampler if name in of else None


def _best(runs: Sequence[Run]) -> dict[str, Run]:
    """Returns the best run of each peer that did not fail."""
    found: dict[str, Run] = {}
    for run in sorted((r for r in runs if not r.error), key=lambda r: r.crps, reverse=True):
        found[run.sampler.partition("(")[0]] = run
    return found


def name_of(sampler: str) -> str:
    """Returns a sampler of ours with its options, a peer's by its name alone: the search chose its options."""
    return sampler if sampler in OURS else sampler.partition("(")[0]


def complete(
    path: Path,
    part: Part,
    wanted: Iterator[tuple[str, str, int]],
    seconds: float = math.inf,
    signals: int | None = None,
    precision: Precision = "auto",
) -> list[Run]:
    """Runs what a file lacks of the wanted (problem, sampler, budget), and returns what it holds then.

    Args:
        path: the CSV file, written after each run.
        part: of the signals.
        wanted: one after the other.
        seconds: of a processor, after which nothing new is begun.
        signals: of each problem; by default its own number.
        precision: of the networks.
    """
    runs, problems = {run.key: run for run in load(path)}, {}
    begin = time.process_time()
    with one_thread():
        for problem, sampler, budget in wanted:
            if (part, problem, sampler, budget) in runs:
                continue
            if time.process_time() - begin > seconds:
                break
            if problem not in problems:
                problems[problem] = PROBLEMS[problem].posterior(part, signals, precision)
            post, truth, used = problems[problem]
            run = run_one(part, problem, sampler, budget, post, truth, used)
            runs[run.key] = run
            save(path, runs.values())
            print(
                f"{part} {problem} {sampler} {budget}: {run.psnr:.2f} dB, {run.coverage:.3f}, {run.seconds} s", flush=True
            )
    return list(runs.values())


def tuning(problems: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    """Yields the search: every setting of every peer, at two budgets."""
    for problem in problems:
        for name in GRIDS:
            if (problem, name) not in LEFT_OUT:
                yield from ((problem, spec, budget) for spec in settings(name) for budget in TUNED_AT)


def judged(problems: Sequence[str], budgets: Sequence[int], tuned: Sequence[Run]) -> Iterator[tuple[str, str, int]]:
    """Yields the runs that count: ours, and each peer in the setting that the search has chosen."""
    for problem in problems:
        for budget in budgets:
            yield from ((problem, spec, budget) for spec in OURS)
            specs = (chosen(tuned, problem, name, budget) for name in GRIDS)
            yield from ((problem, spec, budget) for spec in specs if spec)
