"""k-space of a brain, eight coils, an eighth of it sampled (SigPy's tutorial): samples are left out and predicted.

The image is complex and the prior `mr` is of magnitudes. ESPIRiT's maps take the slow phase of the object along, which
leaves an image that is nearly real. What is left of the imaginary part (fat, vessels, noise) is of small structures on a
smooth ground, and the same network knows such images once they are lifted to a grey level.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invgen import samplers
from invgen.benchmarks.measured.case import Case, file
from invgen.benchmarks.methods.mri import SENSE, L1Wavelet, ZeroFilling
from invgen.diffusion import Denoiser
from invgen.errors import FileError
from invgen.files.reader import read_npy
from invgen.operators import MultiCoilMRI, espirit_maps
from invgen.posterior import Posterior
from invgen.priors import load

FILE = "brain_kspace_8coils.npy"
CENTRE = 26  # side of the block that is fully sampled


class NearlyReal(Denoiser):
    """A prior of complex images (2, H, W) from one of magnitudes: so is the real part, and the imaginary part plus `grey`.

    The image is zero outside of `support`, (H, W).
    """

    offset: Tensor
    support: Tensor

    def __init__(self, magnitudes: Denoiser, support: Tensor, grey: float = 0.4) -> None:
        facts = {n: getattr(magnitudes, n) for n in ("sigma_min", "sigma_max", "value_range", "data_mean", "data_std")}
        super().__init__((2, *magnitudes.shape[1:]), **facts)
        self.magnitudes = magnitudes
        self.register_buffer("offset", torch.tensor([0.0, grey]).view(2, 1, 1))
        self.register_buffer("support", support.float())

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x)).repeat_interleave(2)
        parts = self.magnitudes((x + self.offset).flatten(0, 1)[:, None], levels)
        return (parts.view_as(x) - self.offset) * self.support


def read_kspace(path: Path) -> Tensor:
    """Returns k-space of several coils from an NPY file, complex64 (coils, H, W), zero where nothing was measured.

    Raises:
        FileError: the file is damaged, or is no such array.
    """
    kspace = read_npy(path)
    if not kspace.is_complex() or kspace.ndim != 3:
        raise FileError(f"{path} must be complex (coils, H, W), got {kspace.dtype} of shape {tuple(kspace.shape)}")
    return kspace.to(torch.complex64)


def cases(folder: Path, quick: bool) -> Iterator[Case]:
    """Yields the case of the brain, where one sample in ten outside of the centre is left out."""
    kspace = read_kspace(file(folder, FILE))
    mask, size = kspace.abs().sum(0) > 0, tuple(kspace.shape[1:])
    maps = espirit_maps(kspace, (CENTRE, CENTRE), threshold=0.05)
    centre = torch.zeros(size, dtype=torch.bool)
    top, left = ((n - CENTRE + 1) // 2 for n in size)
    centre[top : top + CENTRE, left : left + CENTRE] = True
    judge = mask & ~centre & (torch.rand(size, generator=torch.Generator().manual_seed(0)) > 0.9)
    A, unseen = MultiCoilMRI((2, *size), mask & ~judge, maps), MultiCoilMRI((2, *size), judge, maps)
    rough = A.prox(torch.zeros(1, *A.in_shape), A.measured(kspace)[None], 1.0, 0.03)[0]
    kspace = kspace / rough[0].clamp(min=0).quantile(0.995)  # as the prior's training data: nearly all in [0, 1]
    rows, columns = ((torch.arange(n) - n // 2) / (n / 2) for n in size)
    outside = mask & (torch.hypot(rows[:, None], columns[None]) > 0.95)
    noise = torch.view_as_real(kspace[:, outside]).square().mean().sqrt().item()  # at most, with some signal
    truth = unseen.measured(kspace)

    def score(x: Tensor) -> dict[str, float]:
        return {"error of left-out samples": ((unseen(x) - truth).norm() / truth.norm()).item()}

    def shown(x: Tensor) -> Tensor:
        return torch.linalg.vector_norm(x, dim=0).clamp(0, 1)

    methods = {
        "zero-filling": ZeroFilling(),
        "SENSE": SENSE(),
        "l1-wavelet": L1Wavelet(),
        "MMPS": samplers.MMPS(schedule=tuple(np.geomspace(1.0, 0.02, 8 if quick else 20).tolist())),
    }
    network = NearlyReal(load("mr", shape=(1, *size)), maps.abs().sum(0) > 0)
    yield Case("kspace", "a brain", Posterior(network, A, noise, A.measured(kspace)), methods, score, shown)
