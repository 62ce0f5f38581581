"""The prior, operator, noise and image of a cell, made once in each process and kept."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from invgen.benchmarks.methods import catalogue
from invgen.benchmarks.suite import fingerprint, identity, signals
from invgen.benchmarks.suite.cell import Cell
from invgen.benchmarks.suite.identity import Identity
from invgen.diffusion import Prior
from invgen.errors import FileError
from invgen.forward import Operator
from invgen.inference.precision import Precision, prior_in_precision
from invgen.names import resolve
from invgen.names.prepare import prepared
from invgen.posterior import Posterior
from invgen.priors.load import WEIGHTS
from invgen.priors.load import names as priors_by_name


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread for the block: what is computed with several differs in the last digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@lru_cache(maxsize=2)
def prior_of(spec: str, size: tuple[int, ...] | None, rescale: tuple[float, float], device: str) -> tuple[Prior, Identity]:
    """Returns a prior and its identity: its file or its options, its shape, its units and the code of its classes.

    Args:
        spec: of the prior.
        size: shape of the signal; None for the prior's own.
        rescale: (scale, shift) of the units.
        device: of torch.
    """
    prior = prepared(spec, size, rescale, device)
    name = fingerprint.of_spec(spec, prior, _weights(spec))
    name = fingerprint.digest([name, list(prior.shape), list(rescale)])
    return prior, Identity(name, identity.of_prior(prior))


def _weights(spec: str) -> Path | None:
    """Returns the file or folder that the spec of a prior stands for, as `invgen.names.resolve.prior` reads it."""
    name, shipped = spec.partition("(")[0].strip(), priors_by_name()
    if os.path.isfile(spec) or (os.path.isdir(spec) and spec not in shipped):
        return Path(spec)
    return WEIGHTS / f"{name}.safetensors" if name in shipped else None


@lru_cache(maxsize=2)
def _cast(
    spec: str, size: tuple[int, ...] | None, rescale: tuple[float, float], device: str, precision: Precision
) -> tuple:
    """Returns the prior of `prior_of` with its networks in a precision, and the name of that: "auto" is tried once."""
    prior, _ = prior_of(spec, size, rescale, device)
    return prior_in_precision(prior, precision)


def in_precision(cell: Cell, post: Posterior) -> tuple[Posterior, str]:
    """Returns the problem of a cell with the prior's networks in its precision, and the name of that."""
    if cell.precision == "float32":
        return post, cell.precision
    prior, used = _cast(cell.prior, cell.size, cell.rescale, cell.device, cell.precision)
    return post.changed(prior=prior), used


@lru_cache(maxsize=16)
def operator_of(
    spec: str, shape: tuple[int, ...], value_range: tuple[float, float], device: str
) -> tuple[Operator, Identity]:
    """Returns an operator and its identity: its options and the code of its classes.

    Args:
        spec: of the operator.
        shape, value_range: of signals.
        device: of torch.
    """
    A = resolve.operator(spec, shape).to(torch.device(device))
    return A, Identity(fingerprint.of_spec(spec, A), identity.of_operator(A, value_range))


sampler_of = lru_cache(maxsize=64)(catalogue.method)  # samplers are frozen


noise_of = lru_cache(maxsize=64)(resolve.noise)


def forget() -> None:
    """Drops what is kept, so that files and weights are read anew."""
    for kept in (prior_of, _cast, operator_of, sampler_of, noise_of, signals.signal_of):
        kept.cache_clear()
    fingerprint.forget_files()


def problem_of(cell: Cell) -> tuple[Posterior, Tensor]:
    """Returns the posterior that a cell asks for, and the true image.

    Raises:
        FileError: the prior, the operator or the image is not the one that the suite was expanded with.
    """
    prior, of_prior = prior_of(cell.prior, cell.size, cell.rescale, cell.device)
    A, of_operator = operator_of(cell.operator, tuple(prior.shape), tuple(prior.value_range), cell.device)
    of_image = signals.identity_of(cell.source, prior, of_prior.name)
    named = (f"prior {cell.prior}", f"operator {cell.operator}", f"image {cell.source}")
    for what, here, expected in zip(named, (of_prior, of_operator, of_image), cell.is_of, strict=True):
        if here.name != expected.name:
            raise FileError(f"the {what} has changed since the run began; start it again")
        if not here.is_like(expected.values):
            raise FileError(
                f"the {what} gives other values than where the run began: other weights, or other versions of the packages "
                "that make it; use the same everywhere and start the run again"
            )
    truth = signals.truth_of(cell.source, prior)
    with torch.no_grad():
        clean = A(truth)
        # drawn on the CPU, so that every device sees the same measurement
        law = noise_of(cell.noise)
        y = law.sample(clean.cpu(), torch.Generator().manual_seed(cell.noise_seed))
    return Posterior(prior, A, law.to(clean.device), y.to(clean.device)), truth
