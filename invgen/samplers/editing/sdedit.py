"""Meng, He, Song, Song, Wu, Zhu & Ermon, "SDEdit: guided image synthesis and editing with stochastic differential
equations" (ICLR 2022), Algorithms 2 and 4 (VP), and 5 with a mask (Appendix C)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, step
from invgen.forward import LinearOperator
from invgen.noise import Gaussian
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian
from invgen.samplers.editing._editing import Editor, as_signal
from invgen.samplers.projection.base import Levels, estimate, levels_from
from invgen.validation.hints import Count, Fraction, Positive


@dataclass(frozen=True, eq=False, repr=False)
class SDEdit(Editor):
    """Noise is put on a guide up to level sigma0, and the prior takes it off: the guide, made plausible.

    The guide is A^+ y, which is y for operators.Identity: a painting, strokes over a photograph, a first reconstruction.
    Linear operators, Gaussian noise or none. Not a sampler of p(x | y): the measurement enters by the start alone. sigma0
    trades faithfulness (0: the guide itself) for realism (large: the prior, whatever the guide).

    Args:
        sigma0: in units of the prior's data_std. For images in [-1, 1] of data_std 0.5, 2.5 is the time t0 = 0.3 of DDPM's
            schedule and 6.9 is t0 = 0.5; the paper recommends 0.3 to 0.6.
        eta: 1 for ancestral steps (the paper's), 0 for the probability-flow ODE.
        repeats: how often the result becomes the next guide (the released demo takes 3).
        keep: (*shape) or broadcastable, true, 1 or 255 where the guide is kept as it is, for strokes that cover a part of a
            photograph: after each step these values are the guide's, with one draw of noise for all levels.
    """

    eta: Fraction = 1.0
    sigma0: Positive = 2.5
    repeats: Count = 1
    keep: Tensor | None = None

    A: ClassVar[type] = LinearOperator
    noise: ClassVar[type] = Gaussian
    noiseless: ClassVar[bool] = True
    one_level: ClassVar[bool] = True

    @classmethod
    def paper(cls, sigma0: float = 6.9, repeats: int = 3) -> "SDEdit":
        """Returns the released demo: the last 500 steps of DDPM's 1000, 3 times over."""
        return cls(steps=500, schedule="vp", sigma0=sigma0, repeats=repeats)

    def levels(self, prior: Denoiser) -> Levels:
        return levels_from(prior, self.sigma0, self.steps, self.schedule)

    def run(self, post: LinearGaussian, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, levels, guide = post.prior, self.levels(post.prior), estimate(post)
        keep = None if self.keep is None else as_signal("keep", self.keep, post)
        for _ in range(self.repeats):
            z = randn(guide)
            x = guide + levels[0][0] * z
            for s, s_next in levels:
                x = step(x, prior(x, s), s, s_next, self.eta, randn)
                if keep is not None:
                    x = torch.where(keep, guide + s_next * z, x)
                yield x
            guide = x
