"""The command, and the tables of docs/outside.md."""

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path

from invgen.benchmarks.studies.outside import bipsda, levy, published
from invgen.benchmarks.studies.outside.rows import EXACT, Row, load, save
from invgen.benchmarks.suite.parts import one_thread
from invgen.files.writing import write_text

DATA = Path(__file__).parents[2] / "data"
STUDIES = {"levy": levy, "bipsda": bipsda}


EVALUATIONS = {"C-DPS": "1000", "DiffPIR": "1000", "DPnP": "40 sweeps"}  # of the published rows


def stored(study: str) -> Path:
    """Returns the file of the shipped rows."""
    return DATA / f"outside_{study}.csv"


def complete(
    study: str,
    path: Path,
    minutes: float = math.inf,
    samplers: Sequence[str] = (),
    problems: Sequence[str] = (),
    **options: int,
) -> None:
    """Computes what a file lacks, for so long at most; a row is written the moment its run ends.

    Args:
        study: "levy" or "bipsda".
        path: the CSV file.
        minutes: after which no other run is begun.
        samplers: "NAME" or "NAME:BUDGET" in place of those of the study.
        problems: in place of all.
        options: of its `run_one`.
    """
    module, rows, began = STUDIES[study], load(path), time.monotonic()
    done = {row.key for row in rows}
    chosen = tuple((s.rsplit(":", 1)[0], int(s.rsplit(":", 1)[1]) if ":" in s else 25) for s in samplers) or module.CHOSEN
    with one_thread():
        for cell in module.cells(chosen, tuple(problems)):
            if cell in done:
                continue
            if time.monotonic() - began > 60 * minutes:
                return
            rows.append(module.run_one(*cell, **options))
            save(path, rows)
            print(f"{time.monotonic() - began:6.0f} s  {rows[-1].key} {rows[-1].figures or rows[-1].error}", flush=True)


def levy_tables(rows: Sequence[Row]) -> str:
    """Returns a table a problem: gap, its standard deviation over signals and coverage, by sampler and law."""
    found = {row.key: row for row in rows}
    parts = []
    for kind in levy.PROBLEMS:
        lines = ["| sampler | evaluations | " + " | ".join(levy.LAWS) + " |", "| --- " * (2 + len(levy.LAWS)) + "|"]
        for spec, budget in ((EXACT, 0), *sorted({(r.sampler, r.budget) for r in rows if r.budget}, key=_order)):
            cells = [_levy_cell(found.get((f"{law}, {kind}", spec, budget))) for law in levy.LAWS]
            if any(cells):
                lines.append(f"| `{spec}` | {budget or ''} | " + " | ".join(cells) + " |")
        for name, values in published.LEVY[kind].items():
            lines.append(f"| {name}, published | {EVALUATIONS.get(name, '')} | " + " | ".join(values) + " |")
        parts += [f"### {kind[0].upper()}{kind[1:]}", "\n".join(lines)]
    return "\n\n".join(parts)


def _order(key: tuple[str, int]) -> tuple[int, str]:
    return key[1], key[0]


def _levy_cell(row: Row | None) -> str:
    if row is None:
        return ""
    if not row.figures:
        return row.error.split(":")[0]
    return "{gap:.2f} ± {gap_std:.2f}, {coverage:.2f}".format(**row.figures)


def bipsda_tables(rows: Sequence[Row]) -> str:
    """Returns a table a problem: errors of mean and variances and the discrepancy, by sampler."""
    parts = []
    for name in bipsda.PROBLEMS:
        lines = ["| sampler | evaluations | mean | variances | MMD |", "| --- " * 5 + "|"]
        mine = [row for row in rows if row.problem == name]
        for row in sorted(mine, key=lambda r: (r.sampler != EXACT, (r.figures or {}).get("variance", math.inf))):
            shown = row.error.split(":")[0] + " | | "
            if row.figures:
                shown = "{mean:.2f} | {variance:.2f} | {mmd:.3f}".format(**row.figures)
            lines.append(f"| `{row.sampler}` | {row.budget or ''} | {shown} |")
        for method, values in published.BIPSDA[name].items():
            evaluations = "" if method == "exact" else "1000" if "ODE" in method else "200"
            lines.append(f"| {method}, published | {evaluations} | " + " | ".join(values) + " |")
        parts += [f"### {name[0].upper()}{name[1:]}", "\n".join(lines)]
    return "\n\n".join(parts)


def losses(rows: Sequence[Row]) -> str:
    """Returns where the first sampler of ours has a larger gap than DiffPIR as published, and where samples cover least."""
    found = {row.key: row.figures for row in rows if row.figures}
    behind = []
    for kind in levy.PROBLEMS:
        for law, value in zip(levy.LAWS, published.LEVY[kind]["DiffPIR"], strict=True):
            of = found.get((f"{law}, {kind}", "MMPS", 25))
            floor = found.get((f"{law}, {kind}", EXACT, 0))
            if of and floor and value and of["gap"] - floor["gap"] > float(value.split(" ")[0]):
                behind.append(f"{kind} of {law} ({of['gap'] - floor['gap']:.2f} dB above exact samples, published {value})")
    return "; ".join(behind) or "none"


def markdown(of_levy: Sequence[Row], of_bipsda: Sequence[Row]) -> str:
    """Returns docs/outside.md."""
    text = TEXT.replace("{levy}", levy_tables(of_levy)).replace("{bipsda}", bipsda_tables(of_bipsda))
    return (
        text.replace("{behind}", losses(of_levy))
        .replace("{signals}", str(levy.SIGNALS))
        .replace("{measurements}", str(bipsda.MEASUREMENTS))
        .replace("{samples}", str(bipsda.SAMPLES))
    )


TEXT = """# Outside benchmarks

Two benchmarks of posterior samplers that others designed, each with a posterior that is known, and our rows beside the
published ones. Neither is ours to choose: the priors, problems, noise and figures are the papers'. What differs is told
under each. The [leaderboard](leaderboard.md) has problems of our choice.

```console
$ invgen bench study outside levy --store levy.csv        # or bipsda; a row is written the moment its run ends
$ invgen bench study outside levy --store levy.csv --samplers ./my_module.py:MySampler:25
$ invgen bench study outside page --out docs/outside.md   # this page, from the shipped rows
```

## Random walks with jumps

Zach, Haouchat & Unser, "A statistical benchmark for diffusion posterior sampling algorithms" (ICLR 2026,
[OpenReview](https://openreview.net/forum?id=zDI2G8t0of), code zacmar/dps-benchmark). A signal is a walk of 64 independent
steps: Gaussian of variance .25, Laplace of scale 1, "BL", which is Laplace with probability .1 and else zero, or Cauchy,
St(1). Four linear problems at 25 dB. `priors.LevyProcess` has the exact denoiser; the exact posterior is by Gibbs sampling,
as in the paper.

A cell is the **gap**, 10 log10 of the squared error of the samples' mean over that of the exact posterior mean, mean ±
standard deviation over signals, and the **coverage**: how often the truth is in the region of highest posterior density
that holds 90 % of the samples. .90 is right, 0 says that samples hug a mode, 1 that they spread too far.

Ours: {signals} signals, 19 samples of each, so that a mean of exact samples has a gap of about .2 dB itself (row `exact`)
and exact coverage is .90; the standard error of a gap is its deviation over the root of {signals}, that of a coverage of
.90 is .09. The denoiser is exact. `DPS`, `DiffPIR` and `DPnP` have their options searched for each cell on four other
signals, on grids of 3 to 6 points; all others have their defaults everywhere.

Published: 1000 signals, 50 samples (a gap of .09 dB for exact ones), a learned denoiser, options searched for each cell on
1000 signals, on grids of 40. The paper itself could not be read here: its settings are those of the code, its figures
those that two public summaries give, which lack cells. Of coverage they say: near 0 for C-DPS and DiffPIR but for some of
BL and St(1), nearest to .9 for DPnP.

{levy}

Empty cells have not been run; the command fills them. `MMPS` at 25 evaluations, 40 times fewer than published, is behind
the published `DiffPIR` in: {behind}.

The gap alone rewards samples that spread too little, whose mean has less noise: `DiffPIR` in denoising of Gaussian and
Laplace steps has the smallest gap and covers nothing. There `MMPS` and `AdaptivePiGDM` cover what they should, at about
.1 dB above exact samples. BL is where they lose, `DiffPIR` with them: which steps are zero is decided by more than a mean
and a covariance, and coverage of 1.00 says that their samples have fewer zeros than the truth.

## A mixture of three Gaussians in ten dimensions

Scope Crafts & Villa, "Benchmarking diffusion annealing-based Bayesian inverse problem solvers" (IEEE Open J. Signal
Process. 2025, [arXiv 2503.03007](https://arxiv.org/abs/2503.03007), code Evan1578/BIPSDA). Inpainting with noise of .1, one
mode, and of 5, several modes; photon counts of 15 rays; phase retrieval from five intensities. Errors of mean and
variances are Euclidean norms over the ten values, MMD is the squared discrepancy; means over measurements, and smaller is
better.

Ours: {measurements} measurements, {samples} samples, the exact denoiser, exact posteriors (in closed form for inpainting,
by annealed importance sampling else), an unbiased MMD; the random basis of one covariance is another one. Published: 100
measurements, 10 000 samples, mostly a learned denoiser, 200 steps. An exact set of {samples} samples has three times the
errors of one of 10 000: each table has both rows, `exact` being ours. The paper's tables could not be read here; the cells
are those that a public reading of it quotes.

{bipsda}

Where the posterior has one mode, inpainting with little noise and photon counts, `MMPS` at 25 evaluations cannot be told
from exact samples. With noise of 5 it gives the modes wrong weights: its variances are off by ten times what those of an
exact set are, and more than those of the published MAP-TU and RTO-TU. Particles weigh them: `LinearisedTDS` is near the
exact set there, and worse than `MMPS` where the noise is small. `AdaptiveDAPS` fails with noise of 5 as its kin does in
the paper, and `PnPDM` with noise of .1, far below the least width of its schedule.

Phase retrieval is lost: with their defaults our samplers diverge, or are several times worse than any published one, none
of which the paper calls good.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Completes the rows of a study, or writes the page."""
    parser = argparse.ArgumentParser(prog="invgen bench study outside", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study", choices=[*STUDIES, "page"], help="which benchmark; or the page, from the shipped rows")
    parser.add_argument("--store", type=Path, help="a CSV file of results, which is completed; the shipped one by default")
    parser.add_argument("--samplers", nargs="+", default=[], metavar="SPEC", help='such as "MMPS(iterations=5):25"')
    parser.add_argument("--problems", nargs="+", default=[], metavar="NAME", help='such as "Laplace(1), denoising"')
    parser.add_argument("--minutes", type=float, default=math.inf, metavar="N", help="begin no run after so long")
    parser.add_argument("--out", type=Path, help="docs/outside.md, of the page")
    args = parser.parse_args(argv)
    if args.study != "page":
        complete(args.study, args.store or stored(args.study), args.minutes, args.samplers, args.problems)
        return
    page = markdown(load(stored("levy")), load(stored("bipsda")))
    if args.out is None:
        print(page)
    else:
        write_text(args.out, page)
