"""Digits that networks made, told from real ones by how a prior sees them; the sign is learnt from examples."""

from pathlib import Path

import torch
from torch import Tensor

import invgen
from invgen import metrics, plots, priors
from invgen.benchmarks.gallery.rows import Figure, Row, columns
from invgen.priors.data.fetch import data_folder, fetch
from invgen.priors.data.labelled import labelled


def run(out: Path, quick: bool) -> Row:
    """Scores real and made digits, learns from half of them and tests on the other half, and across generators."""
    count = 100 if quick else 160
    test = labelled(fetch("digits", data_folder()), "test")[0]
    x = test[torch.randperm(len(test), generator=torch.Generator().manual_seed(0))]
    prior, known, real = priors.load("digits"), x[:count], x[count : 2 * count]
    made = {"its flow": _saved(invgen.sample(prior, 2 * count, seed=5))}
    made["its diffusion"] = _saved(invgen.sample(prior, 2 * count, seed=6, sampler="Ancestral(steps=50)"))
    made["GAN"] = _saved(priors.load("digits-gan").sample(2 * count, seed=5))
    made["VAE"] = _saved(priors.load("digits-vae").sample(2 * count, seed=5))
    alone = invgen.score(real, prior, known, steps=2).values
    tells, seen, single = {}, {}, {}
    for name, v in made.items():
        learnt = invgen.score(v[:count], prior, known, steps=2)
        tells[name] = invgen.detector(learnt.reference, learnt.values)
        seen[name] = invgen.score(v[count:], prior, known, steps=2).values
        single[name] = metrics.auroc(alone["reconstruction"], seen[name]["reconstruction"]).value
    areas = {a: {b: metrics.auroc(tell(alone), tell(seen[b])) for b in made} for a, tell in tells.items()}
    rows = [real[:10], *(v[:10] for v in made.values())]
    plots.save_picture(torch.cat([torch.cat(list(r), 2) for r in rows], 1), prior.value_range, out / "row22.png")
    figures = tuple(
        Figure(f"AUROC, {name}", a.value, a.low, a.high, least=0.9, baseline=f"reconstruction alone {single[name]:.3f}")
        for name, a in ((name, areas[name][name]) for name in made)
    )
    table = columns([("learnt from", *made), *((a, *(f"{v.value:.3f}" for v in row.values())) for a, row in areas.items())])
    note = f"AUROC of what was learnt from one generator (lines) on another (columns); below 0.5, a wrong sign:\n{table}"
    return Row(22, figures, (out / "row22.png",), note)


def _saved(x: Tensor) -> Tensor:
    """Returns pictures as a file of 256 grey levels would hold them: no detector may live on rounding."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
