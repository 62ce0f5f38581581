"""How the studies of the loop measure: candidates by turns, and torch's operations."""

import statistics
import time
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

Row = tuple[str, float, str, float, str]  # what, its ms, beside what, the ratio or number, the limit


class Count(TorchDispatchMode):
    """Counts the operations of torch."""

    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += 1
        return func(*args, **(kwargs or {}))


def operations(call: Callable[[], object]) -> int:
    """Returns the number of torch's operations in a call."""
    with Count() as count:
        call()
    return count.number


def turns(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Returns the median milliseconds of each candidate, which take turns; the first round does not count."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for k in range(rounds + 1):
        for name, call in candidates.items():
            begin = time.process_time()
            call()
            if k:
                times[name].append(1e3 * (time.process_time() - begin))
    return {name: statistics.median(values) for name, values in times.items()}
