"""The base of all posterior samplers: from the generator `run`, everything that is not the algorithm."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, Prior, noise_levels
from invgen.errors import DivergedError, OptionError, UnsupportedError
from invgen.forward import Operator, has_svd
from invgen.noise import Gaussian, Noise
from invgen.posterior import Posterior
from invgen.random import Streams


@dataclass
class Cost:
    """What a run has used: network evaluations per sample, and seconds of wall time."""

    nfe: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Sampler:
    """Hyper-parameters as fields, the algorithm as `run`, a generator that yields the state after each step.

    Args:
        steps: number of steps, in the sense of the algorithm.
        schedule: the noise levels, see `invgen.diffusion.noise_levels`.

    Class attributes say what the algorithm asks of a problem: `prior`, `A`, `noise` (types), `noiseless` (whether exact
    measurements are allowed) and `svd` (whether the operator must have a singular value decomposition). They are checked
    before the first step.
    """

    steps: int = 100
    schedule: str | Sequence[float] = "edm"

    prior: ClassVar[type] = Denoiser
    A: ClassVar[type] = Operator
    noise: ClassVar[type] = Noise
    noiseless: ClassVar[bool] = False
    svd: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.schedule, list):
            object.__setattr__(self, "schedule", tuple(self.schedule))
        if not isinstance(self.steps, int) or self.steps < 1:
            raise OptionError(f"{type(self).__name__} needs a positive whole number of steps, got {self.steps!r}")

    def run(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        """The algorithm. x is the start, at the highest noise level, (B, *shape); post.y is (B, *out_shape)."""
        raise TypeError(f"{type(self).__name__} must define run(self, post, x, randn)")

    def levels(self, prior: Denoiser) -> list[tuple[float, float]]:
        """The pairs (sigma, next sigma) of this sampler on this prior."""
        return noise_levels(self.steps, prior.sigma_min, prior.sigma_max, self.schedule)

    def start(self, post: Posterior, randn: Streams, rows: int) -> Tensor:
        """The first state: pure noise at the highest level."""
        prior = post.prior
        z = randn(torch.empty(rows, *prior.shape, dtype=prior.dtype, device=prior.device))
        return prior.start(z, self.levels(prior)[0][0]) if isinstance(prior, Denoiser) else z

    def refuses(self, post: Posterior) -> str | None:
        """Why this sampler cannot solve this problem, as the end of a sentence, or None."""
        if not isinstance(post.prior, self.prior):
            return f"needs a {self.prior.__name__} prior, got {type(post.prior).__name__}"
        if not isinstance(post.A, self.A):
            return f"needs a {self.A.__name__}, got {type(post.A).__name__}"
        if self.svd and not has_svd(post.A):
            return f"needs an SVDOperator, or an operator with a method svd(), got {type(post.A).__name__}"
        if not isinstance(post.noise, self.noise):
            return f"needs {self.noise.__name__} noise, got {type(post.noise).__name__}"
        exact = isinstance(post.noise, Gaussian) and not isinstance(post.noise.sigma, Tensor) and post.noise.sigma == 0
        if exact and not self.noiseless:
            return "needs noise with a density, got a noiseless measurement"
        return None

    def __call__(
        self,
        post: Posterior,
        num_samples: int = 1,
        seed: int = 0,
        *,
        max_batch: int | None = None,
        progress: bool = False,
        callback: Callable[[int, Tensor], None] | None = None,
        cost: Cost | None = None,
    ) -> Tensor:
        """Samples of the posterior, (num_samples, *batch, *shape).

        Args:
            num_samples: samples for each measurement of the batch.
            seed: a sample depends on the seed, on its number and on the position of its measurement, on nothing else.
            max_batch: how many signals to work on at once; fewer take less memory and give the same samples.
            progress: whether to show a bar.
            callback: called after each step with its number and the state, (rows, *shape).
            cost: filled with what the run used.

        Raises:
            UnsupportedError: the problem lacks what the algorithm needs; the sentence lists samplers that fit.
            DivergedError: a state became infinite or undefined.
        """
        why = self.refuses(post)
        if why:
            raise UnsupportedError(f"{type(self).__name__} {why}; samplers that fit: {_fitting(post)}")
        if not isinstance(num_samples, int) or num_samples < 1:
            raise OptionError(f"num_samples must be a positive whole number, got {num_samples!r}")
        if max_batch is not None and max_batch < 1:
            raise OptionError(f"max_batch must be a positive whole number, got {max_batch!r}")
        batch = math.prod(post.batch)
        total = num_samples * batch
        chunks = torch.arange(total).split(max_batch or max(total, 1))
        out = torch.empty(total, *post.prior.shape, dtype=post.prior.dtype, device=post.prior.device)
        bar = _progress_bar(len(chunks) * self.steps, type(self).__name__) if progress else None
        begin, counter = time.perf_counter(), _Counter(post.prior)
        try:
            for rows in chunks:
                index = torch.stack([rows // max(batch, 1), rows % max(batch, 1)], 1)
                out[rows] = self._finish(post.rows(index[:, 1]), Streams(seed, index), bar, callback).to(out.dtype)
        finally:
            counter.remove()
            if bar is not None:
                bar.close()
        if cost is not None:
            cost.nfe += counter.rows / max(total, 1)
            cost.seconds += time.perf_counter() - begin
        return out.reshape(num_samples, *post.batch, *post.prior.shape)

    def _finish(self, post: Posterior, randn: Streams, bar: object, callback: Callable | None) -> Tensor:
        """Runs one chunk to its end and returns the last state."""
        with torch.no_grad():
            x = start = self.start(post, randn, len(post.y))
            first_bad = torch.full((), -1, device=x.device)
            for k, x in enumerate(self.run(post, start, randn)):
                # kept on the device: reading it at every step would stall an accelerator
                first_bad = torch.where((first_bad < 0) & ~torch.isfinite(x).all(), k, first_bad)
                if x.device.type == "cpu" and first_bad >= 0:
                    break
                if bar is not None:
                    bar.update()
                if callback is not None:
                    callback(k, x)
        if first_bad >= 0:
            raise DivergedError(self._divergence(post.prior, int(first_bad)))
        return x

    def _divergence(self, prior: Prior, k: int) -> str:
        where = f"at step {k + 1} of {self.steps}"
        if isinstance(prior, Denoiser) and k < len(self.levels(prior)):
            where += f" (sigma = {self.levels(prior)[k][0]:.3g})"
        return (
            f"{type(self).__name__} diverged {where}: the state is no longer finite; use more steps, a weaker guidance, or "
            "check that noise and prior are in the units of the operator"
        )

    @classmethod
    def options(cls) -> dict[str, object]:
        """The names and defaults of the hyper-parameters."""
        return {f.name: f.default for f in dataclasses.fields(cls)}


class _Counter:
    """Counts the rows that pass through a prior, by a hook that is removed afterwards."""

    def __init__(self, prior: Prior) -> None:
        self.rows = 0
        self._handle = prior.register_forward_hook(self._count)

    def _count(self, module: Prior, args: tuple, output: Tensor) -> None:
        self.rows += len(output)

    def remove(self) -> None:
        self._handle.remove()


def _progress_bar(total: int, name: str) -> object:
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=name, leave=False)


def _fitting(post: Posterior) -> str:
    """The samplers that accept a problem, for error messages."""
    from invgen import samplers

    names = [s.__name__ for s in samplers.catalogue().values() if s().refuses(post) is None]
    return ", ".join(names) or "none yet; see docs/design.md"
