"""What a person sees of a study as it goes: how far it is, its best, what each trial does now."""

import threading
from time import monotonic
from types import TracebackType

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar

from sdw_core.console import Console, Table, line
from sdw_core.labels import named
from study.folder import StudyFolder
from study.outcomes import FINAL
from study.snapshot import Failures, Snapshot, minutes, settings, stage

REFRESH = 1.0
"""Seconds between looks at the trials' folders."""
A_LINE = 60.0
"""Seconds between two lines on how far a study is, where no terminal shows it."""
SHOWN = 10
"""Most trials under way, and kinds of failures, that the live view shows."""


class Display:
    """Follows a study from its folder, in a thread of its own, while the block it wraps runs.

    On a terminal it is a live view; elsewhere, a line whenever a trial ends, and one a minute.

    Args:
        folder: the study.
        console: where to show it; None shows nothing.
    """

    def __init__(self, folder: StudyFolder, console: Console | None) -> None:
        self._folder = folder
        self._console = console
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "Display":
        if self._console:
            self._book = self._folder.book()
            self._told = {row.number for row in self._book.rows() if row.outcome in FINAL}
            self._console.print(f"study {self._folder.name} in {self._folder.path}")
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._console:
            self._thread.join()

    def _follow(self) -> None:
        console = self._console
        assert console is not None
        if not console.is_terminal:
            said = monotonic()
            while not self._ended.wait(REFRESH):
                self._announce(console)
                if monotonic() - said >= A_LINE:
                    said = monotonic()
                    console.print(summary(Snapshot.of(self._folder, self._book)))
            self._announce(console)
            return
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            while not self._ended.wait(REFRESH):
                live.update(view(Snapshot.of(self._folder, self._book)))

    def _announce(self, console: Console) -> None:
        for row in self._book.rows():
            if row.outcome in FINAL and row.number not in self._told:
                self._told.add(row.number)
                values = ", ".join(f"{value:.4g}" for value in row.values or [])
                detail = row.reason or named(values, row.ensemble)
                console.print(f"trial {row.number}: {row.outcome} {detail}")


def view(snapshot: Snapshot) -> RenderableType:
    """How far a study is, its best, the trials under way and the last failures."""
    heading = line((snapshot.folder.name, "bold"), f"  {summary(snapshot)}")
    bar = Table(show_header=False, padding=0)
    bar.add_row(ProgressBar(total=max(1, snapshot.total), completed=snapshot.done, width=60))
    found: list[RenderableType] = [heading, bar]
    if snapshot.under_way:
        found.append(_under_way(snapshot))
    found += [_failed(group) for group in snapshot.failures[:SHOWN]]
    if snapshot.stopping:
        found.append(line(("stopping: running trials write a checkpoint", "yellow")))
    return Group(*found)


def _under_way(snapshot: Snapshot) -> Table:
    table = Table(padding=(0, 1), header_style="dim")
    places = [""] if len(snapshot.nodes) > 1 else []
    columns = ["trial", "stage", "", "seconds", "expert", *["node" for _ in places], "settings"]
    for column in columns:
        right = column in ("trial", "seconds", "expert")
        table.add_column(column, justify="right" if right else "left")
    for trial in snapshot.under_way[:SHOWN]:
        table.add_row(
            str(trial.number),
            stage(trial) + ", waits" * trial.waiting,
            ProgressBar(total=1.0, completed=trial.fraction, width=20),
            f"{trial.seconds:.0f}",
            "" if trial.expert is None else f"{trial.expert:.1f}",
            *[trial.node or "" for _ in places],
            settings(trial.params),
        )
    if (more := len(snapshot.under_way) - SHOWN) > 0:
        table.add_row("", f"and {more} more")
    return table


def _failed(group: Failures) -> RenderableType:
    return line((f"{len(group.trials)} FAILED", "red"), f" ({group.reason})")


def summary(snapshot: Snapshot) -> str:
    """How far a study is, in a line."""
    said = [f"{len(snapshot.settled)} of {snapshot.total} trials"]
    if snapshot.best:
        said.append(best(snapshot))
    if failed := snapshot.outcomes.get("FAILED"):
        said.append(f"{failed} FAILED")
    if snapshot.trials_per_hour:
        said.append(f"{snapshot.trials_per_hour:.0f} trials an hour")
    if snapshot.seconds_left is not None:
        said.append(f"about {minutes(snapshot.seconds_left)} left")
    return ", ".join(said)


def best(snapshot: Snapshot) -> str:
    """The best so far: `best 90.6 (87.0 to 93.5, trial 11)`."""
    if len(snapshot.spec.study.objectives) > 1:
        return f"{len(snapshot.best)} on the Pareto front"
    row = snapshot.row(snapshot.best[0])
    interval = "{:.1f} to {:.1f}, ".format(*row.interval) if row.interval else ""
    value = row.values[0] if row.values else float("nan")
    return f"best {value:.1f} ({interval}{named(f'trial {row.number}', row.ensemble)})"
