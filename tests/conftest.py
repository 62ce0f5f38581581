"""Fixtures of all tests, and how they share the processors: `pytest -n auto` runs a worker for each core."""

import os
import sys
from pathlib import Path

import pytest

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
GIGABYTES = 2  # what a worker and the processes it starts may hold at their peak

# A worker, and each process that a test starts, computes on one thread unless told otherwise: signals are small, and
# threads of several processes wait for one another. NumPy and torch read these as they are loaded, after this file.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# Dozens of tests start a process that imports torch: 2 s of computing, and 4 s where Python may not keep what it compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Number of workers of `-n auto`: one for each core that this process may use, fewer where memory is short."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (AttributeError, OSError, ValueError):  # no POSIX system, or one that does not count
        memory = cores * GIGABYTES
    return max(1, min(cores, int(memory // GIGABYTES)))


@pytest.fixture
def field_data():
    """A function that returns a file or folder of the field data, `field_data("inputs/u16.npy")`, or skips without it.

    The data lies in INVGEN_DATA, or in shared/data beside the checkout. For tests marked `data`.
    """

    def find(name: str) -> Path:
        for folder in (os.environ.get("INVGEN_DATA"), BESIDE):
            if folder and (Path(folder) / name).exists():
                return Path(folder) / name
        pytest.skip(f"{name} is not in INVGEN_DATA nor in {BESIDE}")

    return find
