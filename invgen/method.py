"""The base of all that solves inverse problems: samplers, classical reconstructions, exact draws, other packages."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from invgen.consistency import needs_consistency
from invgen.cost import Cost
from invgen.diffusion import Denoiser, Prior, needs_levels
from invgen.errors import DivergedError, OptionError, UnsupportedError
from invgen.forward import Operator, has_gradient, has_svd
from invgen.messages import warn
from invgen.noise import Gaussian, Noise
from invgen.numerics.gradients import normal, running
from invgen.numerics.random import seeds_of
from invgen.posterior import Posterior
from invgen.trust import bounds, ceiling, remedy, warn_saturated
from invgen.validation.arguments import bind, checked, checked_class
from invgen.validation.hints import Count, Seed, check, hints_of


@dataclass(frozen=True)
class Run:
    """The wishes of a caller beside the samples, passed through to where they are used.

    Attributes:
        max_batch: how many signals to work on at once, None for as many as fit into memory.
        progress: whether to show a bar; None shows it on a terminal and in a notebook only.
        callback: called after each step with its number and the state.
        cost: filled with what the run used.
        bar: the bar that is shown, where there is one.
        codes: called with the codes of the samples of a decoder, (num_samples, *batch, *latent_shape).
    """

    max_batch: int | None = None
    progress: bool | None = False
    callback: Callable[[int, Tensor], None] | None = None
    cost: Cost | None = None
    bar: Any = None
    codes: Callable[[Tensor], object] | None = None


@dataclass(frozen=True)
class Method:
    """Hyper-parameters as fields; `refuses` says whether it can solve a problem, and a call solves it.

    A subclass writes `solve`. Class attributes say what it asks of a problem: `prior`, `A`, `noise` (types), `noiseless`
    (whether exact measurements are allowed), `svd` (whether the operator must have a singular value decomposition),
    `gradient` (whether the operator must be differentiable), `one_level` (whether the noise must have the same level
    everywhere), `many_levels` (whether a denoiser of a single level is not enough), `consistency` (whether the denoiser
    must be a consistency function), `counts` (whether its steps suit photon counts). They are
    checked before it starts.
    Others describe it: `kind` and `family`, `backprop` (whether it differentiates the network), `exact`, in which limit its
    samples have the exact law, "" if in none, `point`, whether it draws nothing: all its samples are one point, and
    `takes_seeds`, whether a batch may have a seed for each measurement. Options are held against their annotations here:
    Literal[...], or a number in a range, `Count`, `Fraction`, `Annotated[float, Range(0, 1, above=True)]`
    (invgen.validation.hints).
    """

    prior: ClassVar[type] = Prior
    A: ClassVar[type] = Operator
    noise: ClassVar[type] = Noise
    noiseless: ClassVar[bool] = False
    svd: ClassVar[bool] = False
    gradient: ClassVar[bool] = True
    one_level: ClassVar[bool] = False
    many_levels: ClassVar[bool] = False
    consistency: ClassVar[bool] = False
    counts: ClassVar[bool] = True
    point: ClassVar[bool] = False
    takes_seeds: ClassVar[bool] = False
    kind: ClassVar[str] = "sampler"
    family: ClassVar[str] = ""
    backprop: ClassVar[bool] = False
    exact: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        checked_class(cls)

    def __new__(cls, *args: Any, **kwargs: Any) -> "Method":
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

    def solve(self, post: Posterior[Any, Any, Any], num_samples: int, seed: int | Tensor, run: Run) -> Tensor:
        """Returns samples, (num_samples, *batch, *shape), of a problem that `refuses` has accepted.

        Args:
            post: the problem; counts are line integrals already (`Posterior.reduced`).
            num_samples: samples for each measurement.
            seed: one for all measurements; where `takes_seeds`, or a tensor of one for each.
            run: what the caller wants beside.
        """
        raise UnsupportedError(f"{type(self).__name__} must define solve(self, post, num_samples, seed, run)")

    def refuses(self, post: Posterior) -> str | None:
        """Returns why this method cannot solve this problem, as the end of a sentence, or None."""
        counts, post = post.noise, post.reduced()
        if counts is not post.noise and not self.counts:
            return f"has step sizes that were published for images, and diverges on the counts of {type(counts).__name__}"
        if not isinstance(post.prior, self.prior):
            return f"needs a {self.prior.__name__} prior, got {type(post.prior).__name__}"
        if self.many_levels and isinstance(post.prior, Denoiser) and post.prior.one_level:
            return needs_levels(post.prior)
        if self.consistency and (why := needs_consistency(post.prior)) is not None:
            return why
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
        codes: Callable[[Tensor], object] | None = None,
    ) -> Tensor:
        """Draws samples of the posterior, (num_samples, *batch, *shape).

        Args:
            post: the problem.
            num_samples: samples for each measurement of the batch.
            seed: a sample depends on the seed, on its number and on the position of its measurement in the batch, on
                nothing else; measurements in another order get other samples. Or a list of one seed for each measurement
                (flattened): then on that seed and its number alone, as if the measurement were not in a batch. A GPU draws
                other samples than a processor.
            max_batch: how many signals to work on at once; fewer take less memory and give the same samples. By default
                all, of a sampler as many as fit into half of the free memory (`Cost.max_batch`).
            progress: whether to show a bar; None shows it on a terminal and in a notebook only.
            callback: called after each step with its number and the state, (rows, *shape).
            cost: filled with what the run used.
            codes: called with the codes z of the samples of a Generator, (num_samples, *batch, *latent_shape).

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
        seeds = seed if isinstance(seed, int) else self._seeds(seed, math.prod(post.batch))
        with running(post.prior, post.A, *vars(post.noise).values()):
            post = dataclasses.replace(normal(post), noise=normal(post.noise)).reduced()
            return self.solve(post, num_samples, seeds, Run(max_batch, progress, callback, cost, codes=codes))

    def _seeds(self, seed: Sequence[int], measurements: int) -> Tensor:
        """Returns a tensor of one seed for each measurement."""
        if not self.takes_seeds:
            raise OptionError(f"{type(self).__name__} takes one seed for a batch, a whole number, got {seed!r:.80}")
        if len(seed) != measurements:
            raise OptionError(
                f"seed must be a whole number, or a list of {measurements}, one for each measurement, got {seed!r:.80}"
            )
        return seeds_of(seed)

    def check_samples(self, prior: Prior, x: Tensor) -> None:
        """Holds samples against the signals that the prior declares.

        Args:
            prior: over the signals; of one that is no Denoiser only its finite values are known.
            x: samples, (n, *shape).

        Raises:
            DivergedError: a value is not finite, or beyond anything that the prior's signals, or a far measurement, may be.
        """
        if not x.numel():
            return
        name = type(self).__name__
        if not isinstance(prior, Denoiser):
            if not bool(torch.isfinite(x).all()):
                raise DivergedError(f"{name} ended at values that are not finite; {self.advice(prior)}")
            return
        low, high = bounds(prior)
        least, most = torch.stack(torch.aminmax(x)).tolist()
        if not (least >= low and most <= high):
            raise DivergedError(
                f"{name} ended at values from {least:.3g} to {most:.3g}, where the prior declares "
                f"value_range=({prior.value_range[0]:g}, {prior.value_range[1]:g}) and data_std={prior.data_std:.3g}: "
                f"declare what its signals have, or {self.advice(prior)}"
            )
        warn_saturated(prior, x, name)

    def advice(self, prior: Prior) -> str:
        """Returns what may help against a divergence, in words."""
        top = ceiling(prior) if isinstance(prior, Denoiser) else None
        if top is not None:
            return f"the prior's network cannot be trusted up to sigma = {prior.sigma_max:.3g}: {remedy(top)}"
        return "use more steps, a weaker guidance, or check that noise and prior are in the units of the operator"

    @classmethod
    def options(cls) -> dict[str, object]:
        """Returns the names and defaults of the hyper-parameters."""
        return {f.name: f.default for f in dataclasses.fields(cls)}


# invgen.samplers adds its own: the contracts import no catalogue
catalogues: list[Callable[[], Mapping[str, type[Method]]]] = []


def fitting(post: Posterior) -> str:
    """Returns the samplers that accept a problem, for error messages: the first two dozen by the alphabet."""
    found = sorted(s.__name__ for known in catalogues for s in known().values() if s().refuses(post) is None)
    more = f" and {len(found) - 24} more (invgen list samplers)" if len(found) > 24 else ""
    return ", ".join(found[:24]) + more or "none yet; see docs/design.md"
