"""Lugmayr, Danelljan, Romero, Yu, Timofte & Van Gool, "RePaint: inpainting using denoising diffusion probabilistic models"
(CVPR 2022), Algorithm 1 with the jumps of Appendix B."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from invgen.diffusion import step
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian
from invgen.samplers.projection.base import Projection, ProjectionSampler, with_jumps
from invgen.validation.hints import Count, Range


@dataclass(frozen=True)
class RePaint(ProjectionSampler):
    """Replacement with resampling: every so often the chain goes back up, so that what was not measured adapts to it.

    Linear operators (the paper: masks), Gaussian noise of one level (then with an SVD) or none. The bias of replacement
    falls with the number of repeats, at their cost: about `repeat` times `steps` network evaluations.

    Args:
        jump: how far to go back, as a fraction of the steps (the paper's 10 of 250).
        repeat: how often each stretch is passed (10).
    """

    steps: Count = 50
    jump: Annotated[float, Range(0, 1, above=True, below=True)] = 0.04
    repeat: Count = 10

    @classmethod
    def paper(cls) -> "RePaint":
        """Returns the published settings: 250 steps of DDPM's schedule, jumps of 10, 10 repeats: 2410 network
        evaluations."""
        return cls(steps=250, schedule="vp", jump=10 / 250, repeat=10)

    def run(self, post: LinearGaussian, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, levels, project = post.prior, self.levels(post.prior), Projection(post, randn)
        x = project(x, levels[0][0])
        for s, s_next, new in with_jumps(levels, max(1, round(self.jump * len(levels))), self.repeat):
            if s_next > s:
                x = project.up(x, s, s_next)
                continue
            x = project(step(x, prior(x, s), s, s_next, 1.0, randn), s_next)
            if new:
                yield x
