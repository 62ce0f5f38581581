"""Inpainting: irregular holes over a tenth to six tenths of photographs, in the holes and to the eye."""

from pathlib import Path

import torch

import invgen
from invgen import operators, plots, priors, samplers
from invgen.benchmarks.gallery.rows import Figure, Row, mean
from invgen.benchmarks.methods.images import Biharmonic
from invgen.priors.data.held_out import held_out_photographs

RATIOS, NOISE, DRAWS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), 0.02, 4


def run(out: Path, quick: bool = False) -> Row:
    """Paints holes by brush strokes over photographs that no shipped prior has seen, and fills them."""
    side, ratios = (16, (0.3,)) if quick else (64, RATIOS)
    photos = torch.stack(list(held_out_photographs().values()))[: 2 if quick else 4]
    x = torch.nn.functional.interpolate(photos, (side, side), mode="area")
    prior = priors.load("photo", (3, side, side))
    gain: dict[float, list[float]] = {}
    rows = [torch.cat(list(x), 2)]
    for ratio in ratios:
        keep = operators.irregular_mask((side, side), ratio, seed=round(10 * ratio))
        A = operators.Mask(prior.shape, keep)
        y = A(x) + NOISE * torch.randn(len(x), *A.out_shape, generator=torch.Generator().manual_seed(0))
        post = invgen.Posterior(prior, A, invgen.Gaussian(NOISE), y)
        classic = Biharmonic().reconstruct(post)
        r = invgen.solve(y, A, prior, NOISE, samplers.AdaptivePiGDM(steps=6 if quick else 20), num_samples=DRAWS, seed=0)
        error = [(u - x)[..., ~keep].square().flatten(1).mean(1) for u in (classic, r.mean)]
        gain[ratio] = (10 * (error[0] / error[1]).log10()).tolist()
        rows += [torch.cat(list(u), 2) for u in (A.adjoint(y), classic, r.mean)] if ratio in (0.3, 0.6) else []
    plots.save_picture(torch.cat(rows, 1), prior.value_range, out / "inpainting.png")
    figures = [Figure("residual over noise", *mean(r.residual.flatten().tolist()), least=0.7, most=3.0 if quick else 1.3)]
    for k, v in () if quick else gain.items():
        figures.append(Figure(f"mean over biharmonic, holes of {round(100 * k)} %", *mean(v), unit="dB", least=0.0))
    note = "Signal in the holes alone. Truth, measured, biharmonic, mean of four."
    return Row(11, tuple(figures), (out / "inpainting.png",), note)
