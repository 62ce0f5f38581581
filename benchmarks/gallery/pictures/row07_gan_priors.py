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
    if quick:  # offline: digits that another kind of model has made
        x = priors.load("digits-flow").sample(4, seed=3)
    else:
        x = labelled(fetch("digits", data_folder()), "test")[0][::25][:16]
    counts = (100,) if quick else (25, 50, 100, 200, 300)
    methods = {"digits-gan": samplers.CSGM(), "digits-vae": samplers.CSGM(), "digits": samplers.PiGDM(steps=25)}
    error: dict[str, dict[int, list[float]]] = {name: {} for name in ("LASSO", *methods)}
    for m in counts:
        A = operators.CompressedSensing(SHAPE, m, seed=0)
        y = A(x) + NOISE * torch.randn(len(x), *A.out_shape, generator=torch.Generator().manual_seed(m))
        # LASSO sees the digits above black, which are sparse
        found = {"LASSO": lasso(y + A(torch.ones(1, *SHAPE)), A) - 1}
        for name, sampler in methods.items():
            found[name] = invgen.solve(y, A, priors.load(name), NOISE, sampler, seed=0).samples[0]
        for name, one in found.items():
            error[name][m] = (one - x).square().flatten(1).mean(1).tolist()
    draw(error, out / "gan_priors.png")
    at, best = 100, float(np.mean(error["LASSO"][100]))
    figures = [
        Figure(f"diffusion, error at {at} of 1024", *mean(error["digits"][at]), most=best, baseline=f"LASSO {best:.3f}")
    ]
    for name in ("digits-gan", "digits-vae"):
        floor = float(np.mean(error[name][counts[-1]]))
        baseline = f"LASSO {best:.3f}, at {counts[-1]} {floor:.3f}"
        figures.append(Figure(f"{name}, error at {at} of 1024", *mean(error[name][at]), most=best, baseline=baseline))
    return Row(7, tuple(figures), (out / "gan_priors.png",), f"Mean squared error of {len(x)} digits in [-1, 1].")


def draw(error: dict[str, dict[int, list[float]]], path: Path) -> None:
    """Draws the curves; what a generator reaches with all measurements is its floor, dotted."""
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(6, 4), layout="constrained")
    ax = picture.subplots()
    for k, (name, curve) in enumerate(error.items()):
        low = [mean(v) for v in curve.values()]
        bars = [[max(v - a, 0) for v, a, _ in low], [b - v for v, _, b in low]]
        ax.errorbar(list(curve), [v for v, _, _ in low], yerr=bars, marker="o", capsize=2, color=f"C{k}", label=name)
        if name in ("digits-gan", "digits-vae"):
            ax.axhline(low[-1][0], color=f"C{k}", ls=":", lw=1)
    ax.set(xlabel="measurements of 1024 values", ylabel="mean squared error", yscale="log")
    ax.legend(fontsize=8)
    picture.savefig(path, dpi=80)
