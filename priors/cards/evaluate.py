"""How good a trained prior is, on what it was not trained on, next to classical methods.

evaluate({"prior": load("photo"), **baselines(False, (-1, 1))}, held_out("photo", ["BSDS500"]), LEVELS["photo"])
likelihood(load("digits"), images)
two_sample(generated, held_out_images, training_views)
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from invgen.errors import OptionError
from invgen.priors.cards.baselines import Denoise
from invgen.priors.data.ct import CTViews, ct_slices
from invgen.priors.data.labelled import labelled
from invgen.priors.data.mr import MRViews, heads, normalised
from invgen.priors.data.photographs import PhotoViews, photographs, read_picture
from invgen.priors.data.readable import DataError
from invgen.priors.data.speech import WaveViews, read_wave, sentences
from invgen.priors.data.views import Views, signals

LEVELS: dict[str, tuple[float, ...]] = {
    "photo": tuple(2 * s / 255 for s in (15, 25, 50, 100)),
    "ct": (0.05, 0.1, 0.2, 0.5, 1.0),
    "mr": (0.02, 0.05, 0.1, 0.2, 0.5),
    "digits": (0.1, 0.2, 0.5, 1.0, 2.0),
    "clothing": (0.1, 0.2, 0.5, 1.0, 2.0),
    "speech": (0.005, 0.01, 0.02, 0.05, 0.1),
}
# The grid on which signals are discrete for bits per value: 256 levels of the range, 12 bits of a waveform (speech of the
# usual loudness fills few of 256, and the prior's lowest level of noise is as large as one of 4096).
STEPS = {"photo": 2 / 255, "ct": 2 / 255, "mr": 1 / 255, "digits": 2 / 255, "clothing": 2 / 255, "speech": 2 / 4096}


def held_out(recipe: str, folders: Sequence[Path | str] = ()) -> dict[str, list[Tensor]]:
    """Test signals in the prior's units, none of them trained on: {set: [(C, H, W) or (1, L)]}.

    "photo": the centres, 256 x 256, of four photographs of scikit-image, and the pictures of FOLDER/**/val (BSDS500's),
    whole. "ct": pydicom's CT_small at full resolution, and the held-out patients of FOLDER/**.npz averaged to 128 x 128.
    "mr": matplotlib's sagittal head s1045, and the held-out head of FOLDER/**.npz (brain2), averaged to 128 x 128.
    "digits", "clothing": the test set in FOLDER. "speech": one second from the middle of each test sentence in FOLDER.
    """
    sets: dict[str, list[Tensor]] = {}
    if recipe == "photo":
        from skimage import data

        photos = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
        sets["scikit-image"] = [_colour(_centre(p, 256)) for p in photos]
        if paths := _validation(folders):
            sets["BSDS500 val"] = [_colour(read_picture(p)) for p in paths]
    elif recipe == "ct":
        from pydicom import examples
        from pydicom.pixels import apply_rescale

        sets["pydicom CT_small"] = [_hounsfield(apply_rescale(examples.ct.pixel_array, examples.ct), 128)]
        for patient, volume in _merged(ct_slices, folders).items():
            name = "lung1" if patient == "lung1" else "COVID-19-NY-SBU"
            sets.setdefault(name, []).extend(_hounsfield(plane, 128) for plane in volume)
    elif recipe == "mr":
        sets["matplotlib s1045"] = [_halved(normalised(_sagittal()))]
        for name, (volume, _) in _merged(heads, folders).items():
            sets[name] = [_halved(plane) for plane in normalised(volume)]
    elif recipe in ("digits", "clothing"):
        for folder in folders:
            sets.setdefault("test set", []).extend(labelled(folder, "test")[0])
    elif recipe == "speech":
        for folder in folders:
            seconds = [_middle(read_wave(p, 16_000)[0], 16_000) for p in sentences(folder, "test")]
            sets.setdefault("test sentences", []).extend(seconds)
    else:
        raise OptionError(f"no held-out signals for recipe '{recipe}'; there are: {', '.join(LEVELS)}")
    return sets


def held_out_views(recipe: str, folders: Sequence[Path | str], shape: int | Sequence[int], count: int) -> Tensor:
    """(count or fewer, *shape) signals as the prior was trained on, of what was held out: the same kind of random views.

    Pictures of digits and clothing are as they are, none of them twice.
    """
    views: Views
    if recipe in ("digits", "clothing"):
        kept = torch.cat([labelled(folder, "test")[0] for folder in folders])
        return kept[torch.randperm(len(kept), generator=torch.Generator().manual_seed(0))][:count]
    if recipe == "photo":
        if not (paths := _validation(folders)):
            raise OptionError("no folder 'val' of held-out photographs among the folders: pass that of BSDS500")
        views = PhotoViews(paths, shape[-1])
    elif recipe == "ct":
        views = CTViews(_merged(ct_slices, folders), shape[-1])
    elif recipe == "mr":
        views = MRViews(_merged(heads, folders), shape[-1])
    elif recipe == "speech":
        files = [p for folder in folders for p in sentences(folder, "test")]
        views = WaveViews([read_wave(p, 16_000)[0] for p in files], shape[-1])
    else:
        raise OptionError(f"no held-out signals for recipe '{recipe}'; there are: {', '.join(LEVELS)}")
    return signals(views, count, 3)


def _validation(folders: Sequence[Path | str]) -> list[Path]:
    return [p for folder in folders for p in photographs(folder, leave_out=()) if p.parent.name == "val"]


def _merged(read: Callable[[Path | str, str], dict[str, Any]], folders: Sequence[Path | str]) -> dict[str, Any]:
    """The held-out part of all folders; one of them may have none."""
    found, failure = {}, None
    for folder in folders:
        try:
            found.update(read(folder, "test"))
        except DataError as error:
            failure = error
    if failure is not None and not found:
        raise failure
    return found


def _colour(picture: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 127.5 - 1


def _centre(picture: np.ndarray, size: int) -> np.ndarray:
    top, left = ((n - size) // 2 for n in picture.shape[:2])
    return picture[top : top + size, left : left + size]


def _hounsfield(plane: np.ndarray, size: int) -> Tensor:
    """(H, W) in HU -> (1, size, size) in HU / 1000, averaged over blocks and clipped to [-1, 1]."""
    values = torch.as_tensor(np.asarray(plane, dtype=np.float32))[None] / 1000
    return F.avg_pool2d(values, values.shape[-1] // size).clamp(-1, 1)


def _halved(plane: np.ndarray) -> Tensor:
    return F.avg_pool2d(torch.from_numpy(plane.astype(np.float32))[None], 2)


def _sagittal() -> np.ndarray:
    """The magnitude image s1045 of matplotlib's sample data, 256 x 256."""
    import gzip

    from matplotlib import cbook

    with cbook.get_sample_data("s1045.ima.gz") as file:  # may be unpacked already, as its version likes
        raw = file.read()
    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    return np.frombuffer(raw, "<u2").reshape(256, 256).astype(np.float32)


def _middle(samples: np.ndarray, length: int) -> Tensor:
    start = max((samples.shape[-1] - length) // 2, 0)
    return torch.from_numpy(samples[:, start : start + length].copy())


def psnr(
    denoise: Denoise, images: Sequence[Tensor], sigma: float, seed: int = 0, value_range: tuple[float, float] = (-1.0, 1.0)
) -> float:
    """Mean over images of the PSNR in dB of denoise(image + sigma noise), clipped to the range, whose width is the peak.

    For a waveform, (1, L), the signal-to-noise ratio instead: the peak of a waveform says little. NaN where the method is
    not for this level.
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
    """{set: {"count": images, "psnr": {method: [dB at each level]}}}, on the same noise; None: not for this level."""

    def row(method: Denoise, images: Sequence[Tensor]) -> list[float | None]:
        values = (psnr(method, images, s, seed, value_range) for s in levels)
        return [None if math.isnan(v) else round(v, 2) for v in values]

    with torch.no_grad():
        return {
            name: {"count": len(images), "psnr": {m: row(f, images) for m, f in methods.items()}}
            for name, images in sets.items()
        }


def likelihood(
    prior: Any, clean: Sequence[Tensor], step: float = 2 / 255, seed: int = 0, steps: int = 32
) -> dict[str, Any]:
    """Bits per value of signals on a grid of width `step` under a prior with a density, and how they were found.

    Signals are rounded to the grid, which leaves 8-bit pictures in [-1, 1] as they are, and get uniform noise over one of
    its cells, which makes the mean an upper bound of the bits of the rounded signals. A VAE gives the bound of its
    evidence; a flow the bits of the noisy pictures that it was trained on, and an autoregressive prior those of its own few
    levels, neither to be compared with the others. steps: of Runge and Kutta's method along the probability flow.
    """
    from invgen.numerics.density import bits_per_dim, log_prob
    from invgen.priors.wrappers.generators import VAE

    low = prior.value_range[0]
    x = low + step * ((torch.stack(list(clean)) - low) / step).round()
    n = x[0].numel()
    if hasattr(prior, "next_logits"):
        bits = -prior.log_prob(x) / n / math.log(2)
        return _summary(bits, f"exact, of pictures of {len(prior.levels)} levels")
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) - 0.5
    y = x + step * noise
    if isinstance(prior, VAE):
        return _summary(bits_per_dim(_elbo(prior, y, seed), n, step), "bound by the evidence of a Gaussian decoder")
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


def _elbo(prior: Any, y: Tensor, seed: int) -> Tensor:
    """The evidence lower bound of a VAE, its decoder's variance the best one for these pictures; (B,) in nats."""
    from torch.distributions import Normal

    with torch.no_grad():
        mean, log_var = prior.encoder(y)
        eps = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))
        error = (prior(mean + (0.5 * log_var).exp() * eps) - y).square().flatten(1)
        scale = error.mean().sqrt()
        like = (Normal(0.0, scale).log_prob(error.sqrt())).sum(1)
        return like - 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1)


def two_sample(generated: Tensor, kept: Tensor, views: Tensor, seed: int = 0) -> dict[str, Any]:
    """Can generated signals be told from held-out ones? (N, *shape) each; views: more than N views of the training data.

    Features: for pictures the first 32 principal components of the training views, for waveforms the mean and deviation
    over time of 24 log-band energies. `c2st` is the cross-validated accuracy of a random forest (0.5: it cannot tell),
    `mmd` the squared maximum mean discrepancy of the features; `..._train` are those of training views against the held-out
    signals, the best one can hope for.
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


def _components(views: Tensor, count: int = 32) -> Callable[[Tensor], Tensor]:
    flat = views.flatten(1)
    mean = flat.mean(0)
    axes = torch.linalg.svd(flat - mean, full_matrices=False)[2][: min(count, len(views) - 1)]
    return lambda x: (x.flatten(1) - mean) @ axes.T


def _band_energies(x: Tensor, bands: int = 24) -> Tensor:
    """(B, 1, L) -> (B, 2 bands): mean and deviation over time of the log energies of bands that widen with frequency."""
    power = torch.stft(x[:, 0], 512, 256, window=torch.hann_window(512), return_complex=True).abs().square()
    edges = (256 * torch.linspace(0, 1, bands + 1) ** 1.5).round().long()
    parts = [power[:, a : max(b, a + 1)].mean(1) for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
    logs = (torch.stack(parts, 1) + 1e-8).log()
    return torch.cat([logs.mean(2), logs.std(2)], 1)
