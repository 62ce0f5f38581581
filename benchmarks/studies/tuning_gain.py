"""Measures the gain of tuning without ground truth: `invgen bench study tuning-gain`.

DPS and DAPS with their published hyper-parameters, and as `invgen.tune` sets them on problems that the prior `photo` draws
itself, both at no more than 50 network evaluations a sample, on held-out photographs: 32x32 crops of scikit-image's
pictures, which the prior has not seen. The search sees no photograph. Scores are paired by crop.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

import invgen
from invgen.diffusion import Denoiser
from invgen.files.writing import write_text
from invgen.forward import Operator
from invgen.metrics import energy_score, psnr
from invgen.operators import Blur, Mask
from invgen.operators.kernels import gaussian_kernel
from invgen.priors import load
from invgen.sampler import Sampler
from invgen.samplers import DAPS, DPS

SHAPE, NOISE, STEPS = (3, 32, 32), 0.05, 50
PUBLISHED: dict[str, Sampler] = {
    "DPS": DPS(zeta=0.3, steps=STEPS),
    "DAPS": DAPS(steps=STEPS // 5, ode_steps=5, langevin_steps=20),
}
SPACE = {
    "DPS": {"zeta": (0.03, 3.0), "eta": (0.0, 1.0)},
    # no more evaluations than the published 10 levels of 5
    "DAPS": {
        "steps": [10, 25],
        "ode_steps": [1, 2],
        "inner": ["exact", "langevin"],
        "schedule": ["edm", "log", "vp"],
    },
}


def crops() -> Tensor:
    """Returns Held-out photographs, (24, 3, 32, 32) in [-1, 1]: six crops each of four pictures, reduced by 4."""
    from skimage import data
    from skimage.transform import downscale_local_mean

    out = []
    for picture in (data.astronaut(), data.chelsea(), data.coffee(), data.rocket()):
        small = downscale_local_mean(picture[..., :3] / 127.5 - 1, (4, 4, 1))
        for k in range(6):
            top, left = (int((small.shape[a] - 32) * f) for a, f in ((0, (k % 2) * 0.7 + 0.1), (1, (k // 2) * 0.35 + 0.1)))
            out.append(torch.tensor(small[top : top + 32, left : left + 32], dtype=torch.float32).movedim(-1, 0))
    return torch.stack(out)


def problems() -> dict[str, Operator]:
    """Returns Gaussian deblurring, and inpainting from 30 % of the pixels."""
    return {"deblurring": Blur(SHAPE, gaussian_kernel(1.5)), "inpainting": Mask.random(SHAPE, 0.3, seed=0)}


def rows(
    prior: Denoiser, budget: int, num_simulations: int, folder: Path | None, progress: bool
) -> Iterator[tuple[str, ...]]:
    """Yields a row for each problem and sampler: its name, the tuned sampler, scores and their difference.

    Args:
        prior: of the problems.
        budget, num_simulations, progress: as for `invgen.tune`.
        folder: for the studies; None to keep none.
    """
    truth = crops()
    for name, A in problems().items():
        y = invgen.Gaussian(NOISE).sample(A(truth), torch.Generator().manual_seed(0))
        for kind, start in PUBLISHED.items():
            found = invgen.tune(
                prior,
                A,
                NOISE,
                start,
                budget,
                space=SPACE[kind],
                num_simulations=num_simulations,
                num_samples=4,
                study=folder and folder / f"{name}-{kind}.log",
                progress=progress,
            )
            scores, errors = [], []
            for sampler in (start, found.sampler):
                x = invgen.solve(y, A, prior, NOISE, sampler, num_samples=4, seed=1).samples
                scores.append(energy_score(x, truth))
                errors.append(psnr(x.mean(0), truth, data_range=2.0))
            gain = scores[0] - scores[1]
            half = 1.96 * gain.std().item() / math.sqrt(len(gain))
            yield (
                name,
                kind,
                repr(found.sampler),
                f"{scores[0].mean():.3f}",
                f"{scores[1].mean():.3f}",
                f"{gain.mean():.3f} +- {half:.3f}",
                f"{errors[0].mean():.2f}",
                f"{errors[1].mean():.2f}",
                f"{found.gain:.3f} +- {found.gain_interval:.3f}",
            )


def main(argv: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="invgen bench study tuning-gain", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--budget", type=int, default=12, help="trials for each sampler and problem")
    parser.add_argument("--simulations", type=int, default=8, help="problems in a trial")
    parser.add_argument("--studies", type=Path, help="a folder for the studies, to go on from after an interrupt")
    parser.add_argument("--out", type=Path, help="a .md file for the table")
    args = parser.parse_args(argv)
    head = ("problem", "sampler", "tuned", "energy score, published", "tuned", "gain (95 %)", "PSNR of the mean, published")
    head += ("tuned", "gain on simulations")
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows(load("photo", SHAPE), args.budget, args.simulations, args.studies, progress=True):
        lines.append("| " + " | ".join(row) + " |")
        print(lines[-1], flush=True)
    page = "\n".join(lines) + "\n"
    print(page)
    if args.out is not None:
        write_text(args.out, page)
