"""Outliers among digits on both sides of the density, and attacks on a classifier that a prior takes off."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import invgen
from invgen import plots, priors
from invgen.benchmarks.gallery.judges import digit_classifier
from invgen.benchmarks.gallery.rows import Figure, Row, share
from invgen.priors.data.fetch import data_folder, fetch
from invgen.priors.data.labelled import labelled

EPS, LEVEL = 0.3, 0.5  # of the attack, in values from -1 to 1; of the noise that hides it, chosen on training digits


def run(out: Path, quick: bool) -> Row:
    """Scores strange pictures, and attacks with and without knowledge of the purifier."""
    count, votes = (100, 4) if quick else (250, 16)
    (train, labels), (test, truth) = (labelled(fetch("digits", data_folder()), part) for part in ("train", "test"))
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    x, known, truth = test[order[:count]], test[order[250 : 250 + count]], truth[order[:count]]
    net, prior = digit_classifier(train, labels), priors.load("digits")

    def purified(u: Tensor, samples: int = votes, seed: int = 1, differentiable: bool = False) -> Tensor:
        return invgen.purify(u, prior, level=LEVEL, steps=6, num_samples=samples, seed=seed, differentiable=differentiable)

    def right(u: Tensor) -> list[bool]:
        """Whether the mean vote of the samples is the true digit."""
        return (net(u.flatten(0, -4)).softmax(1).reshape(-1, len(x), 10).mean(0).argmax(1) == truth).tolist()

    def attack(steps: int, through: Callable[[Tensor, int], Tensor]) -> Tensor:
        """Climbs the classifier's loss within EPS of x."""
        u = x
        for k in range(steps):
            v = u.clone().requires_grad_()
            (slope,) = torch.autograd.grad(F.cross_entropy(net(through(v, k)), truth, reduction="sum"), v)
            u = u + (1 if steps == 1 else 2.5 / steps) * EPS * slope.sign()
            u = u.clamp(x - EPS, x + EPS).clamp(-1, 1)
        return u

    blind = attack(1, lambda v, k: v)
    aware = attack(5 if quick else 20, lambda v, k: purified(v, 1, 100 + k, True)[0])
    strange = {
        "black": torch.full_like(x, -1),
        "upside down": x.flip(2),
        "attacked": blind,
        "noise": torch.rand_like(x) * 2 - 1,
    }
    scores = {name: invgen.score(v, prior, known, steps=2) for name, v in strange.items()}
    plots.show_roc(scores["black"], out / "roc.png")
    rows = [x[:8], blind[:8], purified(blind[:8])[0], aware[:8], purified(aware[:8])[0]]
    plots.save_picture(torch.cat([torch.cat(list(r), 2) for r in rows], 1), prior.value_range, out / "row06.png")
    area = scores["black"].auroc()
    caught, one_sided = area["surprise, two-sided"], area["surprise"].value
    least = ", ".join(f"{k} {max(a.value for a in s.auroc().values()):.3f}" for k, s in scores.items())
    figures = (
        Figure(
            "AUROC, black pictures", caught.value, caught.low, caught.high, least=1.0, baseline=f"-log p {one_sided:.3f}"
        ),
        Figure(
            "accuracy, attacked and purified",
            *share(right(purified(blind))),
            least=0.85,
            baseline=f"attacked {sum(right(blind)) / count:.3f}",
        ),
        Figure("accuracy, clean and purified", *share(right(purified(x))), baseline=f"clean {sum(right(x)) / count:.3f}"),
        Figure("accuracy, attacked through the purifier", *share(right(purified(aware)))),
    )
    note = (
        f"Best figure of each set, as AUROC: {least}. Lines of the picture: digits; attacked; purified; attacked through\n"
    )
    note += "the purifier; purified."
    return Row(6, figures, (out / "row06.png", out / "roc.png"), note)
