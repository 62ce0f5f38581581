"""DiffuserCam, a camera with a diffuser in place of a lens (Antipa et al., Optica 5(1), 2018; Waller Lab's tutorial data).

y is the part of psf * x that falls on the sensor: a convolution of a scene larger than the picture, cropped to where the
point spread function fits. There is no reference; one pixel of the sensor in ten is left out and predicted.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from invgen import samplers
from invgen.benchmarks.measured.case import Case, file
from invgen.benchmarks.methods.ct import CGLS
from invgen.errors import FileError
from invgen.files.tiff import read_tiff
from invgen.operators import Blur, Grey, Mask
from invgen.posterior import Posterior
from invgen.priors import GaussianPrior, load

DARK = slice(5, 15)  # a corner of the sensor that no light reaches
FIELD = (144, 192)  # of the scene, in averaged pixels


def read_sensor(path: Path, average: int = 16) -> Tensor:
    """Returns a picture of the sensor without its dark level, averaged over squares of pixels, (H, W).

    Raises:
        FileError: the file is damaged, no picture of one channel, or smaller than a square.
    """
    values = read_tiff(path).values.squeeze().float()
    if values.ndim != 2 or min(values.shape) < 4 * average:
        raise FileError(f"{path} must be a picture of one channel, got shape {tuple(values.shape)}")
    values = values - values[DARK, DARK].mean()
    rows, columns = (n // average * average for n in values.shape)
    return values[:rows, :columns].unflatten(0, (-1, average)).unflatten(2, (-1, average)).mean((1, 3))


def cases(folder: Path, quick: bool) -> Iterator[Case]:
    """Yields the case of the hand."""
    psf = read_sensor(file(folder, "diffusercam/psf_sample.tif")).clamp(min=0)
    raw = read_sensor(file(folder, "diffusercam/rawdata_hand_sample.tif"))
    B = Blur((1, *FIELD), psf / psf.sum(), "valid")
    rows, columns = B.out_shape[1:]
    top, side = (raw.shape[0] - rows) // 2, (raw.shape[1] - columns) // 2
    raw = raw[top : top + rows, side : side + columns][None]
    given = torch.rand(raw.shape, generator=torch.Generator().manual_seed(0)) >= 0.1
    A, left = (Mask(raw.shape, part) @ B for part in (given, ~given))
    # the units of the prior, [-1, 1], from dark to the brightest that a rough solution has
    rough = B.prox(torch.zeros(1, *B.in_shape), raw[None], 1.0, 1e-3)
    high = rough.quantile(0.999).item()
    y = 2 * raw / high - 1
    noise = 0.05 * y.std().item()  # of the model more than of the sensor

    def score(x: Tensor) -> dict[str, float]:
        found, truth = left(x.mean(0, keepdim=True)), y[~given]
        return {"error of left-out pixels": ((found - truth).norm() / (truth - truth.mean()).norm()).item()}

    classical = {"CGLS": CGLS()}
    learned = {"DiffPIR": samplers.DiffPIR(steps=10 if quick else 20), "MMPS": samplers.MMPS(steps=8 if quick else 15)}
    plain = Posterior(GaussianPrior((1, *FIELD), var=4.0), A, noise, y[given])
    post = Posterior(load("photo", shape=(3, *FIELD)), A @ Grey((3, *FIELD), "mean"), noise, y[given])

    def shown(x: Tensor) -> Tensor:
        return (x.mean(0) / 2 + 0.5).clamp(0, 1)

    yield Case("lensless", "a hand", post, classical | learned, score, shown, others=dict.fromkeys(classical, plain))
