"""A single-pixel camera in Haar patterns: 64 x 64 coefficients of a Jaszczak target (Rousset et al., IEEE TCI 2017).

Coefficients of the finest level are left out and predicted; PSNR is against the picture of all.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from invgen import samplers
from invgen.benchmarks.measured.case import Case, file
from invgen.benchmarks.methods.classical import PseudoInverse
from invgen.benchmarks.methods.total_variation import TV
from invgen.errors import FileError
from invgen.files.matlab import read_matlab
from invgen.metrics import psnr
from invgen.operators import Grey, Haar
from invgen.posterior import Posterior
from invgen.priors import GaussianPrior, load

FILE = "single_pixel/Jaszczak_Haar_4_128x128.mat"


class SinglePixel(NamedTuple):
    """Coefficients (N, N) of a picture in Haar's wavelets, as `Haar` orders and signs them, the levels, and the camera."""

    coefficients: Tensor
    levels: int
    camera: Tensor


def read_single_pixel(path: Path) -> SinglePixel:
    """Returns what a file of SPIRIT's single-pixel camera holds, without the finest levels, which were not measured.

    SPIRIT's wavelets are the second half minus the first, so that differences along one axis change their sign.

    Raises:
        FileError: the file is damaged, or holds no square of Haar's coefficients.
    """
    found = read_matlab(path, "W", "J", "F")
    table, levels = torch.as_tensor(found["W"]).double(), int(found["J"])
    if table.ndim != 2 or table.shape[0] != table.shape[1] or not 1 <= levels <= 8 or len(table) % 2**levels:
        raise FileError(
            f"W of {path} must be a square of Haar's coefficients of J levels, got {tuple(table.shape)}, {levels}"
        )
    while levels > 1 and not table[len(table) // 2 :].any() and not table[:, len(table) // 2 :].any():
        table, levels = table[: len(table) // 2, : len(table) // 2].clone(), levels - 1
    for level in range(1, levels + 1):
        n = len(table) >> level
        table[:n, n : 2 * n] *= -1
        table[n : 2 * n, :n] *= -1
    return SinglePixel(table, levels, torch.as_tensor(found["F"]).double())


def cases(folder: Path, quick: bool) -> Iterator[Case]:
    """Yields the case of a quarter and of half of the coefficients."""
    target = read_single_pixel(file(folder, FILE))
    size = target.coefficients.shape
    whole = Haar((1, *size), target.levels).pinv(target.coefficients.flatten()[None].float())
    low, high = whole.quantile(0.01).item(), whole.quantile(0.99).item()
    # the picture in the units of the prior, [-1, 1]: an affine map of the picture adds a constant to the averages
    gain = 2 / (high - low)
    shift = Haar((1, *size), target.levels)(torch.full((1, *size), -1 - gain * low))[0]
    table = gain * target.coefficients.float() + shift.reshape(size)
    picture = gain * whole - 1 - gain * low
    noise = (table[size[0] // 2 :, size[1] // 2 :].abs().median() / 0.6745).item()  # of the finest diagonal, mostly noise
    coarse = torch.zeros(size, dtype=torch.bool)
    coarse[: size[0] // 2, : size[1] // 2] = True
    chance = torch.rand(size, generator=torch.Generator().manual_seed(0))
    grey_of = Grey((3, *size), "mean")
    for name, mask in (("a quarter", coarse), ("half", coarse | (chance < 1 / 3))):
        A, left, truth = Haar((1, *size), target.levels, mask), Haar((1, *size), target.levels, ~mask), table[~mask]

        def score(x: Tensor, left: Haar = left, truth: Tensor = truth) -> dict[str, float]:
            x = x.mean(0, keepdim=True)
            error = (left(x)[0] - truth).norm() / truth.norm()
            return {"error of left-out coefficients": error.item(), "PSNR": psnr(x, picture, data_range=2.0).item()}

        classical = {"Haar, the rest zero": PseudoInverse(), "TV": TV(tol=2e-3)}
        learned = {"MMPS": samplers.MMPS(steps=10 if quick else 25), "DiffPIR": samplers.DiffPIR(steps=10 if quick else 25)}
        plain = Posterior(GaussianPrior((1, *size), var=0.25), A, noise, table[mask][None])
        post = Posterior(load("photo", shape=(3, *size)), A @ grey_of, noise, table[mask][None])
        others = dict.fromkeys(classical, plain)
        yield Case("single-pixel", name, post, classical | learned, score, shown, shown(picture), others)


def shown(x: Tensor) -> Tensor:
    """Returns a signal in [-1, 1], of any channels, as a grey picture in [0, 1]."""
    return (x.mean(0) / 2 + 0.5).clamp(0, 1)
