"""Chung, Sim & Ye, "Come-closer-diffuse-faster: accelerating conditional diffusion models for inverse problems through
stochastic contraction" (CVPR 2022), Algorithm 1."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from invgen.diffusion import Denoiser, step
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian
from invgen.samplers.projection.base import Levels, Projection, ProjectionSampler, estimate, levels_from
from invgen.validation.hints import Count, Fraction, Positive


@dataclass(frozen=True)
class CCDF(ProjectionSampler):
    """Replacement that starts half way: noise is put on A^+ y up to level sigma0, and taken off with few steps.

    Linear operators, Gaussian noise of one level (then with an SVD) or none. Biased as ScoreSDE is, and towards the first
    image: what was not measured keeps its value there (the prior's mean) unless sigma0 is several times its spread.

    Args:
        sigma0: the first noise level, in units of the prior's data_std. For images in [-1, 1] of data_std 0.5, 1.4 is the
            time t0 = 0.2 of DDPM's schedule.
    """

    steps: Count = 20
    eta: Fraction = 1.0
    sigma0: Positive = 1.4

    def levels(self, prior: Denoiser) -> Levels:
        return levels_from(prior, self.sigma0, self.steps, self.schedule)

    def run(self, post: LinearGaussian, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, levels, project = post.prior, self.levels(post.prior), Projection(post, randn)
        x = estimate(post) + levels[0][0] * randn(x)
        for s, s_next in levels:
            x = project(step(x, prior(x, s), s, s_next, self.eta, randn), s_next)
            yield x
