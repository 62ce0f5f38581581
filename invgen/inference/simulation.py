"""Problems that a prior sets itself: x from the prior, y from the measurement, for calibration and for tuning."""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from invgen.diffusion import Denoiser, Prior, Rescaled
from invgen.errors import OptionError, UnsupportedError
from invgen.noise import NoiseLike
from invgen.numerics.gradients import running
from invgen.numerics.random import Streams
from invgen.posterior import OperatorLike, Posterior, PriorLike
from invgen.pushforward import Generator, StandardNormal
from invgen.validation.arguments import checked
from invgen.validation.hints import Count, Seed, check

if TYPE_CHECKING:
    from invgen.method import Method
    from invgen.sampler import Sampler

ROWS = 2**20  # values of signals to work on at once where no max_batch is given


@checked
def simulate(
    prior: PriorLike,
    A: OperatorLike,
    noise: NoiseLike,
    num: Count,
    seed: Seed = 0,
    *,
    prior_sampler: "Sampler | None" = None,
    max_batch: Count | None = None,
    progress: bool = False,
) -> tuple[Tensor, Tensor]:
    """Draws pairs from the joint law p(x) p(y | x): (x, y) of shapes (num, *shape) and (num, *A.out_shape).

    Pair i depends on the seed and on i only; a sampler with the same seed uses other random numbers.

    Args:
        prior, A, noise: as for `invgen.solve`.
        num: number of pairs.
        seed: a whole number, 0 to 2^63 - 1.
        prior_sampler: an unconditional sampler to draw from a diffusion prior; by default its own `sample` if it has one,
            else `Heun(steps=32)`. A trained network is not exactly a score, so that the flow (Heun) and the reverse
            diffusion (`Ancestral(steps=100)`) draw from two laws that differ: take the one that is meant.
        max_batch: how many signals to work on at once; by default as many as hold a million values.
        progress: whether to show a bar while a network draws.

    Raises:
        InvgenError: what does not fit, as in `invgen.Posterior`.
    """
    blank = problem(prior, A, noise, num)
    x = sample(prior, num, spawn(seed, 0), sampler=prior_sampler, max_batch=max_batch, progress=progress)
    with running(A):
        # on the CPU, so that every device sees the same noise
        clean = torch.cat([A(part).cpu() for part in x.split(max_batch or rows_at_once(prior))])
    law, y = blank.noise.to("cpu"), torch.empty_like(clean)
    for i in range(num):
        generator = torch.Generator().manual_seed(spawn(seed, 1 + i))
        y[i] = law.rows(torch.tensor([i]), (num,), tuple(A.out_shape)).sample(clean[i : i + 1], generator)[0]
    return x, y.to(x.device)


def problem(prior: PriorLike, A: OperatorLike, noise: NoiseLike, num: int = 1) -> Posterior:
    """Returns the posterior of `num` measurements that are zero, to check before any work that the parts fit.

    Args:
        prior, A, noise: as for `invgen.solve`.
        num: the number of measurements.

    Raises:
        InvgenError: they do not.
    """
    prior, A = check("prior", prior, PriorLike), check("A", A, OperatorLike)
    if A.in_shape != prior.shape:
        return Posterior(prior, A, noise, torch.zeros(()))  # raises the sentence about it
    zeros = torch.zeros(num, *A.out_shape, dtype=A.out_dtype, device=prior.device)
    return Posterior(prior, A, noise, zeros)


def in_words(post: Posterior) -> str:
    """Returns a problem in words, whatever was measured: its prior, operator and noise."""
    return f"{type(post.prior).__name__}{tuple(post.prior.shape)}, {type(post.A).__name__}, {post.noise!r}"


def require_same(sampler: "Method", post: Posterior, calibrated: str, problem: str) -> None:
    """Raises OptionError where a calibration, of a sampler and a problem in words, is not one of these."""
    mine, theirs = f"{sampler!r} on {in_words(post)}", f"{calibrated} on {problem}"
    if mine != theirs:
        raise OptionError(
            f"the calibration is of {theirs}, and the result of {mine}: calibrate that sampler on that problem"
        )


@checked
def sample(
    prior: PriorLike,
    num_samples: Count = 1,
    seed: Seed = 0,
    *,
    sampler: "Sampler | str | None" = None,
    max_batch: Count | None = None,
    progress: bool = False,
) -> Tensor:
    """Returns samples of any prior, (num_samples, *shape).

    A prior with a method `sample(num_samples, seed)` of its own is asked, unless a sampler is given; a Generator decodes
    samples of its latent prior; any other Denoiser is drawn from by the unconditional `sampler`.

        invgen.sample(priors.load("ct"), 16, sampler="DPMSolver(steps=20)")

    Args:
        prior: any prior; `prior.condition(c)` for one of a class or a text.
        num_samples, seed: sample i depends on the seed and on i only.
        sampler: Ancestral, DDIM, Heun, DPMSolver or MultistepConsistency, or its name with options. If none is given:
            `Heun(steps=32)`, `MultistepConsistency()` for a consistency function.
        max_batch: how many signals to work on at once; by default as many as hold a million values.
        progress: whether to show a bar while a network draws.

    Raises:
        UnsupportedError: the prior is none of these, or the sampler is no unconditional one.
    """
    from invgen.names import resolve
    from invgen.samplers import Heun, MultistepConsistency
    from invgen.samplers.unconditional.ancestral import Unconditional

    sampler = resolve.sampler(sampler) if isinstance(sampler, str) else sampler
    if sampler is not None and not isinstance(sampler, Unconditional):
        raise UnsupportedError(
            f"a prior is drawn from by an unconditional sampler, such as Heun or Ancestral, got {type(sampler).__name__}"
        )
    max_batch = max_batch or rows_at_once(prior)
    options = {"sampler": sampler, "max_batch": max_batch, "progress": progress}
    with running(prior):
        own = getattr(prior, "sample", None)
        if own is not None and (sampler is None or not isinstance(prior, Denoiser)):
            return own(num_samples, seed)
        if isinstance(prior, Rescaled):
            return prior.scale * sample(prior.prior, num_samples, seed, **options) + prior.shift
        if isinstance(prior, StandardNormal):
            return Streams(seed, torch.arange(num_samples))(prior.zero.new_empty(num_samples, *prior.shape))
        if isinstance(prior, Generator):
            z = sample(prior.latent, num_samples, seed, **options)
            return torch.cat([prior(part) for part in z.split(max_batch)])
        if isinstance(prior, Denoiser):
            usual = MultistepConsistency() if prior.consistency else Heun(steps=32)
            return (sampler or usual)(prior, num_samples, seed, max_batch=max_batch, progress=progress)
    raise UnsupportedError(
        f"cannot draw from a {type(prior).__name__}: a prior needs a method sample(num_samples, seed), or to be a Denoiser "
        "or a Generator"
    )


def rows_at_once(prior: Prior) -> int:
    """Returns the number of signals that hold about a million values."""
    return max(1, ROWS // max(math.prod(prior.shape), 1))


def spawn(seed: int, stream: int) -> int:
    """Returns a seed for one of several independent uses of a seed (NumPy's SeedSequence), non-negative and below 2^63."""
    return int(np.random.SeedSequence([int(seed) % 2**64, stream]).generate_state(1, np.uint64)[0] >> 1)
