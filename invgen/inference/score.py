"""How strange is a signal under a prior? Several figures, each ranked among those of reference signals.

No figure is enough alone. The density of a black picture is higher than that of any digit, so that -log p calls it the
most typical of all; its distance from the usual value, two-sided, does not (Nalisnick et al., "Detecting
out-of-distribution inputs to deep generative models using typicality", 2019). So all of them are reported, one-sided and
two-sided. And a picture that a network made may fit a prior better than any photograph, or worse: which of the two is
learnt from examples (`detector`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, Prior
from invgen.errors import MissingExtraError, OptionError, ShapeError, UnsupportedError
from invgen.inference.simulation import rows_at_once, sample
from invgen.metrics.roc import AUROC, auroc
from invgen.numerics.density import log_prob
from invgen.numerics.gradients import running
from invgen.numerics.random import Streams
from invgen.posterior import PriorLike
from invgen.pushforward import Flow, Generator
from invgen.validation.arguments import checked
from invgen.validation.hints import Count, NonNegative, Seed

# noise levels in units of the prior's data_std: of the denoising error, and of the score
NOISY, CLEAN = (0.02, 0.1, 0.3, 1.0), (0.01, 0.05, 0.2, 1.0)


@dataclass(frozen=True)
class Scores:
    """Figures of signals under a prior, larger for signals that fit it less, and the same of reference signals.

    Attributes:
        values: name -> (B,), those that the prior has:
            "surprise", -log p(x) in nats a value, by `invgen.log_prob`;
            "denoising 0.1", the log of the mean squared error of D(x + noise), at a noise level of 0.1 data_std;
            "slope 0.1", the log of the mean square of x - D(x) without noise, which is sigma^2 times the score: its size at
            several levels is the vector of MSMA (Mahmood, Oliva & Styner, ICLR 2021);
            "reconstruction", the root mean square of x - decode(encode(x)), for a denoiser along its probability flow
            (DIRE: Wang et al., ICCV 2023).
        reference: name -> (R,), of the reference signals.
        source: what these are, in words.
    """

    values: dict[str, Tensor]
    reference: dict[str, Tensor]
    source: str

    @property
    def typicality(self) -> dict[str, Tensor]:
        """The two-sided figures: the distance from the reference's median, over its median distance from it."""
        return {name: _distance(v, self.reference[name]) for name, v in self.values.items()}

    @property
    def reference_typicality(self) -> dict[str, Tensor]:
        """The same of the reference signals, name -> (R,)."""
        return {name: _distance(v, v) for name, v in self.reference.items()}

    @property
    def p_values(self) -> dict[str, Tensor]:
        """Two-sided p-values: the rank among the reference signals, (B,), uniform for signals of the same law.

        PixelDefend's permutation test (Song et al., ICLR 2018), on both sides: at least 1 / (R + 1).
        """
        return {name: _ranked(v, self.reference[name]) for name, v in self.values.items()}

    @property
    def p_value(self) -> Tensor:
        """One two-sided p-value of all figures together, (B,): the rank of the largest typicality."""
        both = self.typicality, self.reference_typicality
        largest, usual = (torch.stack(list(table.values())).amax(0) for table in both)
        return (1 + (usual >= largest[:, None]).sum(1)) / (1 + len(usual))

    def auroc(self) -> dict[str, AUROC]:
        """Returns how well each figure, and each two-sided figure, tells these signals from the reference signals."""
        out = {name: auroc(self.reference[name], v) for name, v in self.values.items()}
        known = self.reference_typicality
        return out | {f"{name}, two-sided": auroc(known[name], v) for name, v in self.typicality.items()}

    def __str__(self) -> str:
        areas = self.auroc()
        rows = [f"{'figure':16s} {'signals':>10s} {'reference':>10s} {'AUROC (95 %)':>24s} {'two-sided':>24s}"]
        for name in self.values:
            middle = " ".join(f"{table[name].median():10.4g}" for table in (self.values, self.reference))
            rows.append(f"{name:16s} {middle} {str(areas[name]):>24s} {str(areas[f'{name}, two-sided']):>24s}")
        odd = (self.p_value < 0.05).sum().item()
        rows.append(f"{odd} of {len(self.p_value)} signals have p < 0.05 among {self.source}, where chance has 1 in 20")
        return "\n".join(rows)


@checked
def score(
    x: Tensor,
    prior: PriorLike,
    reference: Tensor | None = None,
    *,
    num_samples: Count = 100,
    noise: NonNegative = 0.0,
    steps: Count = 8,
    seed: Seed = 0,
    max_batch: Count | None = None,
) -> Scores:
    """Scores signals under a prior, beside reference signals.

        scores = invgen.score(pictures, prior, held_out)
        print(scores)                       # a table with the area under the curve of every figure
        scores.p_value                      # one for each picture

    Args:
        x: the signals, (B, *shape), in the units of the prior.
        prior: any prior that has a density, a denoiser or an encoder.
        reference: signals that are known to be of the prior's law and that it was not trained on, (R, *shape). None takes
            samples of the prior itself: the p-values are then ranks among its own samples.
        num_samples: of these samples.
        noise: the standard deviation of noise that is added before the density is taken, for a prior of noisy signals
            (digits-flow: 0.1); the same for every signal.
        steps: of the probability-flow ODE, for the density and the reconstruction.
        seed: of samples and noise.
        max_batch: signals to work on at once.

    Raises:
        ShapeError: signals of another shape.
        OptionError: values that are not finite.
        UnsupportedError: the prior has none of the three.
    """
    for name, given in (("x", x), ("the reference", reference)):
        if given is not None and (given.shape[1:] != prior.shape or not len(given)):
            raise ShapeError(
                f"{name} must hold one or more signals of shape {tuple(prior.shape)}, got {tuple(given.shape)}"
            )
        if given is not None and not given.isfinite().all():
            raise OptionError(f"{name} must hold finite values: a signal with others has no rank")
    split = max_batch or rows_at_once(prior)
    source = f"{num_samples} samples of the prior" if reference is None else f"{len(reference)} reference signals"
    if reference is None:
        reference = sample(prior, num_samples, seed + 1, max_batch=max_batch)
    figures = _figures(prior, noise, steps, seed)
    if not figures:
        raise UnsupportedError(f"{type(prior).__name__} has no density, no denoiser and no encoder to score signals with")
    values, known = {}, {}
    with running(prior):
        for name, figure in figures.items():
            values[name], known[name] = (
                torch.cat([figure(part.to(prior.device, prior.dtype)).double().cpu() for part in signals.split(split)])
                for signals in (x, reference)
            )
    return Scores(values, known, source)


def _figures(prior: Prior, noise: float, steps: int, seed: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Returns the figures that a prior has, each a function of signals; noise is the same for every signal."""
    fresh = Streams(seed, [0])(torch.empty(1, len(NOISY) + 1, *prior.shape)).to(prior.device, prior.dtype)
    out: dict[str, Callable[[Tensor], Tensor]] = {}
    code: Prior = prior
    denoiser = prior if isinstance(prior, Denoiser) and not prior.one_level and not prior.consistency else None
    if denoiser is not None or getattr(prior, "has_density", hasattr(prior, "log_prob")):
        n = math.prod(prior.shape)
        out["surprise"] = lambda x: -log_prob(prior, x + noise * fresh[:, -1], steps=steps, seed=seed) / n
    if denoiser is not None:
        for k, level in enumerate(NOISY):
            out[f"denoising {level:g}"] = _log_error(denoiser, level, fresh[:, k])
        for level in CLEAN:
            out[f"slope {level:g}"] = _log_error(denoiser, level, 0 * fresh[:, 0])
        code = Flow(denoiser, steps=2 * steps)
    if isinstance(code, Generator) and code.has_encoder:
        out["reconstruction"] = lambda x: (code(code.encode(x)) - x).square().flatten(1).mean(1).sqrt()
    return out


def _log_error(prior: Denoiser, level: float, noise: Tensor) -> Callable[[Tensor], Tensor]:
    """Returns the function x -> log of the mean square of D(x + sigma noise) - x, (B,)."""
    sigma = min(max(level * prior.data_std, prior.sigma_min), prior.sigma_max)
    return lambda x: (prior(x + sigma * noise, sigma) - x).square().flatten(1).mean(1).clamp(min=1e-30).log()


def _ranked(v: Tensor, reference: Tensor) -> Tensor:
    below, above = ((1 + op(reference, v[:, None]).sum(1)) / (1 + len(reference)) for op in (torch.le, torch.ge))
    return (2 * torch.minimum(below, above)).clamp(max=1)


def _distance(v: Tensor, reference: Tensor) -> Tensor:
    middle = reference.median()
    return (v - middle).abs() / (reference - middle).abs().median().clamp(min=1e-12)


@dataclass(frozen=True)
class Detector:
    """Whether a signal was made, from its figures: logistic regression on what was known.

    Attributes:
        names: of the figures.
        mean, std: of each on the examples.
        weights, bias: of the standardised figures in the log-odds. Their signs are not universal: a sampler that leaves
            noise makes signals that fit less, one that smooths makes signals that fit better than any real one.
    """

    names: tuple[str, ...]
    mean: Tensor
    std: Tensor
    weights: Tensor
    bias: float

    def __call__(self, values: dict[str, Tensor]) -> Tensor:
        """Returns the log-odds that signals were made, (B,), from `Scores.values`."""
        figures = torch.stack([values[name] for name in self.names], 1)
        return (figures - self.mean) / self.std @ self.weights + self.bias


@checked
def detector(real: dict[str, Tensor], made: dict[str, Tensor]) -> Detector:
    """Learns to tell signals that were made from real ones by their figures.

        scores = invgen.score(made, prior, real)
        tells = invgen.detector(scores.reference, scores.values)
        tells(invgen.score(unknown, prior, real).values) > 0

    Args:
        real, made: figures of examples of both, as `Scores.values` and `Scores.reference` hold them; what the detector is
            tested on must not be among them.

    Raises:
        MissingExtraError: scikit-learn is not installed.
        ShapeError: the two have different figures.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV
    except ImportError as error:
        raise MissingExtraError("a detector needs scikit-learn: pip install 'invgen-solvers[stats]'") from error
    if real.keys() != made.keys() or not real:
        raise ShapeError(f"real signals have the figures {', '.join(real)}, made ones {', '.join(made)}: score both alike")
    if min(len(v) for table in (real, made) for v in table.values()) < 2:
        raise ShapeError("a detector needs two or more examples of real signals and of made ones")
    a, b = (torch.stack(list(table.values()), 1) for table in (real, made))
    both = torch.cat([a, b])
    mean, std = both.mean(0), both.std(0).clamp(min=1e-12)
    strength = {"C": [0.01, 0.1, 1.0, 10.0, 100.0]}  # one over the ridge; the likelihood of left-out examples decides
    search = GridSearchCV(LogisticRegression(max_iter=2000), strength, scoring="neg_log_loss", cv=min(5, len(a), len(b)))
    fitted = search.fit(((both - mean) / std).numpy(), [0] * len(a) + [1] * len(b)).best_estimator_
    weights = torch.as_tensor(fitted.coef_[0], dtype=torch.float64)
    return Detector(tuple(real), mean, std, weights, float(fitted.intercept_[0]))
