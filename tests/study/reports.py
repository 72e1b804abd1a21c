"""What a searcher is told of trials, without Ray."""

import json
from pathlib import Path

from sdw_core.statistics import ReturnSummary
from study.attempts import Death
from study.folder import StudyFolder
from study.outcomes import TrialResult
from study.runner import _outcome
from study.search import StudySearch
from tests.study.conftest import small_spec


def report(outcome: str = "COMPLETE", **metrics: object) -> dict[str, object]:
    """What Tune hands the searcher at the end of a trial."""
    document = {
        "outcome": outcome,
        "reason": None if outcome == "COMPLETE" else "why",
        "seconds": 1.5,
    }
    return {"document": json.dumps(document | {"metrics": metrics, "stages": {"distill": 1.0}})}


def dies(search: StudySearch, trial: str, with_node: bool = False) -> None:
    """What Tune tells of an attempt whose process died."""
    search.on_death(trial, Death("infrastructure: the worker died on w1", "w1", lambda: with_node))
    search.on_trial_complete(trial, None, error=True)


def run_trials(folder: StudyFolder, count: int = 1) -> StudySearch:
    """Trials as workers run them, without Ray."""
    search = StudySearch(folder.book())
    for index in range(count):
        asked = search.suggest(f"t{index}")
        result = _outcome(folder, asked["number"], asked["params"], lambda step, value: None)
        search.on_trial_complete(f"t{index}", {"document": json.dumps(result.to_json())})
    return search


def thousand_trials(storage: Path) -> StudyFolder:
    """A finished study of a thousand trials, of which trial 197 is the best."""
    settings = ("study.trials=1000", "study.database=journal", "study.name=thousand")
    folder = StudyFolder.create(small_spec(*settings), storage)
    for number in range(1000):
        value = number * 467 % 1000 / 10
        summary = ReturnSummary(value, value, value - 1, value + 1, (value,))
        result = TrialResult(
            number=number,
            outcome="COMPLETE",
            node="one",
            seconds=1.5,
            stages={"distill": 1.0, "evaluate": 0.5},
            metrics={"normalized_return": value},
            normalized_return=summary,
            expert=summary,
            effective_sample_size_percent=50.0,
            curve={"6": [value]},
        )
        size, temperature = 16 + number % 9, (0, 0.03, 0.1, 0.3)[number % 4]
        record = result.to_json() | {
            "number": number,
            "params": {"weighting.temperature": temperature, "distill.synthetic_size": size},
            "interval": [value - 1, value + 1],
            "values": [value],
        }
        trial = folder.trial(number)
        trial.mkdir(parents=True)
        (trial / "record.json").write_text(json.dumps(record))
        (trial / "result.json").write_text(json.dumps(result.to_json()))
    folder.rebuild()
    return folder
