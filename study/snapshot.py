"""A study at one moment, read from its folder alone: what every view of a study shows.

`sdw status`, `sdw watch`, the live view of `sdw launch`, the dashboard and the report read a
`Snapshot`. It takes the database and the trials' folders, and no Ray: any process that sees the
folder can make one, on any host, whether the study runs or not.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shlex import quote
from statistics import fmean, median
from time import time
from typing import TYPE_CHECKING, Any

from sdw_core.config import STAGES
from sdw_core.files import read_whole
from sdw_core.labels import FILM, counted, in_words, named, processors
from search_spaces import StudySpec
from study.book import TrialBook, TrialRow, remaining_among, settled_among
from study.early_stopping import saved
from study.folder import StudyFolder
from study.job import Job
from study.outcomes import COMPLETE, FAILED, PRUNED, without_numbers
from study.race import Race, raced, ranked

if TYPE_CHECKING:
    import pandas as pd

RETURNS = ("normalized_return", "iqm")
"""The metrics that are returns of policies."""
EVALUATION = 0.4
"""Seconds of evaluation for one of distillation, until a trial has shown its own: the quickstart's.
"""


@dataclass(frozen=True)
class Running:
    """What a trial under way last said of itself.

    Attributes:
        number: the trial's.
        params: its searched values.
        stage: one of `STAGES`.
        fraction: of the stage that is done.
        seconds: its running time so far, without its waits.
        node: name of the host that it runs on; None: not said.
        expert: normalised return of its expert, once that is known.
        waiting: whether it waits for another process.
        distilling: seconds that its whole distillation takes, at its pace; None: not known yet.
    """

    number: int
    params: dict[str, Any]
    stage: str = STAGES[0]
    fraction: float = 0.0
    seconds: float = 0.0
    node: str | None = None
    expert: float | None = None
    waiting: bool = False
    distilling: float | None = None


@dataclass(frozen=True)
class Waiting:
    """Trials that wait for a node with room for them, as the driver says.

    Attributes:
        trials: their numbers.
        need: `cpu` and `gpu`, of each.
        free: `cpu` and `gpu` of the node with most room; None without a node.
        node: name of that node's host.
        nodes: how many nodes the cluster has.
        starting: node type -> nodes that an autoscaler is starting.
        failed: node type -> why it could start none.
    """

    trials: list[int]
    need: dict[str, float]
    free: dict[str, float] | None
    node: str | None
    nodes: int
    starting: dict[str, int]
    failed: dict[str, str]

    @classmethod
    def among(cls, rows: Sequence[TrialRow], driver: Mapping[str, Any]) -> "Waiting | None":
        """The waiting ones of some trials; None where none waits.

        Args:
            rows: the trials; of those that the driver spoke of, some may have ended since.
            driver: what it says of itself.
        """
        said = driver.get("waiting") or {"trials": []}
        running = {row.number for row in rows if row.outcome == "RUNNING"}
        trials = [number for number in said["trials"] if number in running]
        return cls(**said | {"trials": trials}) if trials else None

    def __str__(self) -> str:
        """`1 CPU on a node; most is free on node-a of 2 nodes: 0 CPU; 1 worker being started`."""
        gpus = bool(self.need["gpu"])
        said = [processors(self.need["cpu"], self.need["gpu"] if gpus else None) + " on a node"]
        if self.free is None:
            said.append("there is no node")
        else:
            free = processors(self.free["cpu"], self.free["gpu"] if gpus else None)
            nodes = counted(self.nodes, "node")
            said.append(f"most is free on {self.node} of {nodes}: {free}")
        said += [f"{count} {kind} being started" for kind, count in self.starting.items()]
        said += [f"no {kind} could be started ({why})" for kind, why in self.failed.items()]
        return "; ".join(said)


@dataclass(frozen=True)
class Failures:
    """The trials that failed for one reason, apart from the numbers in the sentence.

    Attributes:
        kind: the class of reasons, such as `divergence`.
        reason: the first one's sentence.
        trials: their numbers.
    """

    kind: str
    reason: str
    trials: list[int]

    def numbers(self, most: int = 10) -> str:
        """The first trials' numbers: `1, 4, ...`."""
        return ", ".join(map(str, self.trials[:most])) + ", ..." * (len(self.trials) > most)


@dataclass(frozen=True)
class Snapshot:
    """A study at one moment.

    Attributes:
        folder: where the study lies.
        spec: the study, with the number of trials that it has now.
        at: when this was read, epoch seconds.
        state: `running`, `queued` (a job of SLURM will run it), `stopped` (trials remain) or
            `finished`.
        stopping: whether a running study was asked to stop.
        job: of a queued study, or of a running one whose driver is part of a job.
        driver: of a running study, what its driver says of itself: `host`, `pid`, `begun` (epoch
            seconds), `trials_at_a_time`; empty where it says nothing.
        trials: every trial, by number; one whose process is gone waits.
        queue: configurations of `study.enqueue` that no trial has yet.
        remaining: how many trials are yet to have an outcome: less than what is missing of the
            study's number, once its patience is over.
        under_way: the trials that run.
        waiting: those that wait for resources; None where no trial does.
        best: numbers of the best COMPLETE trial, or of the Pareto front; empty before there is one.
        race: which told the best trials apart on fresh seeds; None: they have not raced.
        early_stopping: what it saved; None where it is off.
        warnings: what trials were warned of, and how many of them.
    """

    folder: StudyFolder
    spec: StudySpec
    at: float
    state: str
    stopping: bool
    job: Job | None
    driver: dict[str, Any]
    trials: list[TrialRow]
    queue: list[dict[str, Any]]
    remaining: int
    under_way: list[Running]
    waiting: Waiting | None
    best: list[int]
    race: Race | None
    early_stopping: dict[str, Any] | None
    warnings: dict[str, int]

    @classmethod
    def of(cls, folder: StudyFolder, book: TrialBook | None = None) -> "Snapshot":
        """Read a study.

        Args:
            folder: the study's.
            book: its trials, if they are open already: what ended before is not read again.

        Raises:
            SDWError: the database is lost or cannot be read.
            InputError: study.yaml is missing, or holds something else.
        """
        book = book or folder.book()
        spec, driven = folder.spec(), folder.driven()  # `sdw extend` may have raised its number
        with folder.reading():
            race = raced(folder, book)
            best = ranked(book, race)  # before the rows: a trial among them is COMPLETE then
            rows = book.rows()
            spared, warnings = saved(book), book.warnings()
            queue = spec.study.enqueue and [*spec.study.enqueue[book.taken() :]]
        remaining = remaining_among(spec, rows, len(queue))
        driver = folder.driver() if driven else {}
        job = Job(driver["job"], "RUNNING") if "job" in driver else None
        if remaining and not driven:
            job = folder.job()
        asked = [row for row in rows if row.outcome == "RUNNING"]
        waiting = Waiting.among(asked, driver)
        waits = waiting.trials if waiting else []
        under_way = [_running(folder, r) for r in asked if driven and r.number not in waits]
        nodes = {trial.number: trial.node for trial in under_way}
        for row in asked:
            changed = {"node": nodes[row.number]} if row.number in nodes else {"outcome": "WAITING"}
            rows[row.number] = replace(row, **changed)
        return cls(
            folder=folder,
            spec=spec,
            at=time(),
            state=_state(driven, job, remaining > 0),
            stopping=driven and folder.stop_flag.exists(),
            job=job,
            driver=driver,
            trials=rows,
            queue=[*queue],
            remaining=remaining,
            under_way=under_way,
            waiting=waiting,
            best=best,
            race=race,
            early_stopping=spared,
            warnings=warnings,
        )

    @property
    def goes_on(self) -> bool:
        """Whether a process runs the study, or a job will."""
        return self.state in ("running", "queued")

    # How far it is

    @property
    def settled(self) -> list[TrialRow]:
        """The trials that have an outcome, without those that were asked again since."""
        return settled_among(self.trials)

    @property
    def total(self) -> int:
        """How many trials the study is to have."""
        return self.spec.study.trials

    @property
    def patience_is_over(self) -> bool:
        """Whether no new trial is begun, as those in a row were no gain above the noise."""
        return len(self.settled) + self.remaining < self.total

    @property
    def ended_by(self) -> str | None:
        """`patience` of a finished study that has fewer trials than it was to have; else None."""
        return "patience" if self.state == "finished" and self.patience_is_over else None

    @property
    def why_ended(self) -> str | None:
        """Why a finished study has fewer trials than it was to have, in a sentence."""
        if self.ended_by is None:
            return None
        return (
            f"Ended by `study.patience` after {len(self.settled)} of {self.total} trials: "
            f"{self.spec.study.patience} in a row were no gain above the noise; `sdw extend "
            f"{self.folder.called} --trials N` goes on beyond that."
        )

    @property
    def outcomes(self) -> dict[str, int]:
        """Outcome -> number of trials."""
        return dict(Counter(row.outcome for row in self.trials))

    @property
    def stages(self) -> dict[str, int]:
        """Stage -> number of trials that are in it, in the stages' order."""
        counts = Counter(trial.stage for trial in self.under_way)
        return {stage: counts[stage] for stage in STAGES if stage in counts}

    @property
    def nodes(self) -> dict[str, int]:
        """Node -> number of trials that run there, as far as they said so."""
        return dict(Counter(trial.node for trial in self.under_way if trial.node))

    @property
    def on_several_nodes(self) -> bool:
        """Whether the driver and the trials, all together, have run on more than one node."""
        return len({self.driver.get("host"), *(row.node for row in self.trials)} - {None}) > 1

    @property
    def done(self) -> float:
        """Trials that are done, with the fractions of those under way."""
        a_trial = self._a_trial()
        if a_trial is None:
            return float(len(self.settled))
        lefts = [self._left(trial, *a_trial) / sum(a_trial) for trial in self.under_way]
        return len(self.settled) + sum(max(0.0, 1 - left) for left in lefts)

    @property
    def trials_per_hour(self) -> float | None:
        """Trials that ended since the driver came, by the hour; None: not running, or none did."""
        begun = self.driver.get("begun")
        ended = [row for row in self.trials if row.ended and begun and row.ended > begun]
        if not ended:
            return None
        first = min((row.ended or 0) - (row.seconds or 0) for row in ended)
        return 3600 * len(ended) / max(self.at - max(first, begun or 0), 1.0)

    @property
    def seconds_left(self) -> float | None:
        """How long a running study takes yet; None: not running, or nothing to go by so far.

        Trials under way are taken at their own pace, those to come at the mean of their stages, on
        as many places as the driver fills.
        """
        a_trial = self._a_trial()
        if self.state != "running" or a_trial is None:
            return None
        lefts = [self._left(trial, *a_trial) for trial in self.under_way]
        to_come = max(0, self.remaining - len(lefts))
        places = self.driver.get("trials_at_a_time") or max(1, len(lefts))
        return max([(sum(lefts) + to_come * sum(a_trial)) / places, *lefts])

    def _a_trial(self) -> tuple[float, float] | None:
        """Seconds of a trial to come: to the end of its distillation, and of its evaluation.

        What comes before the distillation is mostly found in the stage cache: the median leaves
        the trials out that computed it.
        """
        stages = [row.stages for row in self.trials if row.outcome == COMPLETE and row.stages]
        if stages:
            before = STAGES[: STAGES.index("distill")]
            found = sum(median([each.get(name, 0.0) for each in stages]) for name in before)
            distill, evaluate = (
                fmean([each.get(name, 0.0) for each in stages]) for name in ("distill", "evaluate")
            )
            return found + distill, evaluate
        paces = [trial.distilling for trial in self.under_way if trial.distilling]
        return (fmean(paces), EVALUATION * fmean(paces)) if paces else None

    @staticmethod
    def _left(trial: Running, distill: float, evaluate: float) -> float:
        """Seconds that a trial under way takes yet: its distillation at its own pace."""
        if trial.stage == "evaluate":
            return (1 - trial.fraction) * evaluate
        fraction = trial.fraction if trial.stage == "distill" else 0.0
        return (1 - fraction) * (trial.distilling or distill) + evaluate

    # What came of it

    def row(self, number: int) -> TrialRow:
        """The trial of a number."""
        return self.trials[number]

    @property
    def failures(self) -> list[Failures]:
        """The FAILED trials by reason, the most frequent first."""
        groups: dict[str, list[TrialRow]] = {}
        for row in self.trials:
            if row.outcome == FAILED:
                groups.setdefault(without_numbers(row.reason or ""), []).append(row)
        found = [
            Failures(kind(group[0]), group[0].reason or "", [row.number for row in group])
            for group in groups.values()
        ]
        return sorted(found, key=lambda group: -len(group.trials))

    @property
    def shrinkage(self) -> float | None:
        """The best rows' score in the search less that on fresh seeds; None: not judged there."""
        if len(self.best) != 1:
            return None
        confirmed = read_whole(self.folder.trial(self.best[0]) / "confirmed.json") or {}
        points: float | None = confirmed.get("search", {}).get("shrinkage")
        return points

    @property
    def exports(self) -> list[Path]:
        """Where the rows of the best were exported to, as the study's end does."""
        folders = [self.folder.exports / f"trial-{number}" for number in self.best]
        return [path for path in folders if path.is_dir()]

    @property
    def report(self) -> Path | None:
        """The study's page, if it was written."""
        return self.folder.report if self.folder.report.is_file() else None

    @property
    def unsatisfied(self) -> str | None:
        """That no COMPLETE trial is within the constraints, and which they are beyond."""
        rows = [row for row in self.trials if row.outcome == COMPLETE]
        if not rows or not all(row.violates for row in rows):
            return None
        counts = Counter(bound for row in rows for bound in row.violates)
        which = ", ".join(f"{bound} ({counted(n, 'trial')})" for bound, n in counts.items())
        return (
            f"No trial satisfies `study.constraints`: of {counted(len(rows), 'COMPLETE trial')} "
            f"all are beyond {which}."
        )

    def objectives(self, row: TrialRow) -> str:
        """What a COMPLETE trial reached: `normalised return 90.6 (95 % 87.0 to 93.5)`."""
        said = []
        for objective, value in zip(self.spec.study.objectives, row.values or [], strict=False):
            name, interval = in_words(objective.metric), ""
            if objective.metric in RETURNS:
                name = named(name, row.ensemble)
            if objective.metric == RETURNS[0] and row.interval:
                interval = " (95 % {:.1f} to {:.1f})".format(*row.interval)
            said.append(f"{name} {number(value)}{interval}")
        return ", ".join(said)

    def story(self, row: TrialRow) -> str:
        """What happened to a trial, in a sentence."""
        it, where = f"Trial {row.number}", f" on {row.node}" if row.node else ""
        it += " (its settings were asked for)" if row.asked else ""
        ran = f"{it} ran {minutes(row.seconds)}{where} and" if row.seconds is not None else it
        retries = [each.number for each in self.trials if each.retry_of == row.number]
        again = f"; it was asked again as trial {retries[0]}" if retries else ""
        if row.outcome == COMPLETE:
            several = len(self.spec.study.objectives) > 1
            rank = "on the Pareto front" if several else "the best so far"
            rank = f", {rank}" if row.number in self.best else ""
            if row.violates:
                rank = f", beyond {', '.join(row.violates)}, so that it is never the best"
            if row.judged:
                behind = f"clearly behind trial {row.judged['against']}"
                rank += f", judged by {row.judged_by}, {behind}"
            return f"{ran} reached {self.objectives(row)}{rank}."
        if row.outcome == PRUNED:
            return f"{ran} was ended early ({row.reason})."
        if row.outcome == FAILED:
            return f"{ran} failed ({(row.reason or 'no reason').rstrip('.')}){again}."
        for trial in self.under_way:
            if trial.number == row.number:
                at = f" on {trial.node}" if trial.node else ""
                waits = ", and waits for another process" if trial.waiting else ""
                return f"{it} runs{at}: {stage(trial)}, {100 * trial.fraction:.0f} %{waits}."
        if self.waiting and row.number in self.waiting.trials:
            return f"{it} waits for {self.waiting}."
        return f"{it} waits for its turn{self._its_turn}."

    @property
    def _its_turn(self) -> str:
        return "" if self.goes_on else f", which `{self.folder.go_on}` gives"

    @property
    def next_commands(self) -> list[tuple[str, str]]:
        """What one may do now, and the command that does it, the likeliest first."""
        called, exports = self.folder.called, self.exports
        look = ("look at trials", f"sdw dashboard {called}")
        if self.goes_on:
            return [
                ("watch it", f"sdw watch {called}"),
                look,
                ("stop it in order", f"sdw stop {called}"),
            ]
        again = [("try failed again", f"sdw retry-failed {called}")] * bool(self.failures)
        if self.state == "stopped":
            return [("go on", self.folder.go_on), look, *again]
        if not exports:
            export = [("export the best", f"sdw export {called}")] * bool(self.best)
            return [*export, look, *again]
        filmed, one = (exports[0] / FILM).exists(), len(self.best) == 1
        return [
            ("evaluate again", f"sdw evaluate {quote(str(exports[0]))}"),
            look,
            *[("see it walk", f"sdw render {quote(str(exports[0]))}")] * (not filmed),
            *[("export more", f"sdw export {called} --top 3 --to DIR")] * one,
            *again,
        ]

    # For others

    def frame(self) -> "pd.DataFrame":
        """One row a trial: number, outcome, reason, parameters, objectives and seconds."""
        import pandas as pd

        metrics = [objective.metric for objective in self.spec.study.objectives]
        return pd.DataFrame(
            [
                {"number": trial.number, "outcome": trial.outcome, "reason": trial.reason}
                | trial.params
                | {m: trial.values[i] if trial.values else None for i, m in enumerate(metrics)}
                | {"trial_seconds": trial.seconds, "asked": trial.asked}
                | {"violates": ", ".join(trial.violates)}
                for trial in self.trials
            ]
        )

    def to_json(self) -> dict[str, Any]:
        """What `sdw status --json` prints."""
        driver = {"host": self.driver.get("host"), "pid": self.driver.get("pid")}
        return {
            "study": self.folder.name,
            "state": self.state,
            "ended_by": self.ended_by,
            "driver": driver if self.state == "running" else None,
            "job": asdict(self.job) if self.job else None,
            "trials": [asdict(trial) for trial in self.trials],
            "queue": self.queue,
            "best": self.best,
            "race": self.race and self.race.to_json(),
            "shrinkage": self.shrinkage,
            "early_stopping": self.early_stopping,
            "warnings": [
                {"warning": sentence, "trials": count} for sentence, count in self.warnings.items()
            ],
            "stopping": self.stopping,
            "asked": self.total,
            "settled": len(self.settled),
            "running": [asdict(trial) for trial in self.under_way],
            "waiting": asdict(self.waiting) if self.waiting else None,
            "failures": [asdict(group) for group in self.failures],
            "trials_per_hour": self.trials_per_hour,
            "seconds_left": self.seconds_left,
            "exports": [str(path) for path in self.exports],
            "report": str(self.report) if self.report else None,
        }


def _state(driven: bool, job: Job | None, remaining: bool) -> str:
    return "running" if driven else "queued" if job else "stopped" if remaining else "finished"


def _running(folder: StudyFolder, row: TrialRow) -> Running:
    """Nothing is said of a trial that has just begun, and little by an earlier version."""
    said = read_whole(folder.trial(row.number) / "progress.json") or {}
    known = ("stage", "fraction", "seconds", "node", "expert", "waiting", "distilling")
    return Running(row.number, row.params, **{key: said[key] for key in known if key in said})


def kind(row: TrialRow) -> str:
    """The class of a failure's reasons: `divergence` of `divergence: the loss is not finite`."""
    return (row.reason or "").partition(":")[0]


def stage(trial: Running) -> str:
    """`distill (5/6)`."""
    return f"{trial.stage} ({STAGES.index(trial.stage) + 1}/{len(STAGES)})"


def settings(params: dict[str, Any]) -> str:
    """Searched values in short: the last part of each path."""
    return ", ".join(
        f"{path.rpartition('.')[2]} {value:.3g}"
        if isinstance(value, float)
        else f"{path.rpartition('.')[2]} {value}"
        for path, value in params.items()
    )


def number(value: float) -> str:
    """Four digits; all of a whole number.

    >>> number(90.62281), number(12345.0)
    ('90.62', '12345')
    """
    return f"{value:.0f}" if value == int(value) else f"{value:.4g}"


def value(metric: str, value: float) -> str:
    """An objective's value in short.

    >>> value("normalized_return", -0.04), value("seconds", 0.04)
    ('0.0', '0.04')
    """
    return f"{round(value, 1) + 0:.1f}" if metric in RETURNS else number(value)


def minutes(seconds: float) -> str:
    """`75` -> `1 min 15 s`.

    >>> minutes(59.4), minutes(75), minutes(7384), minutes(190000)
    ('59 s', '1 min 15 s', '2 h 3 min', '2 d 4 h')
    """
    whole = round(seconds)
    for unit, part, size, smaller in (("d", "h", 86400, 3600), ("h", "min", 3600, 60)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {part}"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
