"""CT speed against ASTRA called per slice, skimage and the memory bandwidth: `invgen bench study ct-speed`.

All candidates alternate in one run on one thread, CPU time, medians: the ratios are what carries over to another
machine. The floor is the time to read the matrix once from memory, 8 bytes an entry; a batch needs one such pass, a
reader of one number per entry no less.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from invgen.operators import ParallelBeamCT
from invgen.operators.ct._sparse import SparseMatrix

PROBLEMS = ((128, 23, 8), (256, 23, 1), (256, 60, 1), (256, 60, 8), (256, 60, 32))  # pixels across, angles, batch


def table(problems: tuple[tuple[int, int, int], ...] = PROBLEMS, rounds: int = 7, skimage: bool = True) -> list[dict]:
    """Returns one row per problem and operation: ours in ms, and how many times as long each alternative takes.

    Args:
        rounds: of the alternation; the median of each candidate counts.
        skimage: whether to time radon and iradon too (one slice, times the batch: they take seconds).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [row for problem in problems for row in _rows(*problem, rounds, skimage)]
    finally:
        torch.set_num_threads(threads)


def _rows(size: int, angles: int, batch: int, rounds: int, skimage: bool) -> list[dict]:
    g = torch.Generator().manual_seed(0)
    ours = ParallelBeamCT((size, size), angles)
    theirs = ParallelBeamCT((size, size), angles, backend="astra")
    x = torch.rand(batch, size, size, generator=g)
    y, lam = ours(x), 1e-3 * ours.norm() ** 2
    assert isinstance(ours.matrix, SparseMatrix)  # not of the backend "astra"
    matrix, turned = ours.matrix.pair(torch.float32, x.device)
    stream = torch.zeros(2 * matrix.values().numel())  # as many bytes as the entries and their indices
    degrees = torch.from_numpy(ours.angles).rad2deg().numpy()
    candidates: dict[str, dict[str, Callable[[], object]]] = {
        "forward": {"ours": lambda: ours(x), "floor": stream.sum, "astra": lambda: theirs(x)},
        "adjoint": {"ours": lambda: ours.adjoint(y), "floor": stream.sum, "astra": lambda: theirs.adjoint(y)},
    }
    exact = ours._exact() is not None
    if exact:
        iterative = ParallelBeamCT((size, size), angles, solver="cg")
        iterative.matrix = ours.matrix
        start = torch.zeros_like(x)
        candidates["prox"] = {
            "ours": lambda: ours.prox(start, y, 1.0, lam),
            "cg to 1e-5": lambda: iterative.prox(start, y, 1.0, lam),
        }
    if skimage:
        from skimage.transform import iradon, radon

        image, sinogram = x[0].double().numpy(), y[0].T.double().numpy()
        candidates["forward"]["skimage"] = lambda: radon(image, degrees, circle=False)
        unfiltered: Any = None
        candidates["adjoint"]["skimage"] = lambda: iradon(
            sinogram, degrees, filter_name=unfiltered, output_size=size, circle=False
        )
    rows = []
    for operation, calls in candidates.items():
        ms = {name: [] for name in calls}
        for i in range(rounds + 1):
            for name, call in calls.items():
                if name == "skimage" and i > 2:
                    continue
                begin = time.process_time()
                call()
                if i:  # the first round builds matrices and warms caches
                    ms[name].append(1e3 * (time.process_time() - begin) * (batch if name == "skimage" else 1))
        median = {name: statistics.median(values) for name, values in ms.items()}
        row = {"pixels": size, "angles": angles, "batch": batch, "operation": operation, "ms": median["ours"]}
        rows.append(row | {name: median[name] / median["ours"] for name in median if name != "ours"})
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    argparse.ArgumentParser(prog="invgen bench study ct-speed", description=(__doc__ or "").split("\n")[0]).parse_args(argv)
    print("CT on one thread: CPU milliseconds, and how many times as long others take; last, ours over the memory floor")
    print(f"{'problem':>22} {'operation':>10} {'ms':>8} {'ASTRA':>8} {'skimage':>8} {'CG':>8} {'ours/floor':>10}")
    for row in table():
        problem = f"{row['pixels']} px, {row['angles']} x {row['batch']}"
        cells = [f"{row[name]:.1f}" if name in row else "" for name in ("astra", "skimage", "cg to 1e-5")]
        floor = f"{1 / row['floor']:.2f}" if "floor" in row else ""
        print(
            f"{problem:>22} {row['operation']:>10} {row['ms']:8.2f} " + " ".join(f"{c:>8}" for c in cells) + f" {floor:>10}"
        )
