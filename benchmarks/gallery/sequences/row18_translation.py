"""Chinese to English by a noisy channel: a law of English, a table from words to Chinese signs, and particles."""

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invgen import Poisson, Posterior, operators, priors, samplers
from invgen.benchmarks.gallery.rows import Figure, Row, bootstrap, share
from invgen.benchmarks.gallery.sequences.translated import Answer, Pair, draw, flattened, gloss, numerals, split, tally
from invgen.operators.translation import learnt_table
from invgen.priors.data.fetch import data_folder, fetch
from invgen.priors.data.texts import translations

LENGTH, PARTICLES = 5, 64


def run(out: Path, quick: bool) -> Row:
    """Translates pairs that were held out, each by what was learnt from the others, with a probability for each answer."""
    pairs = numerals() if quick else translations(fetch("translations", data_folder()), 14, 24)
    folds, tables = (2, 1) if quick else (8, 4)
    raw = [translate(*split(pairs, folds, k, LENGTH), tables) for k in range(folds)]
    answers = [a for part in flattened(raw) for a in part]
    right, beam, words = (np.array([a.found[by] == a.english for a in answers]) for by in ("particles", "beam", "words"))
    stated = np.array([a.law[a.found["particles"]] for a in answers])
    sure = np.mean([a.law[a.found["particles"]] for part in raw for a in part]) - right.mean()
    draw(answers, out / "row18.png")
    rival, ahead, gap = f"beam {beam.mean():.3f}, words {words.mean():.3f}", right.astype(float) - beam, stated - right
    alone, flat = f"one probability for all {right.var():.3f}", f"not flattened {sure:.3f}"
    near, most = ({}, None) if quick else ({"least": -0.05, "most": 0.05}, right.var())
    least = words.mean() if quick else beam.mean()
    figures = (
        Figure("exact match", *share(right.tolist()), least=least, baseline=rival),
        Figure("exact match over the beam's", *bootstrap(np.mean, ahead.tolist()), baseline="same model, same width"),
        Figure("probability told over share right", *bootstrap(np.mean, gap.tolist()), **near, baseline=flat),
        Figure("Brier score of the answer", *bootstrap(np.mean, (gap**2).tolist()), most=most, baseline=alone),
        Figure("truth among the five likeliest", *share([a.english in a.likeliest(5) for a in answers])),
    )
    note = f"{len(answers)} texts that were held out, of words that other texts have, by {folds}-fold cross-validation."
    return Row(18, figures, (out / "row18.png",), note)


def translate(train: list[Pair], test: list[Pair], tables: int) -> list[Answer]:
    """Returns the posterior of the English of each test text, and what a beam finds, under the mean of a few tables."""
    words = ["", *sorted({w for english, _ in train for w in english})]  # the first is the end
    signs = sorted({c for _, chinese in train for c in chinese})
    texts = [torch.tensor([words.index(w) for w in english]) for english, _ in train]
    counts, levels = tally([c for _, c in train], signs), torch.arange(len(words)).float()
    prior = priors.NGram([torch.cat([t, t.new_zeros(1)]) for t in texts], LENGTH, levels, 1, start=[0], end=0)
    y, laws, beams = tally([c for _, c in test], signs), [Counter[str]() for _ in test], [(-np.inf, "")] * len(test)
    smc = samplers.AutoregressiveSMC(particles=PARTICLES, steps=LENGTH)
    search = samplers.BeamSearch(particles=PARTICLES)

    def spelled(x: Tensor) -> list[str]:
        return [" ".join(words[t] for t in row if t) for row in prior.encode(x).tolist()]

    table = torch.zeros(len(words), len(signs))
    for seed in range(tables):  # draws of the table's own posterior
        importance = torch.empty(len(train)).exponential_(generator=torch.Generator().manual_seed(seed))
        table = learnt_table(texts, counts, len(words), 6, weight=1.0, importance=importance)
        table[0] = 0  # the end makes no sign
        post = Posterior(prior, operators.TranslationTable(LENGTH, levels, table), Poisson(), y)
        found = smc.weighted(post, seed=seed)
        weights = (found.log_evidence + found.log_weights[0]).exp()  # (particles, tests)
        for k, law in enumerate(laws):
            for text, w in zip(spelled(found.samples[0, :, k]), weights[:, k].tolist(), strict=True):
                law[text] += w
        x = search(post, 1)[0]
        joint = (prior.log_prob(x) + post.log_likelihood(x)).tolist()
        beams = [max(old, new) for old, new in zip(beams, zip(joint, spelled(x), strict=True), strict=True)]
    others = [{"beam": best, "words": gloss(c, words, signs, table)} for (_, c), (_, best) in zip(test, beams, strict=True)]
    return [Answer(c, " ".join(e), law, found) for (e, c), law, found in zip(test, laws, others, strict=True)]
