"""Wu, Sun, Chen, Zhang, Yue & Bouman, "Principled probabilistic imaging using diffusion models as plug-and-play priors"
(NeurIPS 2024), Algorithm 1; the split Gibbs sampler of Vono, Dobigeon & Chainais (2019)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import Tensor

from invgen.diffusion import Denoiser, noise_levels, step
from invgen.errors import OptionError
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.samplers.mcmc.base import proximal_draw
from invgen.validation.hints import Count, Positive, Range


@dataclass(frozen=True)
class PnPDM(Sampler):
    """Split Gibbs: alternate z ~ N(z; x, rho^2 I) p(y | z) and x ~ p(x_0 | x_rho = z), while rho falls.

    Any operator, any noise with a density. At fixed rho the chain has the law p(x) E[p(y | x + rho eps)], exact as
    rho -> 0; the state is the last x.

    Args:
        steps: Gibbs sweeps (100).
        rho_max, rho_decay, rho_min: rho_k = max(rho_min, rho_max rho_decay^k), in units of the prior's data_std (the
            paper's 10, 0.9 and 0.1 to 0.3 are in units of images in [-1, 1], about twice these).
        denoise_steps: levels of the reverse diffusion from rho to 0 in each sweep.
        langevin_steps: steps of the likelihood draw where it is not Gaussian.
    """

    steps: Count = 50
    rho_max: Positive = 20.0
    rho_decay: Annotated[float, Range(0, 1, above=True)] = 0.85
    rho_min: Positive = 0.1
    denoise_steps: Count = 5
    langevin_steps: Count = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rho_min > self.rho_max:
            raise OptionError(f"PnPDM needs rho_min <= rho_max, got rho_min={self.rho_min!r} and rho_max={self.rho_max!r}")

    noiseless: ClassVar[bool] = False
    family: ClassVar[str] = "mcmc"
    exact: ClassVar[str] = "as rho falls and sweeps and denoising steps grow"

    @classmethod
    def fixed(cls, rho: float = 0.1, sweeps: int = 50, **options: Any) -> "PnPDM":
        """Returns the split Gibbs sampler of Vono et al. at one rho (in units of data_std): a chain with a stationary law.

        That law is p(x) E[p(y | x + rho eps)], for linear-Gaussian problems p(x) N(y; A x, sigma_y^2 I + rho^2 A A^T).
        The smaller rho, the less the bias and the more sweeps until the chain has forgotten its start, a Gaussian of the
        prior's moments.
        """
        return cls(steps=sweeps, rho_max=rho, rho_decay=1.0, rho_min=rho, **options)

    def levels(self, prior: Denoiser) -> list[tuple[float, float]]:
        """Returns rho of each sweep and of the next, in units of the signal."""
        rho = [max(self.rho_min, self.rho_max * self.rho_decay**k) * prior.data_std for k in range(self.steps)]
        rho = [min(r, prior.sigma_max) for r in rho]
        return list(zip(rho, [*rho[1:], 0.0], strict=True))

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior = post.prior
        for rho, _ in self.levels(prior):
            x = proximal_draw(post, x, rho**2, self.langevin_steps, randn)
            for s, s_next in noise_levels(self.denoise_steps, min(prior.sigma_min, rho / 2), rho):
                x = step(x, prior(x, s), s, s_next, 1.0, randn)
            yield x
