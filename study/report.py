"""What is known of a study: its state and its trials, as a document and as a table."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from search_spaces import StudySpec
from study.book import TrialBook, TrialRow
from study.early_stopping import saved
from study.folder import StudyFolder

if TYPE_CHECKING:
    import pandas as pd

    from sdw_core.dataset import OfflineDataset
    from study.preflight import Need


def status(folder: StudyFolder) -> dict[str, Any]:
    """What `sdw status --json` prints."""
    book = folder.book()
    state = state_of(folder, book)
    said = folder.driver()
    driver = {"host": said.get("host"), "pid": said.get("pid")} if state == "running" else None
    return {
        "study": folder.name,
        "state": state,
        "driver": driver,
        "trials": [asdict(trial) for trial in trials_of(book, state)],
        "best": book.best(),
        "early_stopping": saved(book),
        "warnings": [
            {"warning": sentence, "trials": count} for sentence, count in book.warnings().items()
        ],
    }


def state_of(folder: StudyFolder, book: TrialBook) -> str:
    """`running`, `stopped` or `finished`."""
    return "running" if folder.driven() else "stopped" if book.remaining() else "finished"


def trials_of(book: TrialBook, state: str) -> list[TrialRow]:
    """Every trial, by number; one whose process is gone waits, for `resume` asks for it again.

    Args:
        book: of the study.
        state: the study's; see `state_of`.
    """
    rows = book.rows()
    if state == "running":
        return rows
    return [replace(row, outcome="WAITING") if row.outcome == "RUNNING" else row for row in rows]


def frame_of(spec: StudySpec, trials: list[TrialRow]) -> "pd.DataFrame":
    """One row a trial: number, outcome, reason, parameters, objectives and seconds."""
    import pandas as pd

    metrics = [objective.metric for objective in spec.study.objectives]
    return pd.DataFrame(
        [
            {"number": trial.number, "outcome": trial.outcome, "reason": trial.reason}
            | trial.params
            | {m: trial.values[i] if trial.values else None for i, m in enumerate(metrics)}
            | {"trial_seconds": trial.seconds}
            for trial in trials
        ]
    )


def plan(
    spec: StudySpec, datasets: "dict[str, OfflineDataset]", need: "Need", warnings: list[str]
) -> dict[str, Any]:
    """What a study would run, as `sdw validate --json` prints it.

    Args:
        spec: the study.
        datasets: all that its search can reach, by `PipelineConfig.source`.
        need: what it needs.
        warnings: of its datasets.
    """
    dataset = datasets[spec.pipeline.source]
    return {
        "study": spec.study.model_dump(mode="json"),
        "dataset": {
            "name": dataset.name,
            "environment": str(dataset.environment),
            "episodes": len(dataset.episode_ends),
            "transitions": len(dataset),
        },
        "search": {path: d.model_dump(mode="json") for path, d in spec.search.items()},
        "pipeline": spec.pipeline.model_dump(mode="json"),
        "estimate": asdict(need),
        "cluster": None,
        "warnings": warnings,
    }
