"""Chinese to English by a noisy channel: a law of English texts, a table from English words to Chinese signs, and particles."""

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invgen import Poisson, Posterior, operators, priors, samplers
from invgen.benchmarks.gallery.rows import Figure, Row, bootstrap, share
from invgen.benchmarks.gallery.sequences.translated import Answer, Pair, draw, heat, numerals, split, tally
from invgen.operators.translation import learnt_table
from invgen.priors.data.fetch import data_folder, fetch
from invgen.priors.data.texts import translations

LENGTH, TABLES = 5, 4


def run(out: Path, quick: bool) -> Row:
    """Translates pairs that were held out, each by what was learnt from the others, with a probability for each answer."""
    pairs = numerals() if quick else translations(fetch("translations", data_folder()), 14, 24)
    folds, particles = (2, 64) if quick else (8, 64)
    answers = [translate(*split(pairs, folds, k, LENGTH), particles) for k in range(folds)]
    # how much the probabilities have to be flattened is learnt from the other folds
    flat = [
        a.flattened(heat([b for m, fold in enumerate(answers) if m != k for b in fold]))
        for k in range(folds)
        for a in answers[k]
    ]
    right, beam = [a.best == a.english for a in flat], [a.beam == a.english for a in flat]
    stated, raw = [a.law[a.best] for a in flat], [a.law[a.best] for fold in answers for a in fold]
    gloss = [a.gloss == a.english for a in flat]
    ahead = np.subtract(right, beam, dtype=float)
    gap = np.subtract(stated, right, dtype=float)
    draw(flat, out / "row18.png")
    figures = (
        Figure(
            "exact match",
            *share(right),
            least=float(np.mean(beam)),
            baseline=f"beam {np.mean(beam):.3f}, word by word {np.mean(gloss):.3f}",
        ),
        Figure(
            "exact match, over the beam's",
            *bootstrap(np.mean, ahead),
            least=0.0,
            baseline="64 prefixes and the same look-ahead",
        ),
        Figure(
            "stated probability over share right",
            *bootstrap(np.mean, gap),
            least=-0.05,
            most=0.05,
            baseline=f"not flattened {np.mean(raw) - np.mean(right):.3f}",
        ),
        Figure(
            "Brier score of the answer",
            *bootstrap(np.mean, gap**2),
            most=float(np.var(right)),
            baseline=f"one probability for all {np.var(right):.3f}",
        ),
        Figure("truth among the five likeliest", *share([a.english in a.likeliest(5) for a in flat])),
    )
    return Row(18, figures, (out / "row18.png",), f"{len(flat)} held-out texts of words that other texts have.")


def translate(train: list[Pair], test: list[Pair], particles: int) -> list[Answer]:
    """Returns the posterior of the English of each test text, and what a beam finds, under the mean of a few tables."""
    words = ["", *sorted({w for english, _ in train for w in english})]  # the first is the end
    signs = sorted({c for _, chinese in train for c in chinese})
    texts = [torch.tensor([words.index(w) for w in english]) for english, _ in train]
    counts, levels = tally([c for _, c in train], signs), torch.arange(len(words)).float()
    prior = priors.NGram([torch.cat([t, torch.zeros(1)]) for t in texts], LENGTH, levels, 1, start=[0], end=0)
    y, laws, beams = tally([c for _, c in test], signs), [Counter[str]() for _ in test], [(-np.inf, "")] * len(test)
    smc, search = (kind(particles=particles, steps=LENGTH) for kind in (samplers.AutoregressiveSMC, samplers.BeamSearch))

    def spelled(x: Tensor) -> list[str]:
        return [" ".join(words[t] for t in row if t) for row in prior.encode(x).tolist()]

    for seed in range(TABLES):  # draws of the table's posterior
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
        joint = prior.log_prob(x) + post.log_likelihood(x)
        beams = [max(old, new) for old, new in zip(beams, zip(joint.tolist(), spelled(x), strict=True), strict=True)]
    gloss = table / table.sum(1, keepdim=True).clamp(min=1e-9)
    return [
        Answer(
            chinese,
            " ".join(english),
            law,
            beam,
            " ".join(dict.fromkeys(words[gloss[:, signs.index(c)].argmax()] for c in chinese if c in signs)),
        )
        for (english, chinese), law, (_, beam) in zip(test, laws, beams, strict=True)
    ]
