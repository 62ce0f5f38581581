"""The commands `invgen bench ...`. Everything heavy is imported inside them."""

import importlib
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="bench",
    help="Suites of problems, priors and samplers: resumable, and safe to interrupt.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)

File = Annotated[
    str, typer.Argument(metavar="SUITE", help="A shipped suite, FILE.yaml, FILE.py with a dict `suite`, or module:Name.")
]
Shard = Annotated[
    str | None, typer.Option(metavar="I/N", help="The I-th of N parts of the cells, as 1/4: one for each machine.")
]


@app.command("check", short_help="Read a suite: how many cells, how long, how much memory.")
def check_(
    suite: File,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder whose results count as done.")] = None,
    shard: Shard = None,
    probe: Annotated[bool, typer.Option(help="Whether to time each kind of cell with few steps.")] = True,
) -> None:
    """Read a suite: say what is wrong with it, how many cells it has and how many are there, about how long it takes and
    how much memory."""
    from invgen.benchmarks.engine.runner import check

    def say(text: str) -> None:
        if sys.stderr.isatty():
            typer.echo(f"invgen: {text}", err=True)

    typer.echo(str(check(suite, out, parse_shard(shard), probe, say)))


@app.command("run", short_help="Compute what is missing of a suite.")
def run_(
    suite: File,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the results.")],
    executor: Annotated[
        str,
        typer.Option(
            metavar="WHERE",
            help="serial; local or local:N, processes; dask:N, slurm:N, tcp://HOST:PORT, see docs/suites.md.",
        ),
    ] = "serial",
    shard: Shard = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Compute cells again that failed before.")] = False,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Images to compute at once, to fill a GPU.")] = 1,
) -> None:
    """Compute what is missing of a suite. Each result is stored the moment it ends; start it again after any interruption.

    Exit status: 0 all cells are done, 1 some failed (shown, and stored with their traceback), 2 a mistake, 130 interrupted.
    """
    from invgen.benchmarks.engine.runner import run

    report = run(suite, out, executor, parse_shard(shard), retry_failed, batch=batch)
    for sentence, count in list(report.errors.items())[:10]:
        typer.echo(f"failed ({count}): {sentence}", err=True)
    typer.echo(f"{report}\nresults are in {out}, as a table in {out / 'results.csv'}")
    if report.failed:
        raise typer.Exit(1)


@app.command("report", short_help="One HTML page of the results in a folder, and tables for other programs.")
def report_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `invgen bench run` wrote.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="The page; DIR/report.html.")] = None,
    formats: Annotated[
        list[str] | None, typer.Option("--format", metavar="NAME", help="html, csv, parquet, md, tex; all if not given.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Of the page; the suite's, or the folder's name.")] = None,
    images: Annotated[int, typer.Option(min=0, help="Of which pictures are shown, for each problem.")] = 2,
) -> None:
    """Write report.html, results.csv, results.parquet, tables.md and tables.tex: means with 95 % intervals, what is clearly
    best, pictures, quality against time, calibration, failures, and every cell. The page needs no network."""
    from invgen.benchmarks.report.page import report

    written = report(folder, out, formats or (), title, images)
    for sentence in written.left_out:
        typer.echo(sentence, err=True)
    typer.echo("\n".join(str(path) for path in written.files))


@app.command("compare", short_help="What changed between two results; --gate for CI.")
def compare_(
    old: Annotated[Path, typer.Argument(metavar="A", help="A folder of results, results.csv or results.parquet.")],
    new: Annotated[Path, typer.Argument(metavar="B", help="The same, later.")],
    gate: Annotated[
        bool, typer.Option("--gate", help="Exit status 1 where something became worse, fails or is missing.")
    ] = False,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(metavar="T", help="How much worse is no regression: 0.01 of the old mean, or psnr=0.1 in its units."),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Write Markdown.")] = False,
) -> None:
    """Compare two results, A and B, in the cells that both have.

    Per metric the mean paired difference with its 95 % interval, significant changes first; cells that are missing or fail.

    With --gate, exit status 1 where a metric became worse by more than the tolerance, significantly or on every image,
    where cells fail that did not, and where cells or metrics of A are missing in B.
    """
    from invgen.benchmarks.report.compare import compare, parse_tolerances
    from invgen.benchmarks.report.compare_text import text

    found = compare(old, new, parse_tolerances(tolerance or ()))
    typer.echo(text(found, markdown), nl=False)
    if gate and found.regressions:
        for sentence in found.regressions[:10]:
            typer.echo(f"regression: {sentence}", err=True)
        raise typer.Exit(1)


@app.command("exact", short_help="Where a sampler of yours stands on exact posteriors.")
def exact_(
    samplers: Annotated[
        list[str], typer.Argument(metavar="SAMPLER", help='./my_module.py:MySampler, module:Name, or "MMPS(iterations=5)".')
    ],
    store: Annotated[Path, typer.Option(help="CSV file of the runs, completed if it is there.")] = Path("exact.csv"),
    families: Annotated[
        list[str] | None, typer.Option("--family", metavar="KEY", help="Such as gaussian or mixture-8-1; all if left out.")
    ] = None,
    budgets: Annotated[
        list[int] | None, typer.Option("--evaluations", metavar="N", help="A sample; 10, 25 and 100 if left out.")
    ] = None,
    instances: Annotated[int, typer.Option(min=1, help="Of each family.")] = 2,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; as many as there are cores.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="A .md file for the page.")] = None,
) -> None:
    """Run a sampler of your own on problems with an exact posterior, and print the leaderboard with it.

    docs/leaderboard.md has the stored one. Each run is stored the moment it ends; start it again after any interruption.
    """
    from invgen.benchmarks.studies.exact import BUDGETS
    from invgen.benchmarks.studies.leaderboard import enter
    from invgen.files.writing import write_text

    page = enter(samplers, store, families or (), budgets or BUDGETS, instances, workers)
    typer.echo(page)
    if out is not None:
        write_text(out, page)


STUDIES = {
    "networks": "published networks, checked and tried, docs/networks.md",
    "measured": "real measurements of eight instruments, docs/measured.md",
    "exact": "every sampler against exact posterior samples; --full for all families",
    "spread": "covariance of samples over the exact one at few evaluations; --full for all samplers",
    "evidence": "the model evidence of sequential Monte Carlo against the exact one",
    "peers": "samplers of deepinv and azula beside ours, by network evaluations, docs/peers.md",
    "outside": "two benchmarks that others designed, levy and bipsda, docs/outside.md",
    "leaderboard": "docs/leaderboard.md from the stored runs of `exact`",
    "sampler-page": "docs/samplers.md from the stored runs of `exact`",
    "tuning-gain": "published options of samplers beside tuned ones",
    "speed": "each sampler over its network evaluations, operators over plain torch",
    "loop-speed": "noise, steps, half precision, training and first use beside plain torch",
    "gpu": "what only a GPU can show: results beside the CPU's, and times; an error where they differ",
    "ct-speed": "CT beside ASTRA, scikit-image and the memory bandwidth",
    "growth": "time and memory against size, views, batch, samples and steps",
    "volume": "a chest from 30 views of a cone beam: FDK, total variation, slices alone and coupled",
    "suite-cost": "what suites cost beside their samplers",
}
_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command("study", short_help="Run a study that invgen is judged by, or list them.", context_settings=_PASSED_ON)
def study_(context: typer.Context, name: Annotated[str | None, typer.Argument(metavar="NAME")] = None) -> None:
    """Run a study with its own options (`invgen bench study exact --help`)."""
    from invgen.errors import OptionError
    from invgen.names.spelling import hint

    if name in (None, "-h", "--help"):
        typer.echo("Studies, `invgen bench study NAME [OPTIONS]`:\n")
        typer.echo("\n".join(f"  {key:13} {text}" for key, text in STUDIES.items()))
        return
    if name not in STUDIES:
        raise OptionError(f"unknown study {name!r}; {hint(name, STUDIES)}")
    importlib.import_module(f"invgen.benchmarks.studies.{name.replace('-', '_')}").main(context.args)


@app.command("reference", short_help="Keep a run as the reference, write its tables.", context_settings=_PASSED_ON)
def reference_(context: typer.Context) -> None:
    """Reference results of the shipped suites, with options of its own (`invgen bench reference --help`)."""
    from invgen.benchmarks.report.reference import main

    main(context.args)


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """Returns  "1/4" as (1, 4).

    Raises:
        OptionError: something else.
    """
    from invgen.errors import OptionError

    if text is None:
        return None
    if not re.fullmatch(r"\d+/\d+", text):
        raise OptionError(f"cannot read the shard {text!r}; expected I/N, such as 1/4")
    i, n = map(int, text.split("/"))
    return i, n
