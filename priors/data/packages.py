"""Files of ordinary packages, fetched and unpacked but not installed: Debian packages, wheels, source distributions."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from invgen.errors import FileError
from invgen.priors.data.pins import NUMPY, TOOLS, pinned


def fetch_debian(package: str, work: Path) -> Path:
    """Download and unpack a Debian package, without installing it."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise FileError(f"this data comes from the Debian package {package}, which needs apt-get and dpkg")
    _run(["apt-get", "download", package], work, f"the Debian package {package}")
    root = work / package
    _run(["dpkg", "-x", str(next(work.glob(f"{package}_*.deb"))), str(root)], work, f"the Debian package {package}")
    return root


def fetch_wheel(requirement: str, work: Path) -> None:
    """Download a wheel with pip, without installing it."""
    options = ["--no-deps", "--require-hashes", "-d", str(work), "-r", _listed(work, requirement)]
    _run([sys.executable, "-m", "pip", "download", "-q", *options], work, f"the wheel {requirement}")


def _listed(work: Path, *requirements: str) -> str:
    """Returns a file of requirements with their hashes."""
    path = work / f"{requirements[0]}.txt"
    path.write_text(pinned(*requirements))
    return str(path)


def fetch_source(requirement: str, work: Path) -> None:
    """Download a source distribution with pip, which wants its build requirements at hand to read the metadata."""
    python = work / "env"
    what = f"the source distribution {requirement}"
    if importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip"):
        _run([sys.executable, "-m", "venv", str(python)], work, what)
    else:
        _run(["uv", "venv", "--seed", "--python", sys.executable, str(python)], work, what)
    pip = [str(python / ("Scripts" if os.name == "nt" else "bin") / "python"), "-m", "pip", "--disable-pip-version-check"]
    _run([*pip, "install", "-q", NUMPY], work, what)
    _run([*pip, "install", "-q", "--no-deps", "--require-hashes", "-r", _listed(work, *TOOLS)], work, what)
    options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes", "-d", str(work)]
    _run([*pip, "download", "-q", *options, "-r", _listed(work, requirement)], work, what)


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
