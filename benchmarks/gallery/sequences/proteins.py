"""Angles and pieces of real proteins that the row of molecules reads, the classical reconstruction, and its picture.

After `invgen data molecules`, `python -m invgen.benchmarks.gallery.sequences.proteins FOLDER/molecules` writes the file.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invgen.metrics import rmsd
from invgen.priors import AngleMixture

FILE = Path(__file__).parent / "proteins.npz"


def load() -> tuple[AngleMixture, Tensor]:
    """Returns the mixture over angles of 49 proteins, and 64 pieces of 13 others, (64, 16, 3) in angstrom."""
    with np.load(FILE, allow_pickle=False) as arrays:
        tables = [torch.as_tensor(arrays[k].astype(np.float32)) for k in ("means", "weights", "roots", "pieces")]
    return AngleMixture(*tables[:3]), tables[3]


def write(folder: str, components: int = 24) -> None:
    """Fits the mixture to the proteins of a folder and writes it with pieces of those that were held out."""
    from invgen.priors.data.molecules import pieces

    learn, held_out = pieces(folder)
    prior = AngleMixture.fit(learn, components)
    chosen = np.random.default_rng(0).choice(len(held_out), 64, replace=False)
    weights = np.diff(np.r_[0.0, prior.edges.numpy(), 1.0])
    means, roots = prior.means.numpy().astype(np.float16), prior.roots.numpy().astype(np.float16)
    np.savez_compressed(FILE, means=means, roots=roots, weights=weights, pieces=held_out[chosen].astype(np.float32))


def scaling(y: Tensor, pairs: Tensor, truth: Tensor) -> Tensor:
    """Returns the RMSD of classical scaling of shortest paths, of the better of the structure and its mirror, (B,)."""
    from scipy.sparse.csgraph import shortest_path

    n, found = truth.shape[1], []
    for row in y.clamp(min=0.1).numpy():
        D = np.full((n, n), np.inf)
        D[np.arange(n - 1), np.arange(1, n)] = 3.8
        D[pairs[:, 0], pairs[:, 1]] = row
        D = shortest_path(np.minimum(D, D.T), directed=False) ** 2
        w, v = np.linalg.eigh(-0.5 * (D - D.mean(0) - D.mean(1)[:, None] + D.mean()))
        found.append(v[:, -3:] * np.sqrt(w[-3:].clip(0)))
    x = torch.as_tensor(np.array(found), dtype=torch.float32)
    return torch.minimum(rmsd(x, truth), rmsd(x, truth, mirror=True))


def middle(samples: Tensor) -> Tensor:
    """Returns of each batch of structures the sample nearest to all others, (B, n, 3): no truth chooses it."""
    apart = torch.stack([rmsd(one, samples).mean(0) for one in samples])
    return samples[apart.argmin(0), torch.arange(samples.shape[1])]


def onto(x: Tensor, truth: Tensor) -> Tensor:
    """Returns x, (n, 3), shifted and turned onto the truth."""
    a, b = x - x.mean(0), truth - truth.mean(0)
    U, _, Vh = torch.linalg.svd(a.T @ b)
    flip = torch.diag(torch.tensor([1.0, 1.0, float(torch.sign(torch.linalg.det(U @ Vh)))]))
    return a @ (U @ flip @ Vh) + truth.mean(0)


def draw(found: dict[int, Tensor], truth: Tensor, path: Path) -> None:
    """Draws samples of some structures, turned onto the truth, for each number of distances, (samples, B, n, 3)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.2 * len(found)), layout="constrained")
    for row, (count, samples) in enumerate(found.items()):
        for k in range(4):
            ax = figure.add_subplot(len(found), 4, 4 * row + k + 1, projection="3d")
            for one in samples[:12, k]:
                ax.plot(*onto(one, truth[k]).T.numpy(), color="tab:orange", lw=0.8, alpha=0.5)
            ax.plot(*truth[k].T.numpy(), color="tab:blue", lw=2)
            ax.set_axis_off()
            ax.set_title(f"{count} distances: samples, truth (blue)" if k == 0 else "", fontsize=8)
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    write(sys.argv[1])
