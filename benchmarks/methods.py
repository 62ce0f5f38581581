"""What a suite's `samplers` and `baselines` may name: the samplers of invgen, classical methods, those of peers, and the
exact posterior where the prior knows it."""

import importlib
import inspect
import math
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from invgen.errors import OptionError, UnsupportedError
from invgen.names import resolve
from invgen.noise import Gaussian
from invgen.posterior import Posterior
from invgen.priors import GaussianMixture
from invgen.sampler import Cost, Sampler

# each names its methods in __all__
MODULES = ("methods", "classical", "classical_ct", "classical_images", "classical_mri", "classical_audio", "peers")

__all__ = ["Exact"]


def method(spec: str) -> Sampler:
    """The sampler of a spec, among those of invgen first, then among the methods that stand beside them in a suite.

    Raises:
        OptionError: there is none of that name, or it has no such option.
    """
    return resolve.sampler(spec, others())


def others() -> dict[str, type[Sampler]]:
    """The methods of suites that are not samplers of invgen, by name."""
    modules = [importlib.import_module(f"invgen.benchmarks.{name}") for name in MODULES]
    return {name: getattr(module, name) for module in modules for name in module.__all__ if _usable(getattr(module, name))}


def _usable(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, Sampler)


@dataclass(frozen=True)
class Exact(Sampler):
    """Draws from the exact posterior where the prior knows it (GaussianMixture and its kin): the best that can be done."""

    steps: ClassVar[int] = 1
    schedule: ClassVar[tuple] = ()
    gradient: ClassVar[bool] = False
    family: ClassVar[str] = "exact"
    exact: ClassVar[str] = "always"

    def refuses(self, post: Posterior) -> str | None:
        """Why this problem has no posterior that is known, as the end of a sentence, or None."""
        if not isinstance(post.prior, GaussianMixture):
            return f"needs a prior whose posterior is known, a GaussianMixture, got {type(post.prior).__name__}"
        return super().refuses(post)

    def __call__(
        self, post: Posterior, num_samples: int = 1, seed: int = 0, *, cost: Cost | None = None, **options: Any
    ) -> Tensor:
        """Samples, (num_samples, *batch, *shape); `max_batch` changes nothing.

        Raises:
            UnsupportedError: the posterior is not known.
        """
        if not isinstance(num_samples, int) or num_samples < 1:
            raise OptionError(f"num_samples must be a positive whole number, got {num_samples!r}")
        why = self.refuses(post)
        if why:
            raise UnsupportedError(f"Exact {why}")
        begin = time.perf_counter()
        count = math.prod(post.batch)
        x = torch.stack([exact_law(post, k).sample(num_samples, seed * count + k) for k in range(count)], 1)
        if cost is not None:
            cost.seconds += time.perf_counter() - begin
        return x.reshape(num_samples, *post.batch, *post.prior.shape)


def exact_law(post: Posterior, k: int = 0) -> GaussianMixture:
    """p(x | y) of measurement k of the flattened batch.

    Raises:
        UnsupportedError: the prior does not know it.
    """
    if not isinstance(post.prior, GaussianMixture):
        raise UnsupportedError(
            f"the exact posterior under {type(post.prior).__name__} is not known; take a GaussianMixture"
        )
    noise = post.noise
    if isinstance(noise, Gaussian) and isinstance(noise.sigma, Tensor):
        noise = Gaussian(noise.rows(torch.tensor([k]), tuple(post.batch), tuple(post.A.out_shape)).sigma[0])
    return post.prior.posterior(post.A, noise, post.y.reshape(-1, *post.A.out_shape)[k])
