"""Several priors of the same signals side by side: density, samples, and one inverse problem.

No figure alone says which prior is the better one. A network of high density may draw signals that nobody would take for
real, one that draws well may have no density at all, and what counts in an inverse problem is neither: whether the
posterior's samples lie near the truth, and around it.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from invgen.diffusion import Prior
from invgen.errors import MissingExtraError, OptionError, ShapeError, UnsupportedError
from invgen.inference.simulation import sample, spawn
from invgen.inference.solve import Result, solve
from invgen.metrics import c2st, crps_ensemble, interval_coverage, mmd, psnr
from invgen.noise import NoiseLike
from invgen.numerics.gradients import running
from invgen.posterior import OperatorLike, Posterior
from invgen.pushforward import Generator
from invgen.validation.arguments import checked
from invgen.validation.hints import Count, Positive, Seed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from invgen.method import Method
    from invgen.sampler import Sampler

COMPONENTS = 32  # principal components of the held-out signals that the two-sample tests see
LEVEL = 0.5  # of the intervals whose coverage is told


@dataclass(frozen=True)
class ComparedPrior:
    """Measurements of one prior; nan, or None, where it has no such thing.

    Attributes:
        kind: its class.
        parameters: how many numbers it holds.
        bits: bits a value of the held-out signals, and its standard error.
        how: what kind of bits: exact, a bound, of signals with noise, of signals of few levels. Bits of one kind alone can
            be compared.
        reconstruction: root mean square of x - decode(encode(x)) over the held-out signals, where it has an encoder.
        forest: how often a random forest tells its samples from held-out signals; 0.5: it cannot.
        mmd: squared maximum mean discrepancy of the same features.
        seconds: to draw one sample, among many.
        method: what solved the inverse problem; None where nothing does.
        evaluations: of the network, for one posterior sample.
        psnr: of the posterior mean, in dB, of each signal.
        crps: the continuous ranked probability score of each signal, in units of the signal.
        coverage: the share of the values of each signal in their 50 % intervals.
        note: why a figure is missing.
        samples: of the prior.
        result: of the inverse problem.
    """

    kind: str
    parameters: int
    bits: tuple[float, float]
    how: str
    reconstruction: float
    forest: float
    mmd: float
    seconds: float
    method: "Method | None"
    evaluations: float
    psnr: Tensor
    crps: Tensor
    coverage: Tensor
    note: str
    samples: Tensor = field(repr=False)
    result: Result | None = field(repr=False)


@dataclass(frozen=True)
class PriorComparison:
    """A table of priors and a picture of them; print it, or `plot` it.

    Attributes:
        rows: name -> what was measured.
        held_out: the signals.
        y: the measurement of the first of them, (B, *A.out_shape).
    """

    rows: dict[str, ComparedPrior]
    held_out: Tensor = field(repr=False)
    y: Tensor = field(repr=False)

    def __str__(self) -> str:
        head = ("prior", "kind", "parameters", "bits/value", "of", "reconstruction", "forest", "MMD^2", "s/sample")
        head += ("sampler", "evaluations", "PSNR", "CRPS", f"in {LEVEL:.0%}")
        table: list[tuple[str, ...]] = [head]
        for name, r in self.rows.items():
            bits = "-" if math.isnan(r.bits[0]) else f"{r.bits[0]:.3f} +- {1.96 * r.bits[1]:.3f}"
            row = (name, r.kind, f"{r.parameters:,}", bits, r.how or "-", _number(r.reconstruction), f"{r.forest:.0%}")
            row += (f"{r.mmd:.4f}", f"{r.seconds:.2g}", type(r.method).__name__ if r.method else "-")
            row += tuple(_number(v) for v in (r.evaluations, *(x.mean().item() for x in (r.psnr, r.crps, r.coverage))))
            table.append(row)
        widths = [max(len(row[k]) for row in table) for k in range(len(head))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]
        return "\n".join(lines + [f"{name}: {r.note}" for name, r in self.rows.items() if r.note])

    def plot(self, path: str | Path | None = None, count: int = 5) -> "Figure":
        """Returns a picture: a row for each prior, with samples of it, then the means of the posterior.

        Args:
            path: where to write it (.png, .pdf, .svg).
            count: how many of both. The first row holds held-out signals, and the truth.
        """
        from invgen import plots

        count = min(count, len(self.held_out), len(self.y))
        truth = self.held_out[:count]
        cells, titles = [*self.held_out[-count:], *truth], ["held out", *[""] * (count - 1), "truth", *[""] * (count - 1)]
        for name, row in self.rows.items():
            means = torch.full_like(truth, torch.nan) if row.result is None else row.result.mean[:count].to(truth)
            cells += [*row.samples[:count].to(truth), *means]
            titles += [f"{name}: samples", *[""] * (count - 1), "posterior means", *[""] * (count - 1)]
        low = next(iter(self.rows.values())).samples.min().item()
        return plots.show_samples(torch.stack(cells), (low, truth.max().item()), path, columns=2 * count, titles=titles)


@checked
def compare_priors(
    priors: Mapping[str, Prior],
    held_out: Tensor,
    A: OperatorLike,
    noise: NoiseLike,
    sampler: "Sampler | str | Mapping[str, Sampler | str]" = "auto",
    *,
    problems: Count = 8,
    num_samples: Count = 8,
    evaluations: Count | None = None,
    bin_width: Positive = 2 / 255,
    noisy: Mapping[str, float] | None = None,
    steps: Count = 16,
    seed: Seed = 0,
    progress: bool = False,
) -> PriorComparison:
    """Compares priors of any kind on one data set: density, samples, and the same inverse problem for all.

        report = invgen.compare_priors({"diffusion": prior, "GAN": gan}, pictures, operators.Mask.random(shape), 0.1)
        print(report)
        report.plot("priors.png")

    Args:
        priors: any priors of one shape, by name.
        held_out: signals that none was trained on, (N, *shape): as many samples of each prior are drawn beside them.
        A, noise: the inverse problem, as for `invgen.solve`.
        sampler: for all, or by name. "auto" takes what suits each.
        problems: how many of the signals are measured.
        num_samples: of each posterior.
        evaluations: of the network that a posterior sample may take where the sampler is "auto"; by default as many as the
            steps of what it picks take.
        bin_width: the distance of two levels of the signals, for the bits (`invgen.bits_per_dim`): 2 / 255 for bytes mapped
            on [-1, 1].
        noisy: standard deviations of noise, by name, for priors that were trained on signals with such noise
            ("digits-flow": 0.1).
        steps: of the probability-flow ODE of denoisers.
        seed: of everything.
        progress: whether to show bars.

    Raises:
        ShapeError: the priors or the signals differ in shape, or there are fewer than ten signals.
        OptionError: there are no priors, or a sampler or noise is named for a prior that is not there.
        MissingExtraError: scikit-learn is not installed.
    """
    _require_fit(priors, held_out, sampler, noisy or {})
    truth = held_out[:problems]
    post = Posterior(next(iter(priors.values())), A, noise, torch.zeros(len(truth), *A.out_shape, dtype=A.out_dtype))
    generator = torch.Generator().manual_seed(spawn(seed, 0))
    with running(A):
        y = post.noise.sample(A(truth), generator)
    features = _components(held_out)
    rows = {}
    for name, prior in priors.items():
        begin = time.perf_counter()
        drawn = sample(prior, len(held_out), spawn(seed, 1), progress=progress).cpu()
        seconds = (time.perf_counter() - begin) / len(drawn)
        with running(prior):
            bits, how = _bits(prior, held_out, bin_width, (noisy or {}).get(name, 0.0), steps, seed)
            error = _reconstruction(prior, held_out)
        chosen = sampler.get(name, "auto") if isinstance(sampler, Mapping) else sampler
        options: dict[str, Any] = {"evaluations": evaluations} if chosen == "auto" else {}
        result, note = None, ""
        try:
            result = solve(y, A, prior, noise, chosen, num_samples=num_samples, seed=seed, progress=progress, **options)
        except UnsupportedError as problem:
            note = str(problem)
        rows[name] = ComparedPrior(
            type(prior).__name__,
            sum(t.numel() for t in (*prior.parameters(), *prior.buffers())),
            (bits.mean().item(), bits.std().item() / math.sqrt(len(bits))),
            how,
            error,
            c2st(features(drawn), features(held_out), classifier=_forest(seed), seed=seed),
            mmd(features(drawn), features(held_out)).item(),
            seconds,
            None if result is None else result.sampler,
            math.nan if result is None else result.nfe,
            *_against(result, truth, post),
            note,
            drawn,
            result,
        )
    return PriorComparison(rows, held_out, y)


def _require_fit(priors: Mapping[str, Prior], x: Tensor, sampler: Any, noisy: Mapping[str, float]) -> None:
    if not priors:
        raise OptionError("there is no prior to compare: pass them by name, {'diffusion': prior, ...}")
    for name in (*(sampler if isinstance(sampler, Mapping) else ()), *noisy):
        if name not in priors:
            raise OptionError(f"there is no prior '{name}' among {', '.join(priors)}")
    for name, prior in priors.items():
        if x.shape[1:] != prior.shape or len(x) < 10:
            raise ShapeError(
                f"prior '{name}' needs ten or more held-out signals of shape {tuple(prior.shape)}, got {tuple(x.shape)}"
            )


def _against(result: Result | None, truth: Tensor, post: Posterior) -> tuple[Tensor, Tensor, Tensor]:
    """Returns PSNR of the mean, CRPS of a value and coverage of intervals, (B,) each."""
    if result is None:
        nothing = torch.full((len(truth),), torch.nan)
        return nothing, nothing, nothing
    (low, high), x, dims = post.prior.value_range, result.samples.to(truth), truth.ndim - 1
    score = crps_ensemble(x, truth, fair=len(x) > 1, dims=dims)
    nothing = torch.full((len(truth),), torch.nan)
    inside = interval_coverage(x, truth, LEVEL, dims=dims) if len(x) > 2 else nothing
    return psnr(x.mean(0), truth, data_range=high - low, dims=dims), score, inside


def _bits(prior: Prior, x: Tensor, width: float, noise: float, steps: int, seed: int) -> tuple[Tensor, str]:
    """Returns bits a value, (N,), and of what kind they are.

    Signals are rounded to the grid and get noise uniform over one of its cells, which makes the mean an upper bound of the
    bits of the rounded signals. The prior says its own bits (`Prior.bits`).
    """
    low = prior.value_range[0]
    x = (low + width * ((x - low) / width).round()).to(prior.device, prior.dtype)
    generator = torch.Generator().manual_seed(spawn(seed, 2))
    spread = x + (
        width * (torch.rand(x.shape, generator=generator) - 0.5) + noise * torch.randn(x.shape, generator=generator)
    ).to(x)
    try:
        found = prior.bits(spread, width, steps=steps, seed=seed)
    except UnsupportedError:  # such as a VAE whose encoder gives no variance
        found = None
    if found is None:
        return torch.full((len(x),), torch.nan), ""
    return found[0].cpu(), f"noisy by {noise:g}" if noise and found[1] == "exact" else found[1]


def _reconstruction(prior: Prior, x: Tensor) -> float:
    if not isinstance(prior, Generator) or not prior.has_encoder:
        return math.nan
    x = x.to(prior.device, prior.dtype)
    return (prior(prior.encode(x)) - x).square().mean().sqrt().item()


def _components(x: Tensor) -> Any:
    flat = x.flatten(1).double()
    mean = flat.mean(0)
    axes = torch.linalg.svd(flat - mean, full_matrices=False)[2][: min(COMPONENTS, len(x) - 1)]
    scale = ((flat - mean) @ axes.T).std(0).clamp(min=1e-9)
    return lambda signals: (signals.flatten(1).double() - mean) @ axes.T / scale


def _forest(seed: int) -> Any:
    try:
        from sklearn.ensemble import RandomForestClassifier
    except ImportError as error:
        raise MissingExtraError("compare_priors needs scikit-learn: pip install 'invgen-solvers[stats]'") from error
    return RandomForestClassifier(100, random_state=seed, n_jobs=1)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"
