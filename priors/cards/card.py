"""The text of a prior's card, from the metadata of its weights and its stored figures."""

import json
from pathlib import Path
from typing import Any

from invgen.errors import WeightsError
from invgen.priors.cards.texts import DATA, DNCNN, FOLDERS, LIMITS, PUBLISHED, QUOTED
from invgen.priors.load import WEIGHTS, metadata
from invgen.priors.recipes import DISTILLED, RECIPES
from invgen.priors.training.digits_family import FAMILY


def card(name: str, folder: Path = WEIGHTS) -> str:
    """Returns the Markdown card of a shipped prior, from its weights' metadata and its stored evaluation."""
    stored = folder / f"{name}.json"
    if not stored.is_file():
        raise WeightsError(f"{stored} is missing: run python -m invgen.priors.cards {name} --data FOLDER")
    about, results = metadata(folder / f"{name}.safetensors"), json.loads(stored.read_text())
    training, recipe = about["training"], about["training"]["recipe"]
    denoiser = about["network"] == "UNet"
    sizes = f' Other sizes: `load("{name}", shape=...)`.' if denoiser else ""
    levels = f"; levels of noise {about['sigma_min']:g} to {about['sigma_max']:g}, in the same units" if denoiser else ""
    classes, words = about["options"].get("classes", 0), about["options"].get("vector", 0)
    lines = [
        f"# Prior `{name}`",
        "",
        f'`invgen.priors.load("{name}")`: signals of shape {tuple(about["shape"])}; {recipe["units"]}.{sizes} Mean '
        f"{about['data_mean']:.3f}, standard deviation {about['data_std']:.3f}{levels}.",
        *((f'It knows {classes} classes: `load("{name}").condition(3)`.',) if classes else ()),
        *((f'It knows sentences: `load("{name}").condition("a toad")` (extra `language`).',) if words else ()),
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
        f"    {_command(name, training)}",
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
        note = QUOTED.get(name, "")
        if "DnCNN" not in note and any("DnCNN" in entry["psnr"] for entry in results["sets"].values()):
            note = f"{note}\n{DNCNN}".strip()
        lines += [note, ""] if note else []
    if "likelihood" in results or "two_sample" in results:
        lines += ["## Density and samples", "", *_figures(name, results), ""]
    lines += [f"A sheet of samples: [docs/images/prior_{name}.png](../../docs/images/prior_{name}.png).", ""]
    return "\n".join([*lines, "## Limitations", "", LIMITS[name], ""])


def _training(about: dict[str, Any]) -> str:
    training, recipe = about["training"], about["training"]["recipe"]
    time = f"{training['minutes']:.0f} minutes on {_machine(training['device'])}"
    steps = f"{training['steps']} steps of {recipe['batch']} views in {time}"
    end = f"power-law average of exponent {recipe['average']}; seed {training['seed']}."
    if about["network"] != "UNet":
        file = "wavenet" if about["network"] == "WaveNet" else "digits"
        return (
            f"The network {about['network']} of `priors/checkpoints/networks/{file}.py`, float16 in the file. "
            f"Adam, {steps}; learning rate {recipe['learning_rate']}, a cosine to zero; {end}"
        )
    if about.get("consistency"):
        first, last = recipe["levels"]
        end = (
            f"from the weights of `{recipe['teacher']}`, along its probability flow, one step of Heun's method between "
            f"{first:g} levels at the begin and {last:g} at the end; {end}"
        )
    return (
        f"UNet of `priors/checkpoints/networks/unet.py`: widths {tuple(recipe['widths'])}, {recipe['blocks']} residual "
        f"blocks per level and way, unshuffle {recipe['unshuffle']}, float16 in the file. AdamW, {steps}; learning rate "
        f"{recipe['learning_rate']}, {recipe['warmup']} steps of warm-up, a cosine to zero; gradients clipped at norm "
        f"{recipe['clip']}; ln sigma ~ N({recipe['log_sigma_mean']}, {recipe['log_sigma_std']}^2), a tenth uniform; {end}"
    )


def _command(name: str, training: dict[str, Any]) -> str:
    """Returns the command that trains the prior again, by the recipe as it is now.

    A run that its steps ended gives the same weights again, unless the recipe has another network by now.
    """
    recipe, now = training["recipe"], {**RECIPES, **FAMILY, **DISTILLED}[name]
    if list(recipe.get("widths", ())) != list(getattr(now, "widths", ())):
        other = f"widths {tuple(now.widths)}, {now.steps} steps of {now.batch} views"
        return f"invgen train {name}  # has grown since: {other}; these weights are of the recipe before"
    words = ["invgen train", name, *(f"--data {folder}" for folder in FOLDERS.get(name, [f"data/{name.split('-')[0]}"]))]
    words += [f"--{key} {recipe[key]}" for key in ("steps", "batch") if recipe[key] != getattr(now, key)]
    words += [f"--minutes {training['minutes']:.0f}"] if training["steps"] < recipe["steps"] else []
    words += [f"--seed {training['seed']}"] if training["seed"] else []
    words += ["--bfloat16"] if training.get("bfloat16") and training["device"] == "cpu" else []
    return " ".join([*words, f"--out runs/{name}"])


def _machine(device: str) -> str:
    return "one CPU core, shared with other work" if device == "cpu" else f"one {device} device"


def _figures(name: str, results: dict[str, Any]) -> list[str]:
    lines = []
    if "likelihood" in results:
        f = results["likelihood"]
        lines.append(
            f"- {f['bits_per_value']:.3f} bits per value (standard error {f['standard_error']:.3f}) on {f['count']} "
            f"held-out signals: {f['how']}."
        )
        lines += [f"  {PUBLISHED[name]}"] if name in PUBLISHED else []
    if "two_sample" in results:
        f = results["two_sample"]
        lines.append(
            f"- {f['count']} generated{' by two jumps' if 'beside' in f else ''} against as many held-out signals, "
            f"{f['features']} features: a random forest tells "
            f"them apart in {100 * f['c2st']:.0f} % of cases (50 %: not at all; training views: "
            f"{100 * f['c2st_train']:.0f} %); squared maximum mean discrepancy {f['mmd']:.4f} (training views: "
            f"{f['mmd_train']:.4f})."
        )
        others = f.get("beside", {}).items()
        lines += [f"- By {title}: {100 * g['c2st']:.0f} %, {g['mmd']:.4f}." for title, g in others]
    if "classes" in results:
        f = results["classes"]
        shares = ", ".join(f"{s}: {v:.0%} ({a:.0%} to {b:.0%})" for s, (v, a, b) in f["seen"].items())
        lines.append(
            f"- A classifier, right on {f['judge']:.1%} of the test set, sees its class in samples of a class, by the "
            f"scale of classifier-free guidance (1: none; 95 % intervals): {shares}."
        )
    return lines


def _table(name: str, results: dict[str, Any]) -> str:
    levels = results["sigma"]
    if name in ("photo", "cifar"):
        heads = [f"sigma {s:.3f} ({s * 127.5:.0f}/255)" for s in levels]
    elif name == "ct":
        heads = [f"sigma {s:g} ({s * 1000:.0f} HU)" for s in levels]
    else:
        heads = [f"sigma {s:g}" for s in levels]
    rows = ["| signals | method | " + " | ".join(heads) + " |", "|" + " --- |" * (2 + len(levels))]
    for images, entry in results["sets"].items():
        for method, values in entry["psnr"].items():
            label = f"{images} ({entry['count']})"
            rows.append(f"| {label} | {method} | " + " | ".join("-" if v is None else f"{v:.2f}" for v in values) + " |")
    return "\n".join(rows)
