"""The front door: from a measurement to posterior samples in one call."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from invgen.compose import Stack
from invgen.cost import Cost
from invgen.diffusion import Denoiser, Prior
from invgen.errors import OptionError, UnsupportedError
from invgen.html import card
from invgen.inference.conformal import Correction, Functional, interval
from invgen.inference.fit import Fit, fit
from invgen.inference.forecasting import forecast
from invgen.inference.simulation import require_same
from invgen.linalg import dot
from invgen.messages import warn
from invgen.method import Method
from invgen.noise import Energy, Gaussian, InferredLevel, Noiseless, NoiseLike, StudentT
from invgen.numerics.gradients import running
from invgen.posterior import OperatorLike, Posterior, PriorLike, TensorLike
from invgen.pushforward import Generator, RescaledGenerator
from invgen.sampler import Sampler
from invgen.trust import narrowed
from invgen.validation.arguments import checked
from invgen.validation.hints import Count, Level, Positive, Seed

# Residual over noise from which a sample is said not to explain its m measured values: chance alone takes fewer than one
# in a million posterior samples there, whatever m.
FAR, FAR_OF_FEW = 3.0, 2.0
# Beyond these, in standard deviations of a normal law, all samples from a decoder are said to misfit their measurement.
# Residuals of posterior samples are white noise of the declared level, whatever the prior: one in a million is beyond.
LARGE, CORRELATED = 4.75, 6.0


@dataclass(frozen=True)
class Result:
    """Samples of a posterior and what they cost.

    Attributes:
        samples: (num_samples, *batch, *shape).
        posterior: the problem that was solved.
        sampler: with which hyper-parameters.
        seed, nfe (network evaluations per sample), seconds.
        reason: why this sampler, where `sampler="auto"` picked it.
        cost: all that was counted.
        codes: of a decoder's samples, (num_samples, *batch, *latent_shape); None where there is no decoder.
        precision: of the prior's networks, "bfloat16" where `precision=` let them run in it.
    """

    samples: Tensor
    posterior: Posterior = field(repr=False)
    sampler: Method
    seed: int | Sequence[int]
    nfe: float
    seconds: float
    reason: str = ""
    cost: Cost = field(default_factory=Cost, repr=False)
    codes: Tensor | None = field(default=None, repr=False)
    precision: str = "float32"

    @cached_property
    def scene(self) -> dict[str, Any]:
        """The named parameters of a `priors.Scene`: each has samples, mean, std, interval(level), probabilities of kinds.

        Raises:
            UnsupportedError: the prior has no named parameters.
        """
        prior = self.posterior.prior
        while isinstance(prior, RescaledGenerator):
            prior = prior.generator
        named = getattr(prior, "scene", None)
        if named is None or self.codes is None:
            raise UnsupportedError(f"only samples of a priors.Scene have named parameters, got {type(prior).__name__}")
        return named(self.codes)

    @property
    def inner(self) -> str:
        """Which linear solvers ran inside the sampler, such as "100 solves by CG in 12 iterations (at most 31)"; and which
        files of this machine they have read."""
        files = [file for part in self.posterior.A.modules() for file in getattr(part, "files", ())]
        return self.cost.inner + (f", with eigenvectors of {', '.join(files)}" if files and self.cost.exact_solves else "")

    @property
    def split(self) -> str:
        """How many signals were worked on at once and why, where memory was too small for all; "" elsewhere."""
        return self.cost.split

    @cached_property
    def mean(self) -> Tensor:
        """The posterior mean, (*batch, *shape): the estimate of least squared error."""
        return self.samples.mean(0)

    @cached_property
    def std(self) -> Tensor:
        """The posterior standard deviation of each value, (*batch, *shape); zero for a single sample."""
        return self.samples.std(0, correction=min(1, len(self.samples) - 1))

    @cached_property
    def residual(self) -> Tensor:
        """Each sample's data residual over the noise level, (num_samples, *batch): about 1 for a posterior sample."""
        flat = self.samples.reshape(len(self.samples), -1, *self.posterior.prior.shape)
        y = self.posterior.y.reshape(-1, *self.posterior.A.out_shape)
        rows = self.posterior.rows(torch.arange(len(y)))
        with running(self.posterior.A):
            values = torch.stack([rows.residual_over_noise(sample) for sample in flat])
        return values.reshape(len(self.samples), *self.posterior.batch)

    @cached_property
    def residuals(self) -> list[Tensor]:
        """The residual over the noise level of each part of a measurement that `invgen.join` made, (num_samples, *batch)
        each; the whole where there are no parts."""
        A = self.posterior.A
        if not isinstance(A, Stack):
            return [self.residual]
        rows = self.posterior.rows(torch.arange(math.prod(self.posterior.batch)))
        with running(A):
            flat = self.samples.reshape(len(self.samples), -1, *self.posterior.prior.shape)
            parts = [[p.abs().square().flatten(1).mean(1).sqrt() for p in A.split(rows.scaled_residual(x))] for x in flat]
        shape = (len(self.samples), *self.posterior.batch)
        return [torch.stack(column).reshape(shape) for column in zip(*parts, strict=True)]

    def interval(
        self,
        level: Level = 0.9,
        of: Functional | Tensor | None = None,
        *,
        joint: bool = False,
        correction: Correction | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns the two ends of credible intervals: of every value, (*batch, *shape), or of a quantity of the signal.

            report = invgen.calibrate(prior, A, noise, sampler)         # this sampler on this problem
            low, high = result.interval(0.9, of=mask, correction=report.correct())

        Without a correction they run between quantiles of the samples, as in `metrics.interval_coverage`, and cover as
        often as the samples are right. A correction makes each cover the x of at least a share `level` of pairs (x, y)
        from the prior, whatever the sampler does (split conformal prediction): each value by itself, not on average over
        values; over pairs, not for each y; and real signals as far as they are like the prior's (see `fit`).

        Args:
            level: of the interval, between 0 and 1.
            of: what of the signal: a boolean mask, the mean over it; other weights of a signal's shape, the weighted sum;
                a function of signals (B, *shape) to (B, *values). All values by default.
            joint: whether the intervals hold all values of one signal at once, with a probability of `level`.
            correction: `calibrate(...).correct()`.

        Raises:
            OptionError: too few samples or pairs for the level; a correction of another problem or sampler.
        """
        flat = self.samples.flatten(1, len(batch)) if (batch := self.posterior.batch) else self.samples.unsqueeze(1)
        if correction is not None and correction.sampler:
            require_same(self.sampler, self.posterior, correction.sampler, correction.problem)
        low, high = interval(flat, level, of, joint, correction)
        return low.reshape(batch + low.shape[1:]), high.reshape(batch + high.shape[1:])

    @cached_property
    def fit(self) -> Fit:
        """Whether x seems to come from elsewhere than the prior, in a sentence: print it.

        Residuals against the law of the noise, and the error of the prior's denoiser on the samples against its table, by
        one evaluation of the network a sample, when first asked for. `Calibration.fit` knows more of both.
        """
        return fit(self.posterior, self.samples)

    def _repr_html_(self) -> str:
        from invgen.plots import png, show_estimate

        post = self.posterior
        residual = None
        if self.samples.numel() and not isinstance(post.noise, Energy):
            r = self.residual
            units = " (no noise)" if isinstance(post.noise, Noiseless) else " times the noise"
            residual = f"{r.mean():.3g} on average, {r.min():.3g} to {r.max():.3g}{units}"
        rows = {
            "samples": f"{len(self.samples)}, shape {tuple(self.samples.shape)}",
            "sampler": self.sampler,
            "picked because": self.reason or None,
            "seed": self.seed,
            "network evaluations a sample": f"{self.nfe:g}",
            "seconds": f"{self.seconds:.1f}",
            "networks in": self.precision if self.precision != "float32" else None,
            "residual": residual,
            "fit": self.__dict__.get("fit"),  # shown where it was asked for: it takes the network
            "linear solves": self.inner or None,
            "worked on": self.split or None,
        }
        return card("Posterior samples", rows | post.facts(), png(show_estimate(self)) if self.samples.numel() else "")

    def __repr__(self) -> str:
        return (
            f"Result(samples of shape {tuple(self.samples.shape)} by {self.sampler}, seed={self.seed}, "
            f"nfe={self.nfe:g}, seconds={self.seconds:.1f}{f', inner: {self.inner}' if self.inner else ''}"
            f"{f', {self.split}' if self.split else ''}"
            f"{f', networks in {self.precision}' if self.precision != 'float32' else ''}"
            f"{f', picked because {self.reason}' if self.reason else ''})"
        )


@checked
def solve(
    y: TensorLike,
    A: OperatorLike,
    prior: PriorLike,
    noise: NoiseLike,
    sampler: Sampler | str = "auto",
    *,
    evaluations: Count | None = None,
    num_samples: Count = 1,
    seed: Seed | Sequence[Seed] = 0,
    max_batch: Count | None = None,
    progress: bool | None = False,
    callback: Callable[[int, Tensor], None] | None = None,
    init: TensorLike | None = None,
    level: Positive | None = None,
    precision: Literal["float32", "bfloat16", "auto"] = "float32",
) -> Result:
    """Draws samples from p(x | y) for y = A(x) + noise.

    Args:
        y: the measurement, (*batch, *A.out_shape), a tensor or an array of NumPy; its precision is kept.
        A: the forward operator.
        prior: what signals look like.
        noise: a Noise, or the standard deviation of Gaussian noise in units of y.
        sampler: "auto", what docs/samplers.md recommends for such a problem, at noise levels at which the prior's network
            can be trusted; `Result.sampler` and `Result.reason` say what and why. Or a Sampler, its name ("MMPS",
            "AdaptivePiGDM(steps=50)"), or a file that `invgen.tune(...).save` has written.
        evaluations: of the network for each sample, which set the number of steps, and what "auto" takes; by default the
            sampler's own steps.
        num_samples, seed, max_batch, callback: as in `Sampler.__call__`; `Result.split` says what memory allowed.
        progress: whether to say on stderr what the run will take, see `invgen.forecast`, and to show a bar;
            None shows the bar on a terminal and in a notebook only.
        init, level: a warm start: signals (*batch, *prior.shape), another reconstruction, and the noise level that is added
            to them, from which the sampler goes down. As large as the error of init in the least, so that it is forgotten;
            all of the prior's levels are the usual start. For a Denoiser, and samplers that start from noise.
        precision: of the prior's networks; states and operator stay as they are. "auto" is "bfloat16" where a trial of six
            evaluations shows that it is faster on this device and adds at most a tenth to the denoiser's squared error, and
            "float32" elsewhere; `Result.precision` says which it was. Samples differ from those in float32 by rounding.

    Raises:
        InvgenError: one sentence about what does not fit and what would.

    Warns (UserWarning) where more than one sample in a hundred has a residual of over three times the noise (five, for a
    single measured value): a divergence that ended at finite values is not silent. And where no code of a decoder is found
    that leaves white noise of the declared level: a renderer that only comes near a real picture makes samples too sure.
    """
    from invgen.inference.auto import recommend, within_trust
    from invgen.inference.counting import at_evaluations
    from invgen.inference.precision import in_precision
    from invgen.names import resolve

    if (init is None) != (level is None):
        raise OptionError("a warm start takes both, init= and level=")
    if level is not None:
        prior = _from_level(prior, level)
    post, used = in_precision(Posterior(prior, A, noise, y, init), precision)
    reason = ""
    if isinstance(sampler, str):
        if sampler == "auto":
            sampler, reason = recommend(post, evaluations, num_samples)
            post, left_out = within_trust(post)
            reason += left_out
        else:
            sampler = resolve.sampler(sampler)
    if evaluations is not None and not reason:
        sampler = at_evaluations(sampler, post, evaluations)
    if progress is not False:
        expected = forecast(sampler, post, num_samples, max_batch)
        if expected is not None:
            print(f"{type(sampler).__name__}: {expected}", file=sys.stderr, flush=True)
    cost, codes = Cost(), list[Tensor]()
    samples = sampler(
        post, num_samples, seed, max_batch=max_batch, progress=progress, callback=callback, cost=cost, codes=codes.append
    )
    result = Result(samples, post, sampler, seed, cost.nfe, cost.seconds, reason, cost, codes[0] if codes else None, used)
    if not warn_unexplained(result):
        warn_misfit(result)
    return result


def _from_level(prior: Prior, level: float) -> Denoiser:
    """Returns the prior with noise levels up to `level`."""
    if not isinstance(prior, Denoiser):
        raise UnsupportedError(f"a warm start needs a Denoiser, whose noise has levels, got {type(prior).__name__}")
    if not prior.sigma_min < level <= prior.sigma_max:
        raise OptionError(
            f"level must be in the prior's noise levels, {prior.sigma_min:g} to {prior.sigma_max:g}, got {level:g}"
        )
    return narrowed(prior, level)


def warn_unexplained(result: Result) -> bool:
    """Warns of samples that do not explain the measurement, as `solve` does, and says whether it did."""
    post, sampler = result.posterior, result.sampler
    # heavy tails and an unknown level leave residuals of any size
    if isinstance(post.noise, Noiseless | Energy | StudentT | InferredLevel) or not result.samples.numel():
        return False
    residual, limit = result.residual.flatten(), FAR + FAR_OF_FEW / math.sqrt(math.prod(post.A.out_shape))
    far = int((residual > limit).sum())
    if far <= residual.numel() // 100:
        return False
    warn(
        f"{far} of {residual.numel()} samples of {type(sampler).__name__} do not explain the measurement: their "
        f"residual is up to {residual.max():.1f} times the noise, where 1 is expected; use more steps or another "
        "sampler, or check the units of noise and prior",
    )
    return True


def warn_misfit(result: Result) -> None:
    """Warns of a decoder that cannot make what was measured: its samples are then overconfident.

    Residuals of samples of a true posterior are drawn from the noise's law. So they are held, the best sample of each
    measurement, against the chi-square law of their size and the normal law of their correlation between neighbours in y.
    """
    post = result.posterior
    if not (isinstance(post.prior, Generator) and isinstance(post.noise, Gaussian) and result.samples.numel()):
        return
    if not torch.as_tensor(post.noise.sigma).gt(0).all():
        return
    m = math.prod(post.A.out_shape) * (2 if post.y.is_complex() else 1)
    limit = (1 - 2 / (9 * m) + LARGE * math.sqrt(2 / (9 * m))) ** 1.5  # Wilson & Hilferty's quantile of chi-square
    size, correlation = result.residual.amin(0).max(), _correlation(result)
    if size > limit:
        what = f"residuals are at least {size:.2f} times the noise, where a posterior sample's are at most {limit:.2f}"
    elif correlation > CORRELATED / math.sqrt(m):
        what = f"residuals have a correlation of {correlation:.2f} between neighbours, where the noise has none"
    else:
        return
    warn(
        f"the {type(post.prior).__name__} cannot make what was measured, or {type(result.sampler).__name__} has not found "
        f"it: {what}, and the samples are too sure of themselves; take more steps, a richer decoder, or a noise level "
        "several times the misfit (this warning stays)",
    )


def _correlation(result: Result) -> float:
    """Returns the largest over measurements, of the smallest over samples, of the residual's correlation between
    neighbours in y.

    Neighbours in the order in which y lies in memory; 0 for fewer than 50 measured values.
    """
    post = result.posterior
    if math.prod(post.A.out_shape) < 50:
        return 0.0
    y = post.y.reshape(-1, *post.A.out_shape)
    rows, least = post.rows(torch.arange(len(y))), y.new_full((len(y),), torch.inf, dtype=torch.float64)
    with running(post.A), torch.no_grad():
        for x in result.samples.reshape(len(result.samples), -1, *post.prior.shape):
            r = (rows.residual(x) / rows.noise.std(y)).flatten(1)
            least = (dot(r[:, 1:], r[:, :-1]) / dot(r, r).clamp(min=1e-30)).flatten().clamp(max=least)
    return float(least.max())
