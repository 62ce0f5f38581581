"""PET transmission scan of a thorax phantom, by photon counts (J. Fessler, University of Michigan; ECAT 921 scanner).

Every fourth view is given, the others are predicted: a count of mean m has a deviance of about 1, if m is right.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from invgen import samplers
from invgen.benchmarks.measured.case import Case, file
from invgen.benchmarks.methods.ct import FBP
from invgen.benchmarks.methods.total_variation import TV
from invgen.errors import FileError
from invgen.files.matlab import read_matlab
from invgen.noise import TransmissionPoisson
from invgen.operators import ParallelBeamCT
from invgen.posterior import Posterior
from invgen.priors import load

BIN, PIXEL, START = 3.375, 4.21875, -15.0  # mm, mm, degrees: as the author's own example has the scanner
WATER = 0.0096  # 1/mm at 511 keV


class Transmission(NamedTuple):
    """Counts with the object and, on average, without it, (views, bins), and the angles of the views in radians."""

    counts: Tensor
    blank: Tensor
    angles: np.ndarray


def read_transmission(counts: Path, blank: Path) -> Transmission:
    """Returns a transmission scan over half a turn, from two files with an array `test`, (bins, views).

    Raises:
        FileError: a file is damaged, holds no counts, or their shapes differ.
    """
    tables = [torch.as_tensor(read_matlab(path, "test")["test"]).float() for path in (counts, blank)]
    if tables[0].ndim != 2 or tables[0].shape != tables[1].shape or not (tables[0].min() >= 0 and tables[1].min() > 0):
        shapes = f"{tuple(tables[0].shape)} and {tuple(tables[1].shape)}"
        raise FileError(f"{counts} and {blank} must hold counts of one shape, none below zero, blank above; got {shapes}")
    views = tables[0].shape[1]
    return Transmission(tables[0].T, tables[1].T, np.deg2rad(START + 180 * np.arange(views) / views))


def scanner(angles: np.ndarray, size: int, bins: int) -> ParallelBeamCT:
    """Returns the operator of some views: averages over the width of a bin, the axis half a bin from the middle."""
    pixel = PIXEL * 128 / size
    return ParallelBeamCT(
        (1, size, size),
        angles=angles,
        det_count=bins,
        det_spacing=BIN,
        det_offset=BIN / 2,
        pixel_size=pixel,
        projector="strip",
    )


def deviance(counts: Tensor, mean: Tensor) -> float:
    """Returns the Poisson deviance of counts, on average: about 1 (1.1 at ten counts) where the means are right."""
    return (2 * (torch.xlogy(counts, counts / mean) - counts + mean)).mean().item()


def cases(folder: Path, quick: bool) -> Iterator[Case]:
    """Yields the case of 48 of 192 views."""
    scan = read_transmission(
        file(folder, "pet_transmission/phan_trans.mat"), file(folder, "pet_transmission/phan_blank.mat")
    )
    views, bins = scan.counts.shape
    given = torch.arange(views) % 4 == 0
    A, left = (scanner(scan.angles[np.asarray(part)], 128, bins) for part in (given, ~given))
    prior = load("ct").rescaled(WATER, WATER)  # Hounsfield units over 1000, to attenuation

    def score(x: Tensor) -> dict[str, float]:
        expected = scan.blank[~given] * torch.exp(-left(x)[0].clamp(min=0))
        body = x[(x > 0.75 * WATER) & (x < 1.25 * WATER)]
        water = body.median().item() if len(body) else float("nan")
        return {"deviance of left-out counts": deviance(scan.counts[~given], expected), "water, 1/mm": water}

    noise = TransmissionPoisson(scan.blank[given][None])
    methods = {
        "FBP": FBP(),
        "TV": TV(tol=5e-3, steps=800),
        "AdaptivePiGDM": samplers.AdaptivePiGDM(steps=6 if quick else 12),
        "DiffPIR": samplers.DiffPIR(steps=10 if quick else 25),
    }
    post = Posterior(prior, A, noise, scan.counts[given][None])
    everything = scanner(scan.angles, 128, bins).fbp(-torch.log((scan.counts / scan.blank).clamp(min=0.02))[None], "hann")

    def shown(x: Tensor) -> Tensor:
        return (x[0] / (1.6 * WATER)).clamp(0, 1)

    yield Case("pet", "48 of 192 views", post, methods, score, shown, shown(everything))
