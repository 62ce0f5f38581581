"""Phases by turns from a diffusion prior and from Griffin & Lim's algorithm; ours, after the use of Griffin-Lim inside the
reverse diffusion by Liu, Le Roux, Wichern & Hershey, "GLA-Grad" (ICASSP 2024)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invgen.diffusion import Denoiser
from invgen.noise import Gaussian
from invgen.numerics.random import Streams
from invgen.numerics.spectrogram import SpectrogramOperator
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.samplers.projection.base import Levels, levels_from
from invgen.validation.hints import Count, Positive


@dataclass(frozen=True)
class PhaseCrossing(Sampler):
    """Sound from a spectrogram: starts from Griffin-Lim with random phases, adds noise, and at each level gives the phases
    of the denoised signal to the measured magnitudes, by some iterations of Griffin-Lim.

    Not a sampler of p(x | y): the measurement is taken as exact, and the draws are those of its start and of the noise. Of
    several samples the one with the least residual is the best start; x and -x fit alike.

    Args:
        sigma0: the first noise level, in units of the prior's data_std: how far the phases of the start are given up.
        first: iterations of Griffin-Lim at the start.
        iterations: of Griffin-Lim at each level.
    """

    steps: Count = 20
    schedule: str | Sequence[float] = "log"
    sigma0: Positive = 0.5
    first: Count = 60
    iterations: Count = 16

    A: ClassVar[type] = SpectrogramOperator
    noise: ClassVar[type] = Gaussian
    noiseless: ClassVar[bool] = True
    family: ClassVar[str] = "projection"

    def levels(self, prior: Denoiser) -> Levels:
        return levels_from(prior, self.sigma0, self.steps, self.schedule)

    def run(self, post: Posterior[Denoiser, SpectrogramOperator, Gaussian], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        A, levels = post.A, self.levels(post.prior)
        x = A.griffin_lim(post.y, randn(x), self.first)
        x = x + levels[0][0] * randn(x)
        for s, s_next in levels:
            clean = post.prior(x, s)
            # E |STFT x_0|^2 given x: what is not known of the signal has energy too
            energy = A.transform(clean).abs().square() + A.hann.square().sum() * post.prior.variance(s)
            clean = A.griffin_lim(post.y, clean, self.iterations, near=energy.sqrt())
            x = clean + s_next * randn(clean)
            yield x
