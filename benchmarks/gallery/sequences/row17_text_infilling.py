"""Gaps of 8 letters in real English, by a law of 6 letters of context; and words by a language model."""

from pathlib import Path

import torch
from torch import Tensor

import invgen
from invgen import Posterior, operators, priors, samplers
from invgen.autoregressive import Autoregressive
from invgen.benchmarks.gallery.rows import Figure, Row, mean
from invgen.plots import show_texts
from invgen.priors.data.fetch import data_folder, fetch
from invgen.priors.data.texts import LETTERS, excerpts, manual, spelled

LENGTH, GAP, BLANK = 30, slice(11, 19), -1.0
MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
SENTENCES = """He opened the window because ___ ___ was very hot.
The capital of France is Paris and the capital of Italy is ___.
She went to the bakery to buy some ___ and ___ for breakfast, then she walked home."""


def run(out: Path, quick: bool) -> Row:
    """Fills gaps, and holds the particles against exact sums for a law of 2 letters."""
    count, particles = (60, 512) if quick else (400, 1024)
    train, test = manual()
    x, levels = excerpts(test, LENGTH, count, 2), torch.arange(len(LETTERS)).float()
    y = x.clone()
    y[:, GAP] = BLANK
    prior = priors.NGram([train], LENGTH, levels, 6)
    law, samples = fill(y, prior.measure_transitions(excerpts(train, LENGTH, 4000, 1)), particles)
    right = (law.argmax(-1) == x.long())[:, GAP].double().mean(1)
    kept = torch.cat([samples[..., : GAP.start] == x[:, : GAP.start], samples[..., GAP.stop :] == x[:, GAP.stop :]], -1)
    left = x.long()[:, : GAP.start]
    for _ in range(GAP.stop - GAP.start):
        left = torch.cat([left, prior(left).argmax(1, keepdim=True)], 1)
    greedy = (left == x.long()[:, : GAP.stop])[:, GAP].double().mean().item()
    far = variation(train, y[: 10 if quick else 50])
    columns = {"text": x[:10], "with a gap": y[:10], "a sample": samples[0, :10], "another": samples[1, :10]}
    show_texts({title: spelled(texts) for title, texts in columns.items()}, out / "row17.png")
    figures = (
        Figure("letters right", *mean(right.tolist()), least=0.36, baseline=f"left context alone {greedy:.3f}"),
        Figure("total variation of a letter's law from the exact one", *mean(far), most=0.05, baseline="exact sums"),
        Figure("samples that keep both sides", kept.all(-1).double().mean().item(), least=1.0),
    )
    return Row(17, figures, (out / "row17.png",), "" if quick else sentences())


def fill(y: Tensor, prior: Autoregressive, particles: int) -> tuple[Tensor, Tensor]:
    """Returns the probability of each letter at each place, (B, LENGTH, V), and two samples of each text."""
    noise, A = invgen.Erasure(prior.levels, 0.3, BLANK), operators.Identity((LENGTH,))
    sampler = samplers.AutoregressiveSMC(particles=particles, steps=LENGTH, draws=2)
    posts = [Posterior(prior, A, noise, part) for part in y.split(25600 // particles)]
    law = torch.cat([sampler.weighted(post).shares(prior.levels)[0] for post in posts])
    return law, torch.cat([sampler(post, 2) for post in posts], 1)


def variation(train: Tensor, y: Tensor) -> list[float]:
    """Returns the mean total variation over the letters of each gap, of 8192 particles, for a Markov chain."""
    count = len(LETTERS)
    counted = priors.NGram([train], LENGTH, torch.arange(count).float(), 2)
    pairs = torch.cartesian_prod(torch.arange(count), torch.arange(count))
    chain = priors.MarkovChain(LENGTH, counted.levels, counted(pairs).reshape(count, count, count), start=[26, 26])
    chain.measure_transitions(excerpts(train, LENGTH, 4000, 1))
    post = Posterior(chain, operators.Identity((LENGTH,)), invgen.Erasure(chain.levels, 0.3, BLANK), y)
    exact, law = samplers.ForwardBackward().marginals(post), fill(y, chain, 8192)[0]
    return ((law - exact).abs().sum(-1) / 2)[:, GAP].mean(1).tolist()


def sentences() -> str:
    """Returns three sentences whose gaps a language model of 135M parameters has filled."""
    lines = ["SmolLM2-135M fills the gaps (4 of 96 particles each):"]
    for text in SENTENCES.splitlines():
        prior = priors.from_gguf(fetch("smollm2", data_folder()) / MODEL, text)
        noise, A = invgen.Erasure(prior.levels, 0.5, BLANK), operators.Identity(prior.shape)
        sampler = samplers.AutoregressiveSMC(particles=96, draws=4, steps=prior.sites)
        result = invgen.solve(prior.tokens(text), A, prior, noise, sampler, num_samples=4)
        lines += [f"  {text}"] + [f"    {filled}" for filled in prior.text(result.samples)]
    return "\n".join(lines)
