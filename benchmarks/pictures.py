"""The true signals of a suite: files, folders, draws of the prior, and held-out sets that come with the shipped priors.

A source is the address of a file (`invgen.files.reader`), "shipped:photo/face" or "prior:3".
"""

import importlib
import pkgutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

import invgen
from invgen.benchmarks import fingerprint
from invgen.benchmarks.identity import Identity, values_of
from invgen.diffusion import Prior
from invgen.errors import FileError, InvgenError, OptionError
from invgen.files.reader import Signal, reader
from invgen.inference.simulation import sample, spawn
from invgen.names import resolve

SHIPPED = ("photo", "ct", "mr", "digits", "clothing", "speech")  # no shipped prior was trained on these
DRAWN = "prior"  # signals drawn from the prior itself
DRAWS = 10  # of them, where no limit is given
SEED = 20250701  # of the draws; draw i has a seed of its own, so that a longer list begins with a shorter one
SAMPLER = "Heun(steps=32)"  # that draws from a diffusion prior, which has no exact draws
EXCERPT = 8192  # samples: the loudest piece of that length is in the middle of a shipped recording

_drawn: "WeakKeyDictionary[Prior, dict[int, Tensor]]" = WeakKeyDictionary()


def sources(said: str, folder: Path, limit: int | None = None) -> list[tuple[str, str]]:
    """(name, source) of what a suite calls its data: "prior", a shipped set or one of it, a folder, or a file's address.

    Args:
        said: "prior", "photo", "photo/face", "scans/", "head.nii.gz[20:60:5]".
        folder: that paths are relative to.
        limit: the first so many.

    Raises:
        OptionError: a shipped set has no such signal.  FileError: there is no such file, folder or slice, or what
            `invgen data` would fetch is not on this machine.
    """
    kind, _, name = said.partition("/")
    if kind == DRAWN:
        if name and not name.isdigit():
            raise OptionError(f"a draw of the prior has a number, such as prior/0, got {said!r}")
        chosen = [int(name)] if name else range(limit or DRAWS)
        return [(f"{DRAWN}/{k}", f"{DRAWN}:{k}") for k in chosen]
    if kind in SHIPPED:
        known = shipped(kind)
        if name and name not in known:
            sentence = str(resolve.unknown(f"image of {kind}", name, known))
            raise OptionError(sentence + (f"; `invgen data {kind}` fetches more" if kind in ("ct", "mr") else ""))
        return [(f"{kind}/{n}", f"shipped:{kind}/{n}") for n in ([name] if name else known)][:limit]
    path, inside, index = reader.address(folder / Path(said).expanduser())
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
    """The signals in a folder and the folders in it, in the order of their names."""
    found = (p for p in folder.rglob("*") if p.name.lower().endswith(reader.SUFFIXES) and p.is_file())
    return sorted(p for p in found if not p.name.startswith("."))


@lru_cache(maxsize=256)
def signal_of(source: str) -> tuple[Signal, str]:
    """The signal of a source, and the name of its content: the bytes of a file, what a shipped one is called.

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
    """The hash of the code that turns files into signals."""
    found = [m.name for m in pkgutil.iter_modules(invgen.__path__) if m.name == "files" or m.name.startswith("file_")]
    modules = [f"invgen.{name}" for name in found] + [f"invgen.benchmarks.{name}" for name in ("pictures", "demo")]
    for module in modules:
        importlib.import_module(module)
    return fingerprint.of_modules(modules)


def truth_of(source: str, prior: Prior) -> Tensor:
    """The signal in the shape and the units of a prior."""
    if source.startswith(f"{DRAWN}:"):
        return drawn(prior, int(source.removeprefix(f"{DRAWN}:")))
    return reader.fit(signal_of(source)[0], prior)[0]


def name_of(source: str) -> str:
    """What a signal is called, whoever reads it, and however: a draw by its number, a file by its bytes."""
    return source if source.startswith(f"{DRAWN}:") else signal_of(source)[1]


def identity_of(source: str, prior: Prior, prior_name: str) -> Identity:
    """A signal by what it is called and the code that makes it; a draw by its prior and its seed too.

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


# -- what comes with the shipped priors ----------------------------------------------------------------------------------


def shipped(kind: str) -> dict[str, Signal]:
    """A held-out set: "photo" (scikit-image's photographs), "ct" (pydicom's slice, and lung1 where it was fetched), "mr"
    (matplotlib's sagittal head, and eight slices of brain2 where they were fetched), "digits" and "clothing" (five of each
    class of the test sets), "speech" (test sentences, their loudest half second in the middle).

    Raises:
        FileError: the set has to be fetched first, and by which command.
    """
    from invgen.benchmarks.demo import data_folder

    return _shipped(kind, data_folder())


@lru_cache(maxsize=8)
def _shipped(kind: str, folder: Path) -> dict[str, Signal]:
    makers: dict[str, Callable[[Path], dict[str, Signal]]] = {
        "photo": _photographs,
        "ct": _slices,
        "mr": _heads,
        "digits": _labelled,
        "clothing": _labelled,
        "speech": _sentences,
    }
    try:
        return makers[kind](folder / kind)
    except InvgenError as error:
        raise FileError(
            f"the held-out signals {kind!r} are not in {folder / kind}; fetch them with `invgen data {kind}`, or set "
            f"INVGEN_DATA to the folder that has {kind}/"
        ) from error


def _photographs(folder: Path) -> dict[str, Signal]:
    from invgen.benchmarks import demo

    return {name: Signal((x + 1) / 2, "unit") for name, x in demo.held_out_photographs().items()}


def _slices(folder: Path) -> dict[str, Signal]:
    from invgen.benchmarks import demo

    return {name: Signal(hu[None], "HU", (mm, mm)) for name, (hu, mm) in demo.held_out_slices().items()}


def _heads(folder: Path) -> dict[str, Signal]:
    from invgen.priors.cards.evaluate import held_out

    found = {"s1045": Signal(held_out("mr")["matplotlib s1045"][0].float(), "unit")}
    if (folder / "pyradiomics.npz").is_file():
        planes = held_out("mr", [folder])["brain2"]
        full = [k for k, plane in enumerate(planes) if (plane > 0.1).float().mean() > 0.08]  # as in training
        chosen = [full[round(k)] for k in np.linspace(0, len(full) - 1, 8)]
        found |= {f"brain2-{k}": Signal(planes[k].float(), "unit") for k in chosen}
    return found


def _labelled(folder: Path) -> dict[str, Signal]:
    """Five of each class, the classes by turns, so that a limit takes all of them."""
    from invgen.priors.data.labelled import labelled

    images, labels = labelled(folder, "test")
    of_class = {int(label): torch.nonzero(labels == label).flatten()[:5].tolist() for label in labels.unique()}
    turns = [(label, k) for k in range(5) for label, found in of_class.items() if k < len(found)]
    return {f"{label}-{k}": Signal((images[of_class[label][k]] + 1) / 2, "unit") for label, k in turns}


def _sentences(folder: Path) -> dict[str, Signal]:
    from invgen.priors.data.speech import read_wave, sentences

    return {path.stem: _loudest(*read_wave(path)) for path in sentences(folder, "test")}


def _loudest(samples: np.ndarray, rate: int) -> Signal:
    """A recording cut at one end, so that the excerpt of most energy is in its middle."""
    length = samples.shape[1]
    energy = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64).mean(0) ** 2)])
    width = min(EXCERPT, length)
    centre = int(np.argmax(energy[width:] - energy[:-width])) + width // 2
    half = max(min(centre, length - centre), width // 2)
    return Signal(torch.from_numpy(samples[:, max(centre - half, 0) : centre + half].copy()), "own", rate=float(rate))
