"""A line on stderr where something that is made once takes longer than a few seconds."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from invgen.cost import duration

PATIENCE = 3.0  # seconds before the line


@contextmanager
def announced(what: str) -> Iterator[None]:
    """Says on stderr that `what` is under way if the block takes longer than three seconds, and how long it took.

    Args:
        what: a present participle with its object: "building the matrix of ParallelBeamCT (720 views)".
    """
    begin, said = time.perf_counter(), threading.Event()

    def say() -> None:
        said.set()
        print(f"invgen: {what}, once ...", file=sys.stderr, flush=True)

    timer = threading.Timer(PATIENCE, say)
    timer.daemon = True  # an interpreter that ends does not wait for it
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if said.is_set():
            print(f"invgen: {what} took {duration(time.perf_counter() - begin)}", file=sys.stderr, flush=True)
