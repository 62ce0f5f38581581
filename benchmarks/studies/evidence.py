"""The model evidence that sequential Monte Carlo gives, against the exact one: `invgen bench study evidence`.

On the mixture of MCGDiff (mixture.py) log p(y) is known. exp(log_evidence) is unbiased for the law that the
discrete steps have, not for the mixture itself, so what is left for many particles is the bias of the steps; the tests of
particles show the unbiasedness on Gaussians, whose discrete law is known in closed form.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from invgen import samplers
from invgen.benchmarks.studies import mixture
from invgen.files.writing import write_text
from invgen.names import resolve
from invgen.samplers.smc.base import ParticleSampler

STORE = Path(__file__).parents[1] / "data" / "exact_evidence.json"


def specs() -> list[str]:
    """Returns the samplers that estimate the evidence of these problems."""
    post = mixture.problem(8, 1, 0)
    every = [c for c in samplers.catalogue().values() if issubclass(c, ParticleSampler)]
    return [c.__name__ for c in every if c().refuses(post) is None]


def errors(spec: str, dy: int, particles: int, steps: int = 100) -> list[float]:
    """Returns the log-evidence minus the exact one, of one chain on each instance of d = 8.

    Args:
        spec: of the sampler.
        dy: rows of A.
        particles, steps: of the chain.
    """
    out = []
    for i in range(mixture.INSTANCES):
        post = mixture.problem(8, dy, i)
        sampler = resolve.sampler(f"{spec}(particles={particles}, steps={steps})")
        assert isinstance(sampler, ParticleSampler)  # as `specs` lists them
        found = sampler.weighted(post, 1, seed=i).log_evidence.item()
        exact = post.prior.posterior(post.A, post.noise, post.y).log_evidence
        assert exact is not None  # what `posterior` returns has one
        out.append(found - exact)
    return out


def table(particles: Sequence[int] = (100, 1000)) -> dict[str, list[float]]:
    """Returns  "sampler, particles, d_y" -> the errors of 20 instances."""
    return {f"{s}, {n}, {dy}": errors(s, dy, n) for s in specs() for n in particles for dy in (1, 2, 4)}


def markdown(results: dict[str, list[float]]) -> str:
    """Returns the mean ratio of the evidence to the exact one, and mean and spread of the logarithm's error."""
    lines = [
        "### Model evidence, mixture with d = 8",
        "",
        "One chain on each of the 20 instances, 100 steps. Ratio: mean of estimate / p(y), +- 1.96 standard errors; "
        "error: of log p(y), mean and standard deviation. The estimate is unbiased for the law of the discrete steps.",
        "",
        "| sampler | particles | d_y | ratio | error of log p(y) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for key, values in results.items():
        e = np.asarray(values)
        half = 1.96 * np.exp(e).std(ddof=1) / math.sqrt(len(e))
        cells = [*key.split(", "), f"{np.exp(e).mean():.2f} +- {half:.2f}", f"{e.mean():+.2f}, {e.std(ddof=1):.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Computes, stores and prints the table."""
    parser = argparse.ArgumentParser(prog="invgen bench study evidence", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--store", type=Path, default=STORE, help="the JSON file of the errors")
    args = parser.parse_args(argv)
    results = table()
    write_text(args.store, json.dumps({k: [round(v, 4) for v in values] for k, values in results.items()}, indent=0) + "\n")
    print(markdown(results))
