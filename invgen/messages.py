"""Warnings that point to the user's line, however deep in invgen they are raised; a line where something takes long."""

import contextlib
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HERE = Path(__file__).resolve().parent
# installed, the catalogues lie inside the package; in a checkout beside it
_FOLDERS = tuple(f"{folder}/" for folder in (_HERE, *(_HERE.parent / n for n in ("operators", "priors", "benchmarks"))))


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns in the name of the nearest caller that is neither invgen nor torch.

    Args:
        message: one sentence.
        category: of the warning.
    """
    torch = getattr(sys.modules.get("torch"), "__file__", None)
    between = (f"{Path(torch).parent}/",) if torch is not None else ()  # an operator is called through its module
    inside = (*_FOLDERS, *between, contextlib.__file__)
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(inside):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


PATIENCE = 3.0  # seconds before the line


@contextmanager
def announced(what: str) -> Iterator[None]:
    """Prints to stderr that `what` is under way if the block takes longer than three seconds, and its time at the end.

    Args:
        what: a present participle with its object: "building the matrix of ParallelBeamCT (720 views)".
    """
    begin, done = time.perf_counter(), threading.Event()

    def say() -> None:
        done.set()
        print(f"invgen: {what}, once ...", file=sys.stderr, flush=True)

    timer = threading.Timer(PATIENCE, say)
    timer.daemon = True  # an interpreter that ends does not wait for it
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if done.is_set():
            print(f"invgen: {what} took {duration(time.perf_counter() - begin)}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Returns seconds as people say them: 12 s, 3 min, 4.5 h, 2.1 days."""
    for size, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} s"
