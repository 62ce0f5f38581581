"""Outliers among digits on both sides of the density, and attacks on a classifier that a prior takes off."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import invgen
from invgen import plots, priors
from invgen.benchmarks.gallery.rows import Figure, Row, share
from invgen.priors.data.fetch import data_folder, fetch
from invgen.priors.data.labelled import labelled

EPS, LEVEL = 0.3, 0.5  # of the attack, in values from -1 to 1; of the noise that hides it, chosen on training digits


def run(out: Path, quick: bool) -> Row:
    """Scores seven sets, and attacks with and without knowledge of the purifier."""
    count, votes = (40, 4) if quick else (250, 8)
    (train, labels), (test, truth) = (labelled(fetch("digits", data_folder()), part) for part in ("train", "test"))
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    x, known, truth = test[order[:count]], test[order[250 : 250 + count]], truth[order[:count]]
    net, prior = classifier(train, labels), priors.load("digits")
    attacked = (x + EPS * slope(net, x, truth).sign()).clamp(-1, 1)
    clothing = labelled(fetch("clothing", data_folder()), "test")[0] if not quick else torch.rand(count, 1, 32, 32) * 2 - 1
    strange = {"black": torch.full_like(x, -1), "other": clothing[:count], "upside down": x.flip(2), "attacked": attacked}
    areas = {name: invgen.score(v, prior, known, steps=2) for name, v in strange.items()}
    black = areas["black"].auroc()
    plots.show_roc(areas["attacked"], out / "roc.png")

    def right(u: Tensor, by: int = votes) -> list[bool]:
        votes_ = net(invgen.purify(u, prior, level=LEVEL, steps=6, num_samples=by, seed=1).flatten(0, 1)).softmax(1)
        return (votes_.unflatten(0, (by, -1)).mean(0).argmax(1) == truth).tolist()

    adaptive = adapted(net, prior, x, truth, 4 if quick else 20)
    rows = [x[:8], attacked[:8], invgen.purify(attacked[:8], prior, level=LEVEL, steps=6)[0], adaptive[:8]]
    plots.show_samples(torch.cat(rows), prior.value_range, out / "row06.png")
    least = {name: max(a.value for a in s.auroc().values()) for name, s in areas.items()}
    before = share((net(attacked).argmax(1) == truth).tolist())[0]
    clean = share((net(x).argmax(1) == truth).tolist())[0]
    two = black["surprise, two-sided"]
    figures = (
        Figure("AUROC, black, two-sided", two.value, two.low, two.high, least=1.0, baseline=f"-log p {black['surprise'].value:.3f}"),
        Figure("accuracy, attacked, purified", *share(right(attacked)), least=0.85, baseline=f"attacked {before:.3f}"),
        Figure("accuracy, clean, purified", *share(right(x)), baseline=f"clean {clean:.3f}"),
        Figure("accuracy, attack through the purifier", *share(right(adaptive)), baseline="an attack that knows of it"),
    )
    note = "largest AUROC of a figure: " + ", ".join(f"{name} {value:.3f}" for name, value in least.items())
    return Row(6, figures, (out / "row06.png", out / "roc.png"), note)


def classifier(x: Tensor, labels: Tensor) -> nn.Module:
    """Returns a small network, trained on digits shifted by up to two pixels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2048, 10))
        steps = torch.optim.Adam(net.parameters(), 2e-3)
        for _ in range(8):
            for i in torch.randperm(len(x)).split(64):
                shift = torch.randint(-2, 3, (2,)).tolist()
                loss = F.cross_entropy(net(x[i].roll(shift, (2, 3))), labels[i])
                steps.zero_grad()
                loss.backward()
                steps.step()
    return net.eval().requires_grad_(False)


def slope(net: nn.Module, x: Tensor, labels: Tensor, purified: object = None) -> Tensor:
    """Returns the gradient of the classifier's loss at x, through a purifier where one is given."""
    u = x.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(net(purified(u) if callable(purified) else u), labels, reduction="sum"), u)[0]


def adapted(net: nn.Module, prior: invgen.Denoiser, x: Tensor, labels: Tensor, steps: int) -> Tensor:
    """Returns projected gradient ascent through the purifier itself, with fresh noise at each step."""
    u = x
    for k in range(steps):

        def purified(v: Tensor, k: int = k) -> Tensor:
            return invgen.purify(v, prior, level=LEVEL, steps=6, seed=100 + k, differentiable=True)[0]

        u = (u + 3 * EPS / steps * slope(net, u, labels, purified).sign()).clamp(x - EPS, x + EPS).clamp(-1, 1)
    return u
