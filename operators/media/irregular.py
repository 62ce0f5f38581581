"""Irregular holes: brush strokes at random, as people paint over what they want gone."""

import torch
from torch import Tensor

from invgen.errors import OptionError
from invgen.validation.arguments import checked
from invgen.validation.hints import Count, Fraction, Seed


@checked
def irregular_mask(size: tuple[int, int], ratio: Fraction, seed: Seed = 0, brush: Count | None = None) -> Tensor:
    """Returns a mask, (H, W), true where the picture is kept, with strokes of a brush over about `ratio` of it.

    As Liu et al. (ECCV 2018) test inpainting, by six ranges of the ratio; theirs are holes of occlusions in film, these are
    strokes of random length and turn. `Mask(in_shape, irregular_mask((H, W), 0.3))` measures the rest.

    Args:
        size: (H, W).
        ratio: of the holes, at least; the last stroke may exceed it by a brush.
        seed: of the strokes.
        brush: radius in pixels; a sixteenth of the shorter side by default.
    """
    if not 0 < ratio < 1:
        raise OptionError(f"holes cover more than nothing and less than all of a picture, got a ratio of {ratio!r}")
    rows, columns = torch.meshgrid(*(torch.arange(float(n)) for n in size), indexing="ij")
    radius = float(brush or max(min(size) // 16, 1))
    holes, generator = torch.zeros(size, dtype=torch.bool), torch.Generator().manual_seed(seed)
    while holes.float().mean() < ratio:
        u = torch.rand(4, generator=generator)
        place, turn = u[:2] * torch.tensor(size), 6.2832 * u[2]
        for _ in range(2 + int(6 * u[3])):  # a stroke: steps of one brush, each turned a little
            holes |= (rows - place[0]).square() + (columns - place[1]).square() <= radius**2
            if holes.float().mean() >= ratio:
                break
            turn = turn + 0.6 * torch.randn((), generator=generator)
            place = place + radius * torch.stack([turn.sin(), turn.cos()])
    return ~holes
