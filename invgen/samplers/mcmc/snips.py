"""Kawar, Vaksman & Elad, "SNIPS: solving noisy inverse problems stochastically" (NeurIPS 2021), Algorithm 1."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from invgen.forward import LinearOperator, as_svd
from invgen.noise import Gaussian
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian
from invgen.sampler import Sampler
from invgen.validation.hints import Count, Range


@dataclass(frozen=True)
class SNIPS(Sampler):
    """Annealed Langevin dynamics in the basis of the operator's SVD, the noise of the measurement taken as part of x's.

    Operators with an SVD, Gaussian noise of one level, or none. A coordinate with singular value s_i sees, in units of the
    signal, noise s_y = sigma_y / s_i. While sigma > s_y its law given y is N(y_i, sigma^2 - s_y^2), whatever the prior;
    below, it is the prior's times N(y_i; x_i, s_y^2 - sigma^2). The first is right for that coordinate alone (the score of
    the others sees its noisy value), the second jointly, so that the law is exact where the last levels lie below s_y. The
    last state is denoised; the released code leaves the noise of the last level in it.

    Args:
        steps: noise levels (the paper's 500).
        iterations: Langevin steps at each, a network evaluation each (5).
        step: size of a Langevin step in units of each coordinate's variance (0.033); a larger one forgets the levels before
            in fewer evaluations, and its bias ends with the last level.
    """

    iterations: Count = 3
    step: Annotated[float, Range(0, 2, above=True, below=True)] = 0.5

    A: ClassVar[type] = LinearOperator
    svd: ClassVar[bool] = True
    noise: ClassVar[type] = Gaussian
    noiseless: ClassVar[bool] = True
    one_level: ClassVar[bool] = True
    family: ClassVar[str] = "mcmc"
    exact: ClassVar[str] = "as steps grow and the last level falls"

    @classmethod
    def paper(cls) -> "SNIPS":
        """Returns the released configuration for CelebA in [0, 1]: 500 levels from 90 to 0.01, steps of 3.3e-6 at the
        last."""
        return cls(500, tuple(90 * (0.01 / 90) ** (k / 499) for k in range(500)), iterations=5, step=3.3e-6 / 0.01**2)

    def run(self, post: LinearGaussian, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        A = as_svd(post.A)
        s_i = A.s.to(x.dtype)
        seen = s_i > 1e-6 * s_i.max()  # the released code: 1e-3, in the units of its operators
        inverse = torch.where(seen, 1 / s_i.where(seen, 1), 0)
        y, var_y = inverse * A.Ut(post.y), torch.where(seen, (post.noise.sigma * inverse) ** 2, torch.inf)
        for s, s_next in self.levels(post.prior):
            above = s**2 > var_y
            # the step of each coordinate, and what it makes of the gradients, free of their poles at sigma = s_y
            var = torch.where(above, s**2 - var_y, s**2 * (1 - s**2 / var_y))
            trust = torch.where(above, 1.0, s**2 / var_y)
            for _ in range(self.iterations):
                score = A.Vt(post.prior.score(x, s))
                drift = torch.where(above, 0, var) * score + trust * (y - A.Vt(x))
                x = x + A.V(self.step * drift + (2 * self.step * var).sqrt() * A.Vt(randn(x)))
            x = post.prior(x, s) if s_next == 0 else x
            yield x
