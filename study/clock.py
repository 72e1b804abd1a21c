"""A trial's running time: over all its attempts, and what ends a trial that takes too much."""

import faulthandler
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TextIO

from sdw_core.files import read_json

GRACE = 10.0
"""Seconds that a trial past its time has to notice it itself, before its process is ended."""


class TrialClock:
    """Counts the seconds of this attempt, on top of those that earlier ones left on record.

    A trial past its time is ended in one of two ways. A trial that polls finds `over()`. A trial
    that hangs, perhaps in native code that never comes back to Python, has its process ended by a
    thread of `faulthandler`, which first writes to `hung.txt` where every thread was; the next
    attempt finds that file and does not hang again. A wait for another process is no part of the
    trial's time.

    Args:
        folder: the trial's; `progress.json` holds the seconds of earlier attempts.
        timeout: seconds that the trial may take over all attempts; None: as many as it likes.
    """

    def __init__(self, folder: Path, timeout: float | None) -> None:
        self.timeout = timeout
        self._traces = folder / "hung.txt"
        self._earlier = _earlier(folder)
        if self.hung():  # and wrote no more progress
            self._earlier = max(self._earlier, timeout or 0)
        self._begun = monotonic()
        self._paused: float | None = None
        self._file: TextIO | None = None
        self._armed = ExitStack()

    def seconds(self) -> float:
        """Running time so far."""
        now = monotonic() if self._paused is None else self._paused
        return self._earlier + now - self._begun

    def over(self) -> bool:
        """Whether the trial has had its time."""
        return self.timeout is not None and (self.hung() or self.seconds() > self.timeout)

    def hung(self) -> bool:
        """Whether an attempt had to be ended from outside."""
        return self._traces.exists() and self._traces.stat().st_size > 0

    def __enter__(self) -> "TrialClock":
        if self.timeout is not None and not self.over():
            self._file = self._armed.enter_context(self._traces.open("w"))
            self._armed.callback(self._traces.unlink)
            self._armed.callback(faulthandler.cancel_dump_traceback_later)
            self._arm()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._armed.close()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stand still while the trial waits for another process."""
        self._paused = monotonic()
        faulthandler.cancel_dump_traceback_later()
        try:
            yield
        finally:
            self._begun += monotonic() - self._paused
            self._paused = None
            self._arm()

    def _arm(self) -> None:
        """Have the process ended once the trial's time and its grace are over."""
        if self.timeout is not None and self._file is not None:
            left = self.timeout - self.seconds() + GRACE
            faulthandler.dump_traceback_later(left, exit=True, file=self._file)


def _earlier(folder: Path) -> float:
    try:
        return float(read_json(folder / "progress.json")["seconds"])
    except (FileNotFoundError, ValueError, KeyError):
        return 0.0
