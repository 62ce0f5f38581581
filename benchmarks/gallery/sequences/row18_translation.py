"""Chinese to English by a noisy channel: a law of English, a table from words to Chinese signs, and particles."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invgen import Poisson, Posterior, operators, priors, samplers
from invgen.benchmarks.gallery.rows import Figure, Row, bootstrap, share
from invgen.benchmarks.gallery.sequences.translated import Answer, Pair, calibrated, draw, gloss, numerals, split, tally
from invgen.operators.translation import learnt_table
from invgen.priors.data.fetch import data_folder, fetch
from invgen.priors.data.texts import translations

LENGTH, PARTICLES = 5, 64


def run(out: Path, quick: bool) -> Row:
    """Translates pairs that were held out, each by what was learnt from the others, with a probability for each answer."""
    pairs = numerals() if quick else translations(fetch("translations", data_folder()), 14, 24)
    folds = 2 if quick else 8
    raw = [translate(*split(pairs, folds, k, LENGTH)) for k in range(folds)]
    answers = calibrated(raw)
    right, beam, words = (np.array([a.found[by] == a.english for a in answers]) for by in ("particles", "beam", "words"))
    stated, model = np.array([a.stated for a in answers]), np.mean([a.signs[0] for a in answers])
    draw(answers, out / "row18.png")
    rival, ahead, gap = f"beam {beam.mean():.3f}, words {words.mean():.3f}", right.astype(float) - beam, stated - right
    alone, sure = f"one probability for all {right.var():.3f}", f"the model's own {model - right.mean():.3f}"
    low, high, most = (None, None, None) if quick else (-0.05, 0.05, float(right.var()))
    least = float(words.mean() if quick else beam.mean())
    figures = (
        Figure("exact match", *share(right.tolist()), least=least, baseline=rival),
        Figure("exact match over the beam's", *bootstrap(np.mean, ahead.tolist()), baseline="same model, same width"),
        Figure("probability told over share right", *bootstrap(np.mean, gap.tolist()), least=low, most=high, baseline=sure),
        Figure("Brier score of the answer", *bootstrap(np.mean, (gap**2).tolist()), most=most, baseline=alone),
        Figure("truth among the five likeliest", *share([a.english in a.likeliest(5) for a in answers])),
    )
    note = f"{len(answers)} held-out texts of words that other texts have, by {folds}-fold cross-validation. "
    note += f"{PARTICLES} particles, all different; a beam as wide keeps a few likely texts that they draw for and lose."
    return Row(18, figures, (out / "row18.png",), note)


def translate(train: list[Pair], test: list[Pair]) -> list[Answer]:
    """Returns the posterior of the English of each test text, over the texts that particles find, and what others find."""
    words = ["", *sorted({w for english, _ in train for w in english})]  # the first is the end
    signs = sorted({c for _, chinese in train for c in chinese})
    texts = [torch.tensor([words.index(w) for w in english]) for english, _ in train]
    table = learnt_table(texts, tally([c for _, c in train], signs), len(words), 6, weight=1.0)
    table[0] = 0  # the end makes no sign
    levels = torch.arange(len(words)).float()
    prior = priors.NGram([torch.cat([t, t.new_zeros(1)]) for t in texts], LENGTH, levels, 1, start=[0], end=0)
    A, y = operators.TranslationTable(LENGTH, levels, table), tally([c for _, c in test], signs)
    post = Posterior(prior, A, Poisson(), y)
    x = samplers.DiscreteParticleFilter(particles=PARTICLES).weighted(post).samples[0].transpose(0, 1)
    best = samplers.BeamSearch(particles=PARTICLES)(post, 1)[0]
    every = post.rows(torch.arange(len(test)).repeat_interleave(PARTICLES))
    flat = x.flatten(0, 1)
    joint = (prior.log_prob(flat) + every.log_likelihood(flat)).unflatten(0, x.shape[:2])
    weights = joint.softmax(1).tolist()

    def spelled(x: Tensor) -> list[str]:
        return [" ".join(words[t] for t in row if t) for row in prior.encode(x).tolist()]

    laws = [dict(zip(spelled(row), w, strict=True)) for row, w in zip(x, weights, strict=True)]
    others = [{"beam": b, "words": gloss(c, words, signs, table)} for (_, c), b in zip(test, spelled(best), strict=True)]
    return [Answer(c, " ".join(e), law, found) for (e, c), law, found in zip(test, laws, others, strict=True)]
