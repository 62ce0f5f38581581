"""Romano, Elad & Milanfar, "The little engine that could: regularization by denoising (RED)" (SIAM Journal on Imaging
Sciences, 2017), Sections 4.2 and 4.4."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian, Posterior
from invgen.sampler import published
from invgen.samplers.plug_and_play.base import PlugAndPlay
from invgen.validation.hints import Count, Positive

# lambda and the denoiser's level by task, for grey levels of 0 to 255, with 200 steps (the released parameters)
_TASKS = {"uniform deblurring": (0.02, 3.25), "gaussian deblurring": (0.01, 4.1), "super-resolution": (0.008, 3.0)}


@dataclass(frozen=True)
class RED(PlugAndPlay):
    """Regularisation by denoising: what the denoiser takes away from an image is the gradient of the prior at it.

    Linear operators, Gaussian noise or none; a denoiser of one level is enough. One point, no uncertainty: the x with
    A^T (y - A x) / sigma_y^2 = lam (x - D(x, sigma)) / sigma^2. With lam = 1 that is the most likely x under the prior that
    is blurred by sigma, for D the mean of x_0; for a Gaussian prior of covariance C the mean for C + sigma^2 I. The paper's
    lambda is lam / sigma^2. The released code also clips to the range of grey values, which is left out.

    Args:
        sigma: level of the denoiser as a fraction of the width of the prior's value range, within the prior's levels. By
            default the level of a denoiser that has one alone, else 0.05.
        lam: weight of the prior.
        method: "fixed-point" solves the data problem exactly at each denoised image; "descent" takes gradient steps of
            2 / (|A|^2 / sigma_y^2 + lam / sigma^2) and needs noise.
    """

    steps: Count = 200
    lam: Positive = 1.0
    method: Literal["fixed-point", "descent"] = "fixed-point"

    @classmethod
    def paper(cls, task: str = "uniform deblurring") -> "RED":
        """Returns the released parameters of a task: a denoiser of 3 to 4 grey levels of 255, lambda sigma^2 of 0.07 to
        0.21."""
        weight, level = published("RED", _TASKS, task)
        return cls(sigma=level / 255, lam=weight * level**2)

    def refuses(self, post: Posterior) -> str | None:
        exact = not isinstance(var := getattr(post.noise, "var", 1.0), Tensor) and var == 0
        return "with method='descent' needs noise" if self.method == "descent" and exact else super().refuses(post)

    def run(self, post: LinearGaussian, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, A, s = post.prior, post.A, self.level(post.prior)
        if self.method == "descent":
            bound = A.norm() ** 2 / torch.as_tensor(post.noise.var).min().item() + self.lam / s**2
        for _ in range(self.steps):
            if self.method == "fixed-point":
                x = A.prox(prior(x, s), post.y, s**2 / self.lam, post.noise.var)
            else:
                x = x + 2 / bound * (post.likelihood_score(x) - self.lam / s**2 * (x - prior(x, s)))
            yield x
