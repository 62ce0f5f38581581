"""Samplers of deepinv and azula beside ours, by network evaluations: `invgen bench study peers`."""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the page of the stored runs; `--run` makes those that are missing."""
    from invgen.benchmarks.studies.peers.page import main

    main(argv)
