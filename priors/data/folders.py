"""Training data from a folder of a user's own: pictures, DICOM or NIfTI series, or recordings, read as `files.read` does.

What cannot be read is skipped and listed. A tenth of the files (of the patients, where a DICOM series names them) is held
out, and so is whatever lies in a subfolder called val or test.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Generator, Tensor

from invgen.errors import FileError, MissingExtraError, OptionError
from invgen.files import sound
from invgen.files.pictures import read_picture
from invgen.files.scans import ends, mapped, read_scan
from invgen.messages import warn
from invgen.priors.data.readable import DataError
from invgen.priors.data.speech import WaveViews
from invgen.priors.recipes import Recipe

SUFFIXES = {
    "images": (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"),
    "volumes": (".dcm", ".ima", ".nii", ".nii.gz"),
    "waves": sound.SUFFIXES,
}
SCALES = {  # of scans (`invgen.files.scans`): what the values of a prior trained on them are
    "HU": "Hounsfield units / 1000, clipped to [-1, 1]",
    "magnitude": "intensity / 99.5th percentile of the series",
    "grey": "intensity, from the 0.5th to the 99.5th percentile of the series",
    "unit": "RGB in [0, 1], 0 is black",
}
HELD_OUT = ("val", "validation", "test", "held_out")


class SkippedFiles(UserWarning):
    """Files of a data folder that were left out, and why."""


@dataclass
class Item:
    """A unit of a split: a picture, a patient, a recording. Values in the units of the prior."""

    name: str
    values: list[Tensor]
    kept_out: bool = False


class Source(TypedDict):
    """Some of the data of a training, as its record has it: how many files or signals, and their SHA-256."""

    name: str
    count: int
    sha256: str


@dataclass
class Material:
    """Views of a user's own data."""

    train: Any
    held_out: Any
    sources: list[Source] = field(default_factory=list)


class CropViews:
    """Random crops of images (C, H, W) at full and at half size, mirrored at random; in the units of the images."""

    def __init__(self, images: Sequence[Tensor], size: int, mirror: bool = True) -> None:
        self.size, self.mirror = size, mirror
        self.images = list(images)
        for image in images:
            if min(image.shape[1:]) >= 2 * size:
                self.images.append(torch.nn.functional.avg_pool2d(image[None].float(), 2)[0].to(image.dtype))
        self.weights = torch.tensor([float(image[0].numel()) for image in self.images], dtype=torch.float64).sqrt()

    def batch(self, count: int, generator: Generator) -> Tensor:
        """Returns (count, C, size, size) float32."""
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator).tolist()
        places = torch.rand(count, 3, generator=generator).tolist()
        crops = []
        for index, (a, b, turn) in zip(chosen, places, strict=True):
            image = self.images[index]
            top, left = (int(u * (n - self.size + 1)) for u, n in zip((a, b), image.shape[1:], strict=True))
            crop = image[:, top : top + self.size, left : left + self.size].float()
            crops.append(crop.flip(2) if self.mirror and turn < 0.5 else crop)
        return torch.stack(crops)


def find(folders: Sequence[Path | str]) -> dict[str, list[Path]]:
    """Returns the files under the folders by kind: "images", "volumes", "waves". A file without a suffix may be DICOM."""
    found: dict[str, list[Path]] = {kind: [] for kind in SUFFIXES}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise DataError(
                f"there is no folder {folder}: --data takes a folder of pictures, DICOM or NIfTI files, or .wav"
            )
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
            name = path.name.lower()
            for kind, suffixes in SUFFIXES.items():
                if name.endswith(suffixes):
                    found[kind].append(path)
            if not path.suffix and _is_dicom(path):
                found["volumes"].append(path)
    return found


def recipe_for(folders: Sequence[Path | str], name: str = "own", size: int | None = None) -> Recipe:
    """Returns the recipe for a folder of a user's own, by what lies in it.

    size: side of a view in pixels or samples; 64 for pictures, 128 for slices, 8192 for recordings if left out, and less
    where the data is smaller.

    Raises:
        DataError: nothing to train on, files of several kinds, grey and colour pictures or different modalities together.
    """
    found = find(folders)
    kinds = [kind for kind, paths in found.items() if paths]
    if not kinds:
        wanted = "; ".join(f"{kind} ({', '.join(suffixes)})" for kind, suffixes in SUFFIXES.items())
        raise DataError(f"nothing to train on under {', '.join(map(str, folders))}: expected {wanted}")
    if len(kinds) > 1:
        counts = ", ".join(f"{len(found[kind])} {kind}" for kind in kinds)
        raise DataError(f"the folder holds files of several kinds ({counts}): put each kind into a folder of its own")
    (kind,) = kinds
    items, _, about = _read(kind, found[kind])
    channels = items[0].values[0].shape[0]
    if kind == "waves":
        length = size or min(8192, max(256, min(v.shape[-1] for i in items for v in i.values) // 256 * 256))
        sigma = {"log_sigma_mean": -3.2, "log_sigma_std": 1.7, "sigma_min": 3e-4, "sigma_max": 10.0, "embedding": 64}
        sigma["sampling_rate"] = float(about["rate"])
        units = f"waveform of {about['rate']} Hz, full scale is 1"
        return Recipe(name, (channels, length), (64, 88, 112, 128), 1, 8, units, batch=16, data=kind, **sigma)
    sides = sorted(min(v.shape[1:]) for i in items for v in i.values)
    side = size or min(64 if kind == "images" else 128, sides[len(sides) // 10] // 8 * 8)
    if side < 8:
        raise DataError("the pictures are too small to train on: a tenth of them has a side of less than 8 pixels")
    widths, fold = ((64, 96, 128), 2) if side <= 64 else ((64, 96, 160), 4)
    facts: dict[str, Any] = {} if about["low"] < 0 else {"value_range": (0.0, 1.0), "log_sigma_mean": -1.9}
    return Recipe(name, (channels, side, side), widths, 2, fold, about["units"], data=kind, **facts)


def read_folders(folders: Sequence[Path | str], kind: str, shape: Sequence[int]) -> Material:
    """Returns views of the files of one kind, split; warns of what was skipped, with the reason of each."""
    paths = find(folders)[kind]
    if not paths:
        raise DataError(f"no {kind} ({', '.join(SUFFIXES[kind])}) under {', '.join(map(str, folders))}")
    items, skipped, _ = _read(kind, paths)
    size, fits = shape[-1], []
    for item in items:
        values = [v for v in item.values if v.shape[0] == shape[0] and min(v.shape[1:]) >= size]
        if values:
            fits.append(Item(item.name, values, item.kept_out))
        else:
            sides = " x ".join(map(str, item.values[0].shape))
            skipped.append((item.name, f"{sides}, expected {shape[0]} channels and sides of at least {size}"))
    if skipped:
        listed = "; ".join(f"{name}: {reason}" for name, reason in skipped[:10])
        more = f"; and {len(skipped) - 10} more" if len(skipped) > 10 else ""
        warn(f"{len(skipped)} of {len(paths)} files were skipped: {listed}{more}", SkippedFiles)
    if not fits:
        raise DataError(f"none of the {len(paths)} files can be used: the first, {skipped[0][0]}: {skipped[0][1]}")
    train, kept = split(fits)

    def views(chosen: list[Item]) -> Any:
        values = [v for item in chosen for v in item.values]
        if kind == "waves":
            return WaveViews([v.numpy() for v in values], size)
        return CropViews(values, size)

    def record(name: str, chosen: list[Item]) -> Source:
        return {"name": name, "count": len(chosen), "sha256": digest(v.numpy().tobytes() for i in chosen for v in i.values)}

    sources = [record(f"{kind} trained on", train)] + ([record(f"{kind} held out", kept)] if kept else [])
    return Material(views(train), views(kept) if kept else None, sources)


def split(items: Sequence[Item], fraction: float = 0.1) -> tuple[list[Item], list[Item]]:
    """Those to train on and those held out: what lies in a folder val or test, else a tenth drawn once, at least one."""
    kept = [item for item in items if item.kept_out]
    if kept and len(kept) < len(items):
        return [item for item in items if not item.kept_out], kept
    if len(items) < 2:
        return list(items), []
    order = torch.randperm(len(items), generator=Generator().manual_seed(0)).tolist()
    chosen = set(order[: max(1, round(fraction * len(items)))])
    return [i for k, i in enumerate(items) if k not in chosen], [i for k, i in enumerate(items) if k in chosen]


def _read(kind: str, paths: Sequence[Path]) -> tuple[list[Item], list[tuple[str, str]], dict[str, Any]]:
    readers = {"images": _images, "volumes": _volumes, "waves": _waves}
    items, skipped, about = readers[kind](paths)
    if not items:
        raise DataError(f"none of the {len(paths)} files can be read: the first, {skipped[0][0]}: {skipped[0][1]}")
    channels = Counter(v.shape[0] for item in items for v in item.values)
    if len(channels) > 1:
        first = {c: next(i.name for i in items if i.values[0].shape[0] == c) for c in channels}
        listed = ", ".join(f"{n} with {c} ({first[c]} ...)" for c, n in channels.most_common())
        raise DataError(f"the files differ in their number of channels, {listed}: put each kind into a folder of its own")
    return items, skipped, about


def _item(path: Path, values: list[Tensor], name: str | None = None) -> Item:
    return Item(name or path.name, values, any(part.lower() in HELD_OUT for part in path.parts[:-1][-3:]))


def _images(paths: Sequence[Path]) -> tuple[list[Item], list[tuple[str, str]], dict[str, Any]]:
    items, skipped = [], []
    for path in paths:
        try:
            signal = read_picture(path)
        except (FileError, MissingExtraError) as error:
            skipped.append((path.name, f"not a picture that can be read ({error})"))
            continue
        if signal.units != "unit":
            skipped.append((path.name, f"{signal.notes[-1]}, expected a picture of 8 or 16 bits"))
            continue
        pictures = (signal.values * 2 - 1).half()
        pages = pictures if signal.volume else [pictures]
        items.append(_item(path, [page if page.ndim == 3 else page[None] for page in pages]))
    colour = bool(items) and items[0].values[0].shape[0] == 3
    units = "RGB in [-1, 1], -1 is black" if colour else "grey level in [-1, 1], -1 is black"
    return items, skipped, {"units": units, "low": -1.0}


def _volumes(paths: Sequence[Path]) -> tuple[list[Item], list[tuple[str, str]], dict[str, Any]]:
    skipped: list[tuple[str, str]] = []
    planes: dict[str, list[np.ndarray]] = {}
    first: dict[str, Path] = {}
    kinds: Counter[str] = Counter()
    for path in paths:
        try:
            scan = read_scan(path, all_volumes=True)
            if scan.scale not in SCALES:
                raise FileError(f"{path} holds complex values, expected real ones")
        except FileError as error:
            skipped.append((path.name, f"cannot be read ({error})"))
            continue
        kinds[scan.scale] += 1
        name = scan.patient or (path.name if ".nii" in path.name.lower() else path.parent.name)
        first.setdefault(name, path)
        planes.setdefault(name, []).append(scan.values)
    if len(kinds) > 1:
        listed = ", ".join(f"{n} in {SCALES[scale]}" for scale, n in kinds.most_common())
        raise DataError(f"the files are of several modalities ({listed}): put each into a folder of its own")
    scale = next(iter(kinds), "magnitude")
    items = []
    for name, values in planes.items():
        try:
            low, high = ends(values, scale)
        except FileError as error:
            skipped.append((name, str(error)))
            continue
        if scale == "HU":
            scaled = [(v / 1000).clip(-1, 1) for v in values]
        else:
            scaled = [mapped(v, scale, low, high) for v in values]
        least = min(float(v.min()) for v in scaled) + 0.05
        kept = [
            torch.from_numpy(plane.astype(np.float32)).reshape(-1, *plane.shape[-2:]).half()
            for v in scaled
            for plane in v
            if (plane > least).mean() > 0.02
        ]
        if kept:
            items.append(_item(first[name], kept, name))
        else:
            skipped.append((name, "all its slices are empty"))
    return items, skipped, {"units": SCALES[scale], "low": -1.0 if scale == "HU" else 0.0}


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _waves(paths: Sequence[Path]) -> tuple[list[Item], list[tuple[str, str]], dict[str, Any]]:
    items, skipped, rates = [], [], Counter()
    for path in paths:
        try:
            samples, rate = sound.read_wave(path)
        except FileError as error:
            skipped.append((path.name, str(error)))
            continue
        rates[rate] += 1
        items.append(_item(path, [torch.from_numpy(samples)]))
    if len(rates) > 1:
        listed = ", ".join(f"{n} of {rate} Hz" for rate, n in rates.most_common())
        raise OptionError(f"the recordings have several sampling rates ({listed}): resample them to one")
    return items, skipped, {"rate": next(iter(rates), 0), "low": -1.0}


def digest(parts: Iterable[bytes]) -> str:
    """Returns SHA-256 of all parts, one after the other."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()
