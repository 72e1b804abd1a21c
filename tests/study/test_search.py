"""The searcher and the book: outcomes are decided before values, and nothing stays RUNNING."""

import json
import math
import sqlite3
import subprocess
import sys

import pytest
from optuna.trial import TrialState

from study.book import TrialBook
from study.search import StudySearch
from study.trial import config_hash


def report(outcome: str = "COMPLETE", **metrics: object) -> dict[str, object]:
    """What Tune hands the searcher at the end of a trial."""
    document = {
        "outcome": outcome,
        "reason": None if outcome == "COMPLETE" else "why",
        "seconds": 1.5,
    }
    return {"document": json.dumps(document | {"metrics": metrics, "stages": {"distill": 1.0}})}


def outcomes(book: TrialBook) -> list[str]:
    return [row.outcome for row in book.rows()]


def test_a_trial_is_proposed_with_its_number_and_its_searched_values(folder):
    search = StudySearch(folder.book())
    first, second = search.suggest("a"), search.suggest("b")
    assert (first["number"], second["number"]) == (0, 1)
    assert set(first["params"]) == {"weighting.temperature", "distill.synthetic_size"}
    assert first["params"] != second["params"]


def test_a_complete_trial_keeps_value_seconds_and_stages(folder):
    book = folder.book()
    search = StudySearch(book)
    search.suggest("a")
    search.on_trial_complete("a", report(normalized_return=41.5))
    (row,) = folder.book().rows()
    assert (row.outcome, row.values, row.seconds) == ("COMPLETE", [41.5], 1.5)
    assert row.stages == {"distill": 1.0}
    assert book.best() == [0]


@pytest.mark.parametrize("kind", ["folder", "pareto"])
@pytest.mark.parametrize("value", [math.nan, math.inf, None, "missing"])
def test_a_value_that_is_missing_or_not_finite_is_a_failure(request, kind, value):
    book = request.getfixturevalue(kind).book()
    search = StudySearch(book)
    search.suggest("a")
    metrics = {"synthetic_size": 16}
    if value != "missing":
        metrics["normalized_return"] = value
    search.on_trial_complete("a", report(**metrics))
    (row,) = book.rows()
    assert row.outcome == "FAILED"
    assert row.reason.startswith("divergence")
    assert row.values is None


@pytest.mark.parametrize("kind", ["folder", "pareto"])
def test_a_failed_trial_is_told_as_failed_with_its_reason(request, kind):
    book = request.getfixturevalue(kind).book()
    search = StudySearch(book)
    search.suggest("a")
    search.on_trial_complete("a", report("FAILED", normalized_return=99.0, synthetic_size=16))
    (row,) = book.rows()
    assert (row.outcome, row.reason, row.values) == ("FAILED", "why", None)


@pytest.mark.parametrize("result", [None, {}, {"training_iteration": 1}])
def test_a_worker_that_died_without_a_result_is_an_infrastructure_failure(folder, result):
    book = folder.book()
    search = StudySearch(book)
    search.suggest("a")
    search.on_trial_complete("a", result, error=True)
    (row,) = book.rows()
    assert row.outcome == "FAILED"
    assert row.reason.startswith("infrastructure")


def test_a_stopped_trial_waits_and_is_asked_again_with_its_number_and_values(folder):
    search = StudySearch(folder.book())
    first = search.suggest("a")
    search.on_trial_complete("a", report("STOPPED"))
    assert outcomes(folder.book()) == ["WAITING"]
    again = StudySearch(folder.book()).suggest("b")
    assert again == first


def test_a_trial_that_stops_unasked_is_trouble_and_nothing_more_is_proposed(folder):
    search = StudySearch(folder.book())
    for name in "ab":
        search.suggest(name)
    search.on_trial_complete("a", report("STOPPED"))
    assert search.trouble == "why"
    assert search.suggest("c") == "FINISHED"
    assert outcomes(folder.book()) == ["WAITING", "RUNNING"]


def test_a_database_that_fails_is_trouble_and_no_error_of_the_searcher(folder):
    search = StudySearch(folder.book())
    search.suggest("a")
    with sqlite3.connect(folder.path / "study.db") as other:
        other.execute("DROP TABLE trial_user_attributes")
    search.on_trial_complete("a", report(normalized_return=1.0))
    assert "trial_user_attributes" in search.trouble
    assert search.suggest("b") == "FINISHED"


def test_while_stopping_nothing_is_proposed(folder):
    book = folder.book()
    assert StudySearch(book, lambda: True).suggest("a") == "FINISHED"
    assert book.rows() == []


def test_a_new_driver_goes_on_with_new_draws(folder):
    first = StudySearch(folder.book())
    drawn = [first.suggest(str(i))["params"] for i in range(3)]
    second = StudySearch(folder.book())
    drawn += [second.suggest(str(i))["params"] for i in range(3, 6)]
    assert len({tuple(params.values()) for params in drawn}) == 6


DRAW = """
import sys
from pathlib import Path
from study.folder import StudyFolder
from study.search import StudySearch
from study.trial import config_hash
search = StudySearch(StudyFolder(Path(sys.argv[1])).book())
for i in range(8):
    params = search.suggest(str(i))["params"]
    print(params)
    value = {"normalized_return": params["weighting.temperature"]}
    import json
    document = {"outcome": "COMPLETE", "metrics": value, "stages": {}}
    search.on_trial_complete(str(i), {"document": json.dumps(document)})
"""


def test_the_same_study_seed_draws_the_same_in_fresh_processes(tmp_path):
    from study.folder import StudyFolder
    from tests.study.conftest import small_spec

    printed = []
    for name in ("one", "two"):
        folder = StudyFolder.create(small_spec(), tmp_path / name)
        done = subprocess.run(
            [sys.executable, "-c", DRAW, str(folder.path)],
            check=True,
            capture_output=True,
            text=True,
        )
        printed.append(done.stdout)
    assert printed[0].count("\n") == 8
    assert printed[0] == printed[1]


def test_reconcile_records_what_has_a_result_and_queues_the_rest(folder):
    search = StudySearch(folder.book())
    asked = [search.suggest(name) for name in "abc"]
    for number, params in ((1, asked[1]["params"]), (2, asked[0]["params"])):
        result = folder.trial(number) / "result.json"
        result.parent.mkdir(parents=True)
        document = {
            "outcome": "COMPLETE",
            "metrics": {"normalized_return": 7.0},
            "config_hash": config_hash(folder.spec().pipeline_with(params)),
        }
        result.write_text(json.dumps(document))
    book = folder.book()
    book.reconcile(folder.path / "trials")
    assert outcomes(book) == ["WAITING", "COMPLETE", "WAITING"]  # 2 has another trial's settings
    assert book.remaining() == folder.spec().study.trials - 1


def test_the_best_follow_the_direction_and_the_front_has_no_dominated_trial(folder, pareto):
    for each, expected in ((folder, [2]), (pareto, [0, 2])):
        book = each.book()
        search = StudySearch(book)
        for name, value, size in (("a", 10.0, 16), ("b", 5.0, 20), ("c", 30.0, 24)):
            search.suggest(name)
            search.on_trial_complete(name, report(normalized_return=value, synthetic_size=size))
        assert book.best() == expected
    assert folder.book().best(2) == [2, 0]


def test_the_table_has_a_row_a_trial(folder):
    book = folder.book()
    search = StudySearch(book)
    search.suggest("a")
    search.on_trial_complete("a", report(normalized_return=3.0))
    search.suggest("b")
    table = book.table()
    assert list(table["outcome"]) == ["COMPLETE", "RUNNING"]
    assert table["normalized_return"][0] == 3.0
    assert {"weighting.temperature", "distill.synthetic_size", "trial_seconds"} <= set(table)


def test_trials_carry_one_user_attribute(folder):
    book = folder.book()
    search = StudySearch(book)
    search.suggest("a")
    search.on_trial_complete("a", report(normalized_return=3.0))
    (trial,) = book.trials(TrialState.COMPLETE)
    assert list(trial.user_attrs) == ["trial"]
