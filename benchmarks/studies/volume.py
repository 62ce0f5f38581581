"""Reconstructs a chest CT from 30 views of a cone beam, with and without a coupling of slices: `invgen bench study volume`.

The volume is lung1 of `invgen data ct`, a patient that the prior `ct` was not trained on: 48 slices of 5 mm, 128 x 128
pixels of 2.3 mm. The coupling was learned on lung2, in time that is not counted. Methods run in turn; the peak of memory
is each one's own, with the program and the prior in it, and time is that of the processor.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from invgen import samplers
from invgen.benchmarks.methods.ct import FBP
from invgen.benchmarks.methods.total_variation import TV
from invgen.diffusion import Denoiser
from invgen.errors import FileError
from invgen.metrics.image import psnr, ssim
from invgen.operators import ConeBeamCT
from invgen.operators.ct.units import MU_WATER
from invgen.posterior import Posterior
from invgen.priors import Slices, load
from invgen.priors.data.fetch import data_folder

NOISE = 0.03  # of a line integral; the largest is 6.7
VIEWS = 30
PIXEL, THICKNESS = 4 * 0.5703125, 5.0  # of lung1, mm
COUPLINGS: tuple[Literal["tv", "ar"] | None, ...] = (None, "tv", "ar")


def chest(name: str, folder: Path) -> Tensor:
    """Returns a volume of the data in the units of the prior `ct`, (1, D, 128, 128), each pixel the mean of 4 x 4."""
    path = folder / "ct" / "pyradiomics.npz"
    if not path.exists():
        raise FileError(f"the study reads {path}, which is not there; fetch it by `invgen data ct`")
    with np.load(path, allow_pickle=False) as arrays:
        hounsfield = torch.from_numpy(arrays[name].astype(np.float32))
    return torch.nn.functional.avg_pool2d((hounsfield / 1000).clamp(-1, 1)[None], 4)


def cone(shape: Sequence[int], views: int = VIEWS) -> ConeBeamCT:
    """Returns the scan of a C-arm: a source at 600 mm of the axis, a flat detector 400 mm behind it."""
    return ConeBeamCT(
        shape, views, source_origin=600.0, origin_det=400.0, voxel_size=(THICKNESS, PIXEL), det_spacing=(5.0, 4.0)
    )


def compare(
    truth: Tensor,
    others: Tensor,
    prior: Denoiser,
    A: ConeBeamCT,
    sampler: samplers.Sampler,
    steps: int,
    guided: samplers.Sampler,
    draws: int,
) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """Yields a row and the volume of each method.

    Args:
        truth, others: the volume to find, and volumes that the coupling is learned on, (1, D, H, W) and (B, 1, D, H, W), in
            the units of the prior.
        prior: of a slice.
        A: the scan.
        sampler: of the rows with slices.
        steps: of total variation, at most.
        guided: another sampler, for slices coupled by "tv".
        draws: samples of it, whose mean has a row of its own.
    """
    mu = MU_WATER * (1 + truth)
    clean = A(mu)
    y = clean + NOISE * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    A.norm()
    methods: dict[str, Callable[[], tuple[Any, Slices]]] = {"FDK": lambda: (FBP(), Slices(prior, truth.shape[1]))}
    for coupling in COUPLINGS:
        title = f"{type(sampler).__name__}, slices " + ("alone" if coupling is None else f"coupled by {coupling}")
        methods[title] = lambda coupling=coupling: (sampler, coupled(prior, truth.shape[1], coupling, others))
    title = f"{type(guided).__name__}, slices coupled by tv"
    methods[title] = lambda: (guided, coupled(prior, truth.shape[1], "tv", others))
    methods["total variation in 3-D"] = lambda: (TV(steps=steps), Slices(prior, truth.shape[1]))
    for name, make in methods.items():
        method, slices = make()
        post = Posterior(slices.rescaled(MU_WATER, MU_WATER), A, NOISE, y)
        reset_peak()
        begin = time.process_time()
        number = draws if name == title else 1
        x = method(post, num_samples=number, seed=0) / MU_WATER - 1
        row = {"method": name, "seconds": (time.process_time() - begin) / number, "peak": peak(), "scale": slices.scale}
        yield row | scores(x[0], truth, A, y), x[0]
        if number > 1:
            row |= {"method": f"{name}, mean of {number}", "seconds": number * row["seconds"]}
            yield row | scores(x.mean(0), truth, A, y), x.mean(0)


def scores(x: Tensor, truth: Tensor, A: ConeBeamCT, y: Tensor) -> dict[str, float]:
    """Returns PSNR, mean SSIM of slices, and the residual over the noise.

    Args:
        x, truth: volumes in the units of the prior, (1, D, H, W).
        A, y: the scan and its measurement.
    """
    return {
        "psnr": psnr(x, truth, data_range=2.0, dims=4).item(),
        "ssim": ssim(x[0][:, None], truth[0][:, None], value_range=(-1.0, 1.0)).mean().item(),
        "residual": ((A(MU_WATER * (1 + x)) - y).square().mean().sqrt() / NOISE).item(),
    }


def coupled(prior: Denoiser, count: int, coupling: Literal["tv", "ar"] | None, others: Tensor) -> Slices:
    """Returns the prior of volumes, with the coupling learned.

    Args:
        prior: of a slice.
        count: of the slices.
        coupling: of `Slices`.
        others: the volumes to learn it on, (B, 1, D, H, W).
    """
    slices = Slices(prior, count, coupling=coupling)
    return slices if coupling is None else slices.learn(others)


def reset_peak() -> None:
    """Makes `peak` begin anew, where the system can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> float:
    """Returns the most memory that was taken since `reset_peak`, GB; nan where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) / 2**20 for line in lines if line.startswith("VmHWM"))


def draw(volumes: dict[str, Tensor], path: Path) -> None:
    """Writes a picture: of each volume a slice, and a section across the slices."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * len(volumes), 4.2), layout="constrained")
    axes = figure.subplots(2, len(volumes), height_ratios=(128 * PIXEL, 48 * THICKNESS), squeeze=False)
    for k, (name, x) in enumerate(volumes.items()):
        depth, height = x.shape[1:3]
        views = (x[0, depth // 2], 1.0), (x[0, :, int(0.55 * height)].flip(0), THICKNESS / PIXEL)
        for axis, (picture, aspect) in zip(axes[:, k], views, strict=True):
            axis.imshow(picture.numpy(), cmap="gray", vmin=-1, vmax=0.4, aspect=aspect)
            axis.set_axis_off()
        axes[0, k].set_title(name, fontsize=9)
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and draws the picture."""
    parser = argparse.ArgumentParser(prog="invgen bench study volume", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, default=None, help="folder of `invgen data` (where it puts them)")
    parser.add_argument("--steps", type=int, default=20, help="of DDS (20)")
    parser.add_argument("--guided-steps", type=int, default=12, help="of MMPS (12)")
    parser.add_argument("--draws", type=int, default=4, help="samples of MMPS, for their mean (4)")
    parser.add_argument("--tv-steps", type=int, default=400, help="of total variation, at most (400)")
    parser.add_argument("--picture", type=Path, default=None, help="file of the picture")
    options = parser.parse_args(argv)
    folder = options.data or data_folder()
    truth, others = chest("lung1", folder), chest("lung2", folder)[None]
    A = cone(truth.shape)
    print(f"lung1, {tuple(truth.shape)}, {VIEWS} views of a cone beam {tuple(A.out_shape)}, noise {NOISE}")
    print(f"{'method':42} {'PSNR':>6} {'SSIM':>6} {'residual':>8} {'CPU s':>6} {'peak GB':>7} {'scale':>6}")
    volumes = {"truth": truth}
    # plain iterations: the solve for a white covariance takes 500 of CG at such low noise
    guided = samplers.MMPS(steps=options.guided_steps, iterations=4, precondition=False)
    sampler = samplers.DDS(steps=options.steps)
    for row, x in compare(truth, others, load("ct"), A, sampler, options.tv_steps, guided, options.draws):
        scale = "" if row["scale"] is None else f"{row['scale']:.3f}"
        print(
            f"{row['method']:42} {row['psnr']:6.2f} {row['ssim']:6.3f} {row['residual']:8.2f} {row['seconds']:6.0f} "
            f"{row['peak']:7.2f} {scale:>6}",
            flush=True,
        )
        volumes[f"{row['method']}, {row['psnr']:.1f} dB"] = x
        if options.picture:
            draw(volumes, options.picture)
