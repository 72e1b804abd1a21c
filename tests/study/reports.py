"""What a searcher is told of trials, without Ray."""

import json

from study.folder import StudyFolder
from study.outcomes import WORKER_DEATHS
from study.runner import _outcome
from study.search import StudySearch


def report(outcome: str = "COMPLETE", **metrics: object) -> dict[str, object]:
    """What Tune hands the searcher at the end of a trial."""
    document = {
        "outcome": outcome,
        "reason": None if outcome == "COMPLETE" else "why",
        "seconds": 1.5,
    }
    return {"document": json.dumps(document | {"metrics": metrics, "stages": {"distill": 1.0}})}


def worker_dies(search: StudySearch, trial: str, times: int = WORKER_DEATHS) -> None:
    """What Tune's callback tells of a worker that is started again."""
    for _ in range(times):
        search.on_trial_recover(trial, "infrastructure: the worker died")


def run_trials(folder: StudyFolder, count: int = 1) -> StudySearch:
    """Trials as workers run them, without Ray."""
    search = StudySearch(folder.book())
    for index in range(count):
        asked = search.suggest(f"t{index}")
        result = _outcome(folder, asked["number"], asked["params"], lambda step, value: None)
        search.on_trial_complete(f"t{index}", {"document": json.dumps(result.to_json())})
    return search
