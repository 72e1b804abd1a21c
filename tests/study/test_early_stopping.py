"""Early stopping: Optuna's rule, from Optuna's intermediate values, answered through the folder."""

import json
from contextlib import nullcontext
from io import StringIO
from itertools import pairwise

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from sdw_core.console import Console
from sdw_core.errors import InputError, StopRequested
from sdw_core.files import read_json, write_json
from sdw_core.waiting import patiently
from search_spaces.spec import EarlyStopping
from study.early_stopping import TrialPruned, lags, rungs_of, saved, survives
from study.folder import StudyFolder
from study.outcomes import TrialResult, read_result
from study.runner import _outcome
from study.search import StudySearch
from study.snapshot import Snapshot
from study.tables import trial_table
from study.trial import run_trial
from tests.study.conftest import small_spec
from tests.study.reports import report, run_trials

ON = "study.early_stopping={grace: 0.34, reduction_factor: 2, policies: 1, episodes: 1}"


@pytest.fixture
def stopping(tmp_path) -> StudyFolder:
    """A study of 6 outer steps a trial, with rungs at 2 and 4."""
    return StudyFolder.create(small_spec(ON), tmp_path)


def driver(folder: StudyFolder) -> StudySearch:
    """The searcher of a new driver."""
    return StudySearch(folder.book(), folder_of=folder.trial)


def at_rung(search: StudySearch, name: str, step: int, value: float) -> None:
    search.on_trial_result(name, {"document": json.dumps({"rung": step, "return": value})})


def answer(folder: StudyFolder, number: int, step: int) -> str | None:
    return read_json(folder.trial(number) / "rungs.json")[str(step)]["reason"]


# The rule


@given(st.floats(0.001, 0.999), st.integers(2, 6), st.integers(0, 5000))
def test_rungs_lie_within_the_distillation_each_a_factor_apart(grace, factor, outer_steps):
    rungs = EarlyStopping(grace=grace, reduction_factor=factor).rungs(outer_steps)
    assert all(0 < a < b for a, b in pairwise(rungs))
    assert all(0 < rung < outer_steps for rung in rungs)
    for index, rung in enumerate(rungs):
        if len(set(rungs)) == len(rungs) and rungs[0] > 1:
            assert abs(rung - grace * factor**index * outer_steps) <= 0.5 * (1 + 1e-9)


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_it_decides_as_optunas_pruner_does(factor, seed):
    """Optuna's keeps its rungs in attributes of its own; ours only looks at the values."""
    generator = np.random.default_rng(seed)
    storage = optuna.storages.RDBStorage("sqlite://")
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=factor)
    study = optuna.create_study(storage=storage, direction="maximize", pruner=pruner)
    values = []
    for _ in range(30):
        values.append(round(float(generator.normal()), 1))  # with ties
        trial = study.ask()
        trial.report(values[-1], 1)
        assert survives(values[-1], values, factor) == (not trial.should_prune())
        study.tell(trial, state=TrialState.PRUNED)


# The driver


def test_a_lagging_trial_ends_and_the_best_so_far_go_on(stopping):
    search = driver(stopping)
    for name, value, goes_on in (("a", 5.0, True), ("b", 9.0, True), ("c", 6.0, False)):
        number = search.suggest(name)["number"]
        at_rung(search, name, 2, value)
        assert (answer(stopping, number, 2) is None) == goes_on
    assert answer(stopping, 2, 2) == "rung 2: return 6.0, place 2 of 3"


def test_a_new_driver_rebuilds_the_rungs_from_the_intermediate_values(stopping):
    first = driver(stopping)
    for name, value in (("a", 5.0), ("b", 9.0)):
        first.suggest(name)
        at_rung(first, name, 2, value)
    for name in "ab":
        first.on_trial_complete(name, report("STOPPED"))
    second = driver(stopping)
    asked = [second.suggest(name)["number"] for name in "abc"]
    assert asked == [0, 1, 2]
    at_rung(second, "c", 2, 7.0)
    assert answer(stopping, 2, 2) == "rung 2: return 7.0, place 2 of 3"
    at_rung(second, "b", 4, 1.0)  # alone there
    assert answer(stopping, 1, 4) is None
    assert [t.intermediate_values for t in stopping.book().trials()] == [
        {2: 5.0}, {2: 9.0, 4: 1.0}, {2: 7.0},
    ]  # fmt: skip


def test_a_pruned_trial_has_no_value_and_never_wins(stopping):
    search = driver(stopping)
    for name, value in (("a", 9.0), ("b", 99.0)):
        search.suggest(name)
        at_rung(search, name, 2, value)
    pruned = {"outcome": "PRUNED", "reason": "rung 2: why", "rung": 2, "rungs": {"2": 99.0}}
    search.on_trial_complete("b", {"document": json.dumps(pruned)})
    search.on_trial_complete("a", report(normalized_return=1.0))
    book = stopping.book()
    rows = book.rows()
    assert (rows[1].outcome, rows[1].reason, rows[1].values) == ("PRUNED", "rung 2: why", None)
    assert book.best(2) == [0]
    assert book.trials(TrialState.PRUNED)[0].value is None
    assert book.remaining() == book.spec.study.trials - 2
    assert saved(book) == {"pruned": 1, "outer_steps_saved": 4, "percent": pytest.approx(100 / 3)}
    assert driver(stopping).suggest("c")["number"] == 2  # the sampler takes them as they are


def test_off_by_default_and_nothing_is_said_to_be_saved(folder):
    assert folder.spec().study.early_stopping is None
    assert rungs_of(folder.spec(), folder.trial(0), lambda step, value: None) is None
    assert saved(folder.book()) is None


# The trial


def test_a_trial_that_is_ended_at_a_rung_is_pruned_and_leaves_its_reason(stopping):
    search = driver(stopping)
    for name in "ab":
        search.suggest(name)
    at_rung(search, "a", 2, 1e9)
    result = run(stopping, search, "b", 1)
    assert (result.outcome, result.rung) == ("PRUNED", 2)
    assert result.reason.startswith("rung 2: return ")
    assert list(result.rungs) == ["2"]
    assert result.to_json() == read_json(stopping.trial(1) / "result.json")
    assert not (stopping.trial(1) / "checkpoint.safetensors").exists()
    assert run(stopping, None, "b", 1) == result  # what is done is not done again


def run(folder: StudyFolder, search: StudySearch | None, name: str, number: int) -> TrialResult:
    """A trial that asks a driver in the same process; None: asking is an error."""
    spec, home = folder.spec(), folder.trial(number)

    def ask(step: int, value: float) -> None:
        assert search
        at_rung(search, name, step, value)

    home.mkdir(parents=True, exist_ok=True)
    rungs = rungs_of(spec, home, ask)
    return run_trial(number, spec.pipeline, home, folder.cache, folder.stop_flag, 1, rungs=rungs)


def test_a_trial_that_gets_no_answer_is_no_failure_and_is_asked_again(stopping, monkeypatch):
    """The database fails at the rung, so that the driver cannot answer."""
    monkeypatch.setattr("study.early_stopping.PATIENCE", 0.3)
    search = driver(stopping)
    search.suggest("a")
    with monkeypatch.context() as broken:
        broken.setattr(search._book, "keep_intermediate", fails)
        result = run(stopping, search, "a", 0)
    assert (result.outcome, search.trouble) == ("STOPPED", "database or disk is full")
    assert result.reason.startswith("rung 2: no answer of the driver")
    assert not (stopping.trial(0) / "result.json").exists()
    search.on_trial_complete("a", {"document": json.dumps(result.to_json())})
    assert search.trouble == "database or disk is full"
    again = driver(stopping)
    assert again.suggest("b")["number"] == 0
    assert run(stopping, again, "b", 0).outcome == "COMPLETE"


def fails(*arguments: object) -> None:
    raise StorageInternalError("database or disk is full")


def test_a_trial_that_waits_for_an_answer_can_be_stopped(stopping):
    stopping.trial(0).mkdir(parents=True)
    rungs = rungs_of(
        stopping.spec(), stopping.trial(0), lambda step, value: stopping.stop_flag.touch()
    )

    def go_on() -> None:
        if stopping.stop_flag.exists():
            raise StopRequested("Stopped while it waited.")

    with pytest.raises(StopRequested, match="Stopped while it waited"):
        rungs.judge(2, 5.0, lambda: nullcontext(go_on))


def test_rungs_change_nothing_in_the_result_of_a_trial_that_goes_on(stopping, tmp_path):
    search = driver(stopping)
    search.suggest("a")
    judged = run(stopping, search, "a", 0)
    alone = run_trial(
        0, stopping.spec().pipeline, tmp_path / "0", stopping.cache, tmp_path / "s", 1
    )
    assert list(judged.rungs) == ["2", "4"]
    assert judged.normalized_return == alone.normalized_return
    rows = [path / "rows.safetensors" for path in (stopping.trial(0), tmp_path / "0")]
    assert rows[0].read_bytes() == rows[1].read_bytes()


def test_trials_of_the_same_rows_have_the_same_return_at_a_rung(stopping):
    search = driver(stopping)
    found = []
    for number, name in enumerate("ab"):
        search.suggest(name)
        found.append(run(stopping, search, name, number).rungs["2"])
    assert found[0] == found[1]


def test_a_rung_compares_what_the_study_maximises(tmp_path):
    spec = small_spec(ON, "study.objectives=[{metric: iqm, mode: max}]")
    rungs = rungs_of(spec, tmp_path, lambda step, value: None)
    assert rungs.aggregate(np.array([[0.0, 1.0], [2.0, 100.0]])) == 1.5
    spec = small_spec(ON)
    rungs = rungs_of(spec, tmp_path, lambda step, value: None)
    assert rungs.aggregate(np.array([[0.0, 1.0], [2.0, 101.0]])) == 26


def test_distillations_of_no_steps_save_none(tmp_path):
    folder = StudyFolder.create(small_spec(ON, "pipeline.distill.outer_steps=0"), tmp_path)
    search = driver(folder)
    search.suggest("a")
    search.on_trial_complete("a", report(normalized_return=1.0))
    assert saved(folder.book()) == {"pruned": 0, "outer_steps_saved": 0, "percent": 0.0}


def test_an_answer_holds_for_its_return_only(stopping):
    folder = stopping.trial(0)
    asked = []

    def ask(step: int, value: float) -> None:
        asked.append(value)
        write_json(folder / "rungs.json", {str(step): {"return": value, "reason": "lags"}})

    rungs = rungs_of(stopping.spec(), folder, ask)
    write_json(folder / "rungs.json", {"2": {"return": 5.0, "reason": None}})
    rungs.judge(2, 5.0, patiently)
    assert asked == []
    with pytest.raises(TrialPruned, match="lags"):
        rungs.judge(2, 6.0, patiently)
    with pytest.raises(TrialPruned, match="lags"):
        rungs.judge(2, 6.0, patiently)
    assert asked == [6.0]


# What is refused


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("study.objectives=[{metric: seconds, mode: min}]", "not seconds min"),
        ("study.objectives=[{metric: normalized_return, mode: min}]", "not normalized_return min"),
        (
            "study.objectives=[{metric: iqm, mode: max}, {metric: synthetic_size, mode: min}]",
            "not iqm max, synthetic_size min",
        ),
        ("search.distill.outer_steps={type: int, low: 5, high: 9}", "search.distill.outer_steps"),
    ],
)
def test_what_rungs_cannot_compare_is_refused(override, said):
    with pytest.raises(InputError, match=r"`study\.early_stopping` compares") as caught:
        small_spec(ON, override)
    assert said in str(caught.value)


def test_a_trial_that_says_where_it_was_pruned_is_at_no_rung(stopping):
    search = driver(stopping)
    search.suggest("a")
    ended = TrialResult(number=0, outcome="PRUNED", reason="rung 3", rung=3)
    search.on_trial_result("a", {"document": json.dumps(ended.to_json())})
    assert not (stopping.trial(0) / "rungs.json").exists()


# The evaluation


BATCHES = ("study.evaluation_batch=2", "pipeline.evaluation.policies=5", "study.trials=3")


@pytest.fixture(scope="module")
def beaten(tmp_path_factory) -> StudyFolder:
    """A study whose first trial is made to have been unbeatable before the second ran."""
    folder = StudyFolder.create(
        small_spec(*BATCHES, "pipeline.distill.seeds=2"), tmp_path_factory.mktemp("studies")
    )
    search = run_trials(folder)
    result = read_json(folder.trial(0) / "result.json")
    result["normalized_return"]["per_policy"] = [90.0, 91, 95, 95, 95, 92, 93, 95, 95, 95]
    write_json(folder.trial(0) / "result.json", result)
    asked = search.suggest("b")
    outcome = _outcome(folder, asked["number"], asked["params"], lambda step, value: None)
    search.on_trial_complete("b", {"document": json.dumps(outcome.to_json())})
    return folder


def test_a_trial_that_is_clearly_behind_is_judged_by_few_policies_and_says_so(beaten):
    first, second = beaten.book().rows()
    assert first.judged is None
    assert first.interval is not None
    assert second.judged == {"policies": 2, "of": 5, "against": 0}
    assert second.interval is None
    result = read_result(beaten.trial(1))
    assert len(result.normalized_return.per_policy) == 2 * 2
    own = np.reshape(result.normalized_return.per_policy, (2, 2)).mean(0)
    assert second.values == [pytest.approx(93.6 - np.mean(np.array([91, 92]) - own))]
    snapshot = Snapshot.of(beaten)
    assert "judged by 2 of 5 policies, clearly behind trial 0" in snapshot.story(second)
    text = StringIO()
    Console(file=text, width=200).print(trial_table(snapshot))
    assert " 2 of 5 policies" in text.getvalue()


def test_a_later_attempt_is_held_against_the_same_trial(beaten):
    (beaten.trial(1) / "result.json").unlink()
    before = beaten.book().rows()[1]
    write_json(beaten.path / "incumbent.json", {"number": 1})
    again = _outcome(beaten, 1, before.params, lambda step, value: None)
    assert again.metrics["normalized_return"] == before.values[0]
    assert again.judged == before.judged


def test_a_trial_that_is_not_behind_is_judged_as_without_batches(beaten, tmp_path):
    params = beaten.book().rows()[0].params
    config = beaten.spec().pipeline_with(params)
    whole = run_trial(0, config, tmp_path / "0", beaten.cache, tmp_path / "stop", 1)
    kept = beaten.trial(0) / "record.json"
    assert read_json(kept)["values"] == [pytest.approx(whole.metrics["normalized_return"])]


def test_lagging_is_a_matter_of_pairs():
    shared = np.random.default_rng(0).normal(0, 30, 10)
    small = np.random.default_rng(1).normal(0, 1, 10)
    assert lags(shared - 2, shared + small)
    assert not lags(shared[::-1] - 2, shared + small)
    assert not lags(shared + small, shared - 2)
    assert lags(shared[:3] - 20, shared)
    assert not lags(shared[:1] - 20, shared)


def test_what_is_no_mean_cannot_be_judged_in_batches():
    with pytest.raises(InputError, match=r"`study\.evaluation_batch` compares means"):
        small_spec(*BATCHES, name="pareto")
    with pytest.raises(InputError, match=r"evaluation_batch"):
        small_spec("study.evaluation_batch=1")
