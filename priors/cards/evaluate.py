"""How good a trained prior is, on what it was not trained on, next to classical methods.

evaluate({"prior": load("photo"), **baselines(False, (-1, 1))}, held_out("photo", ["BSDS500"]), LEVELS["photo"])
likelihood(load("digits"), images)
two_sample(generated, held_out_images, training_views)
classes_seen(load("cifar"), judge)
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from invgen.conditional import ClassifierFree, Conditional
from invgen.priors.cards.baselines import Denoise
from invgen.priors.training.log import draw_samples

LEVELS: dict[str, tuple[float, ...]] = {
    "photo": tuple(2 * s / 255 for s in (15, 25, 50, 100)),
    "ct": (0.05, 0.1, 0.2, 0.5, 1.0),
    "mr": (0.02, 0.05, 0.1, 0.2, 0.5),
    "digits": (0.1, 0.2, 0.5, 1.0, 2.0),
    "clothing": (0.1, 0.2, 0.5, 1.0, 2.0),
    "cifar": tuple(2 * s / 255 for s in (15, 25, 50, 100)),
    "speech": (0.005, 0.01, 0.02, 0.05, 0.1),
    "spoken-digits": (0.05, 0.1, 0.2, 0.5, 1.0),
}
# The grid on which signals are discrete for bits per value: 256 levels of the range, 12 bits of a waveform (speech of the
# usual loudness fills few of 256, and the prior's lowest level of noise is as large as one of 4096).
STEPS = dict.fromkeys(("photo", "ct", "digits", "clothing", "cifar", "spoken-digits"), 2 / 255) | {
    "mr": 1 / 255,
    "speech": 2 / 4096,
}
SCALES = (1.0, 1.5, 2.0, 3.0)  # of classifier-free guidance


def psnr(
    denoise: Denoise, images: Sequence[Tensor], sigma: float, seed: int = 0, value_range: tuple[float, float] = (-1.0, 1.0)
) -> float:
    """Returns the mean over images of the PSNR in dB of denoise(image + sigma noise), clipped to the range, whose width
    is the peak.

    For a waveform, (1, L), the signal-to-noise ratio instead: the peak of a waveform says little. NaN where the method is
    not for this level.

    Args:
        denoise: the method, (image, sigma) -> image.
        images: clean.
        sigma: the level of noise.
        seed: of the noise.
        value_range: (low, high), whose width is the peak.
    """
    low, high = value_range
    total = 0.0
    for index, image in enumerate(images):
        generator = torch.Generator().manual_seed(seed + index)
        noisy = image + sigma * torch.randn(image.shape, generator=generator)
        if (clean := denoise(noisy[None], sigma)) is None:
            return math.nan
        error = clean[0].clamp(low, high) - image
        power = image.square().mean() if image.ndim == 2 else torch.tensor((high - low) ** 2)
        total += 10 * float(torch.log10(power / error.square().mean()))
    return total / len(images)


def evaluate(
    methods: Mapping[str, Denoise],
    sets: Mapping[str, Sequence[Tensor]],
    levels: Sequence[float],
    seed: int = 0,
    value_range: tuple[float, float] = (-1.0, 1.0),
) -> dict[str, Any]:
    """Returns {set: {"count": images, "psnr": {method: [dB at each level]}}}, on the same noise; None: not for this level.

    Args:
        methods: denoisers, by name.
        sets: clean images, by name.
        levels: of noise.
        seed: of the noise.
        value_range: see `psnr`.
    """

    def row(method: Denoise, images: Sequence[Tensor]) -> list[float | None]:
        values = (psnr(method, images, s, seed, value_range) for s in levels)
        return [None if math.isnan(v) else round(v, 2) for v in values]

    with torch.no_grad():
        return {
            name: {"count": len(images), "psnr": {m: row(f, images) for m, f in methods.items()}}
            for name, images in sets.items()
        }


def likelihood(
    prior: Any, clean: Sequence[Tensor] | Tensor, step: float = 2 / 255, seed: int = 0, steps: int = 32
) -> dict[str, Any]:
    """Returns bits per value of signals on a grid of width `step` under a prior with a density, and how they were found.

    Signals are rounded to the grid, which leaves 8-bit pictures in [-1, 1] as they are, and get uniform noise over one of
    its cells, which makes the mean an upper bound of the bits of the rounded signals. A VAE gives the bound of its
    evidence; a flow the bits of the noisy pictures that it was trained on, and an autoregressive prior those of its own few
    levels, neither to be compared with the others.

    Args:
        prior: the prior.
        clean: held-out signals.
        step: of the grid.
        seed: of the uniform noise.
        steps: of Runge and Kutta's method along the probability flow.
    """
    from invgen.numerics.density import bits_per_dim, log_prob
    from invgen.priors.wrappers.generators import VAE

    low = prior.value_range[0]
    x = low + step * ((torch.stack(list(clean)) - low) / step).round()
    n = x[0].numel()
    if hasattr(prior, "next_logits"):
        bits = -prior.log_prob(x) / n / math.log(2)
        return _summary(bits, f"exact, of signals of {len(prior.levels)} levels")
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) - 0.5
    y = x + step * noise
    if isinstance(prior, VAE):
        with torch.no_grad():
            return _summary(
                bits_per_dim(prior.evidence_bound(y, seed), n, step), "bound by the evidence of a Gaussian decoder"
            )
    if hasattr(prior, "inverse"):
        level = prior.flow.NOISE
        y = x + level * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
        how = f"exact, but of pictures with noise of {level}, in steps of one grey level"
        return _summary(bits_per_dim(prior.log_prob(y), n, step), how)
    value = log_prob(prior, y, steps=steps, trace="rademacher", seed=seed, max_batch=16)
    how = f"probability-flow ODE, {steps} steps, Hutchinson's trace; in steps of {step:.2g}"
    return _summary(bits_per_dim(value, n, step), how)


def _summary(bits: Tensor, how: str) -> dict[str, Any]:
    error = bits.std().item() / math.sqrt(len(bits))
    return {
        "bits_per_value": round(bits.mean().item(), 3),
        "standard_error": round(error, 3),
        "count": len(bits),
        "how": how,
    }


def two_sample(generated: Tensor, kept: Tensor, views: Tensor, seed: int = 0) -> dict[str, Any]:
    """Tests whether generated signals can be told from held-out ones.

    Features: for pictures the first 32 principal components of the training views, for waveforms the mean and deviation
    over time of 24 log-band energies. `c2st` is the cross-validated accuracy of a random forest (0.5: it cannot tell),
    `mmd` the squared maximum mean discrepancy of the features; `..._train` are those of training views against the held-out
    signals, the best one can hope for.

    Args:
        generated: (N, *shape).
        kept: held-out signals, (N, *shape).
        views: more than N views of the training data.
        seed: of the tests.
    """
    from sklearn.ensemble import RandomForestClassifier

    from invgen.metrics import c2st, mmd

    count = min(len(generated), len(kept), len(views) // 2)
    features = _band_energies if kept.ndim == 3 else _components(views[count:])
    made, true, known = features(generated[:count]), features(kept[:count]), features(views[:count])
    scale = true.std(0).clamp_min(1e-9)
    made, true, known = made / scale, true / scale, known / scale
    forest = RandomForestClassifier(300, random_state=seed, n_jobs=1)
    result: dict[str, Any] = {"count": count, "features": true.shape[1]}
    for name, other in (("", made), ("_train", known)):
        result[f"c2st{name}"] = round(c2st(other, true, classifier=forest, seed=seed), 3)
        result[f"mmd{name}"] = round(mmd(other, true).item(), 4)
    return result


def classes_seen(
    prior: Conditional,
    judge: Callable[[Tensor], Tensor],
    classes: int = 10,
    count: int = 30,
    seed: int = 2,
    steps: int = 24,
) -> dict[str, list[float]]:
    """Returns the share of samples of a class that a judge takes for that class, by the scale of guidance, with 95 %.

    {"2": [share, low, high]}: Wilson's interval over all samples.

    Args:
        prior: that knows classes.
        judge: pictures (B, *shape) -> logits of the classes, (B, classes); it has to be another network.
        classes: how many.
        count: samples of each class.
        seed: of the samples.
        steps: of Heun's method along the probability flow, of two evaluations each.
    """
    from scipy.stats import binomtest

    found = {}
    for scale in SCALES:
        hits = 0
        for k in range(classes):
            guided = ClassifierFree.of(prior, k, scale=scale)
            x = draw_samples(guided, count, seed, steps)
            hits += int((judge(x).argmax(1) == k).sum())
        total = count * classes
        ci = binomtest(hits, total).proportion_ci(method="wilson")
        found[f"{scale:g}"] = [round(v, 3) for v in (hits / total, float(ci.low), float(ci.high))]
    return found


def _components(views: Tensor, count: int = 32) -> Callable[[Tensor], Tensor]:
    flat = views.flatten(1)
    mean = flat.mean(0)
    axes = torch.linalg.svd(flat - mean, full_matrices=False)[2][: min(count, len(views) - 1)]
    return lambda x: (x.flatten(1) - mean) @ axes.T


def _band_energies(x: Tensor, bands: int = 24) -> Tensor:
    """Returns (B, 1, L) -> (B, 2 bands): mean and deviation over time of the log energies of bands that widen with
    frequency."""
    power = torch.stft(x[:, 0], 512, 256, window=torch.hann_window(512), return_complex=True).abs().square()
    edges = (256 * torch.linspace(0, 1, bands + 1) ** 1.5).round().long()
    parts = [power[:, a : max(b, a + 1)].mean(1) for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
    logs = (torch.stack(parts, 1) + 1e-8).log()
    return torch.cat([logs.mean(2), logs.std(2)], 1)
