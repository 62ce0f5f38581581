"""Whether samples spread as the exact posterior does, at few evaluations: `invgen bench study spread --full`.

On two Gaussian posteriors whose mean and covariance are known: 36 correlated values, every third measured, and 36
independent values, two thirds measured. An error of the mean and one of the covariance are told apart; a distance of sets
is dominated by the first. Estimates of a covariance from 3000 samples err by about .08 themselves (two exact sets: the row
`floor`). Results are kept in a JSON file; what it lacks is computed.
"""

import argparse
import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from invgen import samplers
from invgen.benchmarks.studies.exact import BUDGETS, FLOOR, at_budget
from invgen.benchmarks.suite.parts import one_thread
from invgen.errors import DivergedError, FileError
from invgen.files.writing import write_text
from invgen.names import resolve
from invgen.noise import Gaussian
from invgen.operators import Mask
from invgen.posterior import Posterior
from invgen.priors import GaussianMixture, GaussianPrior
from invgen.sampler import Cost

STORE = Path(__file__).parents[1] / "data" / "exact_spread.json"
F64 = torch.float64
SIZE, SIGMA, SAMPLES = 36, 0.3, 3000
PROBLEMS = {
    "correlated": f"{SIZE} values with correlation exp(-|i - j| / 6), every third measured, noise {SIGMA}",
    "white": f"{SIZE} independent values of variance 1, two of three measured, noise {SIGMA}",
}
Figures = dict[str, float]
Results = dict[str, dict[str, dict[str, Figures]]]


@cache
def problem(name: str) -> tuple[Posterior, GaussianMixture, Tensor]:
    """Returns a problem, its exact posterior and the mask of measured values."""
    at = torch.arange(SIZE, dtype=F64)
    far = (at[:, None] - at).abs()
    cov = torch.exp(-far / 6) if name == "correlated" else torch.eye(SIZE, dtype=F64)
    seen = at % 3 == 0 if name == "correlated" else at % 3 < 2
    prior = GaussianPrior((SIZE,), torch.zeros(SIZE, dtype=F64), covariance=cov)
    A = Mask((SIZE,), seen)
    y = A(prior.sample(1, seed=1)[0])
    y = y + SIGMA * torch.randn(y.shape, dtype=F64, generator=torch.Generator().manual_seed(1))
    return Posterior(prior, A, Gaussian(SIGMA), y), prior.posterior(A, SIGMA, y), seen


def figures(name: str, x: Tensor) -> Figures:
    """Returns how far samples are from the exact law of a problem.

    Args:
        name: of the problem.
        x: samples, (n, 36).

    Returns:
        mean: error of the mean, root mean square in exact standard deviations. covariance: |S - S'| / |S|, Frobenius.
        trace, measured, unmeasured: total variance, and that of the values that were measured or not, over the exact one.
    """
    _, exact, seen = problem(name)
    mean, cov = exact.means.flatten(), exact.covariance.reshape(SIZE, SIZE)
    x = x.double().flatten(1)
    var, found = cov.diagonal(), torch.cov(x.T)
    ratio = found.diagonal() / var
    return {
        "mean": ((x.mean(0) - mean).square() / var).mean().sqrt().item(),
        "covariance": ((found - cov).norm() / cov.norm()).item(),
        "trace": (found.diagonal().sum() / var.sum()).item(),
        "measured": ratio[seen].mean().item(),
        "unmeasured": ratio[~seen].mean().item(),
    }


def run_one(spec: str, name: str, budget: int) -> Figures:
    """Returns the figures of a sampler at a budget of evaluations a sample, nan where it diverges, and what it spent."""
    post, exact, _ = problem(name)
    if spec == FLOOR:
        return figures(name, exact.sample(SAMPLES, seed=1)) | {"nfe": 0.0}
    spent = Cost()
    try:
        x = at_budget(resolve.sampler(spec), post, budget, SAMPLES)(post, SAMPLES, seed=0, cost=spent)
        found = figures(name, x)
    except DivergedError:  # a result, which is shown; any other error stops the study
        found = {"covariance": math.inf, "mean": math.inf}
    return {key: round(value, 4) for key, value in found.items()} | {"nfe": round(spent.nfe, 1)}


def load(path: Path = STORE) -> Results:
    """Returns the results of a file: sampler -> problem -> budget -> figures.

    Raises:
        FileError: not such a file.
    """
    if not path.exists():
        return {}
    try:
        return cast(Results, json.loads(path.read_text()))
    except ValueError as error:
        raise FileError(f"{path} is no table of the spread ({error}); name another file with --store") from error


def save(path: Path, results: Results) -> None:
    """Writes a whole file, atomically; a line a sampler."""
    lines = [f"{json.dumps(name)}: {json.dumps(results[name], sort_keys=True)}" for name in sorted(results)]
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def specs() -> list[str]:
    """Returns the samplers of the catalogue that take both problems."""
    posts = [problem(name)[0] for name in PROBLEMS]
    every = [c.__name__ for c in samplers.catalogue().values()]
    return [spec for spec in every if not any(resolve.sampler(spec).refuses(post) for post in posts)]


def complete(
    path: Path, chosen: Sequence[str], budgets: Sequence[int], workers: int | None = None, redo: bool = False
) -> Results:
    """Computes what the file lacks, and returns what it holds then.

    Args:
        path: the file.
        chosen: the samplers.
        budgets: evaluations a sample.
        workers: processes, each with one thread; by default as many as there are cores.
        redo: compute the chosen samplers anew.
    """
    from tqdm.auto import tqdm

    results = load(path)
    todo = [(spec, name, budget) for spec in chosen for name in PROBLEMS for budget in budgets]
    todo += [(FLOOR, name, 0) for name in PROBLEMS]
    todo = [(s, n, b) for s, n, b in todo if redo or str(b) not in results.get(s, {}).get(n, {})]
    if not todo:
        return results
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the workers when they start
    workers = workers or os.cpu_count() or 1
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool, one_thread():
        done = map(run_one, *zip(*todo, strict=True)) if workers == 1 else pool.map(run_one, *zip(*todo, strict=True))
        for (spec, name, budget), found in tqdm(zip(todo, done, strict=True), total=len(todo), desc="spread", leave=False):
            results.setdefault(spec, {}).setdefault(name, {})[str(budget)] = found
            save(path, results)
    return results


def markdown(results: Results, budgets: Sequence[int] = BUDGETS) -> str:
    """Returns a table, a line a sampler, by the error of the covariance of correlated values at the second budget."""

    def at(spec: str, name: str, budget: int) -> Figures | None:
        found = results.get(spec, {}).get(name, {}).get(str(budget))
        return found if found and (spec == FLOOR or found["nfe"] <= 1.25 * budget) else None

    def cell(spec: str, name: str, show: str) -> str:
        shown = []
        for budget in budgets:
            found = at(spec, name, 0 if spec == FLOOR else budget)
            if found is None:
                shown.append("-")
            elif not math.isfinite(found["covariance"]):
                shown.append("diverged")
            else:
                shown.append(show.format(**found).replace("0.", "."))
        return " / ".join(shown[:1] if spec == FLOOR else shown)

    def order(spec: str) -> tuple[bool, float, str]:
        found = at(spec, "correlated", budgets[len(budgets) // 2])
        return spec != FLOOR, found["covariance"] if found else math.inf, spec

    head = ["sampler", "correlated: covariance", "trace", "mean", "white: measured", "unmeasured"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for spec in sorted(results, key=order):
        cells = [cell(spec, "correlated", f"{{{key}:.2f}}") for key in ("covariance", "trace", "mean")]
        cells += [cell(spec, "white", f"{{{key}:.2f}}") for key in ("measured", "unmeasured")]
        lines.append(f"| `{spec}` | " + " | ".join(cells) + " |")
    words = "; ".join(f"{name}: {text}" for name, text in PROBLEMS.items())
    return (
        f"Two Gaussian posteriors ({words}), {SAMPLES} samples. covariance: relative error of the whole covariance, "
        "|S - S'| / |S|; trace, measured, unmeasured: variance over the exact one, 1 wanted; mean: error of the mean in "
        f"standard deviations. Each at {' / '.join(map(str, budgets))} network evaluations a sample; a dash: not with so "
        "few. `floor`: an exact set of the same size.\n\n" + "\n".join(lines)
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Computes what is missing and prints the table."""
    parser = argparse.ArgumentParser(prog="invgen bench study spread", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--full", action="store_true", help="every sampler, into the shipped results unless --store is given"
    )
    parser.add_argument("--samplers", nargs="+", default=["MMPS", "AdaptivePiGDM", "DampedDPS", "DiffPIR"], metavar="SPEC")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=list(BUDGETS), metavar="N", help="network evaluations a sample"
    )
    parser.add_argument("--workers", type=int, default=None, metavar="N", help="processes; as many as there are cores")
    parser.add_argument("--store", type=Path, help="a JSON file of results, which is completed")
    parser.add_argument("--redo", action="store_true", help="compute the samplers anew")
    args = parser.parse_args(argv)
    if min(args.steps) < 1:
        parser.error("--steps takes positive numbers")
    chosen = specs() if args.full else args.samplers
    if args.store or args.full:
        print(markdown(complete(args.store or STORE, chosen, args.steps, args.workers, args.redo), args.steps))
        return
    results: Results = {}
    with one_thread():
        for spec in [FLOOR, *chosen]:
            of = results.setdefault(spec, {})
            for name in PROBLEMS:
                of[name] = {str(b): run_one(spec, name, b) for b in ([0] if spec == FLOOR else args.steps)}
    print(markdown(results, args.steps))


if __name__ == "__main__":
    main()
