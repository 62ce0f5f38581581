"""Sparse-view CT: one prior for any number of angles, beside a network that was trained for 23 of them."""

from pathlib import Path

import torch
from torch import Tensor

import invgen
from invgen import plots, priors
from invgen.benchmarks.gallery.pictures.scans import BATCH, NOISE, SHAPE, STEPS, TRAINED, measured, supervised
from invgen.benchmarks.gallery.rows import Figure, Row, mean
from invgen.benchmarks.methods.total_variation import TV
from invgen.metrics import psnr
from invgen.priors.data.fetch import data_folder, fetch
from invgen.priors.data.held_out import held_out


def run(out: Path, quick: bool = False) -> Row:
    """Reconstructs slices of a patient that nothing was trained on from 8, 23 and 60 angles, with the mean of 8 samples."""
    if quick:  # offline: the slice that comes with pydicom, without the network that has to be trained
        x, net = torch.stack(held_out("ct", [])["pydicom CT_small"]) + 1, None
    else:
        folder = fetch("ct", data_folder())
        x, net = torch.stack(held_out("ct", [folder])["lung1"])[::8] + 1, supervised(folder)
    prior = priors.load("ct", SHAPE).rescaled(1.0, 1.0)
    found: dict[str, dict[int, Tensor]] = {name: {} for name in ("prior", "TV", "FBP", *(["network"] if net else []))}
    for angles in (23,) if quick else (8, 23, 60):
        A, y = measured(x, angles)
        result = invgen.solve(y, A, prior, NOISE, evaluations=25, num_samples=4 if quick else 8, seed=0)
        found["prior"][angles], found["FBP"][angles] = result.mean, A.fbp(y, "hann")
        weights = [TV(weight=w, steps=1500)(result.posterior)[0] for w in ((12.0,) if quick else (4.0, 12.0, 35.0))]
        scores = torch.stack([psnr(t, x, data_range=2.0) for t in weights])  # the truth picks the weight of each slice
        found["TV"][angles] = torch.stack([weights[int(k)][i] for i, k in enumerate(scores.argmax(0))])
        if net is not None:
            found["network"][angles] = net(A.fbp(y))
    score = {name: {k: psnr(t, x, data_range=2.0).tolist() for k, t in of.items()} for name, of in found.items()}
    figures = []
    for angles in found["prior"]:
        tv, ours = score["TV"][angles], score["prior"][angles]
        gain = [a - b for a, b in zip(ours, tv, strict=True)]
        baseline = f"TV {sum(tv) / len(tv):.2f}, FBP {sum(score['FBP'][angles]) / len(tv):.2f} dB"
        figures.append(
            Figure(
                f"{angles} angles: prior over TV",
                *(mean(gain) if len(gain) > 1 else gain),
                unit="dB",
                least=0.0,
                baseline=baseline,
            )
        )
    if net is not None:
        lost = {k: [a - b for a, b in zip(score["network"][k], score["prior"][k], strict=True)] for k in found["prior"]}
        figures += [Figure(f"{k} angles: network of {TRAINED} over prior", *mean(v), unit="dB") for k, v in lost.items()]
    pictures = [x[0], *(of[k][0] for of in found.values() for k in of)]
    titles = ["truth", *(f"{name}, {k}" for name, of in found.items() for k in of)]
    plots.show_samples(torch.stack(pictures), (0.0, 2.0), out / "sparse_view_ct.png", titles=titles)
    return Row(
        5,
        tuple(figures),
        (out / "sparse_view_ct.png",),
        f"{len(x)} slices; PSNR with a range of 2000 HU. The network had {STEPS * BATCH} views.",
    )
