"""Simulation-based calibration of a sampler: does it draw from the posterior that prior, operator and noise define?

x from the prior, y from the noise law, samples from the sampler: if the samples have the law p(x | y), the truth is one of
them in all but name, and its rank among them by any quantity is uniform (Talts et al., 2018). The test needs no ground
truth but what the prior itself draws, so it works for a learned prior too. What it judges is the sampler under the prior
as it is, not whether the prior fits real data.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor

from invgen.errors import OptionError, UnsupportedError
from invgen.html import card
from invgen.inference.conformal import Correction
from invgen.inference.fit import LEAST_PAIRS, Fit, fit
from invgen.inference.quantities import JOINT, LIKELIHOOD, RANDOM_POINTS, Quantity, by_rows, ranked
from invgen.inference.simulation import in_words, problem, require_same, rows_at_once, simulate
from invgen.method import fitting
from invgen.metrics.ranks import CoverageCurve, RankHistogram, coverage_curve, rank_histogram
from invgen.noise import Noiseless, NoiseLike
from invgen.posterior import OperatorLike, Posterior, PriorLike
from invgen.sampler import Cost, Sampler
from invgen.validation.arguments import checked
from invgen.validation.hints import Count, Range, Seed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from invgen.inference.solve import Result

LEVELS = (0.5, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Calibration:
    """The result of `calibrate`.

    Attributes:
        sampler, problem: in words.
        num_simulations, num_samples, seed: as asked for.
        alpha: the probability with which a calibrated sampler is found not to be, over all tests together.
        ranks: for each test quantity the rank of the truth in every simulation, (num_simulations,), integers in 0 to
            num_samples; the last two are distances, to the centre of the samples and to a random point.
        value_ranks: ranks of the values of the signal looked at (all, or 64 of them), (num_simulations, values).
        spread_over_error: root mean square of the samples' standard deviation over that of the error of their mean, 1 if
            calibrated, below 1 for overconfidence.
        residual_over_noise: root mean square over the samples, 1 if calibrated; nan for exact measurements.
        nfe, seconds: network evaluations a sample, and seconds of the sampler.
        x, y: the simulated pairs, (num_simulations, *shape) and (num_simulations, *out_shape).
        samples: of the sampler for each of them, (num_samples, num_simulations, *shape).
    """

    sampler: str
    problem: str
    num_simulations: int
    num_samples: int
    seed: int
    alpha: float
    ranks: dict[str, Tensor] = field(repr=False)
    value_ranks: Tensor = field(repr=False)
    spread_over_error: float
    residual_over_noise: float
    nfe: float
    seconds: float
    x: Tensor = field(repr=False)
    y: Tensor = field(repr=False)
    samples: Tensor = field(repr=False)

    @cached_property
    def curves(self) -> dict[str, CoverageCurve]:
        """For each quantity the distribution function of its ranks with the band of calibrated samples, and its test.

        The band holds the curve with probability 1 - alpha / number of quantities, so that all are held with 1 - alpha.
        """
        confidence = 1 - self.alpha / len(self.ranks)
        return {
            name: coverage_curve(r, self.num_samples, confidence=confidence, bootstrap=200, seed=self.seed)
            for name, r in self.ranks.items()
        }

    @property
    def coverage(self) -> CoverageCurve:
        """Coverage of joint credible regions at every level: see `invgen.metrics.region_ranks`."""
        return self.curves[JOINT]

    @property
    def tarp(self) -> CoverageCurve:
        """Expected coverage of balls around random points (Lemos et al., 2023), points drawn from the prior."""
        return self.curves[RANDOM_POINTS]

    @cached_property
    def histograms(self) -> dict[str, RankHistogram]:
        """For each quantity the histogram of its ranks, with a simultaneous band of the same confidence as `curves`."""
        confidence = 1 - self.alpha / len(self.ranks)
        return {name: rank_histogram(r, self.num_samples, confidence=confidence) for name, r in self.ranks.items()}

    @cached_property
    def p_values(self) -> dict[str, float]:
        """For each quantity the probability of ranks at least as far from uniform, corrected for the number of quantities
        (Bonferroni: the probability times their number, at most 1)."""
        return {name: min(1.0, curve.p_value * len(self.ranks)) for name, curve in self.curves.items()}

    @property
    def calibrated(self) -> bool:
        """Whether no quantity is rejected at level alpha after correction. True is no proof: more simulations see more."""
        return min(self.p_values.values()) >= self.alpha

    def interval(self, level: float) -> tuple[float, float, float, float]:
        """Returns (level, coverage, low, high) of central intervals of single values, on average over values and
        simulations.

        At the nearest level that num_samples give. The band is that of one value at confidence 1 - alpha, wider than that
        of an average of values.
        """
        from scipy.stats import binom

        most = self.num_samples + 1
        cut = min(max(round((1 - level) / 2 * most), 1), (most - 1) // 2)  # as many ranks on either side lie outside
        nominal = 1 - 2 * cut / most
        inside = (self.value_ranks >= cut) & (self.value_ranks < most - cut)
        low, high = binom.interval(1 - self.alpha, self.num_simulations, nominal)
        return nominal, inside.double().mean().item(), low / self.num_simulations, high / self.num_simulations

    def correct(self) -> Correction:
        """Returns what corrects credible intervals of this sampler on this problem, by split conformal prediction.

        `Result.interval(level, correction=...)` takes it, for values, joint regions and functionals; print it for coverage
        and width before and after. It covers signals as the prior draws them.
        """
        return Correction(self.samples, self.x, self.sampler, self.problem)

    def fit(self, result: "Result") -> Fit:
        """Returns whether the x of a result seems to come from elsewhere than the prior, as `Result.fit`, but by ranks.

        Residual and denoising error are ranked among those of the simulated pairs: what the sampler adds to both is in
        theirs as well, so that at most 5 % of signals of the prior raise an alarm. It takes one evaluation of the network
        for each sample of each pair.

        Raises:
            OptionError: a result of another sampler or problem, or of more samples; fewer than 39 simulations.
        """
        require_same(result.sampler, result.posterior, self.sampler, self.problem)
        number = len(result.samples)
        if number > self.num_samples or self.num_simulations < LEAST_PAIRS:
            raise OptionError(
                f"the calibration has {self.num_simulations} simulations of {self.num_samples} samples; to judge a result "
                f"of {number} samples takes num_simulations={LEAST_PAIRS} and num_samples={number}, or more"
            )
        return fit(result.posterior, result.samples, (self.y, self.samples[:number]))

    def table(self) -> str:
        """Returns the coverage by level, and each test quantity with its verdict, as Markdown.

        Few samples give few levels: those nearest to 50, 80, 90 and 95 %, each once, and not the trivial one of 100 %.
        """
        lines = [
            "| credible regions | nominal | coverage | calibrated |",
            "| --- | --- | --- | --- |",
        ]
        for name, at in (("joint", self.coverage.at), ("single values", self.interval)):
            points = {point[0]: point for point in map(at, LEVELS) if point[0] < 1}
            lines += [_row(f"{name}, {nominal:.0%}", point) for nominal, point in points.items()]
        lines += ["", "| test quantity | mean rank | p-value | verdict |", "| --- | --- | --- | --- |"]
        for name, ranks in self.ranks.items():
            mean, p = (ranks.double().mean().item() + 0.5) / (self.num_samples + 1), self.p_values[name]
            lines.append(f"| {name} | {mean:.3f} | {_p(p)} | {self.verdict(name)} |")
        return "\n".join(lines)

    def verdict(self, name: str) -> str:
        """Returns in words what is wrong by one quantity, or "ok"."""
        if self.p_values[name] >= self.alpha:
            return "ok"
        most = self.num_samples + 1
        u = (self.ranks[name].double() + 0.5) / most
        shift = (u.mean().item() - 0.5) * math.sqrt(12 * self.num_simulations)
        width = (u.var().item() - (1 - most**-2) / 12) * math.sqrt(180 * self.num_simulations)
        if name == RANDOM_POINTS:
            return "not uniform"
        if name == JOINT:
            return "truths too far from the centre: too narrow or biased" if shift > 0 else "truths too near: too wide"
        if name == LIKELIHOOD:
            return "samples fit the measurement too little" if shift > 0 else "samples fit the measurement too closely"
        if abs(shift) >= abs(width):
            return f"samples too {'low' if shift > 0 else 'high'}"
        return f"samples too {'narrow' if width > 0 else 'wide'}"

    def __str__(self) -> str:
        worst = min(self.p_values, key=lambda name: self.p_values[name])
        word = "calibrated" if self.calibrated else "NOT calibrated"
        return "\n".join(
            [
                f"{self.sampler} on {self.problem}: {word} at level {self.alpha:g} over {len(self.ranks)} quantities "
                f"(smallest corrected p-value {_p(self.p_values[worst])}, {worst})",
                f"{self.num_simulations} simulations of {self.num_samples} samples, seed {self.seed}: spread / error "
                f"{self.spread_over_error:.2f}, residual / noise {self.residual_over_noise:.2f}, {self.nfe:g} network "
                f"evaluations a sample, {self.seconds:.1f} s",
                "",
                self.table(),
            ]
        )

    def plot(self, path: str | Path | None = None) -> "Figure":
        """Coverage curves and rank histograms with their bands; written to `path` (.png, .pdf, .svg) if given."""
        from invgen.plots import show_calibration

        return show_calibration(self, path)

    def _repr_html_(self) -> str:
        from invgen.plots import png

        nominal, coverage, low, high = self.coverage.at(0.9)
        rows = {
            "sampler": self.sampler,
            "problem": self.problem,
            "verdict": f"{'calibrated' if self.calibrated else 'not calibrated'} at level {self.alpha:g}",
            f"coverage of joint {nominal:.0%} regions": f"{coverage:.0%}, expected {low:.0%} to {high:.0%}",
            "simulations": f"{self.num_simulations}, each with {self.num_samples} samples; seed {self.seed}",
            "spread / error": f"{self.spread_over_error:.2f}",
            "residual / noise": f"{self.residual_over_noise:.2f}",
            "network evaluations a sample": f"{self.nfe:g}",
            "seconds": f"{self.seconds:.1f}",
        }
        return card("Calibration", rows, png(self.plot(), dpi=60))

    def summary(self) -> dict[str, Any]:
        """Everything but the signals, as plain numbers and lists for JSON."""
        curves = {
            name: {"p_value": self.p_values[name], "verdict": self.verdict(name), "inside_band": curve.inside}
            | {key: getattr(curve, key).tolist() for key in ("level", "coverage", "low", "high")}
            | {"ranks": self.ranks[name].tolist()}
            for name, curve in self.curves.items()
        }
        names = ("sampler", "problem", "num_simulations", "num_samples", "seed", "alpha", "calibrated", "spread_over_error")
        out = {name: getattr(self, name) for name in names}
        exact = math.isnan(self.residual_over_noise)
        out |= {"residual_over_noise": None if exact else self.residual_over_noise, "nfe": self.nfe}
        columns = ("nominal", "coverage", "low", "high")
        out["intervals"] = [dict(zip(columns, self.interval(level), strict=True)) for level in LEVELS]
        return out | {"seconds": self.seconds, "quantities": curves}


@checked
def calibrate(
    prior: PriorLike,
    operator: OperatorLike,
    noise: NoiseLike,
    sampler: Sampler | str,
    num_simulations: Count = 200,
    num_samples: Count = 50,
    seed: Seed = 0,
    *,
    alpha: Annotated[float, Range(0, 1, above=True, below=True)] = 0.05,
    quantities: Mapping[str, Quantity] | None = None,
    prior_sampler: Sampler | None = None,
    max_batch: Count | None = None,
    progress: bool = False,
) -> Calibration:
    """Simulation-based calibration of a sampler on the problems that a prior, an operator and a noise law define.

    The truth is ranked among the samples by these quantities, and every rank has to be uniform:
        log-likelihood: log p(y | x), without which a sampler that returned the prior would pass (Modrak et al.,
            "Simulation-based calibration checking for Bayesian computation: the choice of test quantities shapes
            sensitivity", Bayesian Analysis, 2023); left out for exact measurements;
        mean, size: of a signal, its average value and its Euclidean distance from the prior's data_mean;
        projection 1 to 4: on random directions;
        value ...: four single values (all, if there are no more), at random places;
        joint region: distance to the centre of the samples, whose ranks are the coverage of joint credible regions;
        random points (TARP): distance to a point drawn from the prior (the truth of the next simulation).
    Each is tested for discrete uniformity, exactly; Bonferroni's correction accounts for their number. Samples have to be
    independent given y: an ensemble sampler with draws > 1 fails whatever its law, so it is refused.

    Args:
        prior, operator, noise, sampler: as for `invgen.solve`, "auto" too.
        num_simulations: how many pairs (x, y), at least 10: 200 notice a standard deviation 10 % off on a small problem.
        num_samples: of the sampler for each of them, at least 4.
        seed: of truths, measurements, samples and directions.
        alpha: how often a calibrated sampler may be found not to be.
        quantities: further ones by name, each a function of signals (B, *shape) and measurements (B, *out_shape) to (B,).
        prior_sampler: to draw the truths from a diffusion prior that cannot sample itself, `Heun(steps=32)` by default. A
            trained network is not exactly a score: its flow and its reverse diffusion draw from different laws, and a
            sampler that follows one fails against truths of the other. For stochastic samplers `Ancestral(steps=100)` is
            the fairer choice.
        max_batch: how many signals to work on at once; by default as many as hold a million values.
        progress: whether to show bars.

    Raises:
        InvgenError: what does not fit, said before the first draw; a DivergedError of the sampler.
    """
    from invgen import samplers
    from invgen.inference.auto import recommend

    blank = problem(prior, operator, noise, num_simulations)
    if isinstance(sampler, str):
        sampler = recommend(blank)[0] if sampler == "auto" else samplers.get(sampler)()
    _check(sampler, num_samples, alpha)
    if num_simulations < 10:
        raise OptionError(f"calibrate needs at least 10 simulations to say anything, got {num_simulations}")
    if why := sampler.refuses(blank):
        raise UnsupportedError(f"{type(sampler).__name__} {why}; samplers that fit: {fitting(blank)}")
    max_batch = max_batch or rows_at_once(prior)
    x, y = simulate(
        prior,
        operator,
        blank.noise,
        num_simulations,
        seed,
        prior_sampler=prior_sampler,
        max_batch=max_batch,
        progress=progress,
    )
    post, cost = Posterior(prior, operator, blank.noise, y), Cost()
    samples = sampler(post, num_samples, seed, max_batch=max_batch, progress=progress, cost=cost)
    x = x.to(samples.dtype)
    ranks, values = ranked(post, x, samples, quantities or {}, seed, max_batch)
    error = (samples.mean(0) - x).square().mean().sqrt().item()
    # the error of the mean of L samples has the variance of the posterior times 1 + 1 / L
    spread = (samples.var(0).mean() * (1 + 1 / num_samples)).sqrt().item()
    residual = math.nan
    if not isinstance(blank.noise, Noiseless):
        each = torch.stack([by_rows(Posterior.residual_over_noise, post, s, max_batch) for s in samples])
        residual = each.square().mean().sqrt().item()
    return Calibration(
        sampler=repr(sampler),
        problem=in_words(blank),
        num_simulations=num_simulations,
        num_samples=num_samples,
        seed=seed,
        alpha=alpha,
        ranks=ranks,
        value_ranks=values,
        spread_over_error=spread / error if error > 0 else math.nan,
        residual_over_noise=residual,
        nfe=cost.nfe,
        seconds=cost.seconds,
        x=x,
        y=y,
        samples=samples,
    )


def _check(sampler: Sampler, num_samples: int, alpha: float) -> None:
    if not isinstance(sampler, Sampler):
        raise OptionError(f"the sampler must be an invgen Sampler or the name of one, got {type(sampler).__name__}")
    draws = getattr(sampler, "draws", 1)
    if draws != 1:
        raise OptionError(
            f"calibration ranks truths among independent samples, and {type(sampler).__name__} with draws={draws} "
            "takes several from one chain; set draws=1"
        )
    if sampler.point:
        raise OptionError(
            f"calibration asks whether samples spread as the posterior does, and {type(sampler).__name__} finds one point"
        )
    if not isinstance(num_samples, int) or num_samples < 4:
        raise OptionError(f"calibrate needs at least 4 samples of each simulation, got num_samples={num_samples!r}")
    if not (isinstance(alpha, float) and 0 < alpha < 1):
        raise OptionError(f"alpha, the level of the test, must be between 0 and 1, such as 0.05, got {alpha!r}")


def _row(name: str, values: tuple[float, float, float, float]) -> str:
    nominal, coverage, low, high = values
    mark = "" if low - 1e-12 <= coverage <= high + 1e-12 else " **!**"
    return f"| {name} | {nominal:.3f} | {coverage:.3f}{mark} | {low:.3f} to {high:.3f} |"


def _p(p: float) -> str:
    return "< 1e-9" if p < 1e-9 else f"{p:.1e}" if p < 1e-3 else f"{p:.3f}"
