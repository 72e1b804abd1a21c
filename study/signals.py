"""What ends a command: Ctrl-C, a terminal that hangs up, a batch system before it kills.

A command that a signal ends says so in one line; what it wrote is whole. A study and a comparison
stop in order instead: their trials write a checkpoint first. Python handles signals in its main
thread only, so work in another thread leaves all handlers as they are.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
TO_THE_GROUP = {signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}
"""What terminals and batch systems send to every process that a command started, too."""

Handler = Callable[[int, FrameType | None], None]


class Ended(BaseException):
    """A signal ends the command.

    Attributes:
        number: the signal.
        way_on: how to go on, after "Ended by SIGTERM; ".
    """

    way_on = "nothing half-written is left, and the same command can be given again"

    def __init__(self, number: int) -> None:
        self.number = signal.Signals(number)
        super().__init__(self.number.name)

    def __str__(self) -> str:
        return f"Ended by {self.number.name}; {self.way_on}."

    @property
    def exit_code(self) -> int:
        """As a shell states the death by a signal."""
        return 128 + self.number


@contextmanager
def ending() -> Iterator[None]:
    """A signal raises `Ended`; while that cleans up, only a third Ctrl-C ends the clean-up too."""
    ended: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        ended.append(number)
        if len(ended) == 1 or ended.count(signal.SIGINT) > 2:
            raise Ended(number)

    with _handled(handle):
        yield


@contextmanager
def stopping(stop_flag: Path) -> Iterator[None]:
    """A signal asks a study to stop in order; a second Ctrl-C ends the driver at once.

    A second one of another kind does not: a terminal that hangs up may say so twice, and a batch
    system sends several. While Ray's processes are being ended, only a fourth Ctrl-C ends that too.
    """
    interrupted = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        stop_flag.touch()
        if number == signal.SIGINT:
            interrupted += 1
            if interrupted == 2 or interrupted > 3:
                raise Ended(number)

    with _handled(handle):
        try:
            yield
        except Exception as error:
            if interrupted < 2:
                raise
            raise Ended(signal.SIGINT) from error  # as what Ray's own code made of it


@contextmanager
def going_on_with(way_on: str) -> Iterator[None]:
    """Say how to go on where a signal ends the work; the innermost knows best."""
    try:
        yield
    except Ended as ended:
        if "way_on" not in vars(ended):
            ended.way_on = way_on
        raise


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Keep the handlers from a library that would set its own, as Ray and Tune do."""
    if not _hears():
        yield
        return
    settle = signal.signal

    def refuse(number: int, handler: Any) -> Any:
        return signal.getsignal(number) if number in ENDING else settle(number, handler)

    signal.signal = refuse  # type: ignore[assignment]
    try:
        yield
    finally:
        signal.signal = settle
        for number in ENDING:  # Ray sets one in C as well, of which Python does not know
            signal.signal(number, signal.getsignal(number))


@contextmanager
def children_deaf() -> Iterator[None]:
    """Processes that are started here do not hear what is sent to the whole group.

    What their driver makes of it is theirs too. The driver may hear it only afterwards.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, TO_THE_GROUP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def _handled(handler: Handler) -> Iterator[None]:
    """Signals call a handler, except those that `nohup` or the like has ignored.

    Ctrl-C calls it even so: a shell has Ctrl-C ignored for all that it starts in the background.
    """
    before = {
        number: signal.signal(number, handler)
        for number in ENDING
        if _hears() and (number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN)
    }
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _hears() -> bool:
    """Whether this thread is the one that handles signals."""
    return threading.current_thread() is threading.main_thread()
