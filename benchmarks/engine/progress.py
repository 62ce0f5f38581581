"""How far a run is, on stderr: a bar on a terminal, else a line now and then."""

import sys
import time
from collections.abc import Sequence

from invgen.messages import duration

SAY = 30.0  # seconds between two lines where there is no terminal


class Progress:
    """Cells done, failed, remaining and the time left.

    Args:
        total: cells of the suite.
        states: "done" or "failed" of those that have ended before.
        show: whether to say anything.
    """

    def __init__(self, total: int, states: Sequence[str], show: bool) -> None:
        self.total, self.done, self.failed = total, states.count("done"), states.count("failed")
        self.first, self.shown_at = self.done + self.failed, time.monotonic()
        self.begin, self.counted = self.shown_at, 0  # cells since then
        self.show, self.bar = show, None
        if show and sys.stderr.isatty():
            from tqdm.auto import tqdm

            shape = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} cells{postfix}, {remaining} left"
            self.bar = tqdm(total=total, initial=self.first, bar_format=shape, leave=False)
            self.bar.set_postfix_str(f"{self.failed} failed")

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
        elif self.show and self.total:
            self._say()

    def count(self, state: str) -> None:
        """One cell more has ended, "done" or "failed"."""
        self.done += state == "done"
        self.failed += state == "failed"
        self.counted += 1
        if self.done + self.failed == self.first + 1:  # before it, workers were starting
            self.begin, self.counted = time.monotonic(), 0
        if self.bar is not None:
            self.bar.set_postfix_str(f"{self.failed} failed", refresh=False)
            self.bar.update()
        elif self.show and time.monotonic() - self.shown_at > SAY:
            self._say()

    def _say(self) -> None:
        self.shown_at = time.monotonic()
        left = self.total - self.done - self.failed
        time_left = f", {duration(left * (self.shown_at - self.begin) / self.counted)} left" if self.counted else ""
        print(f"invgen: {self.done} done, {self.failed} failed, {left} remaining{time_left}", file=sys.stderr, flush=True)
