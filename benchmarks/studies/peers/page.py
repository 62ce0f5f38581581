"""The page docs/peers.md: evaluations that samplers of invgen, deepinv and azula need, from the stored runs."""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median, stdev

from invgen.benchmarks.studies.peers.candidates import BUDGETS, GRIDS, LEFT_OUT, TUNED_AT, package
from invgen.benchmarks.studies.peers.picture import draw
from invgen.benchmarks.studies.peers.problems import PROBLEMS
from invgen.benchmarks.studies.peers.runs import LEVEL, STORE, Run, chosen, complete, judged, load, name_of, tuning
from invgen.commands.catalogue import between
from invgen.files.writing import write_text

NEAR, NEARLY, COVERED = 0.1, 0.5, 0.02  # dB from the best mean, twice, and from the nominal coverage
PAGE = "peers"  # of the markers in docs/peers.md
Test = Callable[[Run], bool]


def of_problem(runs: Sequence[Run], problem: str) -> list[Run]:
    """Returns the judged runs of a problem that did not fail."""
    return [r for r in runs if r.part == "judged" and r.problem == problem and not r.error]


def tests(runs: Sequence[Run]) -> dict[str, Test]:
    """Returns what is asked of a run, in words: near the best mean of these runs, covering as it should, and both."""
    best = max(r.psnr for r in runs)

    def mean(run: Run, off: float = NEAR) -> bool:
        return run.psnr >= best - off - 1e-9

    def covers(run: Run) -> bool:
        return abs(run.coverage - LEVEL) <= COVERED + 1e-9

    return {
        f"mean within {NEARLY} dB": lambda r: mean(r, NEARLY),
        f"mean within {NEAR} dB": mean,
        f"coverage within {COVERED}": covers,
        f"mean within {NEAR} dB, coverage within {COVERED}": lambda r: mean(r) and covers(r),
    }


def evaluations(run: Run) -> float:
    """Returns the network evaluations of a sample."""
    return run.nfe


def passes(run: Run) -> float:
    """Returns evaluations and products with the Jacobian of the network, which cost about the same."""
    return run.nfe + run.vjps


def needed(runs: Sequence[Run], ours: bool, test: Test, cost: Callable[[Run], float]) -> Run | None:
    """Returns the cheapest run that passes a test, None where none does.

    Args:
        runs: of a problem.
        ours: whether of our samplers, or of all peers.
        test: what is asked.
        cost: of a run.
    """
    fine = [r for r in runs if (package(r.sampler) == "invgen") == ours and test(r)]
    return min(fine, key=lambda r: (cost(r), -r.psnr), default=None)


def needs(runs: Sequence[Run], problems: Sequence[str]) -> str:
    """Returns the table of what is needed: by evaluations, with the passes and seconds of the same run beside."""
    rows = [["problem", "asked", "ours", "best peer", "ours / peer"], ["---", "---", "---", "---", "---:"]]
    for problem in problems:
        if not (of := of_problem(runs, problem)):
            continue
        best = max(of, key=lambda r: r.psnr)
        title = f"{PROBLEMS[problem].title}; best mean {best.psnr:.2f} dB, `{name_of(best.sampler)}`"
        for words, test in tests(of).items():
            for cost, by in ((evaluations, ""), (passes, "; by passes")):
                if by and words != f"mean within {NEAR} dB":
                    continue
                mine, theirs = (needed(of, ours, test, cost) for ours in (True, False))
                share = f"{cost(mine) / cost(theirs):.2f}" if mine and theirs else ""
                rows.append([title, words + by, _need(mine), _need(theirs), share])
                title = ""
    return _table(rows)


def _need(run: Run | None) -> str:
    if run is None:
        return "not at any"
    return f"{run.nfe:.0f} ({passes(run):.0f} passes, {run.seconds:.2g} s): `{name_of(run.sampler)}`"


def _table(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def curves(runs: Sequence[Run], problem: str) -> dict[str, list[Run]]:
    """Returns the judged runs of each sampler on a problem by evaluations; a peer's setting may change between them."""
    of: dict[str, list[Run]] = {}
    for run in sorted(of_problem(runs, problem), key=lambda r: r.budget):
        of.setdefault(name_of(run.sampler), []).append(run)
    return of


def results(runs: Sequence[Run], problem: str) -> str:
    """Returns a line a sampler: PSNR of the mean and coverage at each number of evaluations, and what one costs."""
    of = curves(runs, problem)
    budgets = sorted({r.budget for found in of.values() for r in found})
    head = ["sampler", *map(str, budgets), "passes an evaluation"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name, found in sorted(of.items(), key=lambda item: (package(item[0]) != "invgen", item[0])):
        at = {r.budget: f"{r.psnr:.2f} ({100 * r.coverage:.0f} %)" for r in found}
        last = found[-1]
        rows.append([f"`{name}`", *(at.get(b, "diverged") for b in budgets), f"{passes(last) / last.nfe:.1f}"])
    return _table(rows)


def tuned(runs: Sequence[Run], problems: Sequence[str]) -> str:
    """Returns the settings that the search chose for each peer, and those that are not run in full."""
    few, many = (f"from {BUDGETS[0]} to 15", f"from 25 to {BUDGETS[-1]}")
    rows = [["problem", "peer", few, many], ["---", "---", "---", "---"]]
    for problem in problems:
        for name in GRIDS:
            found = [chosen(runs, problem, name, at) for at in TUNED_AT]
            if (problem, name) in LEFT_OUT:
                found = ["left out", LEFT_OUT[problem, name]]
            shown = [
                "not run in full" if not any(found) else f"`{f}`" if f and "(" in f else f or "all diverged" for f in found
            ]
            rows.append([PROBLEMS[problem].title, f"`{name}`", *shown])
    return _table(rows)


def _setting(spec: str | None, run: bool) -> str:
    if spec is None:
        return "diverged" if run else "not run in full"
    return f"`{spec}`" if "(" in spec else spec


def uncertain(runs: Sequence[Run], problem: str) -> str:
    """Returns how well the few signals tell samplers apart, as a sentence: the median over runs within 1 dB of the best of
    the standard error of the paired difference from it, and that of the best one's coverage."""
    of = of_problem(runs, problem)
    best = max(of, key=lambda r: r.psnr)
    own = [float(v) for v in best.psnrs.split()]
    near = [[float(v) for v in r.psnrs.split()] for r in of if r is not best and r.psnr > best.psnr - 1]
    apart = [_error([a - b for a, b in zip(own, other, strict=True)]) for other in near] or [math.nan]
    covered = _error([float(v) for v in best.coverages.split()])
    return (
        f"{len(own)} signals: a difference of two samplers near the best has a standard error of {median(apart):.2f} dB, a "
        f"coverage one of {covered:.3f}."
    )


def _error(values: Sequence[float]) -> float:
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def markdown(runs: Sequence[Run]) -> str:
    """Returns the generated part of the page."""
    problems = [p for p in PROBLEMS if of_problem(runs, p)]
    parts = ["### Evaluations needed", needs(runs, problems)]
    for problem in problems:
        of = PROBLEMS[problem]
        parts += [
            f"### {of.title[0].upper()}{of.title[1:]}",
            f"{of.note[0].upper()}{of.note[1:]}. {uncertain(runs, problem)}",
        ]
        parts.append(results(runs, problem))
    parts += ["### Settings that the search chose", tuned(runs, problems)]
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables of the stored runs, or makes the missing runs first."""
    parser = argparse.ArgumentParser(prog="invgen bench study peers", description=(__doc__ or "").strip())
    parser.add_argument("--run", action="store_true", help="make the runs that are missing (extra `peers`)")
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS), metavar="NAME")
    parser.add_argument("--budgets", nargs="+", type=int, default=list(BUDGETS), metavar="N", help="evaluations a sample")
    parser.add_argument("--signals", type=int, metavar="N", help="of each problem; by default its own number")
    parser.add_argument("--seconds", type=float, default=math.inf, help="of a processor, after which it stops")
    parser.add_argument("--store", type=Path, default=STORE, help="the CSV file of the runs, completed by --run")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="docs/peers.md, whose tables are brought up to date")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="docs/images/peers.png")
    args = parser.parse_args(argv)
    if args.run:
        complete(args.store, "tuning", tuning(args.problems), args.seconds, args.signals)
        complete(args.store, "judged", judged(args.problems, args.budgets, load(args.store)), args.seconds, args.signals)
    runs = load(args.store)
    if args.picture is not None:
        draw({p: curves(runs, p) for p in PROBLEMS if of_problem(runs, p)}, args.picture)
    if args.write is not None:
        write_text(args.write, between(args.write.read_text(encoding="utf-8"), PAGE, markdown(runs)))
    elif args.picture is None:
        print(markdown(runs))
