"""The searcher and the book: outcomes are decided before values, and nothing stays RUNNING."""

import json
import math
import sqlite3
import subprocess
import sys

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from sdw_core.statistics import summarize
from study.attempts import WORKER_DEATHS
from study.book import TrialBook
from study.folder import StudyFolder
from study.outcomes import config_hash
from study.search import StudySearch
from tests.study.conftest import small_spec
from tests.study.reports import dies, report


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


def test_a_trial_whose_process_dies_waits_and_fails_after_so_many_deaths(folder):
    search = StudySearch(folder.book())
    first = search.suggest("0")
    for number in range(WORKER_DEATHS):
        dies(search, str(number))
        assert outcomes(folder.book()) == ["WAITING"]
        assert search.suggest(str(number + 1)) == first
    dies(search, str(WORKER_DEATHS))
    (row,) = folder.book().rows()
    assert (row.outcome, row.reason) == ("FAILED", "infrastructure: the worker died on w1")
    assert (search.trouble, search.given_up) == (None, None)


def test_a_stopped_trial_waits_and_is_asked_again_with_its_number_and_values(folder):
    search = StudySearch(folder.book())
    first = search.suggest("a")
    search.on_trial_complete("a", report("STOPPED"))
    assert outcomes(folder.book()) == ["WAITING"]
    again = StudySearch(folder.book()).suggest("b")
    assert again == first


def test_no_more_trials_are_under_way_than_there_are_places_at_that_moment(folder):
    places = 1
    search = StudySearch(folder.book(), places=lambda: places)
    search.suggest("a")
    assert search.suggest("b") is None
    places = 2  # a node joined
    search.suggest("c")
    places = 1  # and left
    search.on_trial_complete("a", report(normalized_return=1.0))
    assert search.suggest("d") is None
    search.on_trial_complete("c", report(normalized_return=1.0))
    assert search.suggest("e")
    assert outcomes(folder.book()) == ["COMPLETE", "COMPLETE", "RUNNING"]


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


@pytest.mark.parametrize("kind", ["folder", "pareto"])
def test_what_is_searched_together_is_what_plain_tpe_searches_together(request, kind):
    book = request.getfixturevalue(kind).book()
    search, plain = StudySearch(book), optuna.samplers.TPESampler(constant_liar=True)
    for number in range(6):
        search.suggest(str(number))
        trial = book.trials()[-1]
        mine = book.study.sampler.infer_relative_search_space(book.study, trial)
        assert mine == plain.infer_relative_search_space(book.study, trial)
        ends_well = report(normalized_return=float(number), synthetic_size=16)
        search.on_trial_complete(str(number), ends_well if number % 3 else report("FAILED"))
    assert bool(mine) == (kind == "folder")


DRAW = """
import sys
from pathlib import Path
from study.folder import StudyFolder
from study.search import StudySearch
search = StudySearch(StudyFolder(Path(sys.argv[1])).book())
for i in range(8):
    params = search.suggest(str(i))["params"]
    print(params)
    value = {"normalized_return": params["weighting.temperature"]}
    import json
    document = {"outcome": "COMPLETE", "metrics": value, "stages": {}}
    search.on_trial_complete(str(i), {"document": json.dumps(document)})
"""


def test_the_same_study_seed_draws_the_same_in_a_fresh_process(tmp_path, capsys, monkeypatch):
    there, here = (StudyFolder.create(small_spec(), tmp_path / name).path for name in "ab")
    command = [sys.executable, "-c", DRAW, there]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    monkeypatch.setattr("sys.argv", ["", here])
    exec(DRAW, {})
    assert printed.count("\n") == 8
    assert printed == capsys.readouterr().out


def test_reconcile_records_what_has_a_result_and_queues_the_rest(folder):
    search = StudySearch(folder.book())
    asked = [search.suggest(name) for name in "abc"]
    for number, params in ((1, asked[1]["params"]), (2, asked[0]["params"])):
        result = folder.trial(number) / "result.json"
        document = {
            "outcome": "COMPLETE",
            "metrics": {"normalized_return": 7.0},
            "config_hash": config_hash(folder.spec().pipeline_with(params)),
        }
        result.write_text(json.dumps(document))
    book = folder.book()
    book.reconcile()
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


def test_trials_carry_one_user_attribute_with_the_standard_error_of_their_mean(folder):
    book = folder.book()
    search = StudySearch(book)
    search.suggest("a")
    returns = np.random.default_rng(0).normal(50, 10, (100, 1))
    found = {"normalized_return": summarize(returns, 0).to_json()}
    document = json.loads(report(normalized_return=3.0)["document"]) | found
    search.on_trial_complete("a", {"document": json.dumps(document)})
    (trial,) = book.trials(TrialState.COMPLETE)
    assert list(trial.user_attrs) == ["trial"]
    assert book.rows()[0].standard_error == pytest.approx(returns.std() / 10, rel=0.05)


def test_a_pruned_trial_is_no_complete_one_and_has_no_value(folder):
    book = folder.book()
    search = StudySearch(book)
    search.suggest("a")
    (trial,) = book.trials()
    book.study._storage.set_trial_intermediate_value(trial._trial_id, 3, 99.0)
    search.on_trial_complete("a", report("PRUNED", normalized_return=99.0))
    (row,) = book.rows()
    assert (row.outcome, row.values) == ("PRUNED", None)
    assert book.best() == []
    assert book.remaining() == book.spec.study.trials - 1


def ends(folder: StudyFolder, *reports: dict[str, object] | None) -> tuple[StudySearch, list[str]]:
    """A search that was told of these ends, and what it then called."""
    called: list[str] = []
    search = StudySearch(folder.book(), give_up=lambda: called.append("give up"))
    for number, each in enumerate(reports):
        search.suggest(str(number))
        if each is None:
            for _ in range(WORKER_DEATHS):
                dies(search, str(number))
                search.suggest(str(number))
            dies(search, str(number))
        else:
            search.on_trial_complete(str(number), each)
    return search, called


def failure(reason: str) -> dict[str, object]:
    return {"document": json.dumps({"outcome": "FAILED", "reason": reason})}


FIVE = [failure(f"divergence: not finite at step {step}.") for step in range(5)]
GOOD = report(normalized_return=1.0)


def test_as_many_failures_in_a_row_as_allowed_give_a_study_up_with_their_reason(folder):
    search, called = ends(folder, GOOD, *FIVE)
    assert called == ["give up"]
    assert search.given_up == "divergence: not finite at step 4."
    assert StudySearch(folder.book()).given_up is None  # a driver that goes on counts anew


@pytest.mark.parametrize(
    "reports",
    [
        FIVE[:4],
        [*FIVE[:3], GOOD, *FIVE[3:]],
        [*FIVE[:3], failure("configuration: something else"), *FIVE[3:]],
    ],
)
def test_failures_that_are_fewer_or_not_in_a_row_or_not_alike_do_not(folder, reports):
    search, called = ends(folder, *reports)
    assert (search.given_up, called) == (None, [])


def test_how_many_are_allowed_is_a_setting(tmp_path):
    two = StudyFolder.create(small_spec("study.max_identical_failures=2"), tmp_path / "two")
    any_number = small_spec("study.max_identical_failures=null")
    endless = StudyFolder.create(any_number, tmp_path / "endless")
    assert ends(two, *FIVE[:2])[1] == ["give up"]
    assert ends(endless, *FIVE)[1] == []


def test_a_failed_trial_is_asked_again_once_under_a_new_number(folder):
    search, _ = ends(folder, FIVE[0], GOOD)
    book = folder.book()
    left = book.remaining()
    assert book.retry_failed() == {0: 2}
    assert book.retry_failed() == {}
    assert book.remaining() == left + 1
    rows = book.rows()
    assert (rows[2].outcome, rows[2].retry_of) == ("WAITING", 0)
    again = search.suggest("again")  # by a driver that lived meanwhile
    assert again == {"number": 2, "params": rows[0].params}
    search.on_trial_complete("again", FIVE[0])
    assert folder.book().retry_failed() == {2: 3}  # the retry of a retry
    assert [row.retry_of for row in folder.book().rows()] == [None, None, 0, 2]
    assert [row.number for row in folder.book().settled()] == [1]


@pytest.mark.parametrize("kind", ["folder", "pareto"])
def test_one_bad_trial_of_each_kind_does_not_end_a_study(request, kind):
    folder = request.getfixturevalue(kind)
    good = report(normalized_return=1.0, synthetic_size=16)
    reports = [
        report(normalized_return=math.nan, synthetic_size=16),
        report(synthetic_size=16),
        failure("KeyError: 'x'"),
        failure("out of memory: "),
        failure("timeout: the trial ran for more than 5 s"),
        None,
        good,
    ]
    search, called = ends(folder, *reports)
    assert (search.given_up, called) == (None, [])
    assert outcomes(folder.book()) == ["FAILED"] * 6 + ["COMPLETE"]
    classes = [row.reason.partition(":")[0] for row in folder.book().rows()[:6]]
    assert classes == [
        *("divergence", "divergence", "KeyError", "out of memory", "timeout", "infrastructure"),
    ]


GRID = (
    "study.sampler=grid",
    "study.trials=6",
    "search.weighting.temperature.choices=[0, 0.1, 0.3]",
    "search.distill.synthetic_size={type: int, low: 16, high: 24, step: 8}",
)


def test_a_grid_tries_each_combination_once_though_trials_fail_and_drivers_change(tmp_path):
    folder = StudyFolder.create(small_spec(*GRID), tmp_path)
    drawn = []
    for number in range(3):  # of three drivers, and all under way
        search = StudySearch(folder.book())
        drawn.append(search.suggest(str(number))["params"])
    search.on_trial_complete("2", failure("out of memory: "))
    folder.book().retry_failed()
    search = StudySearch(folder.book())
    assert search.suggest("again")["params"] == drawn[2]
    drawn += [search.suggest(name)["params"] for name in "abc"]
    search.on_trial_complete("c", report(normalized_return=1.0))  # the last of the grid
    assert search.trouble is None
    assert len({tuple(sorted(params.items())) for params in drawn}) == 6


@pytest.mark.parametrize("sampler", ["gp", "nsga2"])
def test_every_sampler_draws_the_same_whatever_drivers_there_were(tmp_path, sampler):
    """A study is gone on with by a new driver after each trial, and by one driver."""
    drawn: dict[str, list[object]] = {"one": [], "many": []}
    spec = small_spec(f"study.sampler={sampler}", "study.startup_trials=2")
    for name, found in drawn.items():
        folder = StudyFolder.create(spec, tmp_path / name)
        search = StudySearch(folder.book())
        for number in range(5):
            if name == "many":
                search = StudySearch(folder.book())
            params = search.suggest(str(number))["params"]
            found.append(params)
            ends = report(normalized_return=100 * params["weighting.temperature"])
            search.on_trial_complete(str(number), ends)
    assert drawn["one"] == drawn["many"]
    assert len({tuple(params.items()) for params in drawn["one"]}) > 3


def test_the_first_trial_is_the_pipeline_as_it_stands_where_the_ranges_hold_it(tmp_path):
    sets = (
        "study.defaults_first=true",
        "search.distill.synthetic_size.high=128",  # holds the default
        "pipeline.expert.episodes=[0.5, 1]",
        "search.expert.episodes={type: categorical, choices: [null, [0, 0.5], [0.50, 1.0]]}",
        "search.distill.state_noise={type: float, low: 1, high: 2}",  # does not
    )
    spec = small_spec(*sets)
    search = StudySearch(StudyFolder.create(spec, tmp_path / "a").book())
    first = search.suggest("a")["params"]
    assert spec.pipeline_with(first | {"distill.state_noise": 0.3}) == spec.pipeline
    assert 1 <= first["distill.state_noise"] <= 2
    assert search.suggest("b")["params"] != first
    drawn = small_spec(*sets, "study.defaults_first=false")
    search = StudySearch(StudyFolder.create(drawn, tmp_path / "b").book())
    assert search.suggest("a")["params"] != first
