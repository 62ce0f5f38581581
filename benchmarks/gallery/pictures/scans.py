"""Scans of few angles, and the network of row 5 that is trained for one number of them."""

from functools import cache
from pathlib import Path

import torch
from torch import Generator, Tensor

import invgen
from invgen import operators
from invgen.benchmarks.methods.supervised import Residual, train_supervised
from invgen.priors.checkpoints.networks.unet import UNet
from invgen.priors.data.ct import CTViews, ct_slices

SHAPE, TRAINED, STEPS, BATCH = (1, 128, 128), 23, 600, 4
NOISE = 0.5  # of a ray, whose sum runs over pixels of (HU + 1000) / 1000


@cache
def scanner(angles: int) -> operators.ParallelBeamCT:
    """Returns the operator of some angles."""
    return operators.ParallelBeamCT(SHAPE, num_angles=angles)


def measured(x: Tensor, angles: int, seed: int = 0) -> tuple[operators.ParallelBeamCT, Tensor]:
    """Returns the operator of some angles, and what it measures."""
    return scanner(angles), invgen.Gaussian(NOISE).sample(scanner(angles)(x), Generator().manual_seed(seed))


def supervised(folder: Path) -> torch.nn.Module:
    """Returns a network trained on the scans that the prior was trained on, from 23 angles to the slice."""
    views = CTViews(ct_slices(folder, "train"), SHAPE[-1])

    def pairs(generator: Generator) -> tuple[Tensor, Tensor]:
        x = views.batch(BATCH, generator) + 1
        A, y = measured(x, TRAINED, int(torch.randint(2**31, (), generator=generator)))
        return A.fbp(y), x

    torch.manual_seed(0)
    return train_supervised(pairs, Residual(UNet(1, (48, 64, 96), 1, 4)), STEPS)
