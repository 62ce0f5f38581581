"""The true signals of a suite: files, folders, draws of the prior, and held-out sets that come with the shipped priors.

A source is the address of a file (`invgen.files.reader`), "shipped:photo/face" or "prior:3".
"""

import importlib
import pkgutil
from functools import lru_cache
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

import invgen.files
from invgen.benchmarks.suite import fingerprint
from invgen.benchmarks.suite.identity import Identity, values_of
from invgen.diffusion import Prior
from invgen.errors import FileError, OptionError
from invgen.files import Signal, reader
from invgen.inference.simulation import sample, spawn
from invgen.names import resolve
from invgen.priors.data.held_out import MAKERS as SHIPPED
from invgen.priors.data.held_out import shipped

DRAWN = "prior"  # signals drawn from the prior itself
DRAWS = 10  # of them, where no limit is given
SEED = 20250701  # of the draws; draw i has a seed of its own, so that a longer list begins with a shorter one
SAMPLER = "Heun(steps=32)"  # that draws from a diffusion prior, which has no exact draws


_drawn: "WeakKeyDictionary[Prior, dict[int, Tensor]]" = WeakKeyDictionary()


def sources(spec: str, folder: Path, limit: int | None = None) -> list[tuple[str, str]]:
    """Returns (name, source) of what a suite calls its data: "prior", a shipped set or one of it, a folder, or a file's
    address.

    Args:
        spec: "prior", "photo", "photo/face", "scans/", "head.nii.gz[20:60:5]".
        folder: that paths are relative to.
        limit: the first so many.

    Raises:
        OptionError: a shipped set has no such signal.  FileError: there is no such file, folder or slice, or what
            `invgen data` would fetch is not on this machine.
    """
    kind, _, name = spec.partition("/")
    if kind == DRAWN:
        if name and not name.isdigit():
            raise OptionError(f"a draw of the prior has a number, such as prior/0, got {spec!r}")
        chosen = [int(name)] if name else range(limit or DRAWS)
        return [(f"{DRAWN}/{k}", f"{DRAWN}:{k}") for k in chosen]
    if kind in SHIPPED:
        known = shipped(kind)
        if name and name not in known:
            sentence = str(resolve.unknown(f"image of {kind}", name, known))
            raise OptionError(sentence + (f"; `invgen data {kind}` fetches more" if kind in ("ct", "mr") else ""))
        return [(f"{kind}/{n}", f"shipped:{kind}/{n}") for n in ([name] if name else known)][:limit]
    path, inside, index = reader.address(folder / Path(spec).expanduser())
    if path.is_dir():
        found = [(str(p.relative_to(path)), str(p.resolve())) for p in image_files(path)]
        if not found:
            raise FileError(f"the folder {path} has no {reader.KINDS} files")
        return found[:limit]
    if not path.is_file():
        raise FileError(f"there is no file or folder {path}; shipped images are {', '.join(SHIPPED)}")
    after = (f":{inside}" if inside else "") + (f"[{index}]" if index else "")
    listed = reader.slices(f"{path.resolve()}{after}")
    return [(one.removeprefix(f"{path.resolve().parent}/"), one) for one in listed][:limit]


def image_files(folder: Path) -> list[Path]:
    """Returns the signals in a folder and the folders in it, in the order of their names."""
    found = (p for p in folder.rglob("*") if p.name.lower().endswith(reader.SUFFIXES) and p.is_file())
    return sorted(p for p in found if not p.name.startswith("."))


@lru_cache(maxsize=256)
def signal_of(source: str) -> tuple[Signal, str]:
    """Returns the signal of a source, and the name of its content: the bytes of a file, what a shipped one is called.

    Raises:
        FileError: it cannot be read, or is not there.
    """
    if not source.startswith("shipped:"):
        signal = reader.read(source)
        path, inside, index = reader.address(source)
        # hashed after it was read: where somebody changes it in between, the name is that of nothing that was computed
        return signal, fingerprint.digest([fingerprint.of_path(path), path.suffix.lower(), inside, index])
    kind, _, name = source.removeprefix("shipped:").partition("/")
    found = shipped(kind)
    if name not in found:
        raise FileError(f"there is no image {name!r} of {kind} on this machine; there are {', '.join(found)}")
    return found[name], source


@lru_cache(maxsize=1)
def _readers() -> str:
    """Returns the hash of the code that turns files into signals."""
    found = [
        m.name for m in pkgutil.iter_modules(invgen.files.__path__, "invgen.files.") if m.name != "invgen.files.writing"
    ]
    modules = [*found, "invgen.benchmarks.suite.signals", "invgen.priors.data.held_out"]
    for module in modules:
        importlib.import_module(module)
    return fingerprint.of_modules(modules)


def truth_of(source: str, prior: Prior) -> Tensor:
    """Returns the signal in the shape and the units of a prior."""
    if source.startswith(f"{DRAWN}:"):
        return drawn(prior, int(source.removeprefix(f"{DRAWN}:")))
    return reader.fit(signal_of(source)[0], prior)[0]


def name_of(source: str) -> str:
    """Returns the name of a signal, the same for every reader: a draw by its number, a file by its bytes."""
    return source if source.startswith(f"{DRAWN}:") else signal_of(source)[1]


def identity_of(source: str, prior: Prior, prior_name: str) -> Identity:
    """Returns a signal by what it is called and the code that makes it; a draw by its prior and its seed too.

    Args:
        source: see the top of this file.
        prior: whose units and shape it has.
        prior_name: of that prior's identity.
    """
    if source.startswith(f"{DRAWN}:"):
        code = [fingerprint.of_function(drawn), fingerprint.of_spec(SAMPLER, resolve.sampler(SAMPLER))]
        made_by = [prior_name, SEED, *code]
    else:
        made_by = [_readers()]
    return Identity(fingerprint.digest([name_of(source), *made_by]), values_of(truth_of(source, prior)))


def drawn(prior: Prior, index: int) -> Tensor:
    """Draw `index` of a prior: exact where it can be drawn from exactly, else by `Heun(steps=32)`; kept while it lives.

    On one thread, as every cell is computed, so that all processes draw the same values.
    """
    kept = _drawn.setdefault(prior, {})
    if index not in kept:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            own = hasattr(prior, "sample")
            kept[index] = sample(prior, 1, spawn(SEED, index), sampler=None if own else SAMPLER)[0]
        finally:
            torch.set_num_threads(threads)
    return kept[index]
