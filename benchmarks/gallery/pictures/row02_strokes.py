"""Crude paintings of garments made plausible by SDEdit: what is painted stays, and what comes out looks like a picture."""

from pathlib import Path

import torch
from torch import Tensor

import invgen
from invgen import plots, priors
from invgen.benchmarks.gallery.judges import digit_classifier
from invgen.benchmarks.gallery.rows import Figure, Row, mean, share
from invgen.commands.edit import nearest
from invgen.priors.data.fetch import data_folder, fetch
from invgen.priors.data.labelled import labelled

LEVELS, BRUSH, SHADES = (0.3, 0.6, 1.0, 1.5, 2.5), 7, 1.5


def painted(x: Tensor) -> Tensor:
    """Returns pictures in four shades by a brush seven pixels wide, (N, 1, 32, 32)."""
    from scipy.ndimage import median_filter

    wide = torch.from_numpy(median_filter(x.numpy(), (1, 1, BRUSH, BRUSH)))
    return (wide * SHADES).round() / SHADES


def run(out: Path, quick: bool = False) -> Row:
    """Paints held-out garments, edits each at several strengths, and takes the least that looks real, as `edit` does."""
    prior = priors.load("clothing")
    if quick:  # offline: garments of the prior
        classes = torch.arange(10).repeat_interleave(3)
        made = torch.cat([invgen.sample(prior.condition(k), 3, k, sampler="DPMSolver(steps=8)") for k in range(10)])
        x, known, labels = made[1::3], made, classes[1::3]
        real, judge = known, None
    else:
        folder = fetch("clothing", data_folder())
        known, y = labelled(folder)
        x, labels = labelled(folder, "test")
        x, labels, real = x[:40], labels[:40], x[1000:1200]
        judge = digit_classifier(known[30000:42000], y[30000:42000], epochs=2)
        known = known[:4000]
    paintings = painted(x)
    A, steps = invgen.operators.Identity(prior.shape), 8 if quick else 30
    strips = {}
    for level in (1.0,) if quick else LEVELS:
        sampler = invgen.samplers.SDEdit(steps=steps, sigma0=level)
        strips[level] = invgen.solve(paintings, A, prior, invgen.Noiseless(), sampler, seed=0).samples[0]
    distance = {level: nearest(u, known).tolist() for level, u in strips.items()}
    at, before = float(nearest(real, known).mean()), float(nearest(paintings, known).mean())
    reached = [level for level, d in distance.items() if mean(d)[0] <= at]
    level = reached[0] if reached else min(distance, key=lambda s: mean(distance[s])[0])
    rows = [torch.cat(list(r[:10]), 2) for r in (x, paintings, strips[level])]
    plots.save_picture(torch.cat(rows, 1), prior.value_range, out / "strokes.png")
    most = before if quick else at
    figures = [
        Figure("distance to the nearest picture", *mean(distance[level]), most=most, baseline=f"painting {before:.3f}")
    ]
    if judge is not None:
        kept, said = (share((judge(u).argmax(1) == labels).tolist()) for u in (strips[level], paintings))
        name = "class of the picture kept"
        figures.append(Figure(name, *kept, least=said[0], baseline=f"painting {said[0]:.2f}"))
    curve = ", ".join(f"{s:g}: {mean(d)[0]:.3f}" for s, d in distance.items())
    note = f"Held-out pictures are at {at:.3f}. By strength: {curve}; taken: {level:g}. Picture, painting, edit."
    return Row(2, tuple(figures), (out / "strokes.png",), note)
