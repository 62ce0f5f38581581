"""A patch painted on a garment and redrawn: outside the mask nothing changes, and no seam is left."""

from pathlib import Path

import torch
from torch import Tensor

import invgen
from invgen import plots, priors, samplers
from invgen.benchmarks.gallery.rows import Figure, Row, mean
from invgen.priors.data.fetch import data_folder, fetch
from invgen.priors.data.labelled import labelled

TOP, BOTTOM, LEFT, RIGHT, STRENGTH = 8, 22, 8, 24, 1.0


def seam(x: Tensor) -> list[float]:
    """Returns the mean step across the border of the mask, of each picture."""
    rows, columns = x[:, 0, :, LEFT:RIGHT], x[:, 0, TOP:BOTTOM]
    steps = [(rows[:, k] - rows[:, k - 1]).abs() for k in (TOP, BOTTOM)]
    steps += [(columns[..., k] - columns[..., k - 1]).abs() for k in (LEFT, RIGHT)]
    return torch.cat(steps, 1).mean(1).tolist()


def run(out: Path, quick: bool = False) -> Row:
    """Paints a bright patch on shirts and draws the region around it, beside SDEdit with a mask."""
    prior, count = priors.load("clothing"), 2 if quick else 12
    if quick:  # offline: shirts of the prior
        x = invgen.sample(prior.condition(6), count, sampler="DPMSolver(steps=8)")
    else:
        test, labels = labelled(fetch("clothing", data_folder()), "test")
        x = test[labels == 6][:count]
    painting = x.clone()
    painting[..., TOP + 2 : BOTTOM - 2, LEFT + 2 : RIGHT - 2] = 0.9
    keep = torch.ones(1, 32, 32)
    keep[:, TOP:BOTTOM, LEFT:RIGHT] = 0
    steps = 10 if quick else 30
    ours = [
        invgen.edit(p, prior, keep=keep, strength=STRENGTH, real=x.repeat(4, 1, 1, 1), steps=steps, num_samples=1)
        for p in painting
    ]
    edited = torch.cat([one.result for one in ours])
    A, masked = invgen.operators.Identity(prior.shape), samplers.SDEdit(steps=steps, sigma0=STRENGTH, keep=keep)
    sdedit = invgen.solve(painting, A, prior, invgen.Noiseless(), masked, seed=0).samples[0]
    changed = (edited - x)[..., keep[0] > 0].abs().amax().item()
    inside, source, theirs = keep[0] == 0, seam(x), seam(sdedit)
    wanted, done = (painting - x)[:, 0, inside], (edited - x)[:, 0, inside]
    followed = ((wanted * done).sum(1) / wanted.square().sum(1)).tolist()
    share = float(((sdedit - x)[:, 0, inside] * wanted).sum(1).div(wanted.square().sum(1)).mean())
    rows = [torch.cat(list(r[:10]), 2) for r in (x, painting, sdedit, edited)]
    plots.save_picture(torch.cat(rows, 1), prior.value_range, out / "stroke_editing.png")
    real = mean(source)[0]
    figures = (
        Figure("largest change outside the mask", changed, most=0.0),
        # what a t interval of the pictures' own seams allows is the level of real pictures
        Figure("step across the seam", *mean(seam(edited)), most=mean(source)[2], baseline=f"SDEdit {mean(theirs)[0]:.3f}"),
        Figure("share of the stroke that stays", *mean(followed), least=0.3, baseline=f"SDEdit {share:.2f}"),
    )
    note = f"The pictures' own step there is {real:.3f}. Picture, painting, SDEdit with a mask and edit below each other."
    return Row(3, figures, (out / "stroke_editing.png",), note)
