"""Early stopping: a trial that lags ends on its way, or is judged by fewer policies at its end.

On its way it is asynchronous successive halving (ASHA, arXiv 1810.05934) over outer steps.

At a rung a trial's rows are judged as at its end, by the study's evaluation protocol and objective,
but by a few policies on random streams that all trials share, and the trial goes on if it is among
the best there so far. Meta-losses are never compared: they differ with the weight temperature.

The worker reports its return and waits; the driver keeps it as an intermediate value in Optuna's
storage, decides from all intermediate values of that rung, and answers through the trial's folder.
So a rung is nothing but what the storage holds, a new driver goes on with it, and workers never
open the database. An answer holds for the very return that it was given to: a trial that is killed
after it and comes by again is not asked twice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.trial import TrialState

from sdw_core.errors import StopRequested
from sdw_core.files import read_whole, write_json
from sdw_core.statistics import Returns, interquartile_mean
from sdw_core.waiting import LOOK, GoOn, Waiting
from search_spaces import StudySpec
from study.book import TrialBook
from study.folder import StudyFolder
from study.outcomes import ANSWERS, INCUMBENT, TrialResult, read_result, rung_answers

if TYPE_CHECKING:
    from sdw_core.pipeline import Rungs

LEVEL = 0.05
"""Of each test whether a trial is behind the best so far."""
PATIENCE = 120.0
"""Seconds that a trial waits for its answer to be visible."""

AGGREGATES: dict[str, Callable[[Returns], float]] = {
    "normalized_return": lambda returns: float(returns.mean()),
    "iqm": interquartile_mean,
}
"""Of the returns at a rung, by the metrics that rungs can compare."""


class TrialPruned(Exception):
    """A trial ends at a rung."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(reason)
        self.step = step


def survives(value: float, values: Sequence[float], reduction_factor: int) -> bool:
    """Whether a value is among the best 1/reduction_factor of its rung, or the best so far.

    Args:
        value: a trial's.
        values: all of the rung, this one included.
        reduction_factor: one in so many goes on.
    """
    passing = max(1, len(values) // reduction_factor)
    return value >= sorted(values, reverse=True)[passing - 1]


def lags(own: Returns, incumbent: Returns, level: float = LEVEL) -> bool:
    """Whether a trial is clearly behind another: by a one-sided t-test of paired differences.

    Args:
        own: mean return [K] of its policies.
        incumbent: the other's [*]; policies of one place share their random numbers.
        level: of the test.
    """
    from scipy.special import stdtrit  # a quantile of Student's t

    count = min(len(own), len(incumbent))
    if count < 2:
        return False
    lead = np.subtract(incumbent[:count], own[:count])
    reach = -stdtrit(count - 1, level) * lead.std(ddof=1) / count**0.5
    return bool(lead.mean() > reach)


# In the worker


class Judging:
    """A trial's evaluation, which ends once the trial is clearly behind the best one so far.

    Which one that is, once the first policies are judged, is kept in the trial's folder: a later
    attempt is held against the same.

    Args:
        study: the trial's.
        number: the trial's.
        size: policies that are judged at a time.
    """

    def __init__(self, study: StudyFolder, number: int, size: int) -> None:
        self.size = size
        self._study = study
        self._kept = study.trial(number) / "against.json"
        self._lead: Returns | None = None

    def enough(self, returns: Returns) -> bool:
        """Whether the trial is clearly behind, by the policies [S, k, M] that are judged so far."""
        if self._incumbent is None:
            return False
        own, theirs = returns.mean((0, 2)), self._incumbent[1]
        if lags(own, theirs):
            count = min(len(own), len(theirs))
            self._lead = theirs[:count] - own[:count]
        return self._lead is not None

    def told(self, result: TrialResult, policies: int) -> TrialResult:
        """A COMPLETE trial's result, which says so where fewer than all policies were judged."""
        if self._lead is None or self._incumbent is None:
            return result
        number, theirs = self._incumbent
        value = float(theirs.mean() - self._lead.mean())
        judged = {"policies": len(result.of_best), "of": policies, "against": number}
        metrics = result.metrics | {"normalized_return": value}
        return replace(result, metrics=metrics, judged=judged)

    @cached_property
    def _incumbent(self) -> tuple[int, Returns] | None:
        """The best trial's number, and the mean return [K] of its policies."""
        note = read_whole(self._kept)
        if note is None:
            note = read_whole(self._study.path / INCUMBENT) or {"number": None}
            write_json(self._kept, note)
        result = note["number"] is not None and read_result(self._study.trial(note["number"]))
        if not result or result.normalized_return is None:
            return None
        sets = len(result.distillation_seeds)
        each = np.reshape(result.normalized_return.per_policy, (sets, -1))
        return note["number"], each.mean(0)


def rungs_of(spec: StudySpec, folder: Path, report: Callable[[int, float], None]) -> "Rungs | None":
    """Where a trial is judged on its way, and by whom.

    Args:
        spec: the study.
        folder: the trial's.
        report: tells the driver a rung and the return there.
    """
    from sdw_core.pipeline import Rungs

    settings = spec.study.early_stopping
    if settings is None:
        return None

    def judge(step: int, value: float, waiting: Waiting) -> None:
        answer = _answer(folder, step, value)
        if answer is None:
            with waiting() as go_on:
                report(step, value)
                answer = _awaited(folder, step, value, go_on)
        if answer["reason"]:
            raise TrialPruned(step, answer["reason"])

    return Rungs(
        settings.rungs(spec.pipeline.distill.outer_steps),
        settings.policies,
        settings.episodes,
        spec.pipeline.seed,
        AGGREGATES[spec.study.objectives[0].metric],
        judge,
    )


def _awaited(folder: Path, step: int, value: float, go_on: GoOn) -> Mapping[str, Any]:
    """The answer that the driver has given by now: a network file system may show it late.

    Raises:
        StopRequested: there is none, which is no fault of the trial, or it was asked to stop.
    """
    given_up = monotonic() + PATIENCE
    while True:
        go_on()
        answer = _answer(folder, step, value)
        if answer:
            return answer
        if monotonic() > given_up:
            raise StopRequested(f"rung {step}: no answer of the driver within {PATIENCE:.0f} s")
        sleep(LOOK)


def _answer(folder: Path, step: int, value: float) -> Mapping[str, Any] | None:
    answer: Mapping[str, Any] | None = rung_answers(folder).get(str(step))
    return answer if answer and answer["return"] == value else None


# In the driver


def decide(book: TrialBook, trial_id: int, folder: Path, step: int, value: float) -> None:
    """Keep a return at a rung, decide whether its trial goes on, and answer.

    Args:
        book: the study's trials.
        trial_id: the storage's.
        folder: the trial's.
        step: the rung, in outer steps.
        value: the aggregate of the returns there.
    """
    settings = book.spec.study.early_stopping
    assert settings is not None
    book.keep_intermediate(trial_id, {step: value})
    values = [
        trial.intermediate_values[step]
        for trial in book.trials()
        if step in trial.intermediate_values
    ]
    reason = None
    if not survives(value, values, settings.reduction_factor):
        rank = 1 + sum(other > value for other in values)
        reason = f"rung {step}: return {value:.1f}, place {rank} of {len(values)}"
    answer = {str(step): {"return": value, "reason": reason}}
    write_json(folder / ANSWERS, rung_answers(folder) | answer)


def saved(book: TrialBook) -> dict[str, Any] | None:
    """What early stopping saved so far; None where it is off.

    Returns:
        `pruned` trials; `outer_steps_saved`, which they did not take; `percent` of the outer steps
        that all pruned and complete trials would have taken.
    """
    if book.spec.study.early_stopping is None:
        return None
    steps = book.spec.pipeline.distill.outer_steps
    pruned = book.trials(TrialState.PRUNED)
    all_steps = steps * (len(pruned) + len(book.trials(TrialState.COMPLETE)))
    left = sum(steps - (trial.last_step or 0) for trial in pruned)
    return {
        "pruned": len(pruned),
        "outer_steps_saved": left,
        "percent": 100 * left / all_steps if all_steps else 0.0,
    }
