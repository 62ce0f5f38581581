"""Distances between an estimate and the truth: one number for each image, differentiable, in a stated data range.

Shapes: estimate and truth (*batch, C, H, W), the result (*batch); the batch axes broadcast, so that samples of shape
(num_samples, *batch, C, H, W) may be compared with one truth. `dims` counts the axes of one signal, 3 for an image with
channels: 2 means (C, L), 4 means (C, D, H, W). No metric averages over a batch: take the mean of what it returns.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from invgen.errors import OptionError, ShapeError
from invgen.metrics._signals import DataRange, ValueRange, check_pair, check_value_range, mean_over, square
from invgen.validation.arguments import checked
from invgen.validation.hints import Index

WINDOW = 11  # taps of the Gaussian window of SSIM


@checked
def psnr(estimate: Tensor, truth: Tensor, *, data_range: DataRange, dims: Index = 3) -> Tensor:
    """Returns the peak signal-to-noise ratio in dB, 10 log10(data_range^2 / mean |estimate - truth|^2): (*batch).

    The mean runs over one image, so that the mean of a batch is the mean of the PSNRs, not the PSNR of the mean error.
    Infinite where the two are equal. Complex signals allowed. Nothing is clipped to the range.

    Args:
        estimate, truth: (*batch, *shape).
        data_range: the largest minus the smallest value that a signal can have.
        dims: how many axes a signal has, counted from the last.

    Raises:
        ShapeError: the shapes do not fit.  OptionError: data_range is not a positive number.
    """
    check_pair("psnr", estimate, truth, dims)
    mse = mean_over(square(estimate - truth), dims)
    return 10 * torch.log10(data_range**2 / mse)


@checked
def nrmse(estimate: Tensor, truth: Tensor, *, data_range: DataRange | None, dims: Index = 3) -> Tensor:
    """Returns the root mean square error over `data_range`, or with data_range=None over the root mean square of the
    truth: (*batch).

    With None it is the relative error |estimate - truth| / |truth|, skimage's normalization="euclidean", which needs no
    range; it is not differentiable where the two are equal (the gradient there is not finite).

    Args:
        estimate, truth: (*batch, *shape).
        data_range: the largest minus the smallest value that a signal can have, or None.
        dims: how many axes a signal has, counted from the last.
    """
    check_pair("nrmse", estimate, truth, dims)
    rmse = mean_over(square(estimate - truth), dims).sqrt()
    if data_range is None:
        return rmse / mean_over(square(truth), dims).sqrt()
    return rmse / data_range


@checked
def ssim(
    estimate: Tensor,
    truth: Tensor,
    *,
    value_range: ValueRange,
    boundary: Literal["valid", "reflect"] = "valid",
    dims: Index = 3,
) -> Tensor:
    """Returns the structural similarity (Wang et al., IEEE TIP 2004), averaged over the channels and positions of one
    image: (*batch).

    Gaussian window of 11 taps, standard deviation 1.5, K1 = 0.01, K2 = 0.03, population covariances. The luminance term
    compares local means as ratios and so needs to know where black lies: both images are shifted by `low` first, and the
    result is the same in [0, 1], [-1, 1], grey levels and Hounsfield units. Code that passes a range alone, on images in
    [-1, 1], reports other values.

    Args:
        estimate, truth: (*batch, *shape).
        value_range: (low, high), the lowest and the highest value that such images can have; `prior.value_range`.
        boundary: "valid" averages the positions where the whole window lies in the image, as the paper and skimage
            (gaussian_weights=True, sigma=1.5, use_sample_covariance=False) do; "reflect" mirrors the image at its border
            and averages all positions, as torchmetrics does. The two differ by 0.01 to 0.03 on common images.
        dims: how many axes a signal has, counted from the last.

    Computed in double precision whatever the input, because variances as differences of means lose half the digits; the
    result has the precision of the input.

    Raises:
        ShapeError: the shapes do not fit, the signals are complex, or an axis is too short for the window (11 for "valid",
            6 for "reflect").
        OptionError: value_range is not a pair of increasing numbers, or the boundary is unknown.
    """
    check_pair("ssim", estimate, truth, dims)
    low, high = check_value_range("ssim", value_range)
    if boundary not in ("valid", "reflect"):
        raise OptionError(f"ssim: unknown boundary {boundary!r}; there are 'valid' (skimage) and 'reflect' (torchmetrics)")
    if estimate.is_complex() or truth.is_complex():
        raise ShapeError("ssim: the images are complex; compare magnitudes, x.abs()")
    if dims < 2:
        raise ShapeError(f"ssim: one signal needs a channel axis and at least one spatial axis, got dims={dims}")
    spatial, shortest = tuple(truth.shape[1 - dims :]), WINDOW if boundary == "valid" else WINDOW // 2 + 1
    if min(spatial) < shortest:
        raise ShapeError(f"ssim: boundary={boundary!r} needs at least {shortest} pixels along each axis, got {spatial}")

    x, y = torch.broadcast_tensors(estimate.double() - low, truth.double() - low)
    mx, my, mxx, myy, mxy = _windowed_means(torch.stack([x, y, x * x, y * y, x * y]), dims - 1, boundary)
    c1, c2 = (0.01 * (high - low)) ** 2, (0.03 * (high - low)) ** 2
    luminance = (2 * mx * my + c1) / (mx**2 + my**2 + c1)
    structure = (2 * (mxy - mx * my) + c2) / (mxx - mx**2 + myy - my**2 + c2)
    return mean_over(luminance * structure, dims).to(torch.promote_types(estimate.dtype, truth.dtype))


def _windowed_means(x: Tensor, axes: int, boundary: str) -> Tensor:
    """Returns Gaussian means over the last `axes` axes, one axis at a time: the window is separable."""
    offset = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    window = torch.exp(-0.5 * (offset / 1.5) ** 2)
    window = (window / window.sum()).reshape(1, 1, -1)
    for axis in range(-axes, 0):
        rows = x.movedim(axis, -1)
        flat = rows.reshape(-1, 1, rows.shape[-1])
        if boundary == "reflect":
            flat = F.pad(flat, (WINDOW // 2, WINDOW // 2), mode="reflect")
        x = F.conv1d(flat, window).reshape(*rows.shape[:-1], -1).movedim(-1, axis)
    return x
