"""Forecasts the cost of a run before it starts: evaluations of the network, applications of the operator, time.

The counts come from the sampler itself, run on a problem of a few values that has the same structure; the times from one
evaluation each of the real network and the real operator. A sampler counts alike on both, but for iterations that stop by
themselves (conjugate gradients, line searches), so that a forecast is an estimate.
"""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from invgen.cost import Cost, counted
from invgen.diffusion import Denoiser, Sigma, per_sample_sigma
from invgen.errors import InvgenError
from invgen.forward import LinearOperator, Operator, SVDOperator, Variance, has_svd
from invgen.inference.auto import recommend
from invgen.messages import duration
from invgen.names import resolve
from invgen.noise import Gaussian
from invgen.posterior import Posterior
from invgen.pushforward import Generator
from invgen.sampler import Sampler
from invgen.validation.arguments import checked
from invgen.validation.hints import Count

SHORT = (10, 20)  # steps of the two small runs, whose difference is what a step costs
PATIENCE = 1.0  # seconds that the small problem may take with all of its steps
SIDE = 4  # of the small problem
ROWS = 4  # signals at once in a timing, where one is fast
FAST = 0.3  # seconds of one evaluation up to which several are timed


@dataclass(frozen=True)
class Forecast:
    """The expected cost of a run; print it.

    Attributes:
        nfe, vjps, operator_calls: as in `Cost`, for each sample; solves: of linear systems with the operator.
        samples: how many there will be.
        seconds: of the whole run.
    """

    nfe: float
    vjps: float
    operator_calls: float
    solves: float
    samples: int
    seconds: float

    def __str__(self) -> str:
        parts = [
            _counted(self.nfe, "network evaluation"),
            _counted(self.operator_calls, "application of the operator", "applications of the operator"),
            _counted(self.solves, "linear solve"),
        ]
        listed = ", ".join(part for part in parts if part) or "no evaluations"
        many = "1 sample" if self.samples == 1 else f"{self.samples} samples"
        time_needed = f"about {duration(self.seconds)}" if self.seconds >= 1 else "less than a second"
        return f"{listed} a sample; {time_needed} for {many}"


def _counted(number: float, name: str, plural: str = "") -> str:
    count = round(number)
    return "" if count == 0 else f"{count} {name if count == 1 else plural or name + 's'}"


@checked
def forecast(
    sampler: Sampler | str, post: Posterior, num_samples: Count = 1, max_batch: Count | None = None
) -> Forecast | None:
    """Estimates what `sampler(post, num_samples)` will take, in about the time of ten network evaluations.

    Args:
        sampler: a Sampler, or its name with options, "MMPS(steps=50)"; "auto" is the one that `solve` would take.
        post, num_samples, max_batch: as for the run itself.

    Returns:
        A Forecast, or None for a problem that the small one cannot stand for: a decoder that the sampler wants to see
        whole, an operator of one kind that it is made for, noise that carries levels for each measured value.
    """
    if isinstance(sampler, str):
        sampler = recommend(post)[0] if sampler == "auto" else resolve.sampler(sampler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            problem = post.latent() if isinstance(post.prior, Generator) and sampler.prior is Denoiser else post
            if not isinstance(problem.prior, Denoiser):
                return None
            counts = _counts(sampler, problem)
            return _priced(counts, problem, num_samples * math.prod(post.batch), max_batch)
    except (InvgenError, RuntimeError, TypeError, ValueError):  # the run itself says what is wrong, in its own words
        return None


def _counts(sampler: Sampler, post: Posterior) -> dict[str, float]:
    """Returns the cost of a sample by name, from runs with few steps on a small problem."""
    small = _small(post)
    by_steps = "steps" in {f.name for f in fields(sampler)} and isinstance(sampler.schedule, str)
    if not by_steps or sampler.steps <= SHORT[1]:
        return _run(sampler, small)
    begin = time.perf_counter()
    low = _run(replace(sampler, steps=SHORT[0]), small)
    if (time.perf_counter() - begin) * sampler.steps / SHORT[0] < PATIENCE:
        return _run(sampler, small)
    high = _run(replace(sampler, steps=SHORT[1]), small)
    more = (sampler.steps - SHORT[1]) / (SHORT[1] - SHORT[0])
    return {name: max(high[name] + (high[name] - low[name]) * more, 0.0) for name in high}


def _run(sampler: Sampler, small: Posterior) -> dict[str, float]:
    cost = Cost()
    solves = getattr(small.A, "solves", None)
    before = solves[0] if solves else 0
    sampler(small, 1, 0, cost=cost)
    found = {"nfe": cost.nfe, "vjps": cost.vjps, "operator_calls": cost.operator_calls}
    return found | {"solves": float(solves[0] - before) if solves else 0.0}


def _small(post: Posterior) -> Posterior:
    """Returns a problem of a few values with the structure of `post`."""
    assert isinstance(post.prior, Denoiser)  # `forecast` looks
    prior = _Shrinks(post.prior)
    kind = _Bends if not isinstance(post.A, LinearOperator) else _Spectral if has_svd(post.A) else _Scales
    A = kind(prior.shape)
    A.differentiable = all(m.differentiable for m in post.A.modules() if isinstance(m, Operator))
    noise = post.noise
    if isinstance(noise, Gaussian) and isinstance(noise.sigma, Tensor):
        noise = Gaussian(noise.sigma.float().square().mean().sqrt().item())
    clean = A(torch.full((1, *prior.shape), 0.5 * prior.data_std + prior.data_mean))[0]
    return Posterior(prior, A, noise, noise.sample(clean, torch.Generator().manual_seed(0)))


class _Shrinks(Denoiser):
    """N(data_mean, data_std^2) for each of a few values, with the noise levels of a prior."""

    def __init__(self, prior: Denoiser) -> None:
        facts = {name: getattr(prior, name) for name in ("sigma_min", "sigma_max", "value_range", "data_mean", "data_std")}
        super().__init__([min(n, SIDE) for n in prior.shape], **facts)
        self.mmse = prior.mmse

    def forward(self, x: Tensor, sigma: Sigma) -> Tensor:
        d, s = self.data_std**2, per_sample_sigma(sigma, x) ** 2
        return self.data_mean + d / (d + s) * (x - self.data_mean)


class _Bends(Operator):
    """x + x^2 / 10: nonlinear, with a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * x.square()


class _Scales(LinearOperator):
    """Every value by a gain of its own, with solves that count themselves."""

    s: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.solves = [0]
        self.register_buffer("s", torch.linspace(0.3, 1.0, math.prod(shape)).reshape(tuple(shape)))

    def forward(self, x: Tensor) -> Tensor:
        return self.s.to(x.dtype) * x

    def adjoint(self, y: Tensor) -> Tensor:
        return self.s.to(y.dtype) * y

    def solve(self, b: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        self.solves[0] += len(b)
        return b / (_column(var_x, b) * self.s.to(b.dtype) ** 2 + _column(var_y, b))

    def prox(self, x: Tensor, y: Tensor, var_x: Variance = 1.0, var_y: Variance = 1.0) -> Tensor:
        s, var_x = self.s.to(x.dtype), _column(var_x, x)
        return x + var_x * s * self.solve(y - s * x, var_x, var_y)

    def pinv(self, y: Tensor) -> Tensor:
        self.solves[0] += len(y)
        return y / self.s.to(y.dtype)


class _Spectral(_Scales, SVDOperator):
    """The same with a singular value decomposition: the coordinates are the values."""

    def U(self, z: Tensor) -> Tensor:
        return z.clone()

    def Ut(self, y: Tensor) -> Tensor:
        return y.clone()

    def V(self, z: Tensor) -> Tensor:
        return z.clone()

    def Vt(self, x: Tensor) -> Tensor:
        return x.clone()


def _column(variance: Variance, like: Tensor) -> Variance:
    if isinstance(variance, Tensor) and variance.numel() == len(like):
        return variance.reshape(-1, *[1] * (like.ndim - 1))
    return variance


def _priced(counts: dict[str, float], post: Posterior, samples: int, max_batch: int | None) -> Forecast:
    """Returns the counts with the time that they take on the real problem."""
    assert isinstance(post.prior, Denoiser)  # `forecast` looks
    prior, A, rows = post.prior, post.A, max(1, min(samples, max_batch or samples, ROWS))
    sigma = math.sqrt(prior.sigma_min * prior.sigma_max)
    x = torch.zeros(1, *prior.shape, dtype=prior.dtype, device=prior.device) + prior.data_mean
    y = post.rows(torch.zeros(1, dtype=torch.long)).y
    with torch.no_grad(), counted(prior, A) as counter:
        prior(x, sigma)
        network_rows = max(counter.rows, 1)
    with torch.no_grad():
        evaluation = _seconds(lambda k: prior(_many(x, k), sigma), rows)
        application = _seconds(lambda k: A(_many(x, k)), rows) if counts["operator_calls"] or counts["solves"] else 0.0
        pullback = _seconds(lambda k: _pulled(prior, _many(x, k), sigma), rows) - evaluation if counts["vjps"] else 0.0
        solve = 0.0
        if counts["solves"] and isinstance(A, LinearOperator):
            var_x, var_y = prior.variance(sigma), torch.as_tensor(post.noise.std(y)).square().clamp(min=1e-6)
            solve = _seconds(lambda k: A.weighted_adjoint(_many(y, k), var_x, var_y), rows)
    each = counts["nfe"] * evaluation + counts["vjps"] * max(pullback, 0.0)
    each += counts["operator_calls"] * application + counts["solves"] * solve
    return Forecast(
        counts["nfe"] * network_rows, counts["vjps"], counts["operator_calls"], counts["solves"], samples, each * samples
    )


def _many(x: Tensor, rows: int) -> Tensor:
    return x.expand(rows, *x.shape[1:]).contiguous()


def _pulled(prior: Denoiser, x: Tensor, sigma: float) -> Tensor:
    return prior.vjp(x, sigma)[1](torch.ones_like(x))


def _seconds(call: Callable[[int], Tensor], rows: int) -> float:
    """Returns the time that a call takes for each row: of one, or of several where one is fast."""
    call(1)  # what is made once is not counted
    spent = _timed(call, 1)
    return spent if spent > FAST or rows == 1 else _timed(call, rows) / rows


def _timed(call: Callable[[int], Tensor], rows: int) -> float:
    begin = time.perf_counter()
    call(rows).flatten()[:1].cpu()  # reading a value waits for an accelerator
    return time.perf_counter() - begin
