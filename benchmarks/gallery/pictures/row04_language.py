"""Pictures guided by language: words that no caption of the training had, alone and together with a measurement."""

from pathlib import Path

import torch

import invgen
from invgen import operators, plots, priors, samplers
from invgen.benchmarks.gallery.judges import digit_classifier
from invgen.benchmarks.gallery.rows import Figure, Row, share
from invgen.commands.edit import nearest
from invgen.priors.data.captioned import CLOTHES_NAMES, captions
from invgen.priors.data.fetch import data_folder, fetch
from invgen.priors.data.labelled import labelled

WORDS = {
    "open footwear for the beach": (5,),
    "something to carry books in": (8,),
    "warm winter outerwear": (4, 2),
    "running shoe": (7,),
    "jeans": (1,),
    "evening gown": (3,),
    "boots for the rain": (9,),
    "a lady's purse": (8,),
}
KAPPA, DRAWS = 200.0, 8  # the concentration: the best of 100, 200, 400, 800 for the names of the training captions


def run(out: Path, quick: bool = False) -> Row:
    """Guides `clothing` by sentences; another network, trained on other pictures, says what came out."""
    prior, steps = priors.load("clothing"), 6 if quick else 30
    words = dict(list(WORDS.items())[4:6]) if quick else WORDS
    if quick:  # offline: garments of the prior
        x = torch.cat([invgen.sample(prior.condition(k), 12, k, sampler="DPMSolver(steps=6)") for k in range(10)])
        y = torch.arange(10).repeat_interleave(12)
        known, judge = x, digit_classifier(x, y, epochs=8)
        encoder = priors.PictureEncoder.trained(x, y, captions(CLOTHES_NAMES), passes=15)
    else:
        x, y = labelled(fetch("clothing", data_folder()))
        known = x[:10_000]
        encoder = priors.PictureEncoder.trained(x[:20_000], y[:20_000], captions(CLOTHES_NAMES), passes=3)
        judge = digit_classifier(x[30_000:], y[30_000:], epochs=4)
    text = priors.Text(list(words), encoder, KAPPA)
    r = invgen.solve(*text[:2], prior, text[2], samplers.DampedDPS(steps=steps), num_samples=DRAWS, seed=0)
    hits = right(judge, r.samples, words)
    free = invgen.sample(prior, len(words) * DRAWS, 1, sampler="DPMSolver(steps=10)")
    plain = free.unflatten(0, (DRAWS, len(words)))
    chance = share(right(judge, plain, words))[0]
    seen, real = float(nearest(r.samples.flatten(0, 1), known).mean()), float(nearest(free, known).mean())
    # a picture of 4 x 4 pixels, and what it is of
    found = [k for name in words.values() for k in torch.where(y == name[0])[0][-1:].tolist()]
    A = operators.Downsample(prior.shape, 8)
    low = A(x[found]) + 0.1 * torch.randn(len(found), *A.out_shape, generator=torch.Generator().manual_seed(0))
    both = invgen.join((low, A, 0.1), text)
    said = invgen.solve(*both[:2], prior, both[2], samplers.DampedDPS(steps=steps), num_samples=DRAWS, seed=0).samples
    alone = invgen.solve(low, A, prior, 0.1, samplers.PiGDM(steps=steps), num_samples=DRAWS, seed=0).samples
    without = share(right(judge, alone, words))[0]
    strips = [torch.cat(list(s), 2) for s in (*r.samples[:2], *said[:2])]
    plots.save_picture(torch.cat(strips, 1), prior.value_range, out / "language.png")
    figures = (
        Figure("judge agrees", *share(hits), least=chance if quick else 0.8, baseline=f"without words {chance:.2f}"),
        Figure("distance to the nearest picture", seen, most=1.1 * real, baseline=f"without words {real:.3f}"),
        Figure("with 4 x 4 pixels too", *share(right(judge, said, words)), least=without, baseline=f"alone {without:.2f}"),
    )
    note = "Words: " + "; ".join(words) + ". Two rows by words alone, two with 4 x 4 pixels of a garment too."
    return Row(4, figures, (out / "language.png",), note)


def right(judge: torch.nn.Module, samples: torch.Tensor, words: dict[str, tuple[int, ...]]) -> list[bool]:
    """Returns whether the judge sees what each word asks for, (draws, words, ...) flattened."""
    seen = judge(samples.flatten(0, 1)).argmax(1).unflatten(0, samples.shape[:2])
    return [int(k) in wanted for row in seen for k, wanted in zip(row, words.values(), strict=True)]
