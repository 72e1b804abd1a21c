"""Waiting for what another process does: a result that it computes, a folder that it holds."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from filelock import FileLock, Timeout

LOOK = 0.1
"""Seconds between two looks at whether a wait is over."""

GoOn = Callable[[], None]
"""Asked between two looks; raises `StopRequested` to end the wait."""
Waiting = Callable[[], AbstractContextManager[GoOn]]
"""Gives a context that is entered for as long as a wait lasts: time that is not the run's own."""


@contextmanager
def patiently() -> Iterator[GoOn]:
    """Wait for as long as it takes."""
    yield lambda: None


@contextmanager
def holding(lock: FileLock, waiting: Waiting) -> Iterator[None]:
    """Hold a lock; `waiting` is told if another process holds it first.

    Raises:
        StopRequested: the wait was ended.
    """
    try:
        lock.acquire(blocking=False)
    except Timeout:
        with waiting() as go_on:
            _acquire(lock, go_on)
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, go_on: GoOn) -> None:
    while not lock.is_locked:
        go_on()
        try:
            lock.acquire(timeout=LOOK, poll_interval=LOOK / 2)
        except Timeout:
            continue
