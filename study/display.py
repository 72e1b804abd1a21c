"""What a person sees of a study as it goes: how far it is, its best, what each trial does now."""

import os
import select
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from signal import SIGINT
from time import monotonic, sleep
from types import TracebackType

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar

from sdw_core.console import A_LINE, Console, Table, line
from sdw_core.errors import SDWError
from sdw_core.labels import named
from study.book import TrialBook
from study.driver import process
from study.folder import StudyFolder
from study.outcomes import FINAL
from study.signals import Ended
from study.snapshot import RETURNS, Failures, Snapshot, Waiting, minutes, settings, stage, value

REFRESH = 1.0
"""Seconds between looks at the study's folder."""
UNDER_WAY, FAILURES = 8, 3
"""Most trials under way, and most kinds of failures, that the live view shows."""
Key = Callable[[float], str]
"""Waits for so many seconds at most; the key that was pressed, or nothing."""


class Display:
    """Follows a study from its folder, in a thread of its own, while the block it wraps runs.

    On a terminal it is a live view; elsewhere, a line whenever a trial ends, and one a minute.

    Args:
        folder: the study.
        console: where to show it; nothing is shown on a quiet one.
    """

    def __init__(self, folder: StudyFolder, console: Console) -> None:
        self._folder = folder
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._doing = ""
        self._unsaid: list[str] = []
        self._said_waiting = -A_LINE
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "Display":
        if not self._console.quiet:
            self._book = self._folder.book()
            self._told = {row.number for row in self._book.rows() if row.outcome in FINAL}
            self._unsaid = [f"study {self._folder.name} in {self._folder.path}"]
            if self._console.is_terminal:
                self._console.print(self._unsaid[0])
                self._live.start()
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if not self._console.quiet:
            self._thread.join()
            self._live.stop()

    def say(self, doing: str) -> None:
        """Say what is done while no trial runs yet.

        Where no terminal shows it, what takes a second is said: bad input, which ends the work at
        once, is one sentence there.
        """
        self._doing = doing
        self._unsaid.append(doing)

    def show(self, table: Table) -> None:
        """Print a table above what goes on."""
        self._console.print(table)

    def _follow(self) -> None:
        (self._show if self._console.is_terminal else self._tell)()

    def _show(self) -> None:
        ended = False
        while not ended:
            with suppress(SDWError, OSError):  # the driver says what is wrong, if it cannot go on
                now = Snapshot.of(self._folder, self._book)
                begun = (
                    now.under_way
                    or now.waiting
                    or now.stopping
                    or len(now.settled) > len(self._told)
                )
                doing = [] if begun or not self._doing else [line((self._doing, "dim"))]
                self._live.update(Group(view(now), *doing), refresh=True)
            ended = self._ended.wait(REFRESH)

    def _tell(self) -> None:
        said = monotonic()
        while not self._ended.wait(REFRESH):
            self._say_all()
            self._announce()
            if monotonic() - said >= A_LINE:
                said = monotonic()
                with suppress(SDWError, OSError):  # as above
                    self._console.print(summary(Snapshot.of(self._folder, self._book)))
        self._announce()

    def _say_all(self) -> None:
        while self._unsaid:
            self._console.print(self._unsaid.pop(0))

    def _announce(self) -> None:
        with suppress(SDWError, OSError), self._folder.reading():  # as above
            rows = self._book.rows()
            waits = Waiting.among(rows, self._folder.driver())
            if waits and monotonic() - self._said_waiting >= A_LINE:
                self._say_all()
                self._said_waiting = monotonic()
                self._console.print(waiting(waits))
            for row in rows:
                if row.outcome in FINAL and row.number not in self._told:
                    self._say_all()
                    self._told.add(row.number)
                    values = ", ".join(f"{value:.4g}" for value in row.values or [])
                    detail = row.reason or named(values, row.ensemble)
                    self._console.print(f"trial {row.number}: {row.outcome} {detail}")


def watch(folder: StudyFolder, console: Console) -> bool:
    """Show a study from outside the process that runs it, until it runs no longer.

    On a terminal, the key q leaves before that, as Ctrl-C does, and s asks the study to stop;
    elsewhere it is a line a minute.

    Args:
        folder: the study's.
        console: where to show it.

    Returns:
        Whether the study runs no longer; else somebody left.
    """
    book = folder.book()
    try:
        return (_live if console.is_terminal else _lines)(folder, book, console)
    except Ended as ended:
        if ended.number == SIGINT:
            return False
        raise


def _lines(folder: StudyFolder, book: TrialBook, console: Console) -> bool:
    said = -A_LINE
    while True:
        now = Snapshot.of(folder, book)
        running = now.goes_on
        if not running or monotonic() - said >= A_LINE:
            said = monotonic()
            console.print(f"{folder.name}: {now.state}{by_whom(now)}, {summary(now)}")
        if not running:
            return True
        sleep(REFRESH)


def _live(folder: StudyFolder, book: TrialBook, console: Console) -> bool:
    asked = False
    with _keys() as key, Live(console=console, auto_refresh=False) as live:
        while True:
            now = Snapshot.of(folder, book)
            running = now.goes_on
            hint = "stop the study? y or n" if asked else "q leaves, s stops the study"
            live.update(Group(view(now), *[line((hint, "dim"))] * running), refresh=True)
            if not running:
                return True
            pressed = key(REFRESH)
            if asked and pressed == "y":
                folder.ask_to_stop()
            elif pressed == "q":
                return False
            asked = pressed == "s" if pressed else asked


@contextmanager
def _keys() -> Iterator[Key]:
    """Yields what waits for a key that is pressed on the terminal, which does not show it."""
    if not sys.stdin.isatty():
        yield _no_key
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def key(seconds: float) -> str:
        ready, _, _ = select.select([terminal], [], [], seconds)
        return os.read(terminal, 1).decode(errors="replace").lower() if ready else ""

    try:
        tty.setcbreak(terminal)
        yield key
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _no_key(seconds: float) -> str:
    sleep(seconds)
    return ""


def view(snapshot: Snapshot) -> RenderableType:
    """How far a study is, its best, the trials under way and the last failures."""
    bar = Table(show_header=False, padding=0)
    bar.add_row(ProgressBar(total=max(1, snapshot.total), completed=snapshot.done, width=60))
    found: list[RenderableType] = [
        line((snapshot.folder.name, "bold"), f"  {_state(snapshot)}"),
        bar,
        summary(snapshot),
    ]
    if snapshot.under_way:
        found.append(_under_way(snapshot))
    if snapshot.waiting:
        found.append(line((waiting(snapshot.waiting), "yellow")))
    last = sorted(snapshot.failures, key=lambda group: -group.trials[-1])[:FAILURES]
    found += [_failed(group) for group in last]
    if snapshot.stopping:
        found.append(line(("stopping: running trials write a checkpoint", "yellow")))
    return Group(*found)


def _state(snapshot: Snapshot) -> str:
    """`running on node-a (process 7)  2 trials: distill 1, evaluate 1; node-a 2`."""
    said = snapshot.state
    if "host" in snapshot.driver:
        job = f", job {snapshot.job.id}" if snapshot.job else ""
        said += f" on {snapshot.driver['host']} (process {snapshot.driver.get('pid')}{job})"
    elif snapshot.job:
        said += f": {snapshot.job}"
    if snapshot.under_way:
        counts = [", ".join(f"{name} {n}" for name, n in snapshot.stages.items())]
        if snapshot.on_several_nodes:
            counts.append(", ".join(f"{name} {n}" for name, n in snapshot.nodes.items()))
        said += f"  {len(snapshot.under_way)} under way: {'; '.join(counts)}"
    return said


def by_whom(snapshot: Snapshot) -> str:
    """Who runs a study, or will: ` (process 7 on node-a, job 12)`; nothing where nobody does."""
    if not snapshot.goes_on:
        return ""
    if snapshot.state == "queued":
        return f" ({snapshot.job})"
    job = f", job {snapshot.job.id}" if snapshot.job else ""
    return f" ({process(snapshot.driver)}{job})"


def summary(snapshot: Snapshot) -> str:
    """How far a study is, in a line."""
    said = [f"{len(snapshot.settled)} of {snapshot.total} trials"]
    if pruned := snapshot.outcomes.get("PRUNED"):
        said.append(f"{pruned} PRUNED")
    if failed := snapshot.outcomes.get("FAILED"):
        said.append(f"{failed} FAILED")
    if snapshot.patience_is_over:
        said.append("patience is over")
    if snapshot.waiting:
        said.append(f"{len(snapshot.waiting.trials)} WAITING")
    if snapshot.best:
        said.append(best(snapshot))
    if snapshot.trials_per_hour:
        said.append(f"{snapshot.trials_per_hour:.0f} trials an hour")
    if snapshot.seconds_left:
        said.append(f"about {minutes(snapshot.seconds_left)} left")
    return ", ".join(said)


def waiting(waits: Waiting) -> str:
    """`WAITING (trials 4, 5) for 1 CPU on a node; most is free on node-a of 2 nodes: 0 CPU`."""
    trials = "trial" if len(waits.trials) == 1 else "trials"
    more = ", ..." * (len(waits.trials) > UNDER_WAY)
    return f"WAITING ({trials} {', '.join(map(str, waits.trials[:UNDER_WAY]))}{more}) for {waits}"


def best(snapshot: Snapshot) -> str:
    """The best so far: `best in the search 90.6 (87.0 to 93.5, trial 11)`."""
    if len(snapshot.spec.study.objectives) > 1:
        numbers = ", ".join(map(str, snapshot.best))
        return f"{len(snapshot.best)} on the Pareto front (trials {numbers})"
    row, metric = snapshot.row(snapshot.best[0]), snapshot.spec.study.objectives[0].metric
    trial = named(f"trial {row.number}", row.ensemble)
    found = value(metric, (row.values or [float("nan")])[0])
    of_return = metric == RETURNS[0]
    interval = "{:.1f} to {:.1f}".format(*row.interval) if row.interval and of_return else ""
    if snapshot.race:
        return f"{trial} won the race (in the search {', '.join(filter(None, [found, interval]))})"
    return f"best in the search {found} ({', '.join(filter(None, [interval, trial]))})"


def _under_way(snapshot: Snapshot) -> Table:
    table = Table(padding=(0, 1), header_style="dim")
    several = snapshot.on_several_nodes
    spare = {"expert": 1, "settings": 2}
    for column in ("trial", "stage", "", "seconds", "expert", *["node"] * several, "settings"):
        right = column in ("trial", "seconds", "expert")
        table.add_column(column, justify="right" if right else "left", spare=spare.get(column, 0))
    for trial in snapshot.under_way[:UNDER_WAY]:
        table.add_row(
            str(trial.number),
            stage(trial) + ", waits" * trial.waiting,
            ProgressBar(total=1.0, completed=trial.fraction, width=8),
            f"{trial.seconds:.0f}",
            "" if trial.expert is None else f"{trial.expert:.1f}",
            *[trial.node or ""] * several,
            settings(trial.params),
        )
    if (more := len(snapshot.under_way) - UNDER_WAY) > 0:
        table.add_row("", f"and {more} more")
    return table


def _failed(group: Failures) -> RenderableType:
    numbers = ", ".join(map(str, group.trials[-5:]))
    of = f"trial {numbers}" if len(group.trials) == 1 else f"{len(group.trials)} trials, {numbers}"
    return line((f"FAILED ({of})", "red"), f" {group.reason}")
