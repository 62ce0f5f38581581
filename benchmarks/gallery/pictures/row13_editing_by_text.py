"""Editing by text (Imagic): a real picture becomes what a sentence says and stays near to what it was, beside SDEdit."""

from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

import invgen
from invgen import plots, priors
from invgen.benchmarks.gallery.pictures.worded import enlarged, garments, noised_edit, objects
from invgen.benchmarks.gallery.rows import Figure, Row, mean, share
from invgen.pushforward import Flow

SCALE, DRAWS = 3.0, 4  # of the guidance of both methods; SDEdit's pictures of each edit
ETAS = (0.4, 0.6, 0.8, 1.0, 1.2)  # from the condition that was found to that of the sentence, and beyond
LEVELS = (0.5, 1.0, 2.0, 4.0, 8.0)  # of SDEdit's noise
Cases = dict[float, list[tuple[list[bool], float]]]  # by strength, of each picture: target seen, distance to the source


def run(out: Path, quick: bool = False) -> Row:
    """Edits real pictures into another class, each from its own code, with as much of its sentence as is needed."""
    told, count, steps, rounds = (garments(), 10, 12, 40) if quick else (objects(), 30, 24, 200)
    seen, every = told.judge(told.pictures).argmax(1), range(10)
    taken = [i for k in every for i in torch.where((told.labels == k) & (seen == k))[0][: count // 10].tolist()]
    taken = taken[::2] if quick else taken
    imagic, untuned, noised = (cast(Cases, {s: [] for s in strengths}) for strengths in (ETAS, ETAS, LEVELS))
    strips = []
    for number, i in enumerate(taken):
        x, wanted = told.pictures[i], told.near[int(told.labels[i])]
        k = told.classes.index(wanted)
        found = priors.invert_condition(told.prior, x, told.vectors[k], steps=rounds)
        tuned = priors.fine_tuned(told.prior, x, found, steps=rounds)
        strip = [x]
        for prior, cases in ((tuned, imagic), (told.prior, untuned)):
            with torch.no_grad():
                z = Flow(prior.condition(found), steps, "edm").encode(x[None])  # from where the source itself is drawn
                for eta in ETAS:
                    c = eta * told.vectors[k] + (1 - eta) * found
                    u = Flow(invgen.ClassifierFree.of(prior, c / c.norm(), scale=SCALE), steps, "edm")(z)
                    cases[eta].append((told.right(u, wanted), distance(u, x)))
                    strip += [u[0]] if prior is tuned else []
        strips.append(strip)
        for level in LEVELS:
            u = noised_edit(told.guided(k, SCALE), x, DRAWS, level=level, steps=steps, seed=number)
            noised[level].append((told.right(u, wanted), distance(u, x)))
    curve, other, without = (table(cases) for cases in (imagic, noised, untuned))
    goal = 0.5 if quick else 0.8
    eta = next((e for e in ETAS if curve[e][0] >= goal), max(ETAS, key=lambda e: curve[e][0]))
    shares, distances = zip(*sorted(other.values()), strict=True)
    far = float(np.interp(curve[eta][0], shares, distances))  # of SDEdit where it is right as often
    rows = [torch.cat(column, 2) for column in zip(*strips[:: max(1, len(strips) // 10)], strict=True)]
    plots.save_picture(enlarged(torch.cat(rows, 1)), told.prior.value_range, out / "edited.png")
    hits = [hit for h, _ in imagic[eta] for hit in h]
    figures = (
        Figure("judge sees the target", *share(hits), least=goal, baseline=f"SDEdit, most {max(shares):.2f}"),
        Figure("distance to the source", *mean([d for _, d in imagic[eta]]), most=far, baseline=f"SDEdit {far:.3f}"),
    )
    curves = (("Imagic by eta", curve), ("without fine-tuning", without), ("SDEdit by noise", other))
    lists = (f"{name} " + ", ".join(f"{k:g}: {a:.2f} {d:.3f}" for k, (a, d) in c.items()) for name, c in curves)
    note = f"Share of the target and distance: {'; '.join(lists)}. Sources on top, then eta {ETAS[0]:g} to {ETAS[-1]:g}."
    return Row(13, figures, (out / "edited.png",), note)


def distance(u: Tensor, x: Tensor) -> float:
    """Returns the root mean square distance of pictures to their source, in its units."""
    return float((u - x).square().mean().sqrt())


def table(cases: Cases) -> dict[float, tuple[float, float]]:
    """Returns by strength the share of pictures in which the target is seen, and the mean distance."""
    return {key: (share(sum((h for h, _ in v), []))[0], float(np.mean([d for _, d in v]))) for key, v in cases.items()}
