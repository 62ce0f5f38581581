"""The card next to each shipped prior: what it is, what it was trained on, how good it is; written by code.

    python -m invgen.priors.cards digits --data data/digits                                # figures of the shipped weights
    python -m invgen.priors.cards digits --data data/digits --weights runs/digits/digits.safetensors --images docs/images

The second copies freshly trained weights into the package first. Figures and the manifest go into NAME.json, the card into
NAME.md, a sheet of samples into prior_NAME.png. What is known of the same weights and signals is not computed again.
"""

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

from torch import Tensor

from invgen.diffusion import Denoiser
from invgen.errors import InvgenError, OptionError
from invgen.files.writing import replace
from invgen.priors.cards.baselines import baselines
from invgen.priors.cards.card import card
from invgen.priors.cards.evaluate import LEVELS, STEPS, classes_seen, evaluate, likelihood, two_sample
from invgen.priors.cards.judges import object_judge, spoken_judge
from invgen.priors.cards.texts import DATA, PACKAGES, SPLITS
from invgen.priors.checkpoints.networks.unet import LabelDenoiser
from invgen.priors.data.held_out import held_out, held_out_views
from invgen.priors.data.views import open_views, signals
from invgen.priors.load import WEIGHTS, load, metadata
from invgen.priors.recipes import DISTILLED, RECIPES
from invgen.priors.training.log import draw_samples, save_sheet, sheet

ORDER = ("noisy", "Wiener", "spectral Wiener", "BM3D", "DnCNN")  # of the rows; the prior comes last
# Every how-many-th signal of a large set is denoised: BM3D takes seconds to a minute for each.
THIN = {"BSDS500 val": 20, "lung1": 4}
THIN_TEST_SET = {"digits": 20, "clothing": 400, "cifar": 400, "spoken-digits": 4}
JUDGES = {"cifar": object_judge, "spoken-digits": spoken_judge}  # of the class of samples, other networks
LARGE = 64 * 64  # values from which a signal costs so much that fewer of them are drawn and integrated


def publish(
    name: str,
    data: Sequence[Path | str] | Path | str,
    weights: Path | str | None = None,
    folder: Path = WEIGHTS,
    images: Path | None = None,
    count: int | None = None,
    again: bool = False,
) -> Path:
    """Writes the figures, the manifest and the card of a prior; returns the path of the card.

    Args:
        name: of the prior.
        data: the folders that it was trained on, which hold the test signals too.
        weights: copied to FOLDER/NAME.safetensors first; those that are there, if None.
        images: the folder of the sheet of samples, prior_NAME.png; none is drawn if None.
        count: how many samples the two-sample test draws, at most as many as there are held-out signals; by default 150,
            64 of large signals, or 40 of an autoregressive prior.
        again: compute everything, also what is stored of the same weights and signals.
    """
    folders = [data] if isinstance(data, (str, Path)) else list(data)
    family = _family(name)
    if name not in DATA:
        raise OptionError(
            f"no card for a prior '{name}': its data and limits are not described; there are {', '.join(DATA)}"
        )
    if weights is not None:
        replace(folder / f"{name}.safetensors", lambda path: shutil.copyfile(weights, path))
    prior = load(folder / f"{name}.safetensors")
    found, more = _stored(name, folder), {}
    known = {} if again or not _same_weights(name, folder, found) else found
    large = prior.shape.numel() >= LARGE
    count = count or (40 if hasattr(prior, "next_logits") else 64 if large else 150)
    kept = held_out_views(family, folders, prior.shape, count)
    jumps = isinstance(prior, Denoiser) and prior.consistency
    if "two_sample" not in known:
        of_its_size = replaced(RECIPES[family], crop=None)  # training may show more around them
        views = signals(open_views(of_its_size, folders)[0], max(2 * len(kept), 600), 2)
        more["two_sample"] = two_sample(draw_samples(prior, len(kept), seed=1), kept, views)
        if jumps:  # beside two jumps a single one, and the teacher
            rows = {"one jump": (prior, 1), f"the teacher, `{DISTILLED[name].teacher}`": (load(DISTILLED[name].teacher), 0)}
            drawn = {title: draw_samples(p, len(kept), seed=1, jumps=count) for title, (p, count) in rows.items()}
            more["two_sample"]["beside"] = {title: two_sample(x, kept, views) for title, x in drawn.items()}
    if "likelihood" not in known and not name.endswith("-gan") and not jumps:
        number = 16 if isinstance(prior, Denoiser) else 500
        more["likelihood"] = likelihood(prior, kept[:number], STEPS[family], steps=16 if large else 32)
    if family in JUDGES and isinstance(prior, LabelDenoiser) and "classes" not in known:
        other = JUDGES[family](Path(folders[0]))
        more["classes"] = {"judge": round(other.accuracy, 3), "seen": classes_seen(prior, other)}
    if images is not None:
        save_sheet(sheet(prior), images / f"prior_{name}.png", zoom=2 if prior.shape[-1] <= 64 else 1)
    return judge(name, _test_sets(family, folders), folder, more, again)


def _family(name: str) -> str:
    """Returns the name of the recipe whose data a prior was trained on."""
    return name if name in RECIPES else name.split("-")[0]


def _test_sets(family: str, folders: Sequence[Path | str]) -> dict[str, list[Tensor]]:
    """Returns the held-out signals to denoise, large sets thinned out, and once more whole for the fast methods."""
    whole = held_out(family, folders)
    thin = THIN | {"test set": THIN_TEST_SET.get(family, 1)}
    sets = {name: values[:: thin.get(name, 1)] for name, values in whole.items()}
    if family == "photo" and "BSDS500 val" in whole:
        sets["BSDS500 val, all"] = whole["BSDS500 val"]
    return sets


def judge(
    name: str,
    sets: Mapping[str, Sequence[Tensor]],
    folder: Path = WEIGHTS,
    more: Mapping[str, Any] | None = None,
    again: bool = False,
) -> Path:
    """Denoise held-out signals by a prior and by the baselines at hand; store the figures, write the manifest and the card.

    A row that is stored for as many signals stays, unless `again`: those of baselines, and the prior's if its weights are
    the same.

    Args:
        name: of the prior.
        sets: the held-out signals, by name.
        folder: of the weights and the card.
        more: figures of other kinds, "likelihood", "two_sample" and "classes"; without them those of the same weights stay.
        again: whether to compute stored rows again.

    Returns:
        The path of the card.
    """
    found, path = _stored(name, folder), folder / f"{name}.safetensors"
    same, prior = _same_weights(name, folder, found), load(path)
    results = {}
    for title, values in sets.items() if isinstance(prior, Denoiser) and not prior.consistency else ():
        old = found.get("sets", {}).get(title, {})
        rows = dict(old["psnr"]) if old.get("count") == len(values) and not again else {}
        if not same:
            rows.pop(f"prior `{name}`", None)
        methods = baselines(len(prior.shape) == 2, prior.value_range, len(values)) | {f"prior `{name}`": prior}
        todo = {method: f for method, f in methods.items() if method not in rows}
        entry = evaluate(todo, {title: values}, LEVELS[name], value_range=prior.value_range)[title]
        rows |= entry["psnr"]
        results[title] = {"count": len(values), "psnr": {m: rows[m] for m in (*ORDER, f"prior `{name}`") if m in rows}}
    kept = {key: found[key] for key in ("likelihood", "two_sample", "classes") if same and key in found} | dict(more or {})
    about = {"manifest": manifest(name, folder), "sigma": LEVELS.get(name, ()), "sets": results} | kept
    replace(folder / f"{name}.json", lambda path: path.write_text(json.dumps(about, indent=1) + "\n"))
    replace(folder / f"{name}.md", lambda path: path.write_text(card(name, folder)))
    return folder / f"{name}.md"


def _stored(name: str, folder: Path) -> dict[str, Any]:
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _digest(name: str, folder: Path) -> str:
    return hashlib.sha256((folder / f"{name}.safetensors").read_bytes()).hexdigest()


def _same_weights(name: str, folder: Path, found: Mapping[str, Any]) -> bool:
    return found.get("manifest", {}).get("weights_sha256") == _digest(name, folder)


def manifest(name: str, folder: Path = WEIGHTS) -> dict[str, Any]:
    """Returns the origin of a prior: packages with versions and licences, checksums, split, seed, steps."""
    training, family = metadata(folder / f"{name}.safetensors")["training"], _family(name)
    facts = {key: training[key] for key in ("seed", "steps", "minutes", "device", "torch") if key in training}
    return facts | {
        "weights_sha256": _digest(name, folder),
        "packages": PACKAGES.get(family, []),
        "split": SPLITS.get(family, ""),
        "sources": training["sources"],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the command; 2 where one sentence on stderr says what was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m invgen.priors.cards",
        description="Judges a prior on held-out signals and writes its card, its figures and its manifest.",
    )
    parser.add_argument("name", help=", ".join(DATA))
    parser.add_argument("--data", action="append", required=True, help="a folder that it was trained on; repeatable")
    parser.add_argument("--weights", type=Path, help="newly trained weights, copied into the package first")
    parser.add_argument("--images", type=Path, help="the folder of the sheet of samples, docs/images here")
    parser.add_argument("--count", type=int, help="samples drawn for the two-sample test")
    parser.add_argument("--again", action="store_true", help="compute everything again")
    parser.add_argument("--folder", type=Path, default=WEIGHTS, help="of weights and cards; the package's own by default")
    options = parser.parse_args(arguments)
    try:
        path = publish(
            options.name, options.data, options.weights, options.folder, options.images, options.count, options.again
        )
    except (InvgenError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(path.read_text())
    return 0
