"""The page docs/leaderboard.md: samplers ranked on problems with an exact posterior, `invgen bench exact`.

`invgen bench exact my_module:MySampler` runs a sampler of yours on the problems that it takes and prints where it stands;
`invgen bench study leaderboard --out docs/leaderboard.md` writes the page from the stored runs, with yours by --with.
"""

import argparse
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from invgen.benchmarks.studies import exact
from invgen.benchmarks.studies.problems import families
from invgen.benchmarks.studies.sampler_page import GROUPS
from invgen.errors import OptionError
from invgen.files.writing import write_text
from invgen.names import resolve

SHOWN = 10  # rows of each table
COMMON = ("mixture 8", "mixture 80", "mixture 800", "sixteen", "Gaussian")  # what every sampler of pixels takes
INSTANCES = 2  # of each family, of a sampler that is added


@dataclass(frozen=True)
class Place:
    """How a sampler does on a group of families at one number of evaluations.

    Attributes:
        regret: its distance over the least of all samplers on the same instance, geometric mean.
        floor: its distance over that between two exact sets, geometric mean over the runs that ended.
        nfe, seconds: of one run, medians.
        runs, failed: how many there are, and how many of them ended in an error.
    """

    regret: float
    floor: float
    nfe: float
    seconds: float
    runs: int
    failed: int


def places(runs: Iterable[exact.Run], budget: int) -> dict[str, dict[str, Place]]:
    """Returns group -> sampler -> its place at a budget. A run that failed counts as the worst that ended.

    Runs are compared instance by instance, so that samplers may have run on different ones. Those that took more than
    1.25 times the budget do not count.
    """
    kept = [r for r in runs if r.sampler == exact.FLOOR or (r.budget == budget and r.nfe <= 1.25 * budget)]
    floors = {(r.family, r.instance): r.distance for r in kept if r.sampler == exact.FLOOR}
    cells: dict[tuple[str, int], list[exact.Run]] = {}
    for r in kept:
        if r.sampler != exact.FLOOR:
            cells.setdefault((r.family, r.instance), []).append(r)
    ended = {key: [r.distance for r in of if math.isfinite(r.distance)] for key, of in cells.items()}
    out: dict[str, dict[str, Place]] = {}
    for group, keys in GROUPS.items():
        own = [r for key, of in cells.items() if key[0] in keys and ended[key] for r in of]
        for name in dict.fromkeys(r.sampler for r in own):
            mine = [r for r in own if r.sampler == name]
            fine = [r for r in mine if math.isfinite(r.distance)]
            ratios = []
            for r in mine:
                at = ended[r.family, r.instance]
                ratios.append((r.distance if math.isfinite(r.distance) else max(at)) / min(at))
            over = [r.distance / floors[r.family, r.instance] for r in fine if (r.family, r.instance) in floors]
            cost = (median(r.nfe for r in fine), median(r.seconds for r in fine)) if fine else (math.nan, math.nan)
            out.setdefault(group, {})[name] = Place(
                _geometric(ratios), _geometric(over), *cost, len(mine), len(mine) - len(fine)
            )
    return out


def overall(of: dict[str, dict[str, Place]]) -> dict[str, float]:
    """Returns sampler -> geometric mean of its regrets over the groups that all samplers take, of those that ran on all."""
    groups = [of[group] for group in COMMON if of.get(group)]
    names = set.intersection(*map(set, groups)) if groups else set[str]()
    return {name: _geometric([group[name].regret for group in groups]) for name in names}


def markdown(runs: Sequence[exact.Run], yours: Sequence[str] = ()) -> str:
    """Returns the page; samplers in `yours` are in bold, and told of wherever they stand."""
    at = {budget: places(runs, budget) for budget in exact.BUDGETS}
    parts = [INTRODUCTION, "## Over all linear problems", OVERALL]
    parts.append(_table({b: (overall(of), {}) for b, of in at.items()}, yours))
    for group in GROUPS:
        here = {b: ({n: p.regret for n, p in of[group].items()}, of[group]) for b, of in at.items() if of.get(group)}
        if here:
            parts += [f"## {group[0].upper()}{group[1:]}", _table(here, yours)]
    return "\n\n".join(parts) + "\n"


def _table(at: dict[int, tuple[dict[str, float], dict[str, Place]]], yours: Sequence[str]) -> str:
    """Returns the first samplers at each budget, their regret and what it costs; then what is best, and where yours are."""
    ranks = {b: sorted(regrets, key=lambda name: (regrets[name], name)) for b, (regrets, _) in at.items()}
    lines = ["| | " + " | ".join(f"{b} evaluations" for b in at) + " |", "|" + " --- |" * (len(at) + 1)]
    for k in range(min(SHOWN, max(map(len, ranks.values())))):
        cells = []
        for b, (regrets, of) in at.items():
            name = ranks[b][k] if k < len(ranks[b]) else ""
            cost = f", {of[name].seconds:.2g} s" if name in of else ""
            failed = f", {of[name].failed} of {of[name].runs} failed" if name in of and of[name].failed else ""
            shown = f"**`{name}`**" if name in yours else f"`{name}`"
            cells.append(f"{shown} {_ratio(regrets[name])}{cost}{failed}" if name else "")
        lines.append(f"| {k + 1} | " + " | ".join(cells) + " |")
    best = [f"{_ratio(of[ranks[b][0]].floor)} at {b}" for b, (_, of) in at.items() if of]
    out = "\n".join(lines) + (f"\n\nThe first is at so many floors: {', '.join(best)}." if best else "")
    for name in yours:
        told = [
            f"{ranks[b].index(name) + 1} of {len(ranks[b])} at {b} ({_ratio(at[b][0][name])})"
            for b in at
            if name in ranks[b]
        ]
        out += f"\n\n**`{name}`**: rank {', '.join(told)}." if told else ""
    return out


def _geometric(values: Sequence[float]) -> float:
    """Returns the geometric mean of ratios, nan of none."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def _ratio(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def enter(
    specs: Sequence[str],
    store: Path,
    keys: Sequence[str] = (),
    budgets: Sequence[int] = exact.BUDGETS,
    instances: int = INSTANCES,
    workers: int | None = None,
) -> str:
    """Runs samplers on the problems that they take, into a table of their own, and returns their lines of the page.

    Args:
        specs: of samplers, such as "my_module:MySampler" or "MMPS(iterations=5)".
        store: the CSV file of their runs, which is completed: started again, nothing is run twice.
        keys: families of problems; all by default.
        budgets: evaluations a sample.
        instances: of each family.
        workers: processes; as many as there are cores by default.

    Raises:
        OptionError: no such family; a sampler that takes none of the problems.
    """
    known = families()
    if wrong := [key for key in keys if key not in known]:
        raise OptionError(f"unknown family {wrong[0]!r}; there are {', '.join(known)}")
    chosen = list(keys) or list(known)
    for spec in specs:  # before anything is run
        why = [resolve.sampler(spec).refuses(known[key].make(0).posterior) for key in chosen]
        if all(why):
            raise OptionError(f"{spec} takes none of the problems: it {why[0]}")
    own = exact.complete(store, chosen, specs, budgets, instances, workers)
    stored = [r for r in exact.load(exact.RESULTS) if r.sampler not in specs]
    return markdown([*stored, *(r for r in own if r.sampler in specs)], specs)


INTRODUCTION = """# Leaderboard on exact posteriors

Problems whose posterior can be sampled exactly leave no doubt about which sampler is right. Each sampler has the same
number of network evaluations a sample; its samples are compared with exact ones by the sliced Wasserstein-1 distance.
**Regret** is its distance over the least that any sampler of this page reaches on the same instance with as many
evaluations, geometric mean over instances: 1.00 says that none is ever better. Seconds are of one run of all samples (500
or 1000) on one thread, medians. A floor is the distance of two exact sets.

Generated from stored runs by `invgen bench study leaderboard --out docs/leaderboard.md`. [All samplers](samplers.md) has
every row and tells how the problems are made; a run that failed counts here as the worst that ended.

**To add a sampler of yours**, a class in a file of your own (CONTRIBUTING.md says how to write one):

```console
$ invgen bench exact ./my_module.py:MySampler
```

It runs on two instances of every family that it takes, at 10, 25 and 100 evaluations, into `exact.csv` (go on by the same
command), and prints this page with your ranks in bold; with `--family gaussian --instances 1` in a minute. Send `exact.csv`
with the class: its rows go into the stored table as they are."""

OVERALL = """Geometric mean of the regrets over the mixtures, "sixteen" and the Gaussian, which every sampler of pixels
takes (at 10 and 25 evaluations the mixture of 8 and the Gaussian)."""


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the page, or writes it."""
    parser = argparse.ArgumentParser(prog="invgen bench study leaderboard", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--store", type=Path, default=exact.RESULTS, help="the CSV file of the runs")
    parser.add_argument("--with", dest="more", type=Path, help="runs of `invgen bench exact`, shown as well")
    parser.add_argument("--out", type=Path, help="docs/leaderboard.md")
    args = parser.parse_args(argv)
    runs = exact.load(args.store)
    own = [r for r in exact.load(args.more) if r.sampler != exact.FLOOR] if args.more else []
    page = markdown([*runs, *own], list(dict.fromkeys(r.sampler for r in own)))
    if args.out is None:
        print(page)
    else:
        write_text(args.out, page)
