"""Avrahami, Lischinski & Fried, "Blended diffusion for text-driven editing of natural images" (CVPR 2022), Algorithm 2."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, Stepper
from invgen.errors import OptionError
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.samplers.editing._editing import Editor, as_signal
from invgen.samplers.guided.base import GuidedSampler
from invgen.samplers.guided.damped import DampedDPS
from invgen.samplers.projection.base import Levels, levels_from
from invgen.validation.hints import Fraction, NonNegative, Positive


@dataclass(frozen=True, eq=False, repr=False)
class BlendedDiffusion(Editor, GuidedSampler):
    """Edits a part of an image: guided steps inside a mask, the image with noise of the current level outside it.

    The measurement defines the edit: any differentiable operator and any noise with a density, an embedding and a
    distance too, through the guidance of DampedDPS. Operator and measurement should see the edited part; the rest is the
    image. Biased inside as replacement is, see ScoreSDE; outside the mask the result is the image, exactly. (The released
    code evaluates its loss between D and x, sums it over augmentations, and blends one noise level too high.)

    Args:
        zeta, fraction: of the guidance, see DampedDPS.
        image: (*shape), the image to edit.
        keep: (*shape) or broadcastable, true, 1 or 255 where the image stays. Without image and keep this is DampedDPS.
        sigma0: the first noise level, in units of the prior's data_std: how much of the image still shows through in the
            edited part. For images in [-1, 1] of data_std 0.5, 34 is the paper's start after 25 of 100 steps: nothing does.
    """

    schedule: str | Sequence[float] = "log"
    zeta: NonNegative = DampedDPS.zeta
    fraction: Fraction = DampedDPS.fraction
    image: Tensor | None = None
    keep: Tensor | None = None
    sigma0: Positive = 34.0

    noiseless: ClassVar[bool] = True
    backprop: ClassVar[bool] = True
    guide = DampedDPS.guide

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.image is None) != (self.keep is None):
            raise OptionError(
                "BlendedDiffusion needs image and keep (true where the image stays) together, or neither, got one of them"
            )

    def levels(self, prior: Denoiser) -> Levels:
        if self.image is None:
            return super().levels(prior)
        return levels_from(prior, self.sigma0, self.steps, self.schedule)

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        if self.image is None or self.keep is None:
            yield from super().run(post, x, randn)
            return
        levels = self.levels(post.prior)
        image = as_signal("image", self.image, post).to(x.dtype)
        keep = as_signal("keep", self.keep, post)
        x = image + levels[0][0] * randn(x)
        move = Stepper(post.prior, self.eta, self.order, randn)
        for s, s_next in levels:
            x = move(x, self.guide(post, x, s), s, s_next)
            x = torch.where(keep, image + s_next * randn(x) if s_next > 0 else image, x)
            yield x
