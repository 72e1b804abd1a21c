"""What a person sees while a study runs: trials in their stages, the best so far, the time left."""

import threading
from dataclasses import dataclass
from time import monotonic, time
from types import TracebackType
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar

from sdw_core.config import STAGES
from sdw_core.console import Console, Table, line
from sdw_core.files import read_json
from sdw_core.labels import named
from search_spaces import StudySpec
from study.book import ENSEMBLE, TrialBook, TrialRow
from study.folder import StudyFolder
from study.outcomes import FINAL

RETURNS = ("normalized_return", "iqm")
"""The metrics that are returns of policies."""
REFRESH = 1.0
"""Seconds between looks at the trials' folders."""


@dataclass(frozen=True)
class Running:
    """A trial under way: its stage, that stage's fraction, and when it began (epoch seconds).

    `expert` is the normalised return of its expert, once that is known; `waiting` says whether it
    waits for another process.
    """

    number: int
    params: dict[str, Any]
    stage: str
    fraction: float
    begun: float
    expert: float | None
    waiting: bool = False


class Display:
    """Follows a study from its folder, in a thread of its own, while the block it wraps runs.

    On a terminal it is a live table; elsewhere, one line whenever a trial ends.

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
        self._begun = monotonic()
        if self._console:
            self._book = self._folder.book()
            self._shown = {row.number for row in self._book.rows() if row.outcome in FINAL}
            self._final_before = len(self._shown)
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
            while not self._ended.wait(REFRESH):
                self._announce(console)
            self._announce(console)
            return
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            while not self._ended.wait(REFRESH):
                live.update(self._view())

    def _announce(self, console: Console) -> None:
        for row in self._book.rows():
            if row.outcome in FINAL and row.number not in self._shown:
                self._shown.add(row.number)
                values = ", ".join(f"{value:.4g}" for value in row.values or [])
                detail = row.reason or named(values, row.ensemble)
                console.print(f"trial {row.number}: {row.outcome} {detail}")

    def _view(self) -> RenderableType:
        rows = self._book.rows()
        running = running_trials(self._folder, rows)
        total = self._folder.spec().study.trials  # `sdw extend` may raise it
        final = self._book.settled()
        heading = line(
            (self._folder.name, "bold"),
            f"  {len(final)} of {total} trials",
            _best(self._book, rows),
        )
        left = self._seconds_left(final, running, total)
        if left is not None:
            heading.append(f"  about {minutes(left)} left")
        done = len(final) + sum(map(trial_fraction, running))
        bar = Table(show_header=False, padding=0)
        bar.add_row(ProgressBar(total=total, completed=done, width=60))
        table = Table(padding=(0, 1), header_style="dim")
        for column in ("trial", "stage", "", "seconds", "expert", "settings"):
            text = column in ("stage", "", "settings")
            table.add_column(column, justify="left" if text else "right")
        for trial in running:
            table.add_row(
                str(trial.number),
                f"{trial.stage} ({STAGES.index(trial.stage) + 1}/{len(STAGES)})"
                + ", waits" * trial.waiting,
                ProgressBar(total=1.0, completed=trial.fraction, width=20),
                f"{time() - trial.begun:.0f}",
                "" if trial.expert is None else f"{trial.expert:.1f}",
                settings(trial.params),
            )
        stopping = self._folder.stop_flag.exists()
        note = [line(("stopping: running trials write a checkpoint", "yellow"))] * stopping
        return Group(heading, bar, table, *note)

    def _seconds_left(
        self, final: list[TrialRow], running: list[Running], total: int
    ) -> float | None:
        """The time so far, scaled by what is still to do; None until there is enough of it."""
        done = len(final) - self._final_before + sum(map(trial_fraction, running))
        todo = total - len(final) - sum(map(trial_fraction, running))
        return (monotonic() - self._begun) / done * todo if done > 0.2 else None


def running_trials(folder: StudyFolder, rows: list[TrialRow]) -> list[Running]:
    """What the trials that are RUNNING last said of themselves."""
    running = []
    for row in rows:
        if row.outcome != "RUNNING":
            continue
        try:
            said = read_json(folder.trial(row.number) / "progress.json")
        except FileNotFoundError:
            said = {"stage": STAGES[0], "fraction": 0.0, "begun": time()}
        where = said["stage"], said["fraction"], said["begun"]
        told = said.get("expert"), said.get("waiting", False)
        running.append(Running(row.number, row.params, *where, *told))
    return running


def trial_fraction(trial: Running) -> float:
    """How much of a trial is done, as nearly all of its time is distillation."""
    if trial.stage == "distill":
        return 0.9 * trial.fraction
    return 0.9 + 0.1 * trial.fraction if trial.stage == "evaluate" else 0.0


def settings(params: dict[str, Any]) -> str:
    """Searched values in short: the last part of each path."""
    return ", ".join(
        f"{path.rpartition('.')[2]} {value:.3g}"
        if isinstance(value, float)
        else f"{path.rpartition('.')[2]} {value}"
        for path, value in params.items()
    )


def minutes(seconds: float) -> str:
    """`75` -> `1 min 15 s`."""
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def _best(book: TrialBook, rows: list[TrialRow]) -> str:
    best = book.best()
    if not best:
        return ""
    if len(best) > 1:
        return f"  {len(best)} on the Pareto front"
    row = next(row for row in rows if row.number == best[0])
    if not row.values:
        return ""
    return f"  best {row.values[0]:.1f} ({named(f'trial {row.number}', row.ensemble)})"


def trial_table(spec: StudySpec, rows: list[TrialRow], best: list[int]) -> Table:
    """One row a trial: its settings, its objectives, seconds and outcome; the best in bold."""
    searched = {path: path.rpartition(".")[2] for path in spec.search}
    metrics = {
        index: objective.metric
        for index, objective in enumerate(spec.study.objectives)
        if objective.metric not in searched.values()
    }
    table = Table(padding=(0, 1), header_style="dim")
    kinds = () if ENSEMBLE in searched else {row.ensemble for row in rows}  # else a column says it
    found = [named(metric, *kinds) if metric in RETURNS else metric for metric in metrics.values()]
    headings = ["trial", *searched.values(), *found, "95 %_interval", "trial_seconds"]
    for heading in headings:
        table.add_column(heading.replace("_", "\n").replace(", ", ",\n"), justify="right")
    table.add_column("outcome")
    for row in rows:
        table.add_row(
            str(row.number),
            *[_cell(row.params.get(path)) for path in searched],
            *[_cell(row.values[index] if row.values else None) for index in metrics],
            f"{row.interval[0]:.1f} to {row.interval[1]:.1f}" if row.interval else "",
            f"{row.seconds:.0f}" if row.seconds is not None else "",
            row.outcome if not row.reason else f"{row.outcome} ({row.reason})",
            style="bold" if row.number in best else None,
        )
    return table


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
