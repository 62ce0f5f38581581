"""Wang, Yu & Zhang, "Zero-shot image restoration using denoising diffusion null-space model" (ICLR 2023), Algorithms 1
and 2 (time travel) and Section 3.3 (DDNM+, noisy measurements)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invgen.diffusion import step
from invgen.errors import OptionError
from invgen.forward import LinearOperator, has_svd
from invgen.noise import Gaussian
from invgen.posterior import Posterior
from invgen.random import Streams
from invgen.sampler import Sampler
from invgen.samplers._spectral import SpectralStep


@dataclass(frozen=True)
class DDNM(Sampler):
    """The range of A from the measurement, its null space from the prior.

    Linear operators. Noiseless: x0 - A^+ (A x0 - y). With Gaussian noise this is DDNM+, which weighs each coordinate of the
    SVD by its noise and therefore needs an SVDOperator; there it coincides with DDRM's step at eta_b = 1.

    Args:
        eta: share of fresh noise (0.85).
        travel_length, travel_repeat: every travel_length steps go back as many and repeat, travel_repeat times in all.
    """

    eta: float = 0.85
    travel_length: int = 1
    travel_repeat: int = 1

    A: ClassVar[type] = LinearOperator
    noise: ClassVar[type] = Gaussian
    noiseless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.travel_length < 1 or self.travel_repeat < 1:
            raise OptionError(
                f"time travel needs travel_length and travel_repeat of at least 1, got {self.travel_length!r} and "
                f"{self.travel_repeat!r}"
            )

    def refuses(self, post: Posterior) -> str | None:
        why = super().refuses(post)
        if why is None and isinstance(post.noise.sigma, Tensor):
            why = "needs one noise level, got a tensor of levels"
        if why is None and post.noise.sigma > 0 and not has_svd(post.A):
            why = f"needs an SVDOperator for noisy measurements (DDNM+), got {type(post.A).__name__}"
        return why

    def run(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        A, y = post.A, post.y
        plus = SpectralStep(post, self.eta, 1.0, randn) if post.noise.sigma > 0 else None
        levels = self.levels(post.prior)
        for k in range(0, len(levels), self.travel_length):
            stretch = levels[k : k + self.travel_length]
            for trip in range(self.travel_repeat):
                if trip:  # travel back: add the noise that the stretch has removed
                    top, bottom = stretch[0][0], stretch[-1][1]
                    x = x + math.sqrt(top**2 - bottom**2) * randn(x)
                for s, s_next in stretch:
                    x0 = post.prior(x, s)
                    if plus is not None:
                        x = plus(x, x0, s, s_next)
                    else:
                        x = step(x, x0 - A.pinv(A(x0) - y), s, s_next, self.eta, randn, eps=(x - x0) / s)
            yield x
