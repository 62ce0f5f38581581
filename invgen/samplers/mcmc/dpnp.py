"""Xu & Chi, "Provably robust score-based diffusion posterior sampling for plug-and-play image reconstruction" (NeurIPS
2024), Algorithms 1, 2 (DDS-DDPM) and 3 (DDS-DDIM)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from invgen.diffusion import Denoiser, noise_levels
from invgen.errors import OptionError
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.samplers.mcmc.base import proximal_draw
from invgen.validation.hints import Count, Positive


@dataclass(frozen=True)
class DPnP(Sampler):
    """Diffusion plug-and-play: a draw near the state that explains y, then a draw of the prior near it, while eta falls.

    Any operator, any noise with a density. As PnPDM it alternates v ~ N(v; x, eta^2 I) p(y | v) with x ~ p(x_0 | v), v
    taken for x_0 under noise of eta. At one eta the law is p(x) E[p(y | x + eta eps)], exact as eta -> 0. The second draw
    is that of a diffusion that starts from p(x_0 | v) itself: its denoiser is the prior's at the precision 1 / s^2 +
    1 / eta^2, so that its ODE begins with pure noise at every sweep.

    The released code has eta from 0.4 to 0.16 for images in [-1, 1] and noise of 0.2, here in units of a data_std of
    1/2. With less noise than that the measured values then have too much variance; eta_min=0.05 with steps=50 and
    denoise_steps=10 has it right. The code starts from a run of DPS or LGD; this class from a Gaussian of the prior's
    mean and data_std under noise eta_max.

    Args:
        steps: sweeps, the released 16.
        first: of them, at eta_max; then eta falls by a constant factor.
        eta_max, eta_min: in units of the prior's data_std.
        sampler: of p(x_0 | v): "ddim", DDS-DDIM, its ODE; "ddpm", DDS-DDPM, the reverse of the heat equation.
        denoise_steps: network evaluations of a sweep; the released code has one for each of DDPM's levels below eta, 100 to
            250. Those of "ddim" are evenly spaced in arctan(s / eta).
        langevin_steps: of the first draw where it is not Gaussian; 1000 in the released code.
    """

    steps: Count = 16
    first: Count = 4
    eta_max: Positive = 0.8
    eta_min: Positive = 0.32
    sampler: Literal["ddim", "ddpm"] = "ddim"
    denoise_steps: Count = 20
    langevin_steps: Count = 100

    family: ClassVar[str] = "mcmc"
    exact: ClassVar[str] = "as eta falls and sweeps and denoising steps grow"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta_min > self.eta_max:
            raise OptionError(f"DPnP needs eta_min <= eta_max, got eta_min={self.eta_min!r} and eta_max={self.eta_max!r}")

    def levels(self, prior: Denoiser) -> list[tuple[float, float]]:
        """Returns eta of each sweep and of the next, in units of the signal."""
        falling = max(self.steps - self.first - 1, 1)
        factor = (self.eta_min / self.eta_max) ** (1 / falling)
        eta = [self.eta_max * factor ** min(max(k - self.first, 0), falling) * prior.data_std for k in range(self.steps)]
        eta = [min(max(e, prior.sigma_min), prior.sigma_max) for e in eta]
        return list(zip(eta, [*eta[1:], 0.0], strict=True))

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        denoise = dds_ddim if self.sampler == "ddim" else dds_ddpm
        for eta, _ in self.levels(post.prior):
            v = proximal_draw(post, x, eta**2, self.langevin_steps, randn)
            x = denoise(post.prior, v, eta, self.denoise_steps, randn)
            yield x


def dds_ddim(prior: Denoiser, v: Tensor, eta: float, steps: int, randn: Streams) -> Tensor:
    """Returns a draw of p(x_0 | x_eta = v) by the ODE of x_0 + s eps given v, from s = infinity to 0.

    With s = eta tan(a) and x_s = v + (s^2 + eta^2)^(1/2) q it is dq/da = eps, the noise in v + eta cos(a) q at the level
    eta sin(a): a step that takes eps for constant is exact in a.

    Args:
        prior: the denoiser.
        v, eta: the noisy signal, (B, *shape), and its noise level.
        steps: evaluations, evenly spaced in a.
        randn: the source of noise.
    """
    q, step = randn(v), math.pi / (2 * steps)
    for k in range(steps, 0, -1):
        level, m = max(eta * math.sin(k * step), prior.sigma_min), v + eta * math.cos(k * step) * q
        q = q - step / level * (m - prior(m, level))
    return v + eta * q


def dds_ddpm(prior: Denoiser, v: Tensor, eta: float, steps: int, randn: Streams) -> Tensor:
    """Returns a draw of p(x_0 | x_eta = v) by the reverse of the heat equation from the level eta to 0.

    Args:
        prior: the denoiser.
        v, eta: the noisy signal, (B, *shape), and its noise level.
        steps: evaluations.
        randn: the source of noise.
    """
    x = v
    for s, s_next in noise_levels(steps, min(prior.sigma_min, eta / 2), eta):
        x = x - 2 * (s - s_next) / s * (x - prior(x, s))
        if s_next > 0:
            x = x + math.sqrt(s**2 - s_next**2) * randn(x)
    return x
