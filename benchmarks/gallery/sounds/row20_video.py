"""Restoration of video: averages of two frames at half the size, back to all frames, with a coupling in time."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import invgen
from invgen import metrics, operators, priors, samplers
from invgen.benchmarks.gallery.rows import Figure, Row
from invgen.benchmarks.gallery.sounds.excerpts import carphone, moving_squares
from invgen.files.video import side_by_side, write_clip

FRAMES, NOISE, DRAWS = 8, 0.02, 8


def run(out: Path, quick: bool = False) -> Row:
    """Reconstructs a real clip from a slow, small camera, beside trilinear interpolation and frames without a coupling."""
    x = moving_squares(4, 16) if quick else carphone(FRAMES)
    frames, side = x.shape[1], x.shape[2]
    camera = operators.per_frame(operators.Downsample((3, side, side), 2), frames // 2)
    A = camera @ operators.FrameAverage(tuple(x.shape), 2)
    clean = A(x[None])[0]
    y = clean + NOISE * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    linear = F.interpolate(y[None], size=tuple(x.shape[1:]), mode="trilinear")[0]
    photo = priors.load("photo", (3, side, side))
    steps, found = 4 if quick else 12, {}
    past = side_frames(quick, frames)
    for name, coupling in {"each frame by itself": None, "coupled": "ar"}.items():
        prior = priors.Slices(photo, frames, axis=1, coupling=coupling, shared_noise=0.9 if coupling else 0.0)
        prior = prior.learn(past) if coupling else prior
        found[name] = invgen.solve(y, A, prior, NOISE, samplers.DiffPIR(steps=steps), num_samples=DRAWS, seed=0).mean
    ours, alone = found["coupled"], found["each frame by itself"]
    clip = write_clip(out / "video.gif", side_by_side(x, linear, alone, ours), (-1, 1), rate=4)
    base, apart = psnr(linear, x), psnr(alone, x)
    figures = (
        Figure("coupled frames", psnr(ours, x), unit="dB", least=base, baseline=f"trilinear {base:.2f}, alone {apart:.2f}"),
        Figure("temporal error", jitter(ours, x), most=jitter(linear, x), baseline=f"trilinear {jitter(linear, x):.3f}"),
    )
    return Row(20, figures, (clip,), "Means of eight. Truth, trilinear, frames by themselves, coupled frames side by side.")


def side_frames(quick: bool, frames: int) -> Tensor:
    """Returns earlier frames of the clip, from which the coupling learns how fast things move, (1, 3, T, H, W)."""
    return (moving_squares(frames, 16) if quick else carphone(frames, start=0))[None]


def psnr(u: Tensor, x: Tensor) -> float:
    """Returns the peak signal-to-noise ratio of a clip in [-1, 1]."""
    return float(metrics.psnr(u, x, data_range=2.0, dims=4))


def jitter(u: Tensor, x: Tensor) -> float:
    """Returns the root mean square error of the differences of neighbouring frames."""
    return (u.diff(dim=1) - x.diff(dim=1)).square().mean().sqrt().item()
