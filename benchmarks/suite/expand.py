"""Suites: one YAML file, or a Python dict, that says what to compute; expanded into cells named by what determines them.

    data: photo                                  # or a folder, files, a list of those
    priors: photo
    problems:
      - {name: sr, operator: Downsample(factor=4), noise: 0.05}
    samplers: [AdaptivePiGDM(steps=25), {sampler: AdaptiveDAPS, grid: {steps: [25, 50]}}]
    baselines: [Bicubic, TV]                     # classical methods, each on the problems that it fits
    seeds: 2
    num_samples: 4
    metrics: [psnr, residual]

docs/suites.md has every key. What is wrong is said with its line, its place, and what is allowed there.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from invgen import __version__
from invgen.benchmarks.methods import catalogue
from invgen.benchmarks.suite import fingerprint, reading, scores, signals
from invgen.benchmarks.suite.cell import VERSION, Cell
from invgen.benchmarks.suite.file import KEYS, PROBLEM_KEYS, SHARED, Place, Suite, load
from invgen.benchmarks.suite.parts import forget, one_thread, operator_of, prior_of
from invgen.diffusion import Prior
from invgen.errors import OptionError
from invgen.forward import Operator
from invgen.inference.precision import Precision, prior_in_precision
from invgen.inference.solve import Result
from invgen.method import Method
from invgen.names import resolve
from invgen.names.spec import parse
from invgen.noise import Noise
from invgen.posterior import Posterior
from invgen.validation.limits import check_size

__all__ = ["Suite", "expand", "load", "shard_of"]

ARRAYS = ("none", "summary", "all")


@one_thread()
def expand(suite: "str | Path | Mapping[str, Any] | Suite") -> list[Cell]:
    """Every cell of a suite, once, ordered by prior, so that a process loads few; all that can be checked is checked.

    Raises:
        OptionError, FileError: with the line, the place and what is allowed.
    """
    suite = load(suite)
    content = reading.keys(suite, suite.content, (), KEYS, ("problems",))
    forget()
    device = reading.text(suite, content.get("device", "cpu"), ("device",), "cpu or cuda")
    found: list[Cell] = []
    for problem, place in reading.items(suite, content["problems"], ("problems",)):
        problem = reading.keys(suite, problem, place, PROBLEM_KEYS, ("operator", "noise"))
        # a problem's own value goes before that of the suite
        parts = {key: (problem[key], (*place, key)) if key in problem else (content.get(key), (key,)) for key in SHARED}
        for key in ("data", "priors", "samplers"):
            if parts[key][0] is None:
                suite.fail(place, f"lacks the key {key}, for all problems or for this one")
        found += _problem(suite, problem, place, parts, device)
        reading.few(suite, len(found), place, f"{len(found)} cells up to here")
    for spec in (
        _methods(suite, content["baselines"], ("baselines",), "a method")
        if content.get("baselines") not in (None, [])
        else ()
    ):
        if all(spec != cell.sampler for cell in found):
            suite.fail(("baselines",), f"{spec} fits none of the problems")
    if not found:
        suite.fail((), "has no cells; expected problems, priors, samplers, data and seeds that combine")
    order = {spec: k for k, spec in enumerate(dict.fromkeys((c.prior, c.size, c.rescale) for c in found))}
    unique: dict[str, Cell] = {}
    for cell in found:  # the same cell may stand in two grids
        unique.setdefault(cell.key, cell)
    return sorted(unique.values(), key=lambda c: (order[c.prior, c.size, c.rescale], c.seed))


def _problem(
    suite: Suite, problem: Mapping[str, Any], place: Place, parts: Mapping[str, tuple[Any, Place]], device: str
) -> Iterable[Cell]:
    """Returns the cells of one problem, over its grid and its noises."""
    shared = _shared(suite, parts)
    priors, images = reading.priors(suite, *parts["priors"]), reading.images(suite, *parts["data"])
    samplers = _methods(suite, *parts["samplers"], "a sampler, such as AdaptivePiGDM(steps=25)")
    baselines = (
        _methods(suite, *parts["baselines"], "a classical method, such as TV")
        if parts["baselines"][0] not in (None, [])
        else {}
    )
    spec = reading.text(suite, problem["operator"], (*place, "operator"), "an operator, such as Downsample(factor=4)")
    operators = reading.grid(suite, spec, problem.get("grid", {}), (*place, "grid"))
    noises = [str(n) for n, _ in reading.items(suite, problem["noise"], (*place, "noise"))]
    combined = {"seeds": shared["seeds"], "images": images, "samplers and baselines": [*samplers, *baselines],
                "operators": operators, "noises": noises, "priors": priors}  # fmt: skip
    count = math.prod(map(len, combined.values()))
    reading.few(suite, count, place, f"{' x '.join(f'{len(v)} {k}' for k, v in combined.items())} = {count} cells")
    for noise, operator, prior in itertools.product(noises, operators, priors):
        law = suite.attempt((*place, "noise"), resolve.noise, noise)
        net, of_prior = suite.attempt(prior.place, prior_of, prior.spec, prior.size, prior.rescale, device)
        known = (operator, tuple(net.shape), tuple(net.value_range), device)
        A, of_operator = suite.attempt((*place, "operator"), operator_of, *known)
        truths = {src: suite.attempt(where, signals.truth_of, src, net) for _, src, where in images}
        of_image = {source: signals.identity_of(source, net, of_prior.name) for source in truths}
        first = next(iter(truths.values()))
        post = _rehearse(suite, (*place, "operator"), parts["metrics"][1], net, A, law, first, shared)
        fitting = {spec: made for spec, made in baselines.items() if made.refuses(post) is None}
        chosen = {spec: fingerprint.of_spec(spec, made) for spec, made in {**samplers, **fitting}.items()}
        measured = [of_operator.name, fingerprint.of_spec(noise, law) if not _is_number(noise) else float(noise)]
        name = reading.text(suite, problem.get("name", f"{operator}, {noise}"), (*place, "name"), "a name")
        if "name" in problem and len(noises) * len(operators) > 1:
            name = f"{name}: {operator}, {noise}"
        fixed = {"device": device, **{k: shared[k] for k in ("num_samples", "metrics", "arrays", "max_batch")}}
        if shared["precision"] == "bfloat16":
            suite.attempt(parts["precision"][1], prior_in_precision, net, "bfloat16")  # a prior without networks refuses it
        if shared["precision"] != "float32":  # the keys of suites that do not ask stay as they were
            fixed["precision"] = shared["precision"]
        for seed, (image, source, _), (sampler, sampler_hash) in itertools.product(shared["seeds"], images, chosen.items()):
            # seeds rest on no code, so that a change of it leaves the measurements as they are
            paired = [seed, signals.name_of(source)]
            parts_of = [measured, of_prior.name, sampler_hash, seed, of_image[source].name, shared["metric_hashes"], fixed]
            key = fingerprint.digest([VERSION, __version__, *parts_of])
            yield Cell(
                key, name, operator, noise, prior.spec, sampler, image, seed,
                source=source, is_of=(of_prior, of_operator, of_image[source]),
                noise_seed=_number([paired, "noise"]), sampler_seed=_number([paired, "sampler"]),
                size=prior.size, rescale=prior.rescale, **fixed,
            )  # fmt: skip


def _methods(suite: Suite, value: Any, place: Place, what: str) -> dict[str, Method]:
    """Samplers by their specs."""
    listed = reading.specs(suite, value, place, "sampler", what)
    return {spec: suite.attempt(where, catalogue.method, spec) for spec, where in listed}


def _shared(suite: Suite, parts: Mapping[str, tuple[Any, Place]]) -> dict[str, Any]:
    """Returns the keys that are not combined, with defaults filled in."""

    def value(key: str, default: Any) -> tuple[Any, Place]:
        given, place = parts[key]
        return (default if given is None else given), place

    metrics = []
    for item, where in reading.items(suite, *value("metrics", ["psnr", "residual"])):
        spec = reading.text(suite, item, where, "the name of a metric")
        metrics += suite.attempt(where, scores.available, [spec])
    arrays, where = value("arrays", "summary")
    if arrays not in ARRAYS:
        suite.fail(where, str(resolve.unknown("choice", str(arrays), ARRAYS)))
    max_batch, at = value("max_batch", None)
    precision, asked = value("precision", "float32")
    if precision not in (known := get_args(Precision)):
        suite.fail(asked, str(resolve.unknown("precision", str(precision), known)))
    modules = {spec: parse(spec)[:2] for spec in metrics}
    own = {
        spec: fingerprint.user_source(module) if module else [spec, fingerprint.of_function(scores.METRICS[name])]
        for spec, (module, name) in modules.items()
    }
    return {
        "seeds": reading.seeds(suite, *value("seeds", [0])),
        "num_samples": reading.whole(suite, *value("num_samples", 1), 1),
        "metrics": tuple(dict.fromkeys(metrics)),
        "metric_hashes": own,
        "arrays": arrays,
        "max_batch": None if max_batch is None else reading.whole(suite, max_batch, at, 1),
        "precision": precision,
    }


def _rehearse(
    suite: Suite,
    place: Place,
    of_metrics: Place,
    net: Prior,
    A: Operator,
    law: Noise,
    truth: Tensor,
    shared: Mapping[str, Any],
) -> Posterior:
    """Measures and scores once without a sampler: what does not fit is known before the first cell, not after it.

    Returns that problem.
    """

    def measure() -> Posterior:
        with torch.no_grad():
            y = law.sample(A(truth).cpu(), torch.Generator().manual_seed(0)).to(truth.device)
        return Posterior(net, A, law, y)

    post = suite.attempt(place, measure)
    check = f"num_samples: {shared['num_samples']} signals of shape {tuple(truth.shape)}"
    suite.attempt(place, check_size, shared["num_samples"] * truth.numel() * truth.element_size(), check)
    noise = torch.randn(shared["num_samples"], *truth.shape, generator=torch.Generator().manual_seed(0)).to(truth)
    result = Result(truth + net.data_std * noise, post, Method(), 0, 0.0, 0.0)
    for spec in shared["metrics"]:
        try:
            with torch.no_grad():
                scores.metric(spec)(result, truth)
        except Exception as error:  # a user's metric may raise anything
            suite.fail(of_metrics, f"{spec} cannot be computed: {error}")
    return post


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(value: Any) -> int:
    """Returns a seed below 2^31 from a hash."""
    return int(fingerprint.digest(value), 16) % 2**31


def shard_of(suite_cells: Sequence[Cell], shard: tuple[int, int] | None) -> list[Cell]:
    """Returns the cells of shard i of n, counted from 1, by their keys: n machines divide a suite without contact."""
    if shard is None:
        return list(suite_cells)
    i, n = shard
    if not 1 <= i <= n:
        raise OptionError(f"a shard is i/n with 1 <= i <= n, got {i}/{n}")
    return [cell for cell in suite_cells if int(cell.key, 16) % n == i - 1]
