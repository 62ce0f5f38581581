"""Forecasts the cost of a run before it starts: evaluations of the network, applications of the operator, time.

The counts come from the sampler itself, run on a problem of a few values that has the same structure; the times from one
evaluation each of the real network and the real operator. A sampler counts alike on both, but for iterations that stop by
themselves (conjugate gradients, line searches), so that a forecast is an estimate.
"""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from invgen.cost import counted
from invgen.diffusion import Denoiser
from invgen.errors import InvgenError
from invgen.forward import LinearOperator
from invgen.inference.auto import recommend
from invgen.inference.counting import counts_of
from invgen.messages import duration
from invgen.names import resolve
from invgen.posterior import Posterior
from invgen.pushforward import Generator
from invgen.sampler import Sampler
from invgen.validation.arguments import checked
from invgen.validation.hints import Count

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
            counts = counts_of(sampler, problem)
            return _priced(counts, problem, num_samples * math.prod(post.batch), max_batch)
    except (InvgenError, RuntimeError, TypeError, ValueError):  # the run itself says what is wrong, in its own words
        return None


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
