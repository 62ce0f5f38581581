"""The exact posterior, where the prior knows it."""

import math
import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.errors import UnsupportedError
from invgen.method import Method, Run
from invgen.noise import Gaussian
from invgen.posterior import Posterior
from invgen.priors import GaussianMixture

__all__ = ["Exact"]


@dataclass(frozen=True)
class Exact(Method):
    """Draws from the exact posterior where the prior knows it (GaussianMixture and its kind): the best that can be done."""

    gradient: ClassVar[bool] = False
    family: ClassVar[str] = "exact"
    exact: ClassVar[str] = "always"

    def refuses(self, post: Posterior) -> str | None:
        """Returns why this problem has no posterior that is known, as the end of a sentence, or None."""
        if not isinstance(post.prior, GaussianMixture):
            return f"needs a prior whose posterior is known, a GaussianMixture, got {type(post.prior).__name__}"
        return super().refuses(post)

    def solve(self, post: Posterior, num_samples: int, seed: int, run: Run) -> Tensor:
        """Returns draws from the exact law; `max_batch` changes nothing."""
        begin, count = time.perf_counter(), math.prod(post.batch)
        x = [exact_law(post, k).sample(num_samples, seed * count + k) for k in range(count)]
        if run.cost is not None:
            run.cost.seconds += time.perf_counter() - begin
        shape = (num_samples, *post.batch, *post.prior.shape)
        return torch.stack(x, 1).reshape(shape) if x else torch.empty(shape)


def exact_law(post: Posterior, k: int = 0) -> GaussianMixture:
    """Returns p(x | y) of measurement k of the flattened batch.

    Raises:
        UnsupportedError: the prior does not know it.
    """
    if not isinstance(post.prior, GaussianMixture):
        raise UnsupportedError(
            f"the exact posterior under {type(post.prior).__name__} is not known; take a GaussianMixture"
        )
    noise = post.noise
    if isinstance(noise, Gaussian) and isinstance(noise.sigma, Tensor):
        level = noise.rows(torch.tensor([k]), tuple(post.batch), tuple(post.A.out_shape)).sigma
        noise = Gaussian(level[0] if isinstance(level, Tensor) else level)
    return post.prior.posterior(post.A, noise, post.y.reshape(-1, *post.A.out_shape)[k])
