"""The book of trials: what Optuna's storage says of each, in the project's words."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from search_spaces import StudySpec
from study.outcomes import COMPLETE, FAILED, PRUNED, finished_result

if TYPE_CHECKING:
    import pandas as pd

ATTRIBUTE = "trial"
"""The one user attribute of an Optuna trial: a JSON record of how it went."""
OUTCOMES = {
    TrialState.COMPLETE: COMPLETE,
    TrialState.FAIL: FAILED,
    TrialState.PRUNED: PRUNED,
    TrialState.RUNNING: "RUNNING",
    TrialState.WAITING: "WAITING",
}


@dataclass(frozen=True)
class TrialRow:
    """A trial as `sdw status --json` prints it."""

    number: int
    outcome: str
    reason: str | None
    params: dict[str, Any]
    values: list[float] | None
    interval: tuple[float, float] | None
    seconds: float | None
    stages: dict[str, float]


class TrialBook:
    """Reads and writes the trials of one study.

    Args:
        spec: the study.
        study: its Optuna study.
        storage: the storage that holds it.
    """

    def __init__(self, spec: StudySpec, study: optuna.Study, storage: BaseStorage) -> None:
        self.spec = spec
        self.study = study
        self._storage = storage

    def record(
        self, trial_id: int, document: Mapping[str, Any], ray_trial_id: str | None = None
    ) -> None:
        """Put a trial into its final state: COMPLETE with finite values, else without a value.

        Args:
            trial_id: the storage's.
            document: what the trial returned; see `study.trial.run_trial`.
            ray_trial_id: Tune's name of the process that ran it.
        """
        number = self._storage.get_trial(trial_id).number
        metrics, summary = document.get("metrics", {}), document.get("normalized_return")
        values = [metrics.get(objective.metric) for objective in self.spec.study.objectives]
        outcome, reason = document["outcome"], document.get("reason")
        if outcome == COMPLETE and not all(v is not None and math.isfinite(v) for v in values):
            outcome, reason = FAILED, "divergence: an objective is missing or not finite"
        record = {
            "outcome": outcome,
            "reason": reason,
            "interval": [summary["low"], summary["high"]] if summary else None,
            "seconds": document.get("seconds"),
            "stages": document.get("stages", {}),
            "config_hash": document.get("config_hash"),
            "node": document.get("node"),
            "ray_trial_id": ray_trial_id,
        }
        rungs = document.get("rungs", {})
        self.keep_intermediate(trial_id, {int(step): value for step, value in rungs.items()})
        self._storage.set_trial_user_attr(trial_id, ATTRIBUTE, json.dumps(record))
        if outcome == COMPLETE:
            self.study.tell(number, values)
        elif outcome == PRUNED:  # `tell` would make its last intermediate value its value
            self._storage.set_trial_state_values(trial_id, TrialState.PRUNED)
        else:
            self.study.tell(number, state=TrialState.FAIL)

    def keep_intermediate(self, trial_id: int, returns: Mapping[int, float]) -> None:
        """Keep a trial's returns at rungs, outer step -> return."""
        for step in returns.keys() - self._storage.get_trial(trial_id).intermediate_values.keys():
            self._storage.set_trial_intermediate_value(trial_id, step, returns[step])

    def requeue(self, trial_id: int) -> None:
        """Set a RUNNING trial back to WAITING: the next `ask` returns it, with its parameters."""
        self._storage.set_trial_state_values(trial_id, TrialState.WAITING)

    def reconcile(self, trials: Path) -> None:
        """Leave no trial RUNNING without a process; call it when no driver is alive.

        A trial that has its result on disk is recorded; any other is asked again, with its number
        and its parameters, and goes on from its checkpoint.

        Args:
            trials: the folder of the trials' folders.
        """
        for trial in self.trials(TrialState.RUNNING):
            config = self.spec.pipeline_with(trial.params)
            result = finished_result(trials / str(trial.number), config)
            if result:
                self.record(trial._trial_id, result)
            else:
                self.requeue(trial._trial_id)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials in the given states, or all of them."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def remaining(self) -> int:
        """Trials of the study's number that have no final state yet."""
        final = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        return max(0, self.spec.study.trials - len(self.trials(*final)))

    def best(self, top: int = 1) -> list[int]:
        """Numbers of the best COMPLETE trials: the `top`, or the whole Pareto front."""
        complete = self.trials(TrialState.COMPLETE)
        if len(self.spec.study.objectives) > 1:
            return sorted(trial.number for trial in self.study.best_trials) if complete else []
        sign = -1 if self.spec.study.objectives[0].mode == "max" else 1
        ranked = sorted(complete, key=lambda trial: (sign * trial.values[0], trial.number))
        return [trial.number for trial in ranked[:top]]

    def rows(self) -> list[TrialRow]:
        """Every trial, by number."""
        rows = []
        for trial in self.trials():
            record = json.loads(trial.user_attrs.get(ATTRIBUTE, "{}"))
            rows.append(
                TrialRow(
                    number=trial.number,
                    outcome=OUTCOMES[trial.state],
                    reason=record.get("reason"),
                    params=dict(trial.params),
                    values=list(trial.values) if trial.values else None,
                    interval=tuple(record["interval"]) if record.get("interval") else None,
                    seconds=record.get("seconds"),
                    stages=record.get("stages", {}),
                )
            )
        return rows

    def table(self) -> "pd.DataFrame":
        """One row a trial: number, outcome, reason, parameters, objectives and seconds."""
        import pandas as pd

        metrics: Sequence[str] = [objective.metric for objective in self.spec.study.objectives]
        return pd.DataFrame(
            [
                {"number": row.number, "outcome": row.outcome, "reason": row.reason}
                | row.params
                | {m: row.values[i] if row.values else None for i, m in enumerate(metrics)}
                | {"trial_seconds": row.seconds}
                for row in self.rows()
            ]
        )
