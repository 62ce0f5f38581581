"""Synchrotron micro-CT of a tooth (an example of TomoPy): 23 of 181 views are given, the others predicted."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from invgen import samplers
from invgen.benchmarks.measured.case import Case, file
from invgen.benchmarks.methods.ct import CGLS, FBP
from invgen.benchmarks.methods.total_variation import TV
from invgen.metrics import psnr
from invgen.operators import ParallelBeamCT, find_center, read_scan
from invgen.posterior import Posterior
from invgen.priors import load

FILE = "tooth.h5"
SIZE, BINNING, EVERY = 128, 4, 8


def cases(folder: Path, quick: bool) -> Iterator[Case]:
    """Yields the case of every eighth view, on 128 x 128 pixels of four detector pixels."""
    lines, angles = read_scan(file(folder, FILE), row=0)
    assert angles is not None  # the layout of the file has them
    axis = find_center(lines, angles)
    views = lines.unflatten(1, (-1, BINNING)).mean(2)
    given = torch.arange(len(views)) % EVERY == 0
    geometry = {"det_count": views.shape[1], "det_spacing": BINNING, "det_offset": axis, "pixel_size": BINNING}
    whole, A, left = (
        ParallelBeamCT((1, SIZE, SIZE), angles=angles[part], **geometry) for part in (given | True, given, ~given)
    )
    reference = whole.fbp(views[None], "hann")
    high = reference.quantile(0.995).item()
    prior = load("ct").rescaled(high / 2, high / 2)  # air is 0
    # neighbouring rays differ by the object and twice their noise; second differences of rays through air by noise alone
    air = torch.cat([views[:, :8], views[:, -8:]], 1)
    noise = (air.diff(n=2, dim=1).square().mean() / 6).sqrt().item() + 0.01 * views.std().item()

    def score(x: Tensor) -> dict[str, float]:
        error = (left(x)[0] - views[~given]).norm() / views[~given].norm()
        return {"error of left-out views": error.item(), "PSNR": psnr(x, reference, data_range=high).item()}

    methods = {
        "FBP": FBP(),
        "CGLS": CGLS(),
        "TV": TV(tol=5e-3, steps=800),
        "AdaptivePiGDM": samplers.AdaptivePiGDM(steps=6 if quick else 12),
        "DiffPIR": samplers.DiffPIR(steps=10 if quick else 25),
    }

    def shown(x: Tensor) -> Tensor:
        return (x[0] / high).clamp(0, 1)

    post = Posterior(prior, A, noise, views[given][None])
    yield Case("tooth", "23 of 181 views", post, methods, score, shown, shown(reference))
