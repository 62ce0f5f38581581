"""Representation, learning, inference: five kinds of model learnt from real digits of 8 x 8 pixels, in one report."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import invgen
from invgen import operators, plots, priors, samplers
from invgen.benchmarks.gallery.rows import Figure, Row, mean

SHAPE, LEVELS, CODE = (64,), 5, 12  # CODE: entries of a code of the linear decoder


def gaussian(x: Tensor) -> invgen.Prior:
    """Returns N(mean, covariance) of the pictures, the covariance drawn a little towards white."""
    C = torch.cov(x.T)
    return priors.GaussianPrior(SHAPE, x.mean(0), covariance=C + 0.01 * C.diagonal().mean() * torch.eye(64))


def mixture(x: Tensor) -> invgen.Prior:
    """Returns ten Gaussians with covariances of their own, found by expectation maximisation."""
    from sklearn.mixture import GaussianMixture

    fitted = GaussianMixture(10, reg_covar=0.005, random_state=0).fit(x.double().numpy())
    means, weights, covariances = (torch.as_tensor(t) for t in (fitted.means_, fitted.weights_, fitted.covariances_))
    return priors.GaussianMixture(means.float(), weights, covariances=covariances.float())


def kernel(x: Tensor) -> invgen.Prior:
    """Returns a Gaussian about every picture: what a network learns that has learnt its pictures by heart."""
    return priors.GaussianMixture(x, var=0.09)


def linear(x: Tensor) -> invgen.Prior:
    """Returns a decoder of principal components, with its encoder: probabilistic PCA, a linear VAE."""
    mean = x.mean(0)
    values, axes = torch.linalg.eigh(torch.cov(x.T))
    scale, axes = values[-CODE:].sqrt(), axes[:, -CODE:]
    rest = values[:-CODE].mean().log().item()

    def encoder(signals: Tensor) -> tuple[Tensor, Tensor]:
        z = (signals - mean) @ axes / scale
        return z, (rest - (scale**2 + values[:-CODE].mean()).log()).expand(len(z), -1)

    return priors.VAE(lambda z: (z * scale) @ axes.T + mean, encoder, CODE, SHAPE)


def chain(x: Tensor) -> invgen.Prior:
    """Returns a chain of pixels of five grey levels, each given the nine before it."""
    tokens = ((x + 1) / 2 * (LEVELS - 1)).round().long()
    return priors.NGram(list(tokens), 64, torch.linspace(-1, 1, LEVELS), order=9)


KINDS: dict[str, Callable[[Tensor], invgen.Prior]] = {
    "Gaussian": gaussian,
    "mixture": mixture,
    "kernel": kernel,
    "linear decoder": linear,
    "chain": chain,
}


def run(out: Path, quick: bool = False) -> Row:
    """Learns the five from more and more of 1400 pictures, and lets each fill in half of the pixels of others."""
    from sklearn.datasets import load_digits

    x = torch.as_tensor(load_digits().data).float() / 8 - 1
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    x, held_out = x[:1400], x[1400 : 1450 if quick else 1700]
    A, counts, chains = operators.Mask.random(SHAPE, 0.5), (1400,) if quick else (50, 200, 1400), 20 if quick else 100
    text, report = [], None
    for n in counts:
        known = {name: learn(x[:n]) for name, learn in KINDS.items()}
        given: dict[str, invgen.Sampler] = dict.fromkeys(KINDS, samplers.LinearisedTDS(particles=chains, draws=20))
        given["chain"] = samplers.AutoregressiveSMC(particles=chains, draws=20)
        options = {"problems": 3 if quick else 40, "num_samples": 20, "bin_width": 2 / 16}
        report = invgen.compare_priors(known, held_out, A, 0.1, given, **options)
        text.append(f"{n} pictures\n{report}")
    assert report is not None
    rows = report.rows
    (out / "report.txt").write_text("\n\n".join(text) + "\n", encoding="utf-8")
    cells = [p for r in rows.values() for p in (*r.samples[:5], *(r.result.mean[:5] if r.result else r.samples[:5]))]
    titles = [t for name in rows for t in (f"{name}: samples", *[""] * 4, "posterior means", *[""] * 4)]
    cells, titles = [*held_out[-5:], *held_out[:5], *cells], ["held out", *[""] * 4, "truth", *[""] * 4, *titles]
    plots.show_samples(torch.stack(cells).reshape(-1, 1, 8, 8), (-1, 1), out / "report.png", columns=10, titles=titles)
    scores = {name: r.crps.mean().item() for name, r in rows.items()}
    figures = [
        Figure("inference: mixture, CRPS", *mean(rows["mixture"].crps.tolist()), most=scores["Gaussian"],
               baseline=f"Gaussian {scores['Gaussian']:.3g}"),
        Figure("learning: mixture, bits a value", rows["mixture"].bits[0], most=rows["Gaussian"].bits[0],
               baseline=f"Gaussian {rows['Gaussian'].bits[0]:.3g}"),
        Figure(f"representation: error of {CODE} numbers a picture", rows["linear decoder"].reconstruction,
               most=held_out.std(0).square().mean().sqrt().item() / 2, baseline="half of that of the mean picture"),
    ]  # fmt: skip
    return Row(23, tuple(figures), (out / "report.png", out / "report.txt"), text[-1])
