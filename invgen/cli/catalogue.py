"""Commands that show what there is: the catalogue, the demo, the gallery, and the check of an operator that joins them."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from invgen.cli.base import app


@app.command("list", short_help="List the operators, priors and samplers.")
def list_(
    kind: Annotated[str | None, typer.Argument(help="operators, priors or samplers; all of them if left out.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown tables.")] = False,
) -> None:
    """List the operators, priors and samplers, with what each does and needs."""
    from invgen.commands import catalogue
    from invgen.names.resolve import unknown

    if kind is not None and kind not in catalogue.TABLES:
        raise unknown("list", kind, catalogue.TABLES)
    kinds = [kind] if kind else list(catalogue.TABLES)
    typer.echo("\n\n".join(catalogue.markdown(k) if markdown else catalogue.text(k) for k in kinds))


@app.command(short_help="Check an operator of your own.")
def check(
    operator: Annotated[str, typer.Argument(help='my_module:MyOperator, path/to/file.py:MyOperator or "Name(option=1)".')],
    shape: Annotated[str, typer.Option(help="Shape of the signal where the operator asks for one.")] = "1x16x16",
    single: Annotated[bool, typer.Option("--single", help="Check in float32, for an operator without float64.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the random probes.")] = 0,
) -> None:
    """Check an operator of your own: shapes, batches, precision, gradients, linearity, adjoint, solve; says what fails."""
    import torch

    from invgen.inference.checks import check_operator
    from invgen.names import resolve
    from invgen.names.prepare import parse_size

    A = resolve.operator(operator, parse_size(shape, ranks=range(1, 6)))
    typer.echo(str(check_operator(A, dtype=torch.float32 if single else torch.float64, seed=seed)))


@app.command(short_help="Reconstruct real photographs and CT slices.")
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for pictures and tables.")] = Path("out"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer problems and steps.")] = False,
    readme: Annotated[
        Path | None,
        typer.Option(help="Put the table on this page, between demo:begin and demo:end, and the picture in docs/images."),
    ] = None,
) -> None:
    """Reconstruct real photographs and real CT slices, and compare with classical methods."""
    from invgen.benchmarks import demo as job
    from invgen.commands import catalogue

    def with_table(page: str) -> str:
        return catalogue.between(page, "demo", summary)

    summary = ""
    if readme is not None:
        with_table(readme.read_text(encoding="utf-8") if readme.is_file() else "")  # said before the work, not after
    rows = job.run(out, quick=quick)
    summary = job.summary(rows)
    if readme is not None:
        catalogue.write(readme, with_table)
        picture = readme.parent / "docs" / "images" / "demo.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(out / "overview.png", picture)
    typer.echo(job.table(rows))
    typer.echo(f"pictures and the table are in {out}")


@app.command(short_help="The systems of generative modelling, each with a measured number.")
def gallery(
    number: Annotated[int | None, typer.Argument(help="Of the row to run; all are listed if left out.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A reduced form, under a minute, on what ships.")] = False,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder of the results; out/rowNN if left out.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Store the figures, in a checkout: the list shows them.")] = False,
) -> None:
    """List the systems of generative modelling with their figures, or run one: one table and one picture, sound or clip.

    Exit status: 1 where a figure misses its bound.
    """
    from invgen.benchmarks.gallery import rows

    if number is None:
        typer.echo(rows.listing())
        return
    from invgen.commands import gallery as job

    row = job.run(number, out or Path("out") / f"row{number:02d}", quick=quick, keep=keep)
    typer.echo(row.text())
    typer.echo("\n".join(str(path) for path in row.files))
    if not row.holds:
        raise typer.Exit(1)
