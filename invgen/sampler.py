"""The base of all posterior samplers: from the generator `run`, everything that is not the algorithm."""

import dataclasses
import inspect
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor

from invgen.cost import Cost, counted
from invgen.diffusion import Denoiser, Prior, needs_levels, noise_levels
from invgen.errors import DivergedError, OptionError, UnsupportedError
from invgen.forward import Operator, has_gradient, has_svd
from invgen.messages import warn
from invgen.noise import Gaussian, Noise
from invgen.numerics.gradients import normal, running
from invgen.numerics.random import Streams, seeds_of, streams
from invgen.posterior import Posterior
from invgen.pushforward import Generator
from invgen.trust import bounds, ceiling, remedy, warn_saturated, warn_untrusted
from invgen.validation.arguments import bind, checked, checked_class
from invgen.validation.hints import Count, Seed, check, hints_of
from invgen.validation.limits import check_size

if TYPE_CHECKING:
    from tqdm.std import tqdm


@dataclass(frozen=True)
class Sampler:
    """Hyper-parameters as fields, the algorithm as `run`, a generator that yields the state after each step.

    Args:
        steps: number of steps, in the sense of the algorithm.
        schedule: the noise levels, see `invgen.diffusion.noise_levels`.

    Class attributes say what the algorithm asks of a problem: `prior`, `A`, `noise` (types), `noiseless` (whether exact
    measurements are allowed), `svd` (whether the operator must have a singular value decomposition) and `gradient` (whether
    the operator must be differentiable), `one_level` (whether the noise must have the same level everywhere), `many_levels`
    (whether a denoiser of a single level is not enough). They are checked before the first step. Others describe it:
    `family`, `backprop` (whether it differentiates the network), `exact`, in which limit its samples have the exact law, ""
    if in none, and `point`, whether it draws nothing: all its samples are one point. Options are held against their
    annotations here: Literal[...], or a number in a range, `Count`, `Share`, `Annotated[float, Range(0, 1, above=True)]`
    (invgen.validation.hints).

    A sampler that wants a Denoiser runs on a pushforward prior x = g(z) too: on the posterior over z. One that wants a
    Generator sees it whole in `run`. The states of both are codes z, and the last is decoded.
    """

    steps: Count = 100
    schedule: str | Sequence[float] = "edm"

    prior: ClassVar[type] = Denoiser
    A: ClassVar[type] = Operator
    noise: ClassVar[type] = Noise
    noiseless: ClassVar[bool] = False
    svd: ClassVar[bool] = False
    gradient: ClassVar[bool] = True
    one_level: ClassVar[bool] = False
    many_levels: ClassVar[bool] = True
    point: ClassVar[bool] = False
    family: ClassVar[str] = "guided"
    backprop: ClassVar[bool] = False
    exact: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        checked_class(cls)

    def __new__(cls, *args: Any, **kwargs: Any) -> "Sampler":
        # the constructor of a dataclass is written after __init_subclass__ has run: its names are checked here
        if args or kwargs:
            bind(cls.__name__, inspect.signature(cls.__init__), (None, *args), kwargs)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        hints = hints_of(type(self))
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            if option.name in hints:
                value = check(f"{option.name} of {type(self).__name__}", value, hints[option.name])
            # frozen, and hashed: a list would not be
            object.__setattr__(self, option.name, tuple(value) if isinstance(value, list) else value)

    def run(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        """The algorithm. x is the start, at the highest noise level, (B, *shape); post.y is (B, *out_shape)."""
        raise UnsupportedError(f"{type(self).__name__} must define run(self, post, x, randn)")

    def levels(self, prior: Denoiser) -> list[tuple[float, float]]:
        """The pairs (sigma, next sigma) of this sampler on this prior."""
        return noise_levels(self.steps, prior.sigma_min, prior.sigma_max, self.schedule, prior.data_std)

    def start(self, post: Posterior, randn: Streams, rows: int) -> Tensor:
        """The first state: pure noise at the highest level, standard normal codes for a Generator."""
        prior = post.prior
        shape = prior.latent_shape if isinstance(prior, Generator) else prior.shape
        z = randn(torch.empty(rows, *shape, dtype=prior.dtype, device=prior.device))
        return prior.start(z, self.levels(prior)[0][0]) if isinstance(prior, Denoiser) else z

    def refuses(self, post: Posterior) -> str | None:
        """Why this sampler cannot solve this problem, as the end of a sentence, or None."""
        if self._through_latent(post):
            return self.refuses(post.latent())
        counts, post = post.noise, post.reduced()
        if not isinstance(post.prior, self.prior):
            return f"needs a {self.prior.__name__} prior, got {type(post.prior).__name__}"
        if self.many_levels and isinstance(post.prior, Denoiser) and post.prior.one_level:
            return needs_levels(post.prior)
        if self.gradient and not has_gradient(post.A):
            return f"needs the gradient of the operator, and {type(post.A).__name__} is not differentiable"
        if not isinstance(post.A, self.A):
            return f"needs a {self.A.__name__}, got {type(post.A).__name__}"
        if self.svd and not has_svd(post.A):
            return f"needs an SVDOperator, or an operator with a method svd(), got {type(post.A).__name__}"
        if not isinstance(post.noise, self.noise):
            return f"needs {self.noise.__name__} noise, got {type(post.noise).__name__}"
        exact = isinstance(post.noise, Gaussian) and not isinstance(post.noise.sigma, Tensor) and post.noise.sigma == 0
        if exact and not self.noiseless:
            return "needs noise with a density, got a noiseless measurement"
        if self.one_level and isinstance(getattr(post.noise, "sigma", None), Tensor):
            if counts is not post.noise:
                return f"needs one noise level, and the rays of {type(counts).__name__} differ; see invgen.log_transform"
            return "needs one noise level, got a tensor of levels"
        return None

    @checked
    def __call__(
        self,
        post: Posterior,
        num_samples: Count = 1,
        seed: Seed | Sequence[Seed] = 0,
        *,
        max_batch: Count | None = None,
        progress: bool | None = False,
        callback: Callable[[int, Tensor], None] | None = None,
        cost: Cost | None = None,
    ) -> Tensor:
        """Draws samples of the posterior, (num_samples, *batch, *shape).

        Args:
            post: the problem.
            num_samples: samples for each measurement of the batch.
            seed: a sample depends on the seed, on its number and on the position of its measurement in the batch, on
                nothing else; measurements in another order get other samples. Or a list of one seed for each measurement
                (flattened): then on that seed and its number alone, as if the measurement were not in a batch.
            max_batch: how many signals to work on at once; fewer take less memory and give the same samples.
            progress: whether to show a bar; None shows it on a terminal and in a notebook only.
            callback: called after each step with its number and the state, (rows, *shape).
            cost: filled with what the run used.

        Raises:
            UnsupportedError: the problem lacks what the algorithm needs; the sentence lists samplers that fit.
            DivergedError: a state became infinite or undefined.
        """
        why = self.refuses(post)
        if why:
            raise UnsupportedError(f"{type(self).__name__} {why}; samplers that fit: {fitting(post)}")
        if self.point and num_samples > 1:
            warn(
                f"{type(self).__name__} finds one point: its {num_samples} samples are equal, and their spread of zero is "
                "no uncertainty; ask for one sample, or take a sampler that draws",
            )
        with running(post.prior, post.A, *vars(post.noise).values()):
            post = dataclasses.replace(normal(post), noise=normal(post.noise))
            return self._all(post, num_samples, seed, max_batch, progress, callback, cost)

    def _all(
        self,
        post: Posterior,
        num_samples: int,
        seed: int | Sequence[int],
        max_batch: int | None,
        progress: bool | None,
        callback: Callable[[int, Tensor], None] | None,
        cost: Cost | None,
    ) -> Tensor:
        """Returns the samples of `__call__`, for arguments that are right."""
        seeds, post = _seeds(seed, math.prod(post.batch)), post.reduced()
        problem = post.latent() if self._through_latent(post) else post
        decoder = post.prior if isinstance(post.prior, Generator) else None
        total = num_samples * math.prod(post.batch)
        check_size(8 * total, f"numbering {num_samples} samples")
        chunks = self._chunks(problem, num_samples, max_batch) if total else []
        out = torch.empty(total, *post.prior.shape, dtype=post.prior.dtype, device=post.prior.device)
        if isinstance(problem.prior, Denoiser):
            warn_untrusted(problem.prior)
        bar = None if progress is False else _progress_bar(len(chunks) * self.steps, type(self).__name__, progress)
        begin = time.perf_counter()
        try:
            with counted(post.prior, post.A) as counter:
                for chunk in chunks:
                    rows, x = self._draw(problem, chunk, seeds, max_batch, bar, callback)
                    if isinstance(problem.prior, Denoiser):
                        self._check_samples(problem.prior, x)
                    out[rows] = (x if decoder is None else self._decode(decoder, x, max_batch)).to(out.dtype)
        finally:
            if bar is not None:
                bar.close()
        if cost is not None:
            cost.add(counter, total, time.perf_counter() - begin)
        return out.reshape(num_samples, *post.batch, *post.prior.shape)

    def _through_latent(self, post: Posterior) -> bool:
        """Whether the problem has to be pulled back to the latent codes of a pushforward prior."""
        return isinstance(post.prior, Generator) and not isinstance(post.prior, self.prior)

    def _decode(self, prior: Generator, z: Tensor, max_batch: int | None) -> Tensor:
        with torch.no_grad():
            return torch.cat([prior(part) for part in z.split(max_batch or max(len(z), 1))])

    def _chunks(self, post: Posterior, num_samples: int, max_batch: int | None) -> Sequence[Tensor]:
        """Returns the chunks of a run: pairs (sample, measurement) as their flat numbers."""
        total = num_samples * math.prod(post.batch)
        return torch.arange(total).split(max_batch or max(total, 1))

    def _draw(
        self,
        post: Posterior,
        rows: Tensor,
        seed: int | Tensor,
        max_batch: int | None,
        bar: "tqdm | None",
        callback: Callable | None,
    ) -> tuple[Tensor, Tensor]:
        """The flat numbers of the samples of one chunk, and the samples."""
        batch = max(math.prod(post.batch), 1)
        index = torch.stack([rows // batch, rows % batch], 1)
        post, randn = post.rows(index[:, 1]), streams(seed, index)
        with torch.no_grad():
            start = self.start(post, randn, len(rows))
            return rows, self._last(post.prior, self.run(post, start, randn), start, bar, callback)

    def _last(
        self, prior: Prior, states: Iterator[Tensor], x: Tensor, bar: "tqdm | None", callback: Callable | None
    ) -> Tensor:
        """Runs through the states, watching them, and returns the last."""
        first_bad, limit = torch.full((), -1, device=x.device), _limit(prior)
        for k, x in enumerate(states):
            # Kept on the device: reading it at every step would stall an accelerator. No comparison holds for a nan.
            fine = x.abs().amax() < limit if x.numel() else torch.ones_like(first_bad, dtype=torch.bool)
            first_bad = torch.where((first_bad < 0) & ~fine, k, first_bad)
            if x.device.type == "cpu" and first_bad >= 0:
                break
            if bar is not None:
                bar.update()
            if callback is not None:
                callback(k, x)
        if first_bad >= 0:
            raise DivergedError(self._divergence(prior, int(first_bad)))
        return x

    def _divergence(self, prior: Prior, k: int) -> str:
        where = f"at step {k + 1} of {self.steps}"
        if isinstance(prior, Denoiser) and k < len(self.levels(prior)):
            where += f" (sigma = {self.levels(prior)[k][0]:.3g})"
        return (
            f"{type(self).__name__} diverged {where}: the state is not finite or far beyond any signal; {self._mend(prior)}"
        )

    def _mend(self, prior: Prior) -> str:
        """Returns what may help against a divergence, in words."""
        top = ceiling(prior) if isinstance(prior, Denoiser) else None
        if top is not None:
            return f"the prior's network cannot be trusted up to sigma = {prior.sigma_max:.3g}: {remedy(top)}"
        return "use more steps, a weaker guidance, or check that noise and prior are in the units of the operator"

    def _check_samples(self, prior: Denoiser, x: Tensor) -> None:
        """Holds the samples of a chunk against the signals that the prior declares.

        Raises:
            DivergedError: a value lies beyond anything that the prior's signals, or a far measurement, may be.
        """
        if not x.numel():
            return
        low, high = bounds(prior)
        least, most = torch.stack(torch.aminmax(x)).tolist()
        if least < low or most > high:
            raise DivergedError(
                f"{type(self).__name__} ended at values from {least:.3g} to {most:.3g}, where the prior declares "
                f"value_range=({prior.value_range[0]:g}, {prior.value_range[1]:g}) and data_std={prior.data_std:.3g}: "
                f"declare what its signals have, or {self._mend(prior)}"
            )
        warn_saturated(prior, x, type(self).__name__)

    @classmethod
    def options(cls) -> dict[str, object]:
        """The names and defaults of the hyper-parameters."""
        return {f.name: f.default for f in dataclasses.fields(cls)}


def _seeds(seed: int | Sequence[int], measurements: int) -> int | Tensor:
    """One seed for all measurements, or a tensor of one for each."""
    if isinstance(seed, int):
        return seed
    if len(seed) != measurements:
        raise OptionError(
            f"seed must be a whole number, or a list of {measurements}, one for each measurement, got {seed!r:.80}"
        )
    return seeds_of(seed)


def _limit(prior: Prior) -> float:
    """Ten thousand times the largest value that a state may have: what is beyond has diverged, although still finite."""
    low, high = prior.value_range
    noise = prior.sigma_max if isinstance(prior, Denoiser) else 1.0
    return 1e4 * (noise + prior.data_std + abs(prior.data_mean) + max(abs(low), abs(high)))


def _progress_bar(total: int, name: str, progress: bool | None) -> "tqdm":
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=name, leave=False, disable=progress and False)  # None: not in a log or a pipe


# invgen.samplers adds its own: the contracts import no catalogue
catalogues: list[Callable[[], Mapping[str, "type[Sampler]"]]] = []


def fitting(post: Posterior) -> str:
    """The samplers that accept a problem, for error messages."""
    found = [s.__name__ for known in catalogues for s in known().values() if s().refuses(post) is None]
    return ", ".join(found) or "none yet; see docs/design.md"


Value = TypeVar("Value")


def published(sampler: str, table: Mapping[str, Value], task: str) -> Value:
    """The published setting of a task, by its name in any case.

    Raises:
        OptionError: no such task; the sentence lists those that were published.
    """
    if task.lower() not in table:
        raise OptionError(f"{sampler} has no published settings for {task!r}; there are {', '.join(map(repr, table))}")
    return table[task.lower()]
