"""Text to picture: sentences with words that no caption of the training had, alone and together with a measurement."""

from pathlib import Path

import torch

import invgen
from invgen import operators, plots, samplers
from invgen.benchmarks.gallery.pictures.worded import enlarged, garments, objects
from invgen.benchmarks.gallery.rows import Figure, Row, share
from invgen.priors.cards.evaluate import two_sample

SCALE, NOISE = 3.0, 0.1  # of the guidance; on the few pixels


def run(out: Path, quick: bool = False) -> Row:
    """Draws pictures of sentences, and enlarges pictures of 4 x 4 pixels with and without a sentence."""
    told, draws, steps = (garments(), 5, 10) if quick else (objects(), 12, 24)
    solver = samplers.DPMSolver(steps=steps)
    drawn = [invgen.sample(told.guided(k, SCALE), draws, k, sampler=solver) for k in range(len(told.texts))]
    hits = [told.right(x, wanted) for x, wanted in zip(drawn, told.classes, strict=True)]
    free = invgen.sample(told.prior, draws * len(drawn), 1, sampler=solver)
    chance = share([hit for x, k in zip(free.split(draws), told.classes, strict=True) for hit in told.right(x, k)])[0]
    guided = two_sample(torch.cat(drawn), told.pictures, told.known)
    plain = two_sample(free, told.pictures, told.known)
    # pictures of 4 x 4 pixels, and what they are of: the first real ones of each class that no sentence has had yet
    A, said, alone = operators.Downsample(told.prior.shape, 8), [], []
    for k, wanted in enumerate(told.classes):
        again = told.classes[:k].count(wanted)
        x = told.pictures[told.labels == wanted][again * 4 : again * 4 + (2 if quick else 4)]
        y = A(x) + NOISE * torch.randn(len(x), *A.out_shape, generator=torch.Generator().manual_seed(k))
        for prior, found in ((told.guided(k, SCALE), said), (told.prior, alone)):
            u = invgen.solve(y, A, prior, NOISE, samplers.MMPS(steps=steps), seed=k).samples[0]
            found += told.right(u, wanted)
    without = share(alone)[0]
    rows = [torch.cat(list(x[:4]), 1) for x in drawn]  # a column for each sentence
    plots.save_picture(enlarged(torch.cat(rows, 2)), told.prior.value_range, out / "text.png")
    both = f"without words {plain['c2st']:.2f}, training pictures {guided['c2st_train']:.2f}"
    figures = (
        Figure("judge agrees", *share(sum(hits, [])), least=0.8, baseline=f"without words {chance:.2f}"),
        Figure("a forest tells its pictures", guided["c2st"], most=plain["c2st"] + 0.05, baseline=both),
        Figure("right with 4 x 4 pixels", *share(said), least=without, baseline=f"pixels alone {without:.2f}"),
    )
    each = "; ".join(f"{text} {sum(h)}/{draws}" for text, h in zip(told.texts, hits, strict=True))
    note = f"Of real pictures the judge names {told.accuracy:.2f} rightly. Guidance {SCALE:g}. A column for each: {each}."
    return Row(9, figures, (out / "text.png",), note)
