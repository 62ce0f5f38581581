"""How many signals fit into memory at once."""

import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

SHARE = 0.5  # of the free memory that a run may take: what a kernel needs beside its tensors is not seen
SMALL = 2**18  # values of all signals together, and
LIGHT = 2**25  # numbers in a network, up to which memory is not asked for: such runs take some 250 MB at most


def fitting(one: Callable[[], object], rows: int, device: torch.device, kept: int = 0) -> tuple[int | None, str]:
    """Returns how many signals to work on at once, a power of two, and why; None and "" where all fit.

    Args:
        one: works on one signal, on the device.
        rows: signals in all.
        device: whose memory counts.
        kept: bytes that the run takes besides, whatever is worked on at once.
    """
    left = free(device)
    if left is None:
        return None, ""
    each, left = max(peak(one), 1), max(left - kept, 0)
    fit = max(int(SHARE * left) // each, 1)
    if fit >= rows:
        return None, ""
    number = 1 << (fit.bit_length() - 1)
    return number, f"{number} of {rows} signals at once, since one takes {in_words(each)} and {in_words(left)} are free"


def free(device: torch.device) -> int | None:
    """Returns the bytes that a device can still give, of a container those within its limit; None if nothing tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found: list[int] = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")))
    with suppress(OSError, ValueError, StopIteration):  # a limit that is no number is none
        folder = Path("/sys/fs/cgroup")
        limit, used = (int((folder / name).read_text()) for name in ("memory.max", "memory.current"))
        lines = (folder / "memory.stat").read_text().splitlines()
        cached = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file"))
        found.append(max(limit - used + cached, 0))
    if not found and device.type == "cpu" and hasattr(os, "sysconf"):
        with suppress(OSError, ValueError):  # a part of all where nothing tells what is free
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    return min(found, default=None) if device.type == "cpu" else None


def peak(call: Callable[[], object]) -> int:
    """Returns the bytes of tensors that a call makes and holds at once, at most, on any device."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Held(TorchDispatchMode):
        """Follows what torch's operations return until its memory is given back."""

        now = most = 0

        def __init__(self) -> None:
            super().__init__()
            self.known = weakref.WeakSet[torch.UntypedStorage]()

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204 (torch's own)
            out = func(*args, **(kwargs or {}))
            for leaf in tree_leaves(out):
                if isinstance(leaf, Tensor) and leaf.layout is torch.strided:
                    self.add(leaf.untyped_storage())
            return out

        def add(self, storage: torch.UntypedStorage) -> None:
            if storage in self.known:
                return
            self.known.add(storage)
            size = storage.nbytes()
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self.drop, size)

        def drop(self, size: int) -> None:
            self.now -= size

    with Held() as held:
        call()
    return held.most


def in_words(size: float) -> str:
    """Returns a number of bytes to two digits, "1.2 GB"."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:.2g} {name}" if size < 100 * unit else f"{size / unit:.0f} {name}"
    return f"{size / 1e3:.2g} kB"
