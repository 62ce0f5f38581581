"""The one home of held-out signals: what no shipped prior was trained on, for cards, suites, the demo and the examples.

`held_out` and `held_out_views` are in the units of the priors, `shipped` has what the suites call "photo", "ct", "mr", ...
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from invgen.errors import FileError, InvgenError, OptionError
from invgen.files import Signal
from invgen.priors.data.captioned import captioned
from invgen.priors.data.ct import CTViews, ct_slices
from invgen.priors.data.fetch import data_folder
from invgen.priors.data.labelled import labelled
from invgen.priors.data.mr import MRViews, heads, normalised
from invgen.priors.data.photographs import PhotoViews, photographs, read_picture
from invgen.priors.data.readable import DataError
from invgen.priors.data.speech import WaveViews, read_wave, sentences
from invgen.priors.data.spoken import pictures, recordings
from invgen.priors.data.views import Views, signals


def held_out(recipe: str, folders: Sequence[Path | str] = ()) -> dict[str, list[Tensor]]:
    """Test signals in the prior's units, none of them trained on: {set: [(C, H, W) or (1, L)]}.

    "photo": the centres, 256 x 256, of four photographs of scikit-image, and the pictures of FOLDER/**/val (BSDS500's),
    whole. "ct": pydicom's CT_small at full resolution, and the held-out patients of FOLDER/**.npz averaged to 128 x 128.
    "mr": matplotlib's sagittal head s1045, and the held-out head of FOLDER/**.npz (brain2), averaged to 128 x 128.
    "digits", "clothing", "cifar", "spoken-digits": the test set in FOLDER. "speech": one second from the middle of each
    test sentence in FOLDER.
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
        from pydicom.pixels.processing import apply_rescale

        sets["pydicom CT_small"] = [_hounsfield(apply_rescale(examples.ct.pixel_array, examples.ct), 128)]
        for patient, volume in _merged(ct_slices, folders).items():
            name = "lung1" if patient == "lung1" else "COVID-19-NY-SBU"
            sets.setdefault(name, []).extend(_hounsfield(plane, 128) for plane in volume)
    elif recipe == "mr":
        sets["matplotlib s1045"] = [_halved(normalised(_sagittal()))]
        for name, (volume, _) in _merged(heads, folders).items():
            sets[name] = [_halved(plane) for plane in normalised(volume)]
    elif recipe in ("digits", "clothing", "cifar"):
        for folder in folders:
            sets.setdefault("test set", []).extend(held_out_pictures(recipe, folder))
    elif recipe == "spoken-digits":
        for folder in folders:
            sets.setdefault("test recordings", []).extend(pictures(recordings(folder, "test")[0]))
    elif recipe == "speech":
        for folder in folders:
            seconds = [_middle(read_wave(p, 16_000)[0], 16_000) for p in sentences(folder, "test")]
            sets.setdefault("test sentences", []).extend(seconds)
    else:
        raise OptionError(f"no held-out signals for recipe '{recipe}'; there are: {', '.join(RECIPES)}")
    return sets


def held_out_views(recipe: str, folders: Sequence[Path | str], shape: Sequence[int], count: int) -> Tensor:
    """Returns held-out signals, of the kind of random views that the prior was trained on: (count or fewer, *shape).

    Pictures of digits and clothing are as they are, none of them twice.

    Args:
        recipe: its name.
        folders: of the data.
        shape: of one signal.
        count: at most so many.
    """
    views: Views
    if recipe in ("digits", "clothing", "cifar"):
        kept = torch.cat([held_out_pictures(recipe, folder) for folder in folders])
        return kept[torch.randperm(len(kept), generator=torch.Generator().manual_seed(0))][:count]
    if recipe == "spoken-digits":
        kept = torch.cat([pictures(recordings(folder, "test")[0]) for folder in folders])
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
        raise OptionError(f"no held-out signals for recipe '{recipe}'; there are: {', '.join(RECIPES)}")
    return signals(views, count, 3)


def held_out_pictures(recipe: str, folder: Path | str) -> Tensor:
    """Returns the test set of "digits", "clothing" or "cifar", (N, C, 32, 32) in [-1, 1]."""
    return captioned(folder, "test")[0] / 127.5 - 1 if recipe == "cifar" else labelled(folder, "test")[0]


def _validation(folders: Sequence[Path | str]) -> list[Path]:
    return [p for folder in folders for p in photographs(folder, leave_out=()) if p.parent.name == "val"]


def _merged(read: Callable[[Path | str, str], dict[str, Any]], folders: Sequence[Path | str]) -> dict[str, Any]:
    """Returns the held-out part of all folders; one of them may have none."""
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
    """Returns (H, W, 3) uint8 -> (3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 127.5 - 1


def _centre(picture: np.ndarray, size: int) -> np.ndarray:
    top, left = ((n - size) // 2 for n in picture.shape[:2])
    return picture[top : top + size, left : left + size]


def _hounsfield(plane: np.ndarray, size: int) -> Tensor:
    """Returns (H, W) in HU -> (1, size, size) in HU / 1000, averaged over blocks and clipped to [-1, 1]."""
    values = torch.as_tensor(np.asarray(plane, dtype=np.float32))[None] / 1000
    return F.avg_pool2d(values, values.shape[-1] // size).clamp(-1, 1)


def _halved(plane: np.ndarray) -> Tensor:
    return F.avg_pool2d(torch.from_numpy(plane.astype(np.float32))[None], 2)


def _sagittal() -> np.ndarray:
    """Returns the magnitude image s1045 of matplotlib's sample data, 256 x 256."""
    import gzip

    from matplotlib import cbook

    raw = Path(cbook.get_sample_data("s1045.ima.gz", asfileobj=False)).read_bytes()  # unpacked or not, as it likes
    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    return np.frombuffer(raw, "<u2").reshape(256, 256).astype(np.float32)


def _middle(samples: np.ndarray, length: int) -> Tensor:
    start = max((samples.shape[-1] - length) // 2, 0)
    return torch.from_numpy(samples[:, start : start + length].copy())


def held_out_photographs() -> dict[str, Tensor]:
    """Returns four photographs that come with scikit-image, which no shipped prior has seen: (3, 128, 128) in [-1, 1]
    each."""
    from skimage import data
    from skimage.transform import downscale_local_mean

    def crop(image: np.ndarray, row: int, column: int, factor: int = 2) -> Tensor:
        square = image[row : row + 128 * factor, column : column + 128 * factor, :3] / 127.5 - 1
        return torch.tensor(downscale_local_mean(square, (factor, factor, 1)), dtype=torch.float32).movedim(-1, 0)

    face, cat = crop(data.astronaut(), 0, 96), crop(data.chelsea(), 20, 100)
    return {"face": face, "cat": cat, "cup": crop(data.coffee(), 60, 200), "spoon": crop(data.coffee(), 140, 330)}


def held_out_slices() -> dict[str, tuple[Tensor, float]]:
    """Returns CT slices of patients that no shipped prior has seen: (128, 128) in Hounsfield units, and the size of a
    pixel in mm.

    pydicom's CT_small, and lung1 where `invgen data ct` has fetched it.
    """
    return {name: (hu, pixel) for name, hu, pixel in (_dicom_slice(), *_reduced_slice())}


def _dicom_slice() -> tuple[str, Tensor, float]:
    from pydicom import examples

    scan = examples.ct
    hu = torch.tensor(scan.pixel_array * float(scan.RescaleSlope) + float(scan.RescaleIntercept), dtype=torch.float32)
    return "CT_small", hu, float(scan.PixelSpacing[0])


def _reduced_slice() -> Iterator[tuple[str, Tensor, float]]:
    """Yields a slice of the held-out patient lung1, reduced to 128x128, where `invgen data ct` has fetched it."""
    import numpy as np

    path = data_folder() / "ct" / "pyradiomics.npz"
    if not path.exists():
        return
    with np.load(path) as file:
        volume, spacing = file["lung1"], float(file["lung1_spacing_mm"][0])
    hu = torch.tensor(volume[len(volume) // 2], dtype=torch.float32).reshape(128, 4, 128, 4).mean((1, 3))
    yield "lung1", hu, 4 * spacing


RECIPES = ("photo", "ct", "mr", "digits", "clothing", "cifar", "spoken-digits", "speech")
EXCERPT = 8192  # samples: the loudest piece of that length is in the middle of a shipped recording


def shipped(kind: str) -> dict[str, Signal]:
    """Returns a held-out set: "photo" (scikit-image's photographs), "ct" (pydicom's slice, and lung1 where it was
    fetched), "mr"
    (matplotlib's sagittal head, and eight slices of brain2 where they were fetched), "digits" and "clothing" (five of each
    class of the test sets), "speech" (test sentences, their loudest half second in the middle).

    Raises:
        FileError: the set has to be fetched first, and by which command.
    """
    from invgen.priors.data.fetch import data_folder

    return _shipped(kind, data_folder())


@lru_cache(maxsize=8)
def _shipped(kind: str, folder: Path) -> dict[str, Signal]:
    try:
        return MAKERS[kind](folder / kind)
    except InvgenError as error:
        raise FileError(
            f"the held-out signals {kind!r} are not in {folder / kind}; fetch them with `invgen data {kind}`, or set "
            f"INVGEN_DATA to the folder that has {kind}/"
        ) from error


def _photographs(folder: Path) -> dict[str, Signal]:
    return {name: Signal((x + 1) / 2, "unit") for name, x in held_out_photographs().items()}


def _slices(folder: Path) -> dict[str, Signal]:
    return {name: Signal(hu[None], "HU", (mm, mm)) for name, (hu, mm) in held_out_slices().items()}


def _heads(folder: Path) -> dict[str, Signal]:
    from invgen.priors.data.held_out import held_out

    found = {"s1045": Signal(held_out("mr")["matplotlib s1045"][0].float(), "unit")}
    if (folder / "pyradiomics.npz").is_file():
        planes = held_out("mr", [folder])["brain2"]
        full = [k for k, plane in enumerate(planes) if (plane > 0.1).float().mean() > 0.08]  # as in training
        chosen = [full[round(k)] for k in np.linspace(0, len(full) - 1, 8)]
        found |= {f"brain2-{k}": Signal(planes[k].float(), "unit") for k in chosen}
    return found


def _labelled(folder: Path) -> dict[str, Signal]:
    """Returns five of each class, the classes by turns, so that a limit takes all of them."""
    images, labels = labelled(folder, "test")
    of_class = {int(label): torch.nonzero(labels == label).flatten()[:5].tolist() for label in labels.unique()}
    turns = [(label, k) for k in range(5) for label, found in of_class.items() if k < len(found)]
    return {f"{label}-{k}": Signal((images[of_class[label][k]] + 1) / 2, "unit") for label, k in turns}


def _sentences(folder: Path) -> dict[str, Signal]:
    return {path.stem: _loudest(*read_wave(path)) for path in sentences(folder, "test")}


def _loudest(samples: np.ndarray, rate: int) -> Signal:
    """Returns a recording cut at one end, so that the excerpt of most energy is in its middle."""
    length = samples.shape[1]
    energy = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64).mean(0) ** 2)])
    width = min(EXCERPT, length)
    centre = int(np.argmax(energy[width:] - energy[:-width])) + width // 2
    half = max(min(centre, length - centre), width // 2)
    return Signal(torch.from_numpy(samples[:, max(centre - half, 0) : centre + half].copy()), "own", rate=float(rate))


MAKERS: dict[str, Callable[[Path], dict[str, Signal]]] = {
    "photo": _photographs,
    "ct": _slices,
    "mr": _heads,
    "digits": _labelled,
    "clothing": _labelled,
    "speech": _sentences,
}
