"""The command line. Everything heavy is imported inside the commands, so that `invgen --help` answers at once."""

import sys
from typing import Annotated

import typer

from invgen.benchmarks.cli import app as bench
from invgen.cli.base import app

# each adds its commands, in the order in which `invgen --help` lists them
from invgen.cli import inference, catalogue, training  # noqa: F401  # isort: skip

app.add_typer(bench, name="bench", short_help="Run benchmark suites.")


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        from invgen import __version__

        typer.echo(f"invgen {__version__}")
        raise typer.Exit


def main(args: list[str] | None = None) -> None:
    """The command `invgen`. Exit status: 0 done, 2 a mistake that one sentence on stderr explains, 130 interrupted."""
    import warnings

    from invgen.errors import InvgenError

    shown = set()

    def say(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if category not in shown:  # a solve that stops early does so at every step: once is enough
            shown.add(category)
            typer.echo(f"invgen: warning: {message}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = say
        try:
            app(args)
        except InvgenError as error:
            typer.echo(f"invgen: {error}", err=True)
            sys.exit(2)
