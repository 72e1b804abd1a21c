"""The searcher between Tune and Optuna: Optuna proposes and remembers, Tune runs.

Tune's own `OptunaSearch` records what a trial last reported; here the outcome is decided first. A
failed trial is told as failed and without a value, an interrupted one goes back to the queue, and
nothing stays RUNNING.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.exceptions import StorageInternalError

from sdw_core.errors import InputError
from study.admission import Admission
from study.attempts import Attempts
from study.book import TrialBook
from study.early_stopping import decide
from study.outcomes import TrialResult, without_numbers
from study.samplers import sampler_of


class StudySearch(Attempts):
    """Proposes trials from Optuna's queue and records their outcomes.

    Args:
        book: the study's trials.
        stopping: while it returns True, nothing new is proposed.
        give_up: called when so many trials in a row have failed for one reason as the study allows.
        folder_of: the folder of a trial's number, where it is answered at a rung.
        admission: to the nodes of a cluster; None on this machine.
        places: how many trials may be under way.

    Attributes:
        given_up: that reason; None until then.
    """

    def __init__(
        self,
        book: TrialBook,
        stopping: Callable[[], bool] = lambda: False,
        give_up: Callable[[], object] = lambda: None,
        folder_of: Callable[[int], Path] | None = None,
        admission: Admission | None = None,
        places: Callable[[], float] = lambda: math.inf,
    ) -> None:
        settings = book.spec.study
        objectives = settings.objectives
        metrics, modes = zip(*((o.metric, o.mode) for o in objectives), strict=True)
        super().__init__(stopping, admission, places, [*metrics], [*modes])
        book.study.sampler = sampler_of(book.spec)
        self._book = book
        self._remaining = book.remaining()
        self._ids: dict[int, int] = {}
        self._give_up = give_up
        self._folder_of = folder_of
        self._in_a_row: list[str] = []
        self.given_up: str | None = None

    def propose(self) -> dict[str, Any] | None:
        """The next waiting trial, or a new one: its number and the searched values."""
        if not self._remaining:
            return None
        with self._noting_trouble():
            trial = self._book.ask()
            self._book.asked(trial)
            self._ids[trial.number] = trial._trial_id
            self._remaining -= 1
            return {"number": trial.number, "params": dict(trial.params)}
        return None

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Answer a trial that reports from a rung; what else it reports is its outcome."""
        document = json.loads(result["document"])
        if document.keys() == {"rung", "return"} and self._folder_of:
            number = self._under_way[trial_id]
            folder, rung, value = self._folder_of(number), document["rung"], document["return"]
            with self._noting_trouble():
                decide(self._book, self._ids[number], folder, rung, value)

    def requeue(self, number: int) -> None:
        """The trial waits, with its number and its values."""
        self._remaining += 1
        with self._noting_trouble():
            self._book.requeue(self._ids[number])

    def record(self, number: int, result: TrialResult, ray_trial_id: str) -> None:
        """Tell Optuna the outcome.

        One that cannot be told stays in the trial's folder, where the next driver finds it.
        """
        with self._noting_trouble():
            self._count(self._book.record(self._ids[number], result, ray_trial_id=ray_trial_id))
            self._remaining = self._book.remaining() - len(self._under_way)

    def _count(self, failure: str | None) -> None:
        """Count failures in a row; reasons that differ in their numbers only are the same."""
        first = self._in_a_row[0] if self._in_a_row else ""
        alike = failure and without_numbers(failure) == without_numbers(first)
        self._in_a_row = [*(self._in_a_row if alike else []), *([failure] if failure else [])]
        if len(self._in_a_row) == self._book.spec.study.max_identical_failures:
            self.given_up = failure
            self._give_up()

    @contextmanager
    def _noting_trouble(self) -> Iterator[None]:
        """Tune goes on after an error of a searcher; this one proposes nothing more instead."""
        try:
            yield
        except (StorageInternalError, OSError, InputError) as error:
            self.trouble = str(error.__cause__ or error).splitlines()[0]
