"""Patience: a study ends once trials in a row are no gain above the noise, and says so."""

import json
from pathlib import Path
from typing import Any

import pytest

from sdw_core.errors import InputError
from sdw_core.statistics import ReturnSummary
from study import Study
from study.display import summary
from study.folder import StudyFolder
from study.html.study import _heading
from study.notes import study_note
from study.patience import since_gain
from study.search import StudySearch
from study.snapshot import Snapshot
from tests.mutations import is_a_sentence
from tests.study.commands import sdw
from tests.study.conftest import small_spec


def ends(outcome: str = "COMPLETE", value: float = 50.0, error: float = 3.0) -> dict[str, Any]:
    """What Tune hands the searcher of a trial with that return, and standard error."""
    summary = ReturnSummary(value, error, value - 2 * error, value + 2 * error, (value, value))
    document = {"outcome": outcome, "reason": None if outcome == "COMPLETE" else "why"}
    if outcome == "COMPLETE":
        document |= {"metrics": {"normalized_return": value}}
        document |= {"normalized_return": summary.to_json()}
    return {"document": json.dumps(document)}


def study_of(storage: Path, *overrides: str) -> StudyFolder:
    """A study of ten trials whose patience is three."""
    settings = "study.patience=3", "study.trials=10", "study.database=journal"
    return StudyFolder.create(small_spec(*settings, *overrides), storage)


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return study_of(tmp_path)


def run(folder: StudyFolder, *ended: dict[str, Any]) -> StudySearch:
    """A driver whose trials end so, one at a time; it asks for one more afterwards."""
    search = StudySearch(folder.book())
    for index, each in enumerate(ended):
        assert isinstance(search.suggest(str(index)), dict)
        search.on_trial_complete(str(index), each)
    return search


@pytest.mark.parametrize(
    ("scores", "count"),
    [
        ([], 0),
        ([None, None], 2),
        ([(50, 3)], 0),
        ([(50, 3), (54, 3)], 1),  # 4 is less than 3 * sqrt(2)
        ([(50, 3), (55, 3)], 0),
        ([(50, 3), (53, 3), (56, 3)], 0),  # small steps add up
        ([(50, 3), (60, 3), (50, 3), None, (62, 3)], 3),
    ],
)
def test_a_gain_is_better_than_the_gain_before_by_more_than_the_error(scores, count):
    assert since_gain(scores) == count
    assert since_gain(scores, after=len(scores)) == 0


def test_after_so_many_trials_that_are_no_gain_nothing_is_proposed(folder):
    search = run(folder, ends(value=50), ends(value=53), ends("FAILED"), ends(value=52))
    assert search.suggest("next") == "FINISHED"
    assert folder.book().remaining() == 0
    assert StudySearch(folder.book()).suggest("another driver") == "FINISHED"


def test_a_gain_begins_the_count_anew(folder):
    search = run(folder, *[ends(value=value) for value in (50, 53, 52, 60, 61, 58)])
    assert isinstance(search.suggest("next"), dict)
    assert folder.book().remaining() == 4


def test_without_patience_all_trials_run(tmp_path):
    folder = study_of(tmp_path, "study.patience=null", "study.trials=4")
    run(folder, *[ends(value=50)] * 4)
    snapshot = Snapshot.of(folder)
    assert (len(snapshot.settled), snapshot.state, snapshot.ended_by) == (4, "finished", None)


def test_trials_under_way_end_and_one_that_is_a_gain_lets_the_study_go_on(folder):
    search = run(folder, ends(value=50), ends(value=50))
    for name in "abc":
        search.suggest(name)
    for name in "ab":
        search.on_trial_complete(name, ends(value=50))
    assert search.suggest("d") is None
    assert folder.book().remaining() == 1
    search.on_trial_complete("c", ends(value=60))
    assert isinstance(search.suggest("d"), dict)


def test_a_trial_that_waits_and_a_configuration_of_the_queue_are_still_asked(folder):
    search = run(folder, ends(value=50))
    for name in "abcd":
        search.suggest(name)
    for name in "abc":
        search.on_trial_complete(name, ends(value=50))
    search.on_trial_complete("d", None)  # its process was stopped
    folder.enqueue({"distill.synthetic_size": 24})
    assert folder.book().remaining() == 2
    again = StudySearch(folder.book())
    assert again.suggest("d")["number"] == 4
    assert again.suggest("e")["params"]["distill.synthetic_size"] == 24
    assert again.suggest("f") is None
    for name in "de":
        again.on_trial_complete(name, ends(value=50))
    assert again.suggest("f") == "FINISHED"


def test_a_trial_beyond_a_constraint_is_no_gain(tmp_path):
    constraint = "study.constraints=[{metric: normalized_return, max: 70}]"
    folder = study_of(tmp_path, constraint)
    search = run(folder, ends(value=50), *[ends(value=90)] * 3)
    assert search.suggest("next") == "FINISHED"


def test_every_view_says_why_it_ended(folder, capsys):
    run(folder, *[ends(value=50)] * 4)
    snapshot = Snapshot.of(folder)
    said = snapshot.to_json()
    assert (said["state"], said["ended_by"], said["asked"]) == ("finished", "patience", 10)
    assert is_a_sentence(snapshot.why_ended)
    assert "4 of 10 trials: 3 in a row" in snapshot.why_ended
    assert summary(snapshot).startswith("4 of 10 trials, patience is over")
    assert "4 of 10 trials: 3 in a row" in study_note(snapshot, [[]] * 4)
    assert snapshot.why_ended in _heading(snapshot)
    assert snapshot.why_ended in sdw(capsys, "status", folder.path)[1]


def test_an_extended_study_gets_so_many_trials_more_and_counts_anew(folder):
    run(folder, *[ends(value=50)] * 4)
    assert folder.extend(5) == 9
    assert folder.book().remaining() == 5
    search = run(folder, ends(value=50), ends(value=50))
    assert isinstance(search.suggest("last"), dict)
    search.on_trial_complete("last", ends(value=50))
    assert search.suggest("next") == "FINISHED"
    assert Snapshot.of(folder).ended_by == "patience"
    assert len(Study(folder).trials()) == 7


def test_a_study_that_has_not_ended_so_is_extended_as_others_are(folder):
    run(folder, ends(value=50))
    assert folder.extend(5) == 15
    assert folder.spec().study.patience_after == 0


def test_a_rebuilt_study_is_as_patient(folder):
    run(folder, *[ends(value=50)] * 4)
    folder.rebuild()
    assert folder.book().remaining() == 0


@pytest.mark.parametrize(
    ("spec", "overrides"),
    [
        ("pareto", ["study.patience=3"]),
        ("quickstart", ["study.patience=3", "study.objectives=[{metric: seconds, mode: min}]"]),
        ("quickstart", ["study.patience=1"]),
        ("quickstart", ["study.patience=true"]),
        ("quickstart", ["study.patience_after=-1"]),
    ],
)
def test_what_patience_cannot_judge_is_refused_in_a_sentence(spec, overrides):
    confirm = ["study.confirm=null"]
    with pytest.raises(InputError) as error:
        small_spec(*overrides, *confirm, name=spec)
    assert is_a_sentence(str(error.value))
    assert "study.patience" in str(error.value)


def test_patience_makes_no_other_trials():
    kept = small_spec()
    patient = small_spec("study.patience=3", "study.patience_after=5")
    assert patient.identity == kept.identity
