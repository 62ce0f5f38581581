"""How kernels share their work among the threads that torch has."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

import numpy as np
import torch

LEAST = 1 << 19  # sums that are worth a thread: some 0.2 ms


def team(sums: int) -> int:
    """Returns how many threads work with so many sums is worth, at most as many as torch has."""
    return max(1, min(torch.get_num_threads(), sums // LEAST))


def parts(sizes: int | np.ndarray, number: int) -> list[tuple[int, int]]:
    """Returns ranges of neighbours with about the same work, none of them empty.

    Args:
        sizes: how many there are, or what each of them takes, (count,) whole numbers.
        number: of the ranges, at most.
    """
    if isinstance(sizes, int):
        ends = sorted({sizes * k // number for k in range(number + 1)})
    else:
        before = np.concatenate([[0], np.cumsum(sizes)])
        ends = np.searchsorted(before, before[-1] * np.arange(number) // number)
        ends = np.unique([*ends, len(sizes)]).tolist()
    return list(zip(ends[:-1], ends[1:], strict=True))


def share(work: Callable[[int, int], object], arguments: Sequence[tuple[int, int]]) -> None:
    """Calls work(*pair) for every pair of arguments, each on a thread of its own, and waits for all."""
    if not arguments:
        return
    rest = [_pool(os.getpid()).submit(work, *pair) for pair in arguments[1:]]
    try:
        work(*arguments[0])
    finally:
        wait(rest)
    for part in rest:
        part.result()  # one that failed raises here


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Returns the threads of a process: those of another do not survive a fork."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="invgen")
