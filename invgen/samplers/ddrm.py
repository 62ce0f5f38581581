"""Kawar, Elad, Ermon & Song, "Denoising diffusion restoration models" (NeurIPS 2022), equations 7 and 8."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invgen.errors import OptionError
from invgen.forward import LinearOperator
from invgen.noise import Gaussian
from invgen.posterior import Posterior
from invgen.random import Streams
from invgen.sampler import Sampler
from invgen.samplers._spectral import SpectralStep


@dataclass(frozen=True)
class DDRM(Sampler):
    """Denoising diffusion restoration, coordinate by coordinate in the basis of the operator's SVD.

    Operators with an SVD, Gaussian noise of one level, or none. Coordinates whose noise exceeds three times the prior's
    data_std count as unmeasured.

    Args:
        eta: share of fresh noise where little was measured (0.85).
        eta_b: trust in the measurement where it is cleaner than the current level (1).
        schedule: the paper's is "vp", uniform in the time of DDPM, for signals of about [-1, 1].
        eta_c: share of fresh noise where nothing was measured; eta by default. 1 explores more modes of the prior, at the
            price of variance.
    """

    steps: int = 20
    eta: float = 0.85
    eta_b: float = 1.0
    eta_c: float | None = None

    A: ClassVar[type] = LinearOperator
    svd: ClassVar[bool] = True
    noise: ClassVar[type] = Gaussian
    noiseless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0 <= eta <= 1 for eta in (self.eta, self.eta_b, self.eta if self.eta_c is None else self.eta_c)):
            raise OptionError(f"DDRM needs eta, eta_b, eta_c in [0, 1], got {self.eta!r}, {self.eta_b!r}, {self.eta_c!r}")

    def refuses(self, post: Posterior) -> str | None:
        why = super().refuses(post)
        if why is None and isinstance(post.noise.sigma, Tensor):
            why = "needs one noise level, got a tensor of levels"
        return why

    def run(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        spectral = SpectralStep(post, self.eta, self.eta_b, randn, self.eta_c)
        levels = self.levels(post.prior)
        x = spectral.start(x, levels[0][0])
        for s, s_next in levels:
            x = spectral(x, post.prior(x, s), s, s_next)
            yield x
