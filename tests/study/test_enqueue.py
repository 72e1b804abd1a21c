"""Configurations that are asked first: each becomes one trial, in its order, whatever dies."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdw_core.errors import InputError
from search_spaces import Choice, FloatRange, IntRange
from search_spaces.ranges import param_of
from study import Study
from study.book import optuna_distribution
from study.folder import StudyFolder
from study.search import StudySearch
from tests.mutations import is_a_sentence
from tests.study.commands import sdw
from tests.study.conftest import small_spec
from tests.study.reports import report

SIZE, TEMPERATURE = "distill.synthetic_size", "weighting.temperature"
WHOLE = {SIZE: 16, TEMPERATURE: 0.1}
QUEUE = (
    "study.enqueue=[{distill.synthetic_size: 24}, "
    "{weighting.temperature: 0.1, distill.synthetic_size: 16}]"
)


def study_of(storage: Path, database: str = "journal") -> StudyFolder:
    """A study of two configurations, and four trials."""
    settings = QUEUE, f"study.database={database}", "study.trials=4"
    return StudyFolder.create(small_spec(*settings), storage)


@pytest.fixture
def queued(tmp_path: Path) -> StudyFolder:
    return study_of(tmp_path)


def asked(folder: StudyFolder) -> list[bool]:
    return [row.asked for row in folder.book().rows()]


def test_the_first_trials_are_those_that_were_asked_for_and_the_others_are_drawn(queued):
    search = StudySearch(queued.book())
    given = [search.suggest(name)["params"] for name in "abcd"]
    assert given[0][SIZE] == 24
    assert given[1] == WHOLE
    assert asked(queued) == [True, True, False, False]
    search.on_trial_complete("a", report(normalized_return=1.0))
    assert asked(queued)[0]
    assert json.loads((queued.trial(0) / "record.json").read_text())["asked"] == 0
    assert search.suggest("e") is None  # they are four of four


@pytest.mark.parametrize("database", ["sqlite", "journal"])
@pytest.mark.parametrize("after", ["queued", "begun", "drawn"])
def test_whenever_a_driver_dies_the_next_asks_the_same_once(tmp_path, after, database):
    """After the trial was made, after it was begun, after its values were drawn."""
    queued = study_of(tmp_path, database)
    book = queued.book()
    if after == "drawn":
        StudySearch(book).suggest("a")
    else:
        ask = book.study.ask

        def dies() -> None:
            if after == "begun":
                ask()
            raise KeyboardInterrupt

        book.study.ask = dies
        with pytest.raises(KeyboardInterrupt):
            book.ask()
    book = queued.book()
    book.reconcile()
    search = StudySearch(book)
    assert [search.suggest(name)["number"] for name in "abcd"] == [0, 1, 2, 3]
    rows = queued.book().rows()
    assert [row.params[SIZE] for row in rows[:2]] == [24, 16]
    assert [row.asked for row in rows] == [True, True, False, False]


def test_a_lost_database_is_made_anew_with_what_was_asked(queued):
    search = StudySearch(queued.book())
    search.suggest("a")
    search.on_trial_complete("a", report(normalized_return=1.0))
    queued.rebuild()
    search = StudySearch(queued.book())
    assert search.suggest("b") == {"number": 1, "params": WHOLE}
    assert asked(queued) == [True, True]


def test_a_driver_that_lives_asks_what_is_queued_meanwhile_before_it_draws(queued):
    search = StudySearch(queued.book())
    drawn = [search.suggest(name) for name in "ab"]
    assert StudyFolder(queued.path).enqueue({SIZE: 20}) == 2
    search.requeue(drawn[0]["number"])
    assert search.suggest("c") == drawn[0]  # what waits, comes first
    assert search.suggest("d")["params"][SIZE] == 20
    assert asked(queued) == [True, True, True]
    assert search.suggest("e")["number"] == 3


def test_what_is_asked_does_not_change_what_is_drawn_for_another_number(tmp_path):
    first, second = (
        StudyFolder.create(
            small_spec(*given, f"study.name={name}", "study.database=journal"), tmp_path
        )
        for name, given in (("a", []), ("b", ["study.enqueue=[{distill.synthetic_size: 24}]"]))
    )
    drawn = []
    for folder in (first, second):
        search = StudySearch(folder.book())
        drawn.append([search.suggest(name)["params"] for name in "abc"])
    assert drawn[0][1:] == drawn[1][1:]
    assert drawn[0][0][TEMPERATURE] == drawn[1][0][TEMPERATURE]  # the part that was not named


def test_no_more_is_queued_than_there_are_trials_unless_one_is_added(queued):
    search = StudySearch(queued.book())
    search.suggest("a")
    queued.enqueue({SIZE: 20})
    queued.enqueue({SIZE: 21})
    with pytest.raises(InputError, match=r"All 4 trials .* --extend`"):
        queued.enqueue({SIZE: 22})
    assert queued.spec().study.trials == 4
    queued.enqueue({SIZE: 22}, more=1)
    assert (queued.spec().study.trials, len(queued.spec().study.enqueue)) == (5, 5)
    for name in "bcd":
        search.suggest(name)
    after = StudySearch(queued.book())
    assert after.suggest("e")["params"][SIZE] == 22
    assert asked(queued) == [True] * 5


def test_a_retry_takes_no_place_of_its_own(queued):
    search = StudySearch(queued.book())
    for name in "ab":
        search.suggest(name)
    search.on_trial_complete("a", report("FAILED"))
    queued.book().retry_failed()
    queued.enqueue({SIZE: 20})
    queued.enqueue({SIZE: 21})
    with pytest.raises(InputError, match="All 4 trials"):
        queued.enqueue({SIZE: 22})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({SIZE: 1000}, "`distill.synthetic_size` must be a value that is searched"),
        ({"synthetic_size": 16}, f"is not searched: did you mean `{SIZE}`?"),
        (WHOLE, "Trial 1 of 'hopper-quickstart' has these very settings"),
    ],
)
def test_what_cannot_be_asked_changes_nothing(queued, settings, words):
    search = StudySearch(queued.book())
    for name in "ab":
        search.suggest(name)
    before = (queued.path / "study.yaml").read_bytes()
    with pytest.raises(InputError) as caught:
        queued.enqueue(settings)
    assert words in str(caught.value)
    assert is_a_sentence(str(caught.value))
    assert (queued.path / "study.yaml").read_bytes() == before


def test_a_damaged_spec_ends_the_proposals_of_a_driver_that_lives(queued):
    search = StudySearch(queued.book())
    search.suggest("a")
    (queued.path / "study.yaml").write_text("study: [")
    assert search.suggest("b") is None
    assert "study.yaml" in search.trouble
    assert search.suggest("c") == "FINISHED"


def test_the_command_queues_and_every_view_says_so(queued, capsys):
    status, out, err = sdw(capsys, "enqueue", queued.path, f"{SIZE}=20", "--json")
    assert (status, json.loads(out)["queue"][-1]) == (0, {SIZE: 20})
    assert err == (
        f"hopper-quickstart asks for synthetic_size 20: begin it with `sdw resume {queued.path}`\n"
    )
    status, out, err = sdw(capsys, "enqueue", queued.path, f"{SIZE}=2000")
    assert (status, out, err.count("\n")) == (2, "", 1)
    search = StudySearch(queued.book())
    for name in "ab":
        search.suggest(name)
        search.on_trial_complete(name, report(normalized_return=1.0))
    _, out, _ = sdw(capsys, "status", queued.path)
    outcomes = [line.partition("COMPLETE ")[2].strip() for line in out.splitlines()[3:5]]
    assert outcomes == ["best asked", "asked"]
    assert "asked next: synthetic_size 20\n" in out
    study = Study.open(queued.path)
    assert [row["asked"] for row in study.status()["trials"]] == [True, True]
    assert study.frame()["asked"].tolist() == [True, True]
    assert "Trial 0 (its settings were asked for)" in study.report().read_text()
    assert "COMPLETE, asked" in queued.report.read_text()


RANGES = st.one_of(
    st.tuples(st.integers(-50, 50), st.integers(0, 20), st.integers(1, 7)).map(
        lambda each: IntRange(
            type="int", low=each[0], high=each[0] + each[1] * each[2], step=each[2]
        )
    ),
    st.tuples(st.integers(-5, 5), st.integers(1, 30), st.sampled_from([None, 0.25, 0.5])).map(
        lambda each: FloatRange(
            type="float", low=each[0], high=each[0] + each[1] * (each[2] or 0.3), step=each[2]
        )
    ),
    st.lists(st.sampled_from([0, 1.5, True, None, "a", (0, 1)]), min_size=1).map(
        lambda each: Choice(type="categorical", choices=tuple(each))
    ),
)
VALUES = st.one_of(st.integers(-60, 160), st.floats(), st.sampled_from([True, None, "a", [0, 1]]))


def can_be_drawn(distribution: Any, value: Any) -> bool:
    if isinstance(distribution, Choice):
        listed = tuple(value) if isinstance(value, list) else value
        alike = [c for c in distribution.choices if isinstance(c, bool) == isinstance(value, bool)]
        return listed in alike
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    whole = isinstance(distribution, FloatRange) or value % 1 == 0
    return whole and optuna_distribution(distribution)._contains(float(value))


@settings(max_examples=60)
@given(RANGES, VALUES)
def test_what_may_be_asked_is_what_can_be_drawn(distribution, value):
    try:
        param = param_of("a", distribution, value, "a")
    except InputError as error:
        assert is_a_sentence(str(error))
        assert not can_be_drawn(distribution, value)
    else:
        assert can_be_drawn(distribution, value)
        assert param == value or value == [0, 1]
        assert optuna_distribution(distribution).to_internal_repr(param) is not None
