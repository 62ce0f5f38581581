"""The base of all posterior samplers: from the generator `run`, everything that is not the algorithm."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor

from invgen.cost import Cost, charged
from invgen.diffusion import Denoiser, Prior, noise_levels
from invgen.errors import DivergedError, OptionError, UnsupportedError
from invgen.linalg import expected
from invgen.method import Method, Run
from invgen.numerics.memory import LIGHT, SMALL, fitting
from invgen.numerics.random import Streams, streams
from invgen.posterior import Posterior
from invgen.pushforward import Generator
from invgen.trust import warn_untrusted
from invgen.validation.hints import Count
from invgen.validation.limits import check_size

if TYPE_CHECKING:
    from tqdm.std import tqdm

__all__ = ["Cost", "Sampler", "published"]


@dataclass(frozen=True)
class Sampler(Method):
    """Hyper-parameters as fields, the algorithm as `run`, a generator that yields the state after each step.

    Args:
        steps: number of steps, in the sense of the algorithm.
        schedule: the noise levels, see `invgen.diffusion.noise_levels`.

    The class attributes of a Method state its requirements on a problem.

    A sampler that wants a Denoiser runs on a pushforward prior x = g(z) too: on the posterior over z. One that wants a
    Generator sees it whole in `run`. The states of both are codes z, and the last is decoded.

    A sampler whose rows work together (a chain of particles, an ensemble) writes `draw_chunk` too, and says with
    `rows_a_draw` and `samples_a_draw` how many rows a draw has and how many samples it gives.
    """

    steps: Count = 100
    schedule: str | Sequence[float] = "edm"

    prior: ClassVar[type] = Denoiser
    many_levels: ClassVar[bool] = True
    takes_seeds: ClassVar[bool] = True
    family: ClassVar[str] = "guided"

    @property
    def rows_a_draw(self) -> int:
        """How many signals a draw works on at once."""
        return 1

    @property
    def samples_a_draw(self) -> int:
        """How many samples a draw gives."""
        return 1

    def run(self, post: Posterior[Any, Any, Any], x: Tensor, randn: Streams, /) -> Iterator[Tensor]:
        """Yields the algorithm. x is the start, at the highest noise level, (B, *shape); post.y is (B, *out_shape).

        A subclass may name in the hint of `post` what it requires, as in `Posterior[Denoiser, LinearOperator, Gaussian]`.
        """
        raise UnsupportedError(f"{type(self).__name__} must define run(self, post, x, randn)")

    def levels(self, prior: Denoiser) -> list[tuple[float, float]]:
        """Returns the pairs (sigma, next sigma) of this sampler on this prior."""
        return noise_levels(self.steps, prior.sigma_min, prior.sigma_max, self.schedule, prior.data_std)

    def start(self, post: Posterior[Any, Any, Any], randn: Streams, rows: int) -> Tensor:
        """Returns the first state: pure noise at the highest level, around `post.init` where that is given, and standard
        normal codes for a Generator."""
        prior = post.prior
        shape = prior.latent_shape if isinstance(prior, Generator) else prior.shape
        z = randn(torch.empty(rows, *shape, dtype=prior.dtype, device=prior.device))
        if not isinstance(prior, Denoiser):
            return z
        level = self.levels(prior)[0][0]
        return prior.start(z, level) if post.init is None else post.init + level * z

    def refuses(self, post: Posterior) -> str | None:
        """Returns why this sampler cannot solve this problem, as the end of a sentence, or None."""
        if post.init is not None and type(self).start is not Sampler.start:
            return "does not start from noise, so that it takes no init"
        return super().refuses(post.latent() if self._through_latent(post) else post)

    def draw_chunk(
        self, post: Posterior[Any, Any, Any], index: Tensor, seed: int | Tensor, run: Run
    ) -> tuple[Tensor, Tensor]:
        """Runs some draws at once: the way to extend a sampler whose rows work together.

        Args:
            post: the problem, with all its measurements; `post.rows` takes those of the draws.
            index: (number, measurement) of each draw, (n, 2). What a draw gives depends on the seed and on these alone:
                `streams(seed, index)` has a stream for each.
            seed: one for all measurements, or a tensor of one for each.
            run: the wishes of the caller; `last_state` takes them.

        Returns:
            (number, measurement) of each sample, (m, 2), and the samples, (m, *shape), codes for a Generator. A draw gives
            samples number * samples_a_draw, number * samples_a_draw + 1, ...; those that were not asked for are dropped.
        """
        post, randn = post.rows(index[:, 1]), streams(seed, index)

        def states() -> Iterator[Tensor]:  # which alone holds the start, so that the first step frees it
            yield from self.run(post, self.start(post, randn, len(index)), randn)

        with torch.no_grad():
            return index, self.last_state(post.prior, states(), None, run)

    def solve(self, post: Posterior, num_samples: int, seed: int | Tensor, run: Run) -> Tensor:
        """Returns samples, (num_samples, *batch, *shape), drawn at most `run.max_batch` rows at once, or as many as fit."""
        decoder = post.prior if isinstance(post.prior, Generator) else None
        problem, batch = post.latent() if self._through_latent(post) else post, math.prod(post.batch)
        check_size(8 * num_samples * batch, f"numbering {num_samples} samples")
        draws = torch.arange(math.ceil(num_samples / self.samples_a_draw) * batch)
        like = torch.empty(0, dtype=post.prior.dtype, device=post.prior.device)
        out: Tensor | None = None  # made after the first draws, whose steps it would stand beside
        codes = None if decoder is None else like.new_empty(num_samples * batch, *decoder.latent_shape)
        if isinstance(problem.prior, Denoiser):
            warn_untrusted(problem.prior)
        size = like.element_size() * num_samples * batch * math.prod(post.prior.shape)
        run = self._split(run, problem, len(draws), seed, size)
        together = len(draws) if run.max_batch is None else run.max_batch // self.rows_a_draw
        chunks = draws.split(max(together, 1)) if len(draws) else ()
        with (
            _progress_bar(len(chunks) * self.steps, type(self).__name__, run.progress) as bar,
            charged(run.cost, post.prior, post.A, num_samples * batch),
            expected(self.steps),  # of a sample, so that none depends on how many there are
        ):
            for chunk in chunks:
                numbers = torch.stack([chunk // batch, chunk % batch], 1)
                index, x = self.draw_chunk(problem, numbers, seed, dataclasses.replace(run, bar=bar))
                asked = index[:, 0] < num_samples
                index, x = index[asked], x[asked.to(x.device)]
                if isinstance(problem.prior, Denoiser):
                    self.check_samples(problem.prior, x)
                rows = index[:, 0] * batch + index[:, 1]
                if decoder is not None and codes is not None:
                    codes[rows] = x.to(codes.dtype)
                    x = self._decode(decoder, x, run.max_batch)
                out = like.new_empty(num_samples * batch, *post.prior.shape) if out is None else out
                out[rows] = x.to(out.dtype)
        if run.codes is not None and codes is not None:
            run.codes(codes.reshape(num_samples, *post.batch, *codes.shape[1:]))
        out = like.new_empty(0, *post.prior.shape) if out is None else out
        return out.reshape(num_samples, *post.batch, *post.prior.shape)

    def _split(self, run: Run, post: Posterior[Any, Any, Any], draws: int, seed: int | Tensor, kept: int) -> Run:
        """Returns the wishes with a `max_batch` where none is given and not all draws would fit into memory.

        It is found by the first step of one draw, which is thrown away: samples do not depend on their batch.
        """
        prior, rows = post.prior, draws * self.rows_a_draw
        small = rows * math.prod(prior.shape) <= SMALL and sum(p.numel() for p in prior.parameters()) <= LIGHT
        if run.max_batch is not None or rows < 2 or small:
            return run

        def stop(k: int, x: Tensor) -> None:
            raise _Enough

        def one() -> None:
            with suppress(_Enough):
                self.draw_chunk(post, torch.zeros(1, 2, dtype=torch.long), seed, Run(max_batch=1, callback=stop))

        number, why = fitting(one, rows, prior.device, kept)
        if run.cost is not None:
            run.cost.max_batch, run.cost.split = number, why
        return dataclasses.replace(run, max_batch=number)

    def _through_latent(self, post: Posterior) -> bool:
        """Tells whether the problem has to be pulled back to the latent codes of a pushforward prior."""
        return isinstance(post.prior, Generator) and not isinstance(post.prior, self.prior)

    def _decode(self, prior: Generator, z: Tensor, max_batch: int | None) -> Tensor:
        with torch.no_grad():
            return torch.cat([prior(part) for part in z.split(max_batch or max(len(z), 1))])

    def last_state(self, prior: Prior, states: Iterator[Tensor], x: Tensor | None, run: Run) -> Tensor:
        """Runs through the states of an algorithm, shows them to the caller, and returns the last.

        Args:
            prior: of the problem.
            states: what `run` yields.
            x: returned where there is no state, the start; None where that is a mistake.
            run: the wishes of the caller.

        Raises:
            DivergedError: a state is not finite, or far beyond any signal.
        """
        first_bad, limit = torch.full((), -1, device=prior.device), _limit(prior)
        for k, x in enumerate(states):
            # No comparison holds for a nan.
            fine = torch.linalg.vector_norm(x, math.inf) < limit if x.numel() else torch.ones_like(first_bad) > 0
            if x.device.type == "cpu":
                if not fine:
                    first_bad = first_bad + k + 1
                    break
            else:  # kept on the device: reading it at every step would stall an accelerator
                first_bad = torch.where((first_bad < 0) & ~fine, k, first_bad)
            if run.bar is not None:
                run.bar.update()
            if run.callback is not None:
                run.callback(k, x)
        if first_bad >= 0:
            raise DivergedError(self._divergence(prior, int(first_bad)))
        if x is None:
            raise OptionError(f"run of {type(self).__name__} yielded no state; it has to yield the state after each step")
        return x

    def _divergence(self, prior: Prior, k: int) -> str:
        where = f"at step {k + 1} of {self.steps}"
        if isinstance(prior, Denoiser) and k < len(self.levels(prior)):
            where += f" (sigma = {self.levels(prior)[k][0]:.3g})"
        what = "the state is not finite or far beyond any signal"
        return f"{type(self).__name__} diverged {where}: {what}; {self.advice(prior)}"


class _Enough(Exception):
    """The step that was to be seen has been made."""


def _limit(prior: Prior) -> float:
    """Ten thousand times the largest value that a state may have: what is beyond has diverged, although still finite."""
    low, high = prior.value_range
    noise = prior.sigma_max if isinstance(prior, Denoiser) else 1.0
    return 1e4 * (noise + prior.data_std + abs(prior.data_mean) + max(abs(low), abs(high)))


def _progress_bar(total: int, name: str, progress: bool | None) -> "AbstractContextManager[tqdm | None]":
    if progress is False:
        return nullcontext()
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=name, leave=False, disable=progress and False)  # None: not in a log or a pipe


Value = TypeVar("Value")


def published(sampler: str, table: Mapping[str, Value], task: str) -> Value:
    """Returns the published setting of a task, by its name in any case.

    Raises:
        OptionError: no such task; the sentence lists those that were published.
    """
    if task.lower() not in table:
        raise OptionError(f"{sampler} has no published settings for {task!r}; there are {', '.join(map(repr, table))}")
    return table[task.lower()]
