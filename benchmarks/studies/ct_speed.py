"""CT speed against ASTRA called per slice, the sparse matrix and skimage: `invgen bench study ct-speed`.

All candidates alternate in one run on one thread, CPU time, medians: the ratios are what carries over to another
machine. The last table is wall time on one and on two threads, which a machine at rest alone can tell.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from invgen.operators import FanBeamCT, ParallelBeamCT
from invgen.operators.ct.base import Tomography
from invgen.operators.ct.projectors.choice import Projector

# pixels across, views, batch
PROBLEMS = ((128, 23, 8), (256, 60, 1), (256, 60, 8), (256, 60, 32), (512, 180, 1), (512, 720, 1))
SIZE = (512, 720)  # pixels across and views of the last table
MATRIX_ENTRIES = 2e7  # above, the matrix takes seconds to build and is not timed


def table(
    problems: tuple[tuple[int, int, int], ...] = PROBLEMS, rounds: int = 7, skimage: bool = True
) -> Iterator[dict[str, Any]]:
    """Yields one row per problem and operation: ours in ms, and how many times as long each alternative takes.

    Args:
        problems: pixels across, views and images of each.
        rounds: of the alternation; the median of each candidate counts.
        skimage: whether to time radon and iradon too, up to 256 pixels (one slice, times the batch: they take seconds).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for problem in problems:
            yield from _rows(*problem, rounds, skimage)
    finally:
        torch.set_num_threads(threads)


def _rows(size: int, angles: int, batch: int, rounds: int, skimage: bool) -> Iterator[dict[str, Any]]:
    ours, theirs = ParallelBeamCT((size, size), angles), ParallelBeamCT((size, size), angles, backend="astra")
    # its views, of unequal distances, have no mirrors: a scan with an offset or a limited angle
    views = torch.from_numpy(ours.angles)
    uneven = ParallelBeamCT((size, size), angles=views + 1e-3 * views**2)
    x = torch.rand(batch, size, size, generator=torch.Generator().manual_seed(0))
    y = ours(x)
    calls: dict[str, dict[str, Callable[[], object]]] = {
        "forward": {"ours": lambda: ours(x), "astra": lambda: theirs(x), "uneven": lambda: uneven(x)},
        "adjoint": {
            "ours": lambda: ours.adjoint(y),
            "astra": lambda: theirs.adjoint(y),
            "uneven": lambda: uneven.adjoint(y),
        },
    }
    assert isinstance(ours.matrix, Projector)  # not of the backend "astra"
    if ours.matrix.entries < MATRIX_ENTRIES:
        matrix = ParallelBeamCT((size, size), angles, backend="sparse")
        calls["forward"]["matrix"], calls["adjoint"]["matrix"] = lambda: matrix(x), lambda: matrix.adjoint(y)
    if ours._exact() is not None:
        calls["prox"] = _prox(ours, x, y)
    if skimage and size <= 256:
        calls["forward"]["skimage"], calls["adjoint"]["skimage"] = _skimage(ours, x, y)
    for operation, candidates in calls.items():
        ms = {name: [] for name in candidates}
        for i in range(rounds + 1):
            for name, call in candidates.items():
                if name == "skimage" and i > 2:
                    continue
                begin = time.process_time()
                call()
                if i:  # the first round builds matrices, compiles kernels and warms caches
                    ms[name].append(1e3 * (time.process_time() - begin) * (batch if name == "skimage" else 1))
        median = {name: statistics.median(values) for name, values in ms.items()}
        row = {"pixels": size, "angles": angles, "batch": batch, "operation": operation, "ms": median["ours"]}
        yield row | {name: median[name] / median["ours"] for name in median if name != "ours"}


def _prox(ours: Tomography, x: Tensor, y: Tensor) -> dict[str, Callable[[], object]]:
    iterative = ParallelBeamCT(x.shape[1:], len(ours.angles), solver="cg")
    start, lam = torch.zeros_like(x), 1e-3 * ours.norm() ** 2
    return {
        "ours": lambda: ours.prox(start, y, 1.0, lam),
        "cg to 1e-5": lambda: iterative.prox(start, y, 1.0, lam),
    }


def _skimage(ours: Tomography, x: Tensor, y: Tensor) -> tuple[Callable[[], object], Callable[[], object]]:
    from skimage.transform import iradon, radon

    degrees = torch.from_numpy(ours.angles).rad2deg().numpy()
    image, sinogram = x[0].double().numpy(), y[0].T.double().numpy()
    unfiltered: Any = None
    return (
        lambda: radon(image, degrees, circle=False),
        lambda: iradon(sinogram, degrees, filter_name=unfiltered, output_size=len(image), circle=False),
    )


def threads(rounds: int = 5) -> Iterator[dict[str, Any]]:
    """Yields wall time in ms on one thread, and how many times as fast two are, for a parallel beam and a curved fan."""
    size, views = SIZE
    fan = FanBeamCT((size, size), views, source_origin=1.5 * size, origin_det=size, detector="curved")
    x, before = torch.rand(1, size, size), torch.get_num_threads()
    for name, A in (("parallel", ParallelBeamCT((size, size), views)), ("curved fan", fan)):
        y = A(x)
        for operation, call in (("forward", lambda A=A: A(x)), ("adjoint", lambda A=A, y=y: A.adjoint(y))):
            seconds: dict[int, list[float]] = {1: [], 2: []}
            try:
                for _ in range(rounds):
                    for number in seconds:
                        torch.set_num_threads(number)
                        begin = time.perf_counter()
                        call()
                        seconds[number].append(time.perf_counter() - begin)
            finally:
                torch.set_num_threads(before)
            one, two = (statistics.median(values) for values in seconds.values())
            yield {"beam": name, "operation": operation, "ms": 1e3 * one, "two": one / two}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    argparse.ArgumentParser(prog="invgen bench study ct-speed", description=(__doc__ or "").split("\n")[0]).parse_args(argv)
    print("CT on one thread: CPU milliseconds, and how many times as long others take, or our scan without mirror symmetry")
    names = {"astra": "ASTRA", "matrix": "matrix", "skimage": "skimage", "cg to 1e-5": "CG", "uneven": "uneven"}
    print(f"{'problem':>22} {'operation':>10} {'ms':>8} " + " ".join(f"{title:>8}" for title in names.values()))
    for row in table():
        problem = f"{row['pixels']} px, {row['angles']} x {row['batch']}"
        cells = " ".join(f"{row[name]:8.1f}" if name in row else " " * 8 for name in names)
        print(f"{problem:>22} {row['operation']:>10} {row['ms']:8.2f} {cells}", flush=True)
    print(f"\n{SIZE[0]} px, {SIZE[1]} views, one image: wall milliseconds on one thread, and and on two")
    for row in threads():
        print(f"{row['beam']:>22} {row['operation']:>10} {row['ms']:8.2f} {row['two']:8.2f}", flush=True)
