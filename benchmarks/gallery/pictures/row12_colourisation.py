"""Colourisation: a grey photograph's colours from a prior, beside the best linear guess from the grey value alone."""

from pathlib import Path

import torch
from torch import Tensor

import invgen
from invgen import metrics, operators, plots, priors, samplers
from invgen.benchmarks.gallery.rows import Figure, Row, mean
from invgen.priors.data.held_out import held_out_photographs

NOISE = 0.01


def run(out: Path, quick: bool = False) -> Row:
    """Takes the colours of photographs that no shipped prior has seen; the guess is fitted on samples of the prior."""
    side = 16 if quick else 64
    photos = torch.stack(list(held_out_photographs().values()))[: 2 if quick else 4]
    x = torch.nn.functional.interpolate(photos, (side, side), mode="area")
    prior = priors.load("photo", (3, side, side))
    A = operators.Grey(prior.shape)
    y = A(x) + NOISE * torch.randn(len(x), *A.out_shape, generator=torch.Generator().manual_seed(0))
    known = invgen.sample(prior, 4 if quick else 32, 1, sampler="DPMSolver(steps=5)")
    guess = linear(A(known), known, y)
    r = invgen.solve(y, A, prior, NOISE, samplers.AdaptivePiGDM(steps=6 if quick else 20), num_samples=4, seed=0)
    guessed = float(metrics.psnr(guess, x, data_range=2.0).mean())
    ratio = float(saturation(r.samples) / saturation(x))
    shown = (y.expand(-1, 3, -1, -1), guess, *r.samples[:2], x)
    plots.save_picture(torch.cat([torch.cat(list(u), 2) for u in shown], 1), prior.value_range, out / "colourisation.png")
    figures = [Figure("residual over noise", *mean(r.residual.flatten().tolist()), least=0.7, most=3.0 if quick else 1.3)]
    if not quick:
        value, base = mean(metrics.psnr(r.mean, x, data_range=2.0).tolist()), f"linear guess {guessed:.2f}"
        figures.insert(0, Figure("mean of four", *value, unit="dB", least=guessed, baseline=base))
        figures.append(Figure("saturation of samples over true", ratio, least=0.9, most=1.1))
    return Row(
        12,
        tuple(figures),
        (out / "colourisation.png",),
        "The linear guess is fitted on 32 samples of the prior. Grey, guess, two samples, truth below each other.",
    )


def linear(grey: Tensor, colour: Tensor, y: Tensor) -> Tensor:
    """Returns the least-squares guess of colours from the grey value, value by value, (B, 3, H, W)."""
    g, c = grey.flatten(), colour.movedim(1, 0).flatten(1)
    rows = torch.stack([g, torch.ones_like(g)], 1)
    weights = torch.linalg.lstsq(rows, c.T).solution
    return weights[0].view(3, 1, 1) * y + weights[1].view(3, 1, 1)


def saturation(x: Tensor) -> Tensor:
    """Returns the mean distance between the strongest and the weakest colour of a pixel."""
    return (x.amax(-3) - x.amin(-3)).mean()
