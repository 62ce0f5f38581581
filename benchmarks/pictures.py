"""The true images of a suite: files, folders, and held-out images that come with invgen's dependencies."""

from functools import lru_cache
from pathlib import Path

from torch import Tensor

from invgen import files
from invgen.diffusion import Prior
from invgen.errors import FileError
from invgen.files import Signal

SHIPPED = ("photo", "ct")  # held-out images that come with invgen's dependencies


@lru_cache(maxsize=256)
def signal_of(source: str) -> Signal:
    """The image of a source: a file, or a shipped one.

    Raises:
        FileError: it cannot be read, or is not there.
    """
    if not source.startswith("shipped:"):
        return files.read(source)
    kind, _, name = source.removeprefix("shipped:").partition("/")
    found = shipped(kind)
    if name not in found:
        raise FileError(f"there is no image {name!r} of {kind} on this machine; there are {', '.join(found)}")
    return found[name]


def shipped(kind: str) -> dict[str, Signal]:
    """Held-out images: "photo" (scikit-image's photographs) or "ct" (pydicom's slice, and lung1 where it was fetched)."""
    from invgen.benchmarks import demo

    if kind == "photo":
        return {name: Signal((x + 1) / 2, "unit") for name, x in demo.held_out_photographs().items()}
    return {name: Signal(hu[None], "HU", (mm, mm)) for name, (hu, mm) in demo.held_out_slices().items()}


def truth_of(source: str, prior: Prior) -> Tensor:
    """The image in the shape and the units of a prior."""
    return files.fit(signal_of(source), prior)[0]


def image_files(folder: Path) -> list[Path]:
    """The images in a folder and the folders in it, in the order of their names."""
    known = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy", ".dcm", ".dicom", ".ima")
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in known and p.is_file() and not p.name.startswith("."))
