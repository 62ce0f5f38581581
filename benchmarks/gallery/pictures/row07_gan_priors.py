"""GAN priors: error against the number of random measurements, by a GAN, a VAE, diffusion and LASSO in one picture."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import invgen
from invgen import operators, priors, samplers
from invgen.benchmarks.gallery.rows import Figure, Row, mean
from invgen.priors.data.fetch import data_folder, fetch
from invgen.priors.data.labelled import labelled
from invgen.sampler import Sampler

NOISE, SHAPE = 0.05, (1, 32, 32)


def lasso(y: Tensor, A: invgen.LinearOperator) -> Tensor:
    """Returns pictures whose cosine transform is sparse, (B, *SHAPE)."""
    import scipy.fft
    from sklearn.linear_model import Lasso

    atoms = np.asarray(scipy.fft.idctn(np.eye(1024).reshape(1024, 32, 32), axes=(1, 2), norm="ortho")).reshape(1024, 1024)
    M = A(torch.as_tensor(atoms, dtype=torch.float32).reshape(1024, *SHAPE)).T.numpy()
    found = [Lasso(alpha=1e-3, max_iter=300, tol=1e-2).fit(M, one.numpy()).coef_ @ atoms for one in y]
    return torch.as_tensor(np.array(found), dtype=torch.float32).reshape(-1, *SHAPE)


def run(out: Path, quick: bool = False) -> Row:
    """Measures digits by random matrices of 25 to 300 rows, as Bora et al. (ICML 2017) do."""
    x = priors.load("digits-flow").sample(4, seed=3)  # offline: digits that another kind of model has made
    if not quick:
        x = labelled(fetch("digits", data_folder()), "test")[0][::25][:16]
    counts = (100,) if quick else (25, 50, 100, 200, 300)
    # each at the best of a few settings on digits of the training half: LASSO by cosines (by pixels .40 at 100, by cosines
    # .25), diffusion by MMPS (.007; PiGDM .13, DAPS .19)
    used: tuple[Sampler, ...] = (samplers.CSGM(), samplers.CSGM(), samplers.MMPS(steps=25))
    names = ("GAN", "VAE", "diffusion")
    methods = dict(zip(names, zip(("digits-gan", "digits-vae", "digits"), used, strict=True), strict=True))
    error: dict[str, dict[int, list[float]]] = {name: {} for name in ("LASSO", *methods)}
    for m in counts:
        A = operators.CompressedSensing(SHAPE, m, seed=0)
        y = invgen.Gaussian(NOISE).sample(A(x), torch.Generator().manual_seed(m))
        # LASSO sees the digits above black, which are sparse
        found = {"LASSO": lasso(y + A(torch.ones(1, *SHAPE)), A) - 1}
        for name, (prior, sampler) in methods.items():
            found[name] = invgen.solve(y, A, priors.load(prior), NOISE, sampler, seed=0).samples[0]
        for name, one in found.items():
            error[name][m] = (one - x).square().flatten(1).mean(1).tolist()
    floors = {}
    for name in () if quick else ("GAN", "VAE"):  # what a generator makes of a digit of which every pixel is known
        prior, sampler = methods[name]
        best = invgen.solve(x, operators.Identity(SHAPE), priors.load(prior), NOISE, sampler, seed=0).samples[0]
        floors[name] = (best - x).square().mean().item()
    draw(error, floors, out / "gan_priors.png")
    rival = float(np.mean(error["LASSO"][100]))
    beside = dict.fromkeys(methods, f"LASSO {rival:.3f}")
    beside |= {name: f"LASSO {rival:.3f}, the generator's floor {floor:.3f}" for name, floor in floors.items()}
    what = {name: f"{name}, error at 100 of 1024" for name in methods}
    figures = [Figure(what[name], *mean(error[name][100]), most=rival, baseline=beside[name]) for name in methods]
    return Row(7, tuple(figures), (out / "gan_priors.png",), f"Mean squared error of {len(x)} digits in [-1, 1].")


def draw(error: dict[str, dict[int, list[float]]], floors: dict[str, float], path: Path) -> None:
    """Draws the curves, and the floor of each generator, dotted."""
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(6, 4), layout="constrained")
    ax = picture.subplots()
    for k, (name, curve) in enumerate(error.items()):
        low = [mean(v) for v in curve.values()]
        bars = [[max(v - a, 0) for v, a, _ in low], [b - v for v, _, b in low]]
        ax.errorbar(list(curve), [v for v, _, _ in low], yerr=bars, marker="o", capsize=2, color=f"C{k}", label=name)
        if name in floors:
            ax.axhline(floors[name], color=f"C{k}", ls=":", lw=1, label=f"{name}, all pixels known")
    ax.set(xlabel="measurements of 1024 values", ylabel="mean squared error", yscale="log")
    ax.legend(fontsize=8)
    picture.savefig(path, dpi=80)
