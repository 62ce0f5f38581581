"""The card next to each shipped prior: what it is, what it was trained on, how well it denoises; written by code.

judge("photo", held_out("photo", "BSDS500"))
"""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from invgen.errors import WeightsError
from invgen.priors.evaluate import LEVELS, bm3d, evaluate, noisy, wiener
from invgen.priors.export import replace
from invgen.priors.load import WEIGHTS, load, metadata

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
}

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
}

QUOTED = {
    "photo": """\
For scale: the grey DnCNN of scico 0.0.7, on five grey scikit-image crops and so not to be compared directly, reaches 29.57
dB at 0.1 and 26.27 dB at 0.2 of the grey range.""",
    "ct": """\
1 HU is 0.001 in the prior's units; the PSNR takes the window's width, 2000 HU, as the peak.""",
}


def judge(name: str, sets: Mapping[str, Sequence[Tensor]], folder: Path = WEIGHTS) -> Path:
    """Evaluate a prior on held-out images, store the figures in FOLDER/NAME.json, the card in FOLDER/NAME.md.

    The classical rows are taken from the stored file where it has them for as many images, since BM3D is slow.
    """
    stored = folder / f"{name}.json"
    old = json.loads(stored.read_text())["sets"] if stored.is_file() else {}
    classical = {"noisy": noisy, "Wiener": wiener} | ({"BM3D": bm3d} if find_spec("bm3d") else {})
    results = {}
    for images, values in sets.items():
        entry = old.get(images, {"count": None})
        if entry["count"] != len(values):
            entry = evaluate(classical, {images: values}, LEVELS[name])[images]
        prior = load(folder / f"{name}.safetensors")
        entry["psnr"] |= evaluate({f"prior `{name}`": prior}, {images: values}, LEVELS[name])[images]["psnr"]
        results[images] = entry
    text = json.dumps({"sigma": LEVELS[name], "sets": results}, indent=1) + "\n"
    replace(stored, lambda path: path.write_text(text))
    replace(folder / f"{name}.md", lambda path: path.write_text(card(name, folder)))
    return folder / f"{name}.md"


def card(name: str, folder: Path = WEIGHTS) -> str:
    """The Markdown card of a shipped prior, from its weights' metadata and its stored evaluation."""
    stored = folder / f"{name}.json"
    if not stored.is_file():
        raise WeightsError(f"{stored} is missing: evaluate the prior first (invgen.priors.evaluate)")
    about, results = metadata(folder / f"{name}.safetensors"), json.loads(stored.read_text())
    training, recipe = about["training"], about["training"]["recipe"]
    folders = " ".join(f"--data {f}" for f in (("BSDS500", "data/photo") if name == "photo" else ("data/ct",)))
    lines = [
        f"# Prior `{name}`",
        "",
        f'`invgen.priors.load("{name}")`: signals of shape {tuple(about["shape"])}; {recipe["units"]}. Other sizes: '
        f'`load("{name}", shape=...)`. Mean {about["data_mean"]:.3f}, standard deviation {about["data_std"]:.3f}; levels '
        f"of noise {about['sigma_min']} to {about['sigma_max']}, in the same units.",
        "",
        "## Data",
        "",
        DATA[name],
        "",
        "SHA-256 of what was read (pictures: all files of the folder in order; CT: the values as int16):",
        "",
        *(f"- {s['name']}, {s['count']}: `{s['sha256']}`" for s in training["sources"]),
        "",
        "## Training",
        "",
        f"UNet of `priors/network.py`: widths {tuple(recipe['widths'])}, {recipe['blocks']} residual blocks per level and "
        f"way, pixel-unshuffle {recipe['unshuffle']}, float16 in the file. AdamW, {training['steps']} steps of "
        f"{recipe['batch']} views in {training['minutes']:.0f} minutes on {_machine(training['device'])}; learning rate "
        f"{recipe['learning_rate']}, {recipe['warmup']} steps of warm-up, a cosine to zero; gradients clipped at norm "
        f"{recipe['clip']}; ln sigma ~ N({recipe['log_sigma_mean']}, {recipe['log_sigma_std']}^2), a tenth uniform; "
        f"power-law average of exponent {recipe['average']}; seed {training['seed']}.",
        *((training["note"],) if "note" in training else ()),
        "",
        f"    invgen train {name} {folders} --out runs/{name} --minutes {training['minutes']:.0f}",
        "",
        "## Denoising of held-out images",
        "",
        "Mean PSNR in dB over images with Gaussian noise, output clipped to the value range; the same noise for all rows.",
        "",
        _table(name, results),
        "",
        QUOTED[name],
        "",
        "## Limitations",
        "",
        LIMITS[name],
        "",
    ]
    return "\n".join(lines)


def _machine(device: str) -> str:
    return "one CPU core, shared with other work" if device == "cpu" else f"one {device} device"


def _table(name: str, results: dict[str, Any]) -> str:
    levels = results["sigma"]
    if name == "photo":
        heads = [f"sigma {s:.3f} ({s * 127.5:.0f}/255)" for s in levels]
    else:
        heads = [f"sigma {s:g} ({s * 1000:.0f} HU)" for s in levels]
    rows = ["| images | method | " + " | ".join(heads) + " |", "|" + " --- |" * (2 + len(levels))]
    for images, entry in results["sets"].items():
        for method, values in entry["psnr"].items():
            label = f"{images} ({entry['count']})"
            rows.append(f"| {label} | {method} | " + " | ".join(f"{v:.2f}" for v in values) + " |")
    return "\n".join(rows)
