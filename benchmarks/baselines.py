"""Classical reconstructions to stand next to the samples: the best that is customary without a learned prior.

Where a method has a weight, the demo picks the weight of least squared error against the truth: an advantage that no
sampler gets, so that the comparison errs on the baseline's side.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from invgen.forward import LinearOperator
from invgen.operators import Mask


def total_variation(A: LinearOperator, y: Tensor, x: Tensor, weight: float, iterations: int = 40) -> Tensor:
    """argmin |y - A u|^2 / 2 + weight TV(u) by FISTA (Beck & Teboulle, 2009) from x, (C, H, W).

    The proximal map is scikit-image's denoise_tv_chambolle, whose weight is in the units of the image; `weight` is in
    units of 1 / |A|^2 times those.

    Args:
        A: the operator.
        y: the measurement.
        x: the start, (C, H, W).
        weight: of the total variation.
        iterations: of FISTA.
    """
    from skimage.restoration import denoise_tv_chambolle

    step = 1 / A.norm() ** 2
    z, t = x, 1.0
    for _ in range(iterations):
        gradient = z - step * A.adjoint(A(z) - y)
        smooth = denoise_tv_chambolle(gradient.double().numpy(), weight=weight, max_num_iter=30, channel_axis=0)
        new = torch.from_numpy(smooth).to(x)
        t_new = (1 + (1 + 4 * t**2) ** 0.5) / 2
        z, x, t = new + (t - 1) / t_new * (new - x), new, t_new
    return x


def tuned(method: Callable[[float], Tensor], weights: Sequence[float], truth: Tensor) -> Tensor:
    """The result of `method` at the weight of least squared error against the truth."""
    return min((method(w) for w in weights), key=lambda x: ((x - truth) ** 2).mean().item())


def biharmonic(mask: Mask, y: Tensor) -> Tensor:
    """Inpainting by biharmonic functions (scikit-image), of (C, H, W)."""
    from skimage.restoration import inpaint_biharmonic

    known = mask.image(torch.ones_like(y)) > 0.5
    image = mask.image(y).movedim(0, -1).double().numpy()
    # skimage takes one mask for all channels
    filled = inpaint_biharmonic(image, ~known[0].numpy(), channel_axis=-1, split_into_regions=True)
    return torch.from_numpy(np.ascontiguousarray(filled)).movedim(-1, 0).to(y)


def bicubic(y: Tensor, size: tuple[int, int]) -> Tensor:
    """Cubic spline interpolation to `size` (scikit-image's resize, order 3), of (C, h, w)."""
    from skimage.transform import resize

    big = resize(y.movedim(0, -1).double().numpy(), size, order=3, mode="edge", anti_aliasing=False)
    return torch.from_numpy(np.ascontiguousarray(big)).movedim(-1, 0).to(y)
