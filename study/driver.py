"""One driver at a time: who runs a study or a comparison, on whatever host.

A lock is held, which the driver's death releases. As not every network file system shows locks to
other hosts, a file is touched as a sign of life; a driver that gave none for long may find that
another one took its place, and leaves then.
"""

import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

from filelock import FileLock, Timeout

from sdw_core.errors import InputError, SDWError
from sdw_core.files import read_whole, write_json

LOCK_PATIENCE = 2.0
"""Seconds that a driver waits for its lock: `sdw status` holds it for a moment to look at it."""
HEARTBEAT = 5.0
"""Seconds between two signs of life of a driver."""
PRESUMED_DEAD = 60.0
"""Seconds of silence after which a driver on another host counts as dead."""


class Driven(InputError):
    """Another process is the driver."""


class Replaced(SDWError):
    """Another process became the driver, as this one seemed dead to it."""


@dataclass(frozen=True)
class Seat:
    """A driver's place in a folder: `driver.lock`, and `driver.json` that says who drives.

    Attributes:
        folder: of a study or a comparison.
        driven: what is driven, as a sentence begins.
        advice: what another process can do meanwhile, as a sentence ends.
    """

    folder: Path
    driven: str
    advice: str

    @contextmanager
    def taken(self) -> Iterator["Heartbeat"]:
        """Be the one driver.

        Raises:
            Driven: another driver lives; the message says where.
        """
        lock = self.lock()
        try:
            lock.acquire(timeout=LOCK_PATIENCE)
        except Timeout:
            raise Driven(self._says_who()) from None
        try:
            if self.heard_of():
                raise Driven(self._says_who())
            heartbeat = Heartbeat(self)
            heartbeat.begin()
            left = threading.Event()
            beating = threading.Thread(target=heartbeat.beat, args=[left], daemon=True)
            beating.start()
            try:
                yield heartbeat
            finally:
                left.set()
                beating.join()
                heartbeat.end()
        finally:
            lock.release()

    def lock(self) -> FileLock:
        """The lock that a driver holds while it lives."""
        return FileLock(self.folder / "driver.lock")

    def occupied(self) -> bool:
        """Whether a driver is alive, on whatever host.

        Who looks shares the lock with others who look, and makes no file: a folder that cannot be
        written can be looked at.
        """
        try:
            with (self.folder / "driver.lock").open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            pass
        except BlockingIOError:
            return True
        return self.heard_of()

    def heard_of(self) -> bool:
        """Whether a driver on another host gave a sign of life of late; on this one, locks tell."""
        if self.driver().get("host", socket.gethostname()) == socket.gethostname():
            return False
        try:
            return time() - self.note.stat().st_mtime < PRESUMED_DEAD
        except FileNotFoundError:
            return False

    def driver(self) -> dict[str, Any]:
        """What a driver wrote of itself; nothing once it left.

        `host` and `pid`; `job`, where it is part of one of SLURM; of a study also `ray_dashboard`,
        `begun` (when its Ray ran, epoch seconds), `trials_at_a_time` (on the nodes that are there),
        and `waiting` (see `snapshot.Waiting`).
        """
        return read_whole(self.note) or {}

    @property
    def note(self) -> Path:
        """Where a driver says who it is."""
        return self.folder / "driver.json"

    def _says_who(self) -> str:
        return f"{self.driven} is being run by {process(self.driver())}; {self.advice}."


class Heartbeat:
    """A driver's signs of life; it notices another driver in its seat.

    A sign that cannot be given, as on a full disk or a network file system that stalls, is tried
    again. The note of another driver is neither overwritten nor removed.

    Args:
        seat: which the driver has taken.
    """

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._own: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid()}
        if job := os.environ.get("SLURM_JOB_ID"):
            self._own["job"] = int(job)
        self._other: dict[str, Any] | None = None
        self._heard = time()

    def begin(self) -> None:
        """Say who drives."""
        write_json(self._seat.note, self._own)
        self._heard = time()

    def beat(self, left: threading.Event) -> None:
        """Give signs of life until the driver has left, or found another one in its seat."""
        while self._other is None and not left.wait(HEARTBEAT):
            with suppress(OSError):
                self._give_sign()

    def end(self) -> None:
        """Say no more who drives."""
        with suppress(OSError):
            if self._is_own(self._seat.driver()):
                self._seat.note.unlink()

    def tell(self, **more: Any) -> None:
        """Say more of the driver."""
        self._own |= more
        self.require()
        self.begin()

    def require(self) -> None:
        """Refuse to go on for a driver that another one replaced.

        Raises:
            Replaced: another driver took this one's place.
        """
        if self._other is not None:
            raise Replaced(
                f"{self._seat.driven} was taken over by {process(self._other)}, as this process "
                f"gave no sign of life for more than {PRESUMED_DEAD:.0f} s; what it ran was ended, "
                f"and goes on there: {self._seat.advice}."
            )

    def _give_sign(self) -> None:
        found = self._seat.driver()
        if self._is_own(found):
            os.utime(self._seat.note)
            self._heard = time()
        elif found or time() - self._heard > PRESUMED_DEAD:  # who took over may have left again
            self._other = found
        elif self._seat.folder.is_dir():
            self.begin()

    def _is_own(self, found: dict[str, Any]) -> bool:
        return all(found.get(key) == self._own[key] for key in ("host", "pid"))


def process(driver: dict[str, Any]) -> str:
    """A driver in words; a driver that says nothing of itself has just come, or has left."""
    if not driver:
        return "another process"
    return f"process {driver.get('pid', '?')} on {driver.get('host', '?')}"
