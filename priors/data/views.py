"""The training data of a recipe: views to train on, views held out, and a record of where they came from."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Generator, Tensor

from invgen.errors import OptionError
from invgen.priors.data.captioned import CaptionedViews, captioned, embeddings
from invgen.priors.data.ct import CTViews, ct_slices
from invgen.priors.data.folders import Material, Source, digest, read_folders
from invgen.priors.data.labelled import LabelledViews, labelled
from invgen.priors.data.mr import MRViews, heads
from invgen.priors.data.photographs import PhotoViews, photographs
from invgen.priors.data.speech import WaveViews, read_wave, sentences
from invgen.priors.data.spoken import SpokenViews, recordings
from invgen.priors.recipes import Recipe


class Views(Protocol):
    """Training data: random views of it."""

    def batch(self, count: int, generator: Generator) -> Tensor | tuple[Tensor, ...]:
        """Returns (count, *shape) in the units of the prior, and labels (count,) and vectors (count, V) where there are
        some."""
        ...


def open_views(recipe: Recipe, folders: Sequence[Path | str]) -> tuple[Views, Views | None, list[Source]]:
    """Returns views to train on, held-out views where there are some, and a record: names, counts, SHA-256 of files or
    values.

    Folders of a user's own (recipes "images", "volumes", "waves") give up a tenth of their files; the shipped recipes hold
    out what `priors/datasets*.py` name, and watch the part of it that is not their test set, if there is one.
    """
    if not folders:
        raise OptionError(
            f"recipe '{recipe.name}' needs data: pass folders with --data; `invgen data` fetches what is public, see "
            "docs/data.md"
        )
    return READERS[recipe.data](recipe, [Path(folder) for folder in folders])


def signals(views: Views, count: int, seed: int) -> Tensor:
    """Returns (count, *shape) views, without labels."""
    batch = views.batch(count, Generator().manual_seed(seed))
    return batch[0] if isinstance(batch, tuple) else batch


def _photo(recipe: Recipe, folders: list[Path]) -> tuple[Views, Views | None, list[Source]]:
    paths = {folder: photographs(folder) for folder in folders}
    views = PhotoViews([p for part in paths.values() for p in part], recipe.crop or recipe.shape[-1])
    return views, None, _files(paths)


def _labelled(recipe: Recipe, folders: list[Path]) -> tuple[Views, Views | None, list[Source]]:
    parts = {folder: labelled(folder) for folder in folders}
    images, labels = (torch.cat(part) for part in zip(*parts.values(), strict=True))
    kept = [labelled(folder, "test") for folder in folders]
    pictures, classes = (torch.cat(part) for part in zip(*kept, strict=True))
    sources = [_source(folder.name, len(part[0]), [part[0].numpy().tobytes()]) for folder, part in parts.items()]
    return LabelledViews(images, labels, recipe.warp), LabelledViews(pictures, classes), sources


def _captioned(recipe: Recipe, folders: list[Path]) -> tuple[Views, Views | None, list[Source]]:
    texts, parts = embeddings(), [captioned(folder) for folder in folders]
    images, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    pictures, classes = (torch.cat(part) for part in zip(*(captioned(f, "test") for f in folders), strict=True))
    sources = [_source(f.name, len(part[0]), [part[0].numpy().tobytes()]) for f, part in zip(folders, parts, strict=True)]
    return CaptionedViews(images, labels, texts), CaptionedViews(pictures, classes, texts, mirror=False), sources


def _spoken(recipe: Recipe, folders: list[Path]) -> tuple[Views, Views | None, list[Source]]:
    parts = {folder: recordings(folder) for folder in folders}
    kept = [recordings(folder, "test") for folder in folders]
    sources = [_source(folder.name, len(part[0]), [part[0].numpy().tobytes()]) for folder, part in parts.items()]
    (waves, digits, speakers), test = (
        tuple(torch.cat(part) for part in zip(*of, strict=True)) for of in (parts.values(), kept)
    )
    return SpokenViews(waves, digits, speakers), SpokenViews(test[0], test[1], test[2], shift=False), sources


def _speech(recipe: Recipe, folders: list[Path]) -> tuple[Views, Views | None, list[Source]]:
    files = {folder: sentences(folder) for folder in folders}
    recordings = [read_wave(p, 16_000)[0] for part in files.values() for p in part]
    kept = [read_wave(p, 16_000)[0] for folder in folders for p in sentences(folder, "validation")]
    return WaveViews(recordings, recipe.shape[-1]), WaveViews(kept, recipe.shape[-1]), _files(files)


def _mr(recipe: Recipe, folders: list[Path]) -> tuple[Views, Views | None, list[Source]]:
    volumes: dict[str, Any] = {}
    for folder in folders:
        volumes.update(heads(folder))
    sources = [_source(head, len(volume), [volume.tobytes()]) for head, (volume, _) in volumes.items()]
    return MRViews(volumes, recipe.shape[-1]), None, sources


def _ct(recipe: Recipe, folders: list[Path]) -> tuple[Views, Views | None, list[Source]]:
    slices: dict[str, np.ndarray] = {}
    for folder in folders:
        slices.update(ct_slices(folder, "train"))
    sources = [_source(patient, len(volume), [volume.tobytes()]) for patient, volume in slices.items()]
    return CTViews(slices, recipe.shape[-1]), None, sources


def _own(recipe: Recipe, folders: list[Path]) -> tuple[Views, Views | None, list[Source]]:
    material: Material = read_folders(folders, recipe.data, recipe.shape)
    return material.train, material.held_out, material.sources


READERS = {"photo": _photo, "labelled": _labelled, "captioned": _captioned, "speech": _speech, "mr": _mr, "ct": _ct}
READERS["spoken"] = _spoken
READERS |= dict.fromkeys(("images", "volumes", "waves"), _own)


def _files(paths: dict[Path, list[Path]]) -> list[Source]:
    return [_source(folder.name, len(part), (path.read_bytes() for path in part)) for folder, part in paths.items()]


def _source(name: str, count: int, parts: Iterable[bytes]) -> Source:
    return {"name": name, "count": count, "sha256": digest(parts)}
