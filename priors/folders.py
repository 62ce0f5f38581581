"""Training data from a folder of a user's own: pictures, DICOM or NIfTI series, or recordings.

What cannot be read is skipped and listed. A tenth of the files (of the patients, where a DICOM series names them) is held
out, and so is whatever lies in a subfolder called val or test.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from invgen.errors import MissingExtraError, OptionError
from invgen.file_scans import nifti_planes
from invgen.priors.datasets import DataError
from invgen.priors.datasets_speech import WaveViews, read_wave
from invgen.priors.recipes import Recipe

SUFFIXES = {
    "images": (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"),
    "volumes": (".dcm", ".ima", ".nii", ".nii.gz"),
    "waves": (".wav",),
}
HELD_OUT = ("val", "validation", "test", "held_out")


class SkippedFiles(UserWarning):
    """Files of a data folder that were left out, and why."""


@dataclass
class Item:
    """What is kept together in a split: a picture, a patient, a recording. Values in the units of the prior."""

    name: str
    values: list[Tensor]
    kept_out: bool = False


@dataclass
class Material:
    """Views of a user's own data."""

    train: Any
    held_out: Any
    sources: list[dict[str, str | int]] = field(default_factory=list)


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
        """(count, C, size, size) float32."""
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
    """The files under the folders by kind: "images", "volumes", "waves". A file without a suffix may be DICOM."""
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
    """The recipe for a folder of a user's own, by what lies in it.

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
    """Views of the files of one kind, split; warns of what was skipped, with the reason of each."""
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
        warnings.warn(f"{len(skipped)} of {len(paths)} files were skipped: {listed}{more}", SkippedFiles, stacklevel=2)
    if not fits:
        raise DataError(f"none of the {len(paths)} files can be used: the first, {skipped[0][0]}: {skipped[0][1]}")
    train, kept = split(fits)
    from invgen.priors.material import digest

    def views(chosen: list[Item]) -> Any:
        values = [v for item in chosen for v in item.values]
        if kind == "waves":
            return WaveViews([v.numpy() for v in values], size)
        return CropViews(values, size)

    def record(name: str, chosen: list[Item]) -> dict[str, str | int]:
        return {"name": name, "count": len(chosen), "sha256": digest(v.numpy().tobytes() for i in chosen for v in i.values)}

    sources = [record(f"{kind} trained on", train)] + ([record(f"{kind} held out", kept)] if kept else [])
    return Material(views(train), views(kept) if kept else None, sources)


def split(items: Sequence[Item], share: float = 0.1) -> tuple[list[Item], list[Item]]:
    """Those to train on and those held out: what lies in a folder val or test, else a tenth drawn once, at least one."""
    kept = [item for item in items if item.kept_out]
    if kept and len(kept) < len(items):
        return [item for item in items if not item.kept_out], kept
    if len(items) < 2:
        return list(items), []
    order = torch.randperm(len(items), generator=Generator().manual_seed(0)).tolist()
    chosen = set(order[: max(1, round(share * len(items)))])
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
    from PIL import Image

    items, skipped = [], []
    for path in paths:
        try:
            with Image.open(path) as file:
                deep = file.mode.startswith(("I", "F"))
                grey = deep or file.mode in ("1", "L", "LA")
                values = np.array(file if deep else file.convert("L" if grey else "RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            skipped.append((path.name, f"not a picture that can be read ({error})"))
            continue
        top = 255.0 if values.dtype == np.uint8 else 65535.0
        if values.dtype.kind == "f" or values.min() < 0 or values.max() > top:
            skipped.append((path.name, "values beyond 16 bits, expected a picture of 8 or 16 bits"))
            continue
        scaled = torch.from_numpy(values.astype(np.float32) / top * 2 - 1)
        items.append(_item(path, [(scaled[None] if grey else scaled.permute(2, 0, 1).contiguous()).half()]))
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
            if path.name.lower().endswith((".nii", ".nii.gz")):
                name, kind, values = path.name, "other", _nifti(path)
            else:
                name, kind, values = _dicom(path)
        except MissingExtraError:
            raise
        except Exception as error:  # a reader of files may fail in any way; the file is listed
            skipped.append((path.name, f"cannot be read ({type(error).__name__}: {error})"))
            continue
        kinds[kind] += 1
        first.setdefault(name, path)
        planes.setdefault(name, []).extend(values)
    if len(kinds) > 1:
        raise DataError(f"the files are of several modalities ({dict(kinds)}): put each into a folder of its own")
    is_ct = "CT" in kinds
    items = []
    for name, values in planes.items():
        if is_ct:
            scaled = [(v / 1000).clip(-1, 1) for v in values]
        else:
            positive = np.concatenate([v[v > 0].ravel()[::7] for v in values])
            top = np.percentile(positive, 99.5) if positive.size else 1.0
            scaled = [(v / top).clip(0, 1) for v in values]
        kept = [
            torch.from_numpy(v.astype(np.float32))[None].half()
            for v in scaled
            if (v > scaled[0].min() + 0.05).mean() > 0.02
        ]
        if kept:
            items.append(_item(first[name], kept, name))
        else:
            skipped.append((name, "all its slices are empty"))
    units = "Hounsfield units / 1000, clipped to [-1, 1]" if is_ct else "intensity / 99.5th percentile of the series"
    return items, skipped, {"units": units, "low": -1.0 if is_ct else 0.0}


def _dicom(path: Path) -> tuple[str, str, list[np.ndarray]]:
    """The patient or series, the kind and the slices of a DICOM file, rescaled as it says."""
    import pydicom
    from pydicom.pixels import apply_rescale

    file = pydicom.dcmread(path)
    values = np.asarray(apply_rescale(file.pixel_array, file), dtype=np.float32)
    if file.get("SamplesPerPixel", 1) != 1:
        raise ValueError("a colour picture, expected one value a pixel")
    patient = str(file.get("PatientID") or file.get("SeriesInstanceUID") or path.parent.name)
    return patient, "CT" if file.get("Modality") == "CT" else "other", list(values.reshape(-1, *values.shape[-2:]))


def _nifti(path: Path) -> list[np.ndarray]:
    """The slices of a NIfTI volume along its last axis; the volumes of a series after each other."""
    volumes, _ = nifti_planes(path)
    return list(volumes.reshape(-1, *volumes.shape[2:]))


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _waves(paths: Sequence[Path]) -> tuple[list[Item], list[tuple[str, str]], dict[str, Any]]:
    items, skipped, rates = [], [], Counter()
    for path in paths:
        try:
            samples, rate = read_wave(path)
        except DataError as error:
            skipped.append((path.name, str(error)))
            continue
        rates[rate] += 1
        items.append(_item(path, [torch.from_numpy(samples)]))
    if len(rates) > 1:
        listed = ", ".join(f"{n} of {rate} Hz" for rate, n in rates.most_common())
        raise OptionError(f"the recordings have several sampling rates ({listed}): resample them to one")
    return items, skipped, {"rate": next(iter(rates), 0), "low": -1.0}
