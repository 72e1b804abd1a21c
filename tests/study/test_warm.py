"""What earlier studies found is asked first: in their order, as far as it is searched here."""

import logging
from pathlib import Path
from typing import Any

import pytest

from sdw_core.errors import InputError
from search_spaces import load_spec
from study import Study
from study.folder import StudyFolder
from study.search import StudySearch
from study.warm import BEST, warmed
from tests.mutations import is_a_sentence
from tests.study.conftest import small_spec
from tests.study.reports import report

SIZE, TEMPERATURE = "distill.synthetic_size", "weighting.temperature"
DEPTH, RANGE = "expert.conservatism", {"type": "float", "low": 0, "high": 10}
NOISE = "search.distill.state_noise={type: float, low: 0, high: 1}"


def earlier(storage: Path, values: list[float], *overrides: str, name: str = "earlier") -> Any:
    """A study whose trials found these values; sizes from 16 on."""
    queue = [{SIZE: 16 + i, TEMPERATURE: 0.1} for i in range(len(values))]
    settings = ["study.database=journal", f"study.trials={len(values)}", f"study.name={name}"]
    spec = small_spec(*settings, f"study.enqueue={queue}", *overrides)
    folder = StudyFolder.create(spec, storage)
    search = StudySearch(folder.book())
    for number, value in enumerate(values):
        search.suggest(str(number))
        outcome = "COMPLETE" if value else "FAILED"
        found = report(outcome, normalized_return=value, synthetic_size=16 + number)
        search.on_trial_complete(str(number), found)
    return folder


def queue_of(storage: Path, *studies: str, trials: int = 20, **given: Any) -> list[dict[str, Any]]:
    spec = small_spec(f"study.trials={trials}", *given.get("overrides", ()))
    return [*warmed(spec, studies, storage).study.enqueue]


def test_the_best_are_asked_the_best_first_and_their_values_are_not_told(tmp_path, caplog):
    earlier(tmp_path, [3.0, 0.0, 9.0, 5.0])
    with caplog.at_level(logging.INFO):
        queue = queue_of(tmp_path, "earlier")
    assert queue == [{TEMPERATURE: 0.1, SIZE: size} for size in (18, 19, 16)]
    (said,) = [each.message for each in caplog.records]
    assert said == "asked first: the settings of trials 2, 3, 0 of earlier"
    spec = warmed(small_spec("study.trials=8"), ["earlier"], tmp_path)
    folder = StudyFolder.create(spec, tmp_path)
    search = StudySearch(folder.book())
    assert [search.suggest(name)["params"][SIZE] for name in "abc"] == [18, 19, 16]
    assert [trial.values for trial in folder.book().trials()] == [None] * 3


def test_several_take_turns_nothing_is_asked_twice_and_half_of_the_trials_at_most(tmp_path, caplog):
    earlier(tmp_path, [9.0, 1.0, 5.0], name="a")
    earlier(tmp_path, [1.0, 9.0, 5.0], name="b")
    sizes = [each[SIZE] for each in queue_of(tmp_path, "a", "b")]
    assert sizes == [16, 17, 18]
    with caplog.at_level(logging.INFO):
        sizes = [each[SIZE] for each in queue_of(tmp_path, "a", "b", "b", trials=4)]
    assert sizes == [16, 17]
    assert "nothing of b is asked" in caplog.records[-1].message


def test_the_studys_own_come_before(tmp_path):
    earlier(tmp_path, [9.0, 1.0])
    own = "study.enqueue=[{distill.synthetic_size: 20}]"
    sizes = [each[SIZE] for each in queue_of(tmp_path, "earlier", overrides=[own])]
    assert sizes == [20, 16, 17]


def test_of_more_than_five_the_five_best_and_of_a_front_those_along_it(tmp_path):
    earlier(tmp_path, [float(value) for value in range(1, 9)], name="many")
    assert len(queue_of(tmp_path, "many")) == BEST
    both = "{metric: normalized_return, mode: max}, {metric: synthetic_size, mode: min}"
    front = [float(value) for value in range(1, 10)]
    earlier(tmp_path, front, f"study.objectives=[{both}]", name="front")
    assert [each[SIZE] for each in queue_of(tmp_path, "front")] == [16, 18, 20, 22, 24]


def test_what_is_not_searched_here_or_lies_outside_is_said_and_left_out(tmp_path, caplog):
    earlier(tmp_path, [9.0, 8.0], NOISE)
    narrow = ["search.distill.synthetic_size.low=17", "search.weighting.temperature.choices=[0.1]"]
    with caplog.at_level(logging.INFO):
        queue = queue_of(tmp_path, "earlier", overrides=narrow)
    assert queue == [{TEMPERATURE: 0.1}, {TEMPERATURE: 0.1, SIZE: 17}]
    (said,) = [each.message for each in caplog.records]
    assert f"left out: {SIZE} (trial 0: 16 lies outside of its range here)" in said
    assert "distill.state_noise (trial 0: " in said
    assert said.endswith(", and fixed at 0.3 here)")


def test_what_was_fixed_there_and_is_searched_here_has_its_value_of_then(tmp_path, caplog):
    earlier(tmp_path, [9.0], "pipeline.distill.state_noise=0.25")
    assert queue_of(tmp_path, "earlier", overrides=[NOISE])[0]["distill.state_noise"] == 0.25
    cal_ql = {"pipeline.expert": {"method": "cal_ql"}, f"search.{DEPTH}": RANGE}
    with caplog.at_level(logging.INFO):
        (settings,) = warmed(load_spec("quickstart", cal_ql), ["earlier"], tmp_path).study.enqueue
    assert DEPTH not in settings
    assert f"{DEPTH} (trial 0: none there)" in caplog.records[-1].message


def test_a_study_that_has_nothing_for_this_one_is_refused(tmp_path):
    earlier(tmp_path, [0.0], name="failed")
    earlier(tmp_path, [1.0], name="other")
    elsewhere = ["search={distill.synthetic_size: {type: int, low: 64, high: 128}}"]
    for study, overrides, words in (
        ("failed", [], "has no trial whose settings could be asked first"),
        ("other", elsewhere, "Nothing that the 1 best trial of 'other' found lies where"),
        ("nothing", [], "There is no study 'nothing'"),
    ):
        with pytest.raises(InputError) as caught:
            queue_of(tmp_path, study, overrides=overrides)
        assert words in str(caught.value)
        assert is_a_sentence(str(caught.value))


def test_validate_says_what_would_be_asked(tmp_path):
    folder = earlier(tmp_path, [9.0])
    document = Study.validate(small_spec(), storage=tmp_path, warm_from=folder.path)
    assert document["study"]["enqueue"] == [{TEMPERATURE: 0.1, SIZE: 16}]
