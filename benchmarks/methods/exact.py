"""The exact posterior, where the prior knows it."""

import math
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from invgen.errors import OptionError, UnsupportedError
from invgen.noise import Gaussian
from invgen.posterior import Posterior
from invgen.priors import GaussianMixture
from invgen.sampler import Cost, Sampler

__all__ = ["Exact"]


@dataclass(frozen=True)
class Exact(Sampler):
    """Draws from the exact posterior where the prior knows it (GaussianMixture and subclasses): the best possible."""

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
        """Draws exact samples, (num_samples, *batch, *shape).

        Args:
            post, num_samples, seed, cost: as for a sampler.
            options: of samplers, which change nothing.

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
