"""The book of trials: what Optuna's storage says of each, in the project's words."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from sdw_core.errors import InputError
from sdw_core.files import write_json
from sdw_core.identity import Inventory
from search_spaces import Choice, Distribution, FloatRange, StudySpec
from search_spaces.constraints import setting_at
from search_spaces.spec import Configuration
from study.outcomes import (
    COMPLETE,
    FAILED,
    FINAL,
    INCUMBENT,
    PRUNED,
    TrialResult,
    finished_result,
    read_record,
    returns_at_rungs,
    without_numbers,
    write_record,
)
from study.patience import Score, since_gain

ATTRIBUTE = "trial"
"""The one user attribute of an Optuna trial: a JSON record of how it went."""
ENSEMBLE = "evaluation.ensemble"
"""The searched path of what a trial's policies are."""
OUTCOMES = {
    TrialState.COMPLETE: COMPLETE,
    TrialState.FAIL: FAILED,
    TrialState.PRUNED: PRUNED,
    TrialState.RUNNING: "RUNNING",
    TrialState.WAITING: "WAITING",
}
STATES = {outcome: state for state, outcome in OUTCOMES.items()}


@dataclass(frozen=True)
class TrialRow:
    """A trial as `sdw status --json` prints it.

    `ensemble`: networks of each of its policies; `node`: the host that it ran on; `ended`: when its
    outcome was recorded, epoch seconds; `standard_error`: of its mean return. A trial of an earlier
    version does not say the latter three.
    `violates`: bound of `study.constraints` -> by how much a COMPLETE trial lies beyond it.
    `asked`: whether its settings, or some of them, were asked for (`study.enqueue`).
    `judged`: see `TrialResult`; a trial that has it has no interval.
    """

    number: int
    outcome: str
    reason: str | None
    params: dict[str, Any]
    values: list[float] | None
    interval: tuple[float, float] | None
    seconds: float | None
    stages: dict[str, float]
    retry_of: int | None
    warnings: list[str]
    ensemble: int = 1
    node: str | None = None
    ended: float | None = None
    standard_error: float | None = None
    asked: bool = False
    judged: dict[str, int] | None = None
    violates: Mapping[str, float] = field(default_factory=dict)

    @property
    def judged_by(self) -> str | None:
        """`3 of 10 policies`, where its evaluation ended early."""
        return "{policies} of {of} policies".format(**self.judged) if self.judged else None


class TrialBook:
    """Reads and writes the trials of one study.

    The database is the truth. Beside it each trial's folder has a `record.json`: what the database
    says of the trial, from which it can be written again.

    Args:
        spec: the study.
        study: its Optuna study.
        storage: the storage that holds it.
        folders: the folder of the trials' folders.
        inventory: asked for what the study's trials are made of.
        queue: within its block, `study.enqueue` is what it says and nobody adds to it.
    """

    def __init__(
        self,
        spec: StudySpec,
        study: optuna.Study,
        storage: BaseStorage,
        folders: Path,
        inventory: Callable[[], Inventory],
        queue: Callable[[], AbstractContextManager[Sequence[Configuration]]],
    ) -> None:
        self.spec = spec
        self.study = study
        self._storage = storage
        self._folders = folders
        self._inventory = inventory
        self._queue = queue
        self._taken = 0
        self._order = spec.order
        self._space = {path: optuna_distribution(d) for path, d in spec.search.items()}
        self._final_rows: dict[int, TrialRow] = {}

    def ask(self) -> optuna.Trial:
        """Begin a trial: one that waits, else the next of the queue, else a new one.

        A configuration of the queue becomes a trial that waits, which says so, in one operation: a
        driver that dies afterwards leaves that trial to the next one, and none is asked twice.
        """
        with self._queue() as queue:
            if len(queue) > self._taken:
                self._taken = self.taken()
            if len(queue) > self._taken and not self.trials(TrialState.WAITING):
                params = self.spec.params_of(queue[self._taken])
                record = json.dumps({"asked": self._taken})
                self.study.enqueue_trial(params, user_attrs={ATTRIBUTE: record})
            trial = self.study.ask()
            for path in self._order:
                if self.spec.counts(path, trial.params):
                    _suggest(trial, path, self._space[path])
            return trial

    def taken(self) -> int:
        """How many configurations of the queue have become trials."""
        marks = (_attribute(trial).get("asked", -1) for trial in self.trials())
        return 1 + max(marks, default=-1)

    def asked(self, trial: optuna.Trial | FrozenTrial) -> None:
        """Put a trial's parameters into its folder, before anything is done with them."""
        self._keep(trial, {"outcome": None} | _attribute(trial))

    def _keep(self, trial: optuna.Trial | FrozenTrial, record: dict[str, Any]) -> None:
        said = {"number": trial.number, "params": dict(trial.params)}
        write_record(self._folders, said | record | {"identity": self.spec.identity})

    def record(
        self, trial_id: int, result: TrialResult, ray_trial_id: str | None = None
    ) -> str | None:
        """Put a trial into its final state: COMPLETE with finite values, else without a value.

        Args:
            trial_id: the storage's.
            result: of the trial.
            ray_trial_id: Tune's name of the process that ran it.

        Returns:
            Why it failed; None if it did not.
        """
        trial = self._storage.get_trial(trial_id)
        found = [result.metrics.get(objective.metric) for objective in self.spec.study.objectives]
        values = [value for value in found if value is not None and math.isfinite(value)]
        outcome, reason, summary = result.outcome, result.reason, result.normalized_return
        if outcome == COMPLETE and len(values) < len(found):
            outcome, reason = FAILED, "divergence: an objective is missing or not finite"
        bounded = self._bounded(trial, result) if outcome == COMPLETE else {}
        if not all(value is not None and math.isfinite(value) for value in bounded.values()):
            outcome, reason = FAILED, "divergence: what a constraint is of is missing or not finite"
        record = _attribute(trial) | {
            "outcome": outcome,
            "reason": reason,
            "interval": [summary.low, summary.high] if summary and not result.judged else None,
            "standard_error": summary.standard_error if summary else None,
            "judged": result.judged,
            "seconds": result.seconds,
            "stages": result.stages,
            "warnings": result.warnings,
            "config_hash": result.config_hash,
            "node": result.node,
            "ray_trial_id": ray_trial_id,
            "ended": time(),
        }
        if outcome == COMPLETE and bounded:
            constraints: dict[str, float] = {}
            for constraint in self.spec.study.constraints:
                constraints |= constraint.beyond(bounded[constraint.metric])
            record["constraints"] = constraints
            for key, value in _constraint_attributes(constraints).items():
                self._storage.set_trial_system_attr(trial_id, key, value)
        self.keep_intermediate(trial_id, {int(step): v for step, v in result.rungs.items()})
        self._storage.set_trial_user_attr(trial_id, ATTRIBUTE, json.dumps(record))
        if outcome == COMPLETE:
            self.study.tell(trial.number, values)
        else:  # `tell` would make a pruned trial's last low-budget value its value
            self._storage.set_trial_state_values(trial_id, STATES[outcome])
        for best in self.best() if self.spec.study.evaluation_batch else ():
            write_json(self._folders.parent / INCUMBENT, {"number": best})
        record["sources"] = result.sources and result.sources.to_json()
        record["values"] = values if outcome == COMPLETE else None
        record["intermediate"] = self._storage.get_trial(trial_id).intermediate_values
        self._keep(trial, record)
        return reason if outcome == FAILED else None

    def _bounded(self, trial: FrozenTrial, result: TrialResult) -> dict[str, Any]:
        """What a COMPLETE trial has of each metric that is constrained."""
        settings = self.spec.pipeline_with(trial.params).model_dump(mode="json")
        measured, metrics = result.measured, [c.metric for c in self.spec.study.constraints]
        return {m: measured[m] if m in measured else setting_at(settings, m) for m in metrics}

    def keep_intermediate(self, trial_id: int, returns: Mapping[int, float]) -> None:
        """Keep a trial's returns at rungs, outer step -> return."""
        for step in returns.keys() - self._storage.get_trial(trial_id).intermediate_values.keys():
            self._storage.set_trial_intermediate_value(trial_id, step, returns[step])

    def requeue(self, trial_id: int) -> None:
        """Set a RUNNING trial back to WAITING: the next `ask` returns it, with its parameters."""
        self._storage.set_trial_state_values(trial_id, TrialState.WAITING)

    def reconcile(self) -> None:
        """Leave no trial RUNNING without a process; call it when no driver is alive.

        A trial that has its result on disk is recorded; any other is asked again, with its number
        and its parameters, and goes on from its checkpoint.
        """
        for trial in self.trials(TrialState.RUNNING):
            config = self.spec.pipeline_with(trial.params)
            folder, sources = self._folders / str(trial.number), self._inventory().sources(config)
            result = finished_result(folder, config, sources)
            if result:
                self.record(trial._trial_id, result)
            else:
                self.requeue(trial._trial_id)

    def restore(self, trials: Sequence[FrozenTrial]) -> None:
        """Write trials into an empty database, under their own numbers; see `recorded_trials`.

        One without an outcome waits then, unless its result is there.
        """
        for trial in trials:
            self.study.add_trial(trial)
        self.reconcile()

    def retry_failed(self) -> dict[int, int]:
        """Ask again for each FAILED trial that was not asked again yet.

        A finished trial cannot be reopened: the same parameters get a new number, which counts in
        the failed one's place.

        Returns:
            The new number of each.
        """
        failed = self.failed()
        for row in failed:
            attribute = {"retry_of": row.number}
            record = {"params": row.params, "outcome": None} | attribute
            self.study.add_trial(_trial(record, self._space, TrialState.WAITING))
        numbers = {row.retry_of: row.number for row in self.rows()}
        new = {row.number: numbers[row.number] for row in failed}
        for trial in self.trials(TrialState.WAITING):
            if trial.number in new.values():
                self.asked(trial)
        return new

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials in the given states, or all of them."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def failed(self) -> list[TrialRow]:
        """The FAILED trials that were not asked again yet."""
        return [row for row in self.settled() if row.outcome == FAILED]

    def settled(self) -> list[TrialRow]:
        """The trials that have an outcome, without those that were asked again since."""
        return settled_among(self.rows())

    def remaining(self) -> int:
        """How many trials the study is yet to have an outcome of; see `remaining_among`."""
        queue = self.spec.study.enqueue
        return remaining_among(self.spec, self.rows(), max(0, len(queue) - self.taken()))

    def best(self, top: int = 1) -> list[int]:
        """Numbers of the best COMPLETE trials: the `top`, or the whole Pareto front.

        A trial that is beyond a constraint is none of them.
        """
        complete = [trial for trial in self.trials(TrialState.COMPLETE) if _within(trial)]
        if len(self.spec.study.objectives) > 1:
            return sorted(trial.number for trial in self.study.best_trials) if complete else []
        sign = -1 if self.spec.study.objectives[0].mode == "max" else 1
        ranked = sorted(complete, key=lambda trial: (sign * trial.values[0], trial.number))
        return [trial.number for trial in ranked[:top]]

    def rows(self) -> list[TrialRow]:
        """Every trial, by number."""
        return [self._final_rows.get(trial.number) or self._row(trial) for trial in self.trials()]

    def _row(self, trial: FrozenTrial) -> TrialRow:
        record = _attribute(trial)
        row = TrialRow(
            number=trial.number,
            outcome=OUTCOMES[trial.state],
            reason=record.get("reason"),
            params=dict(trial.params),
            values=list(trial.values) if trial.values else None,
            interval=tuple(record["interval"]) if record.get("interval") else None,
            seconds=record.get("seconds"),
            stages=record.get("stages", {}),
            retry_of=record.get("retry_of"),
            warnings=record.get("warnings", []),
            ensemble=trial.params.get(ENSEMBLE, self.spec.pipeline.evaluation.ensemble),
            node=record.get("node"),
            ended=record.get("ended"),
            standard_error=record.get("standard_error"),
            asked="asked" in record,
            judged=record.get("judged"),
            violates={b: by for b, by in record.get("constraints", {}).items() if by > 0},
        )
        if row.outcome in FINAL:
            self._final_rows[row.number] = row  # it will not change
        return row

    def warnings(self) -> dict[str, int]:
        """What trials were warned of, and how many of them; once, whatever its numbers."""
        told: dict[str, tuple[str, int]] = {}
        for sentence in (sentence for row in self.rows() for sentence in row.warnings):
            first, count = told.get(without_numbers(sentence), (sentence, 0))
            told[without_numbers(sentence)] = first, count + 1
        return dict(told.values())


def settled_among(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """The trials that have an outcome, without those that were asked again since."""
    retried = {row.retry_of for row in rows}
    return [row for row in rows if row.outcome in FINAL and row.number not in retried]


def patience_is_over(spec: StudySpec, rows: Sequence[TrialRow]) -> bool:
    """Whether `study.patience` says that no new trial is worth its time."""
    if spec.study.patience is None:
        return False

    def score(row: TrialRow) -> Score | None:
        if row.outcome != COMPLETE or row.values is None or row.violates:
            return None
        return row.values[0], row.standard_error or 0.0

    ended = sorted((row.ended or 0, row.number) for row in rows if row.outcome in FINAL)
    scores = [score(rows[number]) for _, number in ended]
    return since_gain(scores, spec.study.patience_after) >= spec.study.patience


def remaining_among(spec: StudySpec, rows: Sequence[TrialRow], queued: int) -> int:
    """How many trials a study is yet to have an outcome of.

    That is what is missing of its number of trials; once its patience is over, only what was begun
    and what is asked for.

    Args:
        spec: the study.
        rows: its trials.
        queued: configurations of `study.enqueue` that no trial has yet.
    """
    missing = max(0, spec.study.trials - len(settled_among(rows)))
    if not patience_is_over(spec, rows):
        return missing
    return min(missing, queued + sum(row.outcome not in FINAL for row in rows))


def recorded_trials(spec: StudySpec, folders: Path) -> list[FrozenTrial]:
    """Every trial that has a folder, by number, as its record says.

    One whose record is missing waits, and its parameters are drawn anew.

    Args:
        spec: the study.
        folders: the folder of the trials' folders.

    Raises:
        InputError: a trial was made with another spec.
    """
    numbers = [int(path.name) for path in folders.glob("*") if path.name.isdecimal()]
    space = {path: optuna_distribution(d) for path, d in spec.search.items()}
    trials = []
    for number in range(max(numbers, default=-1) + 1):
        record = read_record(folders, number)
        if record is None:
            trials.append(optuna.trial.create_trial(state=TrialState.WAITING))
            continue
        if record.get("identity", spec.identity) != spec.identity:
            raise InputError(
                f"The record of trial {number} was made with another spec than study.yaml now "
                "holds; put the old one back, or launch the new one under another `name`."
            )
        returns = returns_at_rungs(folders / str(number)) | record.get("intermediate", {})
        trials.append(_trial(record | {"intermediate": returns}, space))
    return trials


def optuna_distribution(distribution: Distribution) -> BaseDistribution:
    """Optuna's form of a searched range."""
    if isinstance(distribution, Choice):
        return CategoricalDistribution(distribution.params)
    if isinstance(distribution, FloatRange):
        return FloatDistribution(
            distribution.low, distribution.high, log=distribution.log, step=distribution.step
        )
    return IntDistribution(
        distribution.low, distribution.high, log=distribution.log, step=distribution.step
    )


def _suggest(trial: optuna.Trial, path: str, distribution: BaseDistribution) -> None:
    """Let the sampler draw a parameter, if the trial has none yet."""
    if isinstance(distribution, CategoricalDistribution):
        trial.suggest_categorical(path, distribution.choices)
    elif isinstance(distribution, FloatDistribution):
        span = distribution.low, distribution.high
        trial.suggest_float(path, *span, step=distribution.step, log=distribution.log)
    elif isinstance(distribution, IntDistribution):
        whole = distribution.low, distribution.high
        trial.suggest_int(path, *whole, step=distribution.step, log=distribution.log)


def _attribute(trial: optuna.Trial | FrozenTrial) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(trial.user_attrs.get(ATTRIBUTE, "{}"))
    return record


def _trial(
    record: Mapping[str, Any],
    space: Mapping[str, BaseDistribution],
    unfinished: TrialState = TrialState.RUNNING,
) -> FrozenTrial:
    """A trial as its record says: `unfinished` without an outcome."""
    params = record["params"]
    apart = ("number", "params", "values", "intermediate", "identity", "sources")
    kept = {key: value for key, value in record.items() if key not in apart}
    return optuna.trial.create_trial(
        state=STATES.get(record["outcome"], unfinished),
        params=params,
        distributions={path: space[path] for path in params},
        values=record.get("values"),
        user_attrs={ATTRIBUTE: json.dumps(kept)},
        intermediate_values={int(k): v for k, v in record.get("intermediate", {}).items()},
        system_attrs=_constraint_attributes(record.get("constraints", {})),
    )


def _constraint_attributes(constraints: Mapping[str, float]) -> dict[str, Any]:
    """Where samplers find how far a trial lies beyond constraints."""
    trial = optuna.trial.create_trial(state=TrialState.WAITING, constraints={**constraints})
    return trial.system_attrs


def _within(trial: FrozenTrial) -> bool:
    return all(by <= 0 for by in trial.constraints.values())
