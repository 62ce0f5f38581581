"""Representation, learning, inference: five kinds of model learnt from real digits of 8 x 8 pixels, in one report."""

from pathlib import Path

import torch

import invgen
from invgen import operators, plots, samplers
from invgen.benchmarks.gallery.pictures.five_kinds import CODE, KINDS, SHAPE
from invgen.benchmarks.gallery.rows import Figure, Row, mean


def run(out: Path, quick: bool = False) -> Row:
    """Learns the five from more and more of 1400 pictures, and lets each fill in half of the pixels of others."""
    from sklearn.datasets import load_digits

    x = torch.as_tensor(load_digits(return_X_y=True)[0]).float() / 8 - 1
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    x, held_out = x[:1400], x[1400 : 1450 if quick else 1700]
    A, counts, chains = operators.Mask.random(SHAPE, 0.5), (1400,) if quick else (50, 200, 1400), 20 if quick else 100
    options = {"problems": 3 if quick else 40, "num_samples": 20, "bin_width": 2 / 16}
    text, report = [], None
    for n in counts:
        known = {name: learn(x[:n]) for name, learn in KINDS.items()}
        given: dict[str, invgen.Sampler] = dict.fromkeys(KINDS, samplers.LinearisedTDS(particles=chains, draws=20))
        given["chain"] = samplers.AutoregressiveSMC(particles=chains, draws=20)
        report = invgen.compare_priors(known, held_out, A, 0.1, given, **options)
        text.append(f"{n} pictures\n{report}")
    assert report is not None
    rows = report.rows
    (out / "report.txt").write_text("\n\n".join(text) + "\n", encoding="utf-8")
    k = min(5, options["problems"])
    cells = [*held_out[-k:], *held_out[:k]]
    cells += [p for r in rows.values() for p in (*r.samples[:k], *(r.result.mean[:k] if r.result else r.samples[:k]))]
    titles = [t for name in rows for t in (f"{name}: samples", *[""] * (k - 1), "posterior means", *[""] * (k - 1))]
    titles = ["held out", *[""] * (k - 1), "truth", *[""] * (k - 1), *titles]
    plots.show_samples(torch.stack(cells).reshape(-1, 1, 8, 8), (-1, 1), out / "report.png", columns=2 * k, titles=titles)
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
