"""Super-resolution: photographs of 32 x 32 to 128 x 128 by diffusion, digits of 8 x 8 to 32 x 32 by a GAN."""

from pathlib import Path

import torch

import invgen
from invgen import metrics, operators, plots, priors, samplers
from invgen.benchmarks.gallery.rows import Figure, Row, mean
from invgen.benchmarks.methods.images import Bicubic
from invgen.priors.data.held_out import held_out_photographs

FACTOR, NOISE = 4, 0.02


def run(out: Path, quick: bool = False) -> Row:
    """Measures photographs that no shipped prior has seen at a quarter of their side, and digits of another model."""
    side = 16 if quick else 128
    photos = torch.stack(list(held_out_photographs().values()))[: 2 if quick else 4]
    x = torch.nn.functional.interpolate(photos, (side, side), mode="area")
    prior = priors.load("photo", (3, side, side))
    A = operators.Downsample(prior.shape, FACTOR)
    y = A(x) + NOISE * torch.randn(len(x), *A.out_shape, generator=torch.Generator().manual_seed(0))
    classic = Bicubic().reconstruct(invgen.Posterior(prior, A, invgen.Gaussian(NOISE), y))
    r = invgen.solve(y, A, prior, NOISE, samplers.AdaptivePiGDM(steps=6 if quick else 15), num_samples=3, seed=0)
    gain = (metrics.psnr(r.mean, x, data_range=2.0) - metrics.psnr(classic, x, data_range=2.0)).tolist()
    shown = (classic, *r.samples[:2], r.mean, x)
    plots.save_picture(
        torch.cat([torch.cat(list(u), 2) for u in shown], 1), prior.value_range, out / "super_resolution.png"
    )
    figures = [Figure("residual over noise", *mean(r.residual.flatten().tolist()), least=0.7, most=3.0 if quick else 1.3)]
    if not quick:
        base = float(metrics.psnr(classic, x, data_range=2.0).mean())
        figures.insert(0, Figure("mean over bicubic", *mean(gain), unit="dB", least=1.0, baseline=f"bicubic {base:.2f}"))
        gan, digits = priors.load("digits-gan"), priors.load("digits-flow").sample(8, seed=3)
        B = operators.Downsample(gan.shape, FACTOR)
        low = B(digits) + NOISE * torch.randn(8, *B.out_shape, generator=torch.Generator().manual_seed(1))
        fits = invgen.solve(low, B, gan, NOISE, samplers.PULSE(), seed=0).residual.flatten().tolist()
        figures.append(Figure("residual of PULSE", *mean(fits), most=1.1, baseline="noise 1"))
    note = "Bicubic, two samples, mean, truth. The GAN of PULSE cannot make every digit: its residual says so."
    return Row(10, tuple(figures), (out / "super_resolution.png",), note)
