"""Chains of C-alpha atoms of real proteins, from the entries of the Protein Data Bank that MDAnalysisTests carries."""

import bz2
import gzip
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from invgen.priors.data.readable import readable

PACKAGE = "mdanalysistests==2.11.0"
LEAST, MOST = 40, 3_000_000  # residues of a chain that counts, and bytes of a file that is read
OPEN = {".gz": gzip.decompress, ".bz2": bz2.decompress}


def convert(archive: Path) -> dict[str, np.ndarray]:
    """Returns the C-alpha atoms of the first model of each entry in the archive, name -> (residues, 3) in angstrom."""
    found = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.split("/")[-1]
            known = name[:1].isdigit() or name.startswith(("adk_o", "cobro"))
            if not known or ".pdb" not in name or "failing" in name or member.size > MOST:
                continue
            stream = tar.extractfile(member)
            raw = stream.read() if stream is not None else b""
            atoms = _alphas(OPEN.get(Path(name).suffix, bytes)(raw).decode("latin1"))
            if len(atoms) > LEAST:
                found[name.replace(".", "_")] = atoms
    return found


def _alphas(text: str) -> np.ndarray:
    seen: dict[tuple[str, str], list[float]] = {}
    for line in text.splitlines():
        if line.startswith("ENDMDL"):
            break
        if line.startswith("ATOM") and line[12:16].strip() == "CA" and line[16] in " A":
            seen.setdefault((line[21], line[22:27]), [float(line[30 + 8 * k : 38 + 8 * k]) for k in range(3)])
    return np.array(list(seen.values()), dtype=np.float32).reshape(-1, 3)


def pieces(folder: Path | str, length: int = 16, step: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Returns pieces of chains of proteins to learn from and of others, (n, length, 3) each: every fifth entry is held out.

    Args:
        folder: that `invgen data molecules` wrote.
        length: residues of a piece, whose neighbours are all 3.8 angstrom apart.
        step: residues between the starts of two pieces.
    """
    path = Path(folder) / "molecules.npz"
    with readable(path), np.load(path, allow_pickle=False) as arrays:
        chains = {name: arrays[name] for name in sorted(arrays.files)}
    learn = [p for k, c in enumerate(chains.values()) if k % 5 for p in _cut(c, length, step)]
    test = [p for k, c in enumerate(chains.values()) if k % 5 == 0 for p in _cut(c, length, step)]
    return np.array(learn), np.array(test)


def _cut(chain: np.ndarray, length: int, step: int) -> Iterator[np.ndarray]:
    for start in range(0, len(chain) - length, step):
        piece = chain[start : start + length]
        if (abs(np.linalg.norm(np.diff(piece, axis=0), axis=1) - 3.8) < 0.15).all():
            yield piece
