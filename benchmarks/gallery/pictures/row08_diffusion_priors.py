"""Diffusion priors beside the four other kinds: one table of density, samples, an inverse problem and cost, on digits."""

from pathlib import Path

import invgen
from invgen import operators, priors, samplers
from invgen.benchmarks.gallery.rows import Figure, Row, mean
from invgen.priors.data.fetch import data_folder, fetch
from invgen.priors.data.labelled import labelled

KINDS = ("digits", "digits-flow", "digits-vae", "digits-gan", "digits-ar")
NOISE, SHAPE = 0.2, (1, 32, 32)


def run(out: Path, quick: bool = False) -> Row:
    """Compares five kinds of model of the same digits; half of the pixels are measured."""
    if quick:  # offline: digits that a sixth model has made, which none of the compared ones knows
        kinds, x, problems, num_samples = KINDS[:4], invgen.sample(priors.load("digits-consistency"), 20, seed=3), 3, 4
    else:
        kinds, x = KINDS, labelled(fetch("digits", data_folder()), "test")[0][::37][:60]
        problems, num_samples = 6, 8
    given = {
        "digits": samplers.MMPS(steps=25),
        "digits-ar": samplers.AutoregressiveSMC(particles=8, draws=8),
        "digits-vae": samplers.PULSE(),
        "digits-gan": samplers.PULSE(),
        "digits-flow": samplers.DampedDPS(steps=100),
    }
    report = invgen.compare_priors(
        {name: priors.load(name) for name in kinds},
        x,
        operators.Mask.random(SHAPE, 0.5),
        NOISE,
        {name: given[name] for name in kinds},
        problems=problems,
        num_samples=num_samples,
        noisy={"digits-flow": 0.1},
        steps=8 if quick else 16,
    )
    (out / "priors.txt").write_text(f"{report}\n", encoding="utf-8")
    report.plot(out / "priors.png", count=3 if quick else 5)
    scores = {name: row.crps.mean().item() for name, row in report.rows.items()}
    other = min((name for name in scores if name != "digits" and scores[name] == scores[name]), key=lambda n: scores[n])
    figures = [
        Figure(
            "diffusion, CRPS of inpainting",
            *mean(report.rows["digits"].crps.tolist()),
            most=scores[other],
            baseline=f"{other} {scores[other]:.3g}",
        )
    ]
    forests = {name: row.forest for name, row in report.rows.items()}
    best = min(v for name, v in forests.items() if name != "digits")
    figures.append(
        Figure("diffusion, a forest tells its samples", forests["digits"], baseline=f"the best of the others {best:.2f}")
    )
    figures += [Figure(f"{name}, CRPS", *mean(row.crps.tolist())) for name, row in report.rows.items() if name != "digits"]
    return Row(8, tuple(figures), (out / "priors.png", out / "priors.txt"), str(report))
