"""The cost of a sampler, counted on a problem of a few values that has the structure of a given one."""

import math
import time
from dataclasses import fields, replace

import torch
from torch import Tensor

from invgen.cost import Cost
from invgen.diffusion import Denoiser, Sigma, per_sample_sigma
from invgen.errors import UnsupportedError
from invgen.forward import LinearOperator, Operator, SVDOperator, Variance, has_svd
from invgen.noise import Energy, Gaussian, Joint
from invgen.posterior import Posterior
from invgen.pushforward import Generator
from invgen.sampler import Sampler

SHORT = (6, 12)  # steps of the two small runs, whose difference is what a step costs
PATIENCE = 1.0  # seconds that the small problem may take with all of its steps
INNER = 10  # applications of the operator at an evaluation, from which on a step has a loop of its own
SIDE = 4  # of the small problem


def counts_of(sampler: Sampler, post: Posterior) -> dict[str, float]:
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


def at_evaluations(sampler: Sampler, post: Posterior, evaluations: int) -> Sampler:
    """Returns the sampler with as many steps as a number of network evaluations a sample allows.

    Args:
        sampler: with its other options.
        post: the problem.
        evaluations: for each sample.

    Raises:
        UnsupportedError: one step takes more, or the sampler has noise levels of its own.
    """
    if "steps" not in {f.name for f in fields(sampler)} or not isinstance(sampler.schedule, str):
        raise UnsupportedError(
            f"this {type(sampler).__name__} has noise levels of its own, so that evaluations cannot set their number; "
            "leave evaluations out, or name the schedule"
        )
    if not isinstance(post.prior, Denoiser | Generator):
        raise UnsupportedError(
            f"{type(post.prior).__name__} is evaluated once for each site of a signal, so that evaluations cannot set the "
            f"steps of {type(sampler).__name__}; leave evaluations out"
        )
    # a decoder is a part of the operator, for which no small problem stands: three steps of the problem itself
    whole = isinstance(post.prior, Generator)
    problem, short = (post.rows(torch.zeros(1, dtype=torch.long)), (1, 2)) if whole else (_small(post), SHORT)

    def run(steps: int) -> dict[str, float]:
        return _run(replace(sampler, steps=steps), problem, getattr(sampler, "draws", 1))

    costs = [run(steps) for steps in short]
    low, high = (cost["nfe"] for cost in costs)
    each = max((high - low) / (short[1] - short[0]), 0.1)
    steps = math.floor((evaluations - low) / each + 1e-9) + short[0]
    taken = low + each * (1 - short[0])
    # what travels back in time does not grow evenly; what has a loop in each step does, and a run of all steps is slow
    even = whole or costs[-1]["operator_calls"] > INNER * high
    while not even and steps > 0 and (taken := run(steps)["nfe"]) > evaluations:
        steps = min(steps - math.ceil((taken - evaluations) / (2 * each)), steps - 1)
    if steps < 1:
        raise UnsupportedError(
            f"{type(sampler).__name__} takes at least {taken:.0f} network evaluations a sample, and {evaluations} are "
            "allowed; allow more, or name another sampler"
        )
    return replace(sampler, steps=steps)


def _run(sampler: Sampler, small: Posterior, count: int = 1) -> dict[str, float]:
    cost = Cost()
    solves = getattr(small.A, "solves", None)
    before = solves[0] if solves else 0
    sampler(small, count, 0, cost=cost)
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
    if isinstance(noise, Joint):  # its parts have shapes of their own
        noise = Energy(lambda clean, y: (clean - y).square() / 2)
    clean = A(torch.full((1, *prior.shape), 0.5 * prior.data_std + prior.data_mean))[0]
    # a loss draws nothing
    y = clean if isinstance(noise, Energy) else noise.sample(clean, torch.Generator().manual_seed(0))
    return Posterior(prior, A, noise, y)


class _Shrinks(Denoiser):
    """N(data_mean, data_std^2) for each of a few values, with the noise levels of a prior."""

    def __init__(self, prior: Denoiser) -> None:
        facts = {name: getattr(prior, name) for name in ("sigma_min", "sigma_max", "value_range", "data_mean", "data_std")}
        super().__init__([min(n, SIDE) for n in prior.shape], **facts)
        self.mmse, self.consistency = prior.mmse, prior.consistency

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
