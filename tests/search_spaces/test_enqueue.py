"""`study.enqueue`: what a trial can have is taken as it is, all else is refused in a sentence."""

from typing import Any

import pytest

from sdw_core.errors import InputError
from search_spaces import load_spec, parse_spec
from tests.mutations import is_a_sentence

SIZE, TEMPERATURE = "distill.synthetic_size", "weighting.temperature"
SEARCH = {
    SIZE: {"type": "int", "low": 8, "high": 128},
    TEMPERATURE: {"type": "categorical", "choices": [0, 0.03, 0.1]},
    "expert.episodes": {"type": "categorical", "choices": [[0.9, 1], [0, 0.5]]},
}


def spec_of(*queue: Any, trials: int = 4, **study: Any) -> Any:
    return parse_spec(
        {
            "study": {"name": "a", "trials": trials, "enqueue": [*queue]} | study,
            "pipeline": {"dataset": "sdw/hopper-replay-mini-v0"},
            "search": SEARCH,
        }
    )


def test_a_queue_is_kept_as_it_was_given_and_is_no_part_of_what_a_study_is():
    queue = {SIZE: 64}, {"expert.episodes": [0, 0.5], TEMPERATURE: 0, SIZE: 8}
    spec = spec_of(*queue)
    assert [spec.params_of(each) for each in spec.study.enqueue] == [
        {SIZE: 64},
        {"expert.episodes": "[0, 0.5]", TEMPERATURE: 0, SIZE: 8},
    ]
    assert spec.identity == spec_of().identity
    assert parse_spec(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({SIZE: 129}, f"`study.enqueue.0.{SIZE}` must be a value that is searched (whole numbers"),
        ({SIZE: 64.5}, "not 64.5"),
        ({SIZE: True}, "not True"),
        ({SIZE: "64"}, "not '64'"),
        ({TEMPERATURE: False}, "one of 0, 0.03, 0.1), not False"),
        ({TEMPERATURE: 0.3}, f"change the range `search.{TEMPERATURE}`"),
        ({"expert.episodes": [0.5, 1]}, "one of [0.9, 1], [0, 0.5]"),
        ({"distill.width": 64}, "`study.enqueue.0.distill.width` is not searched: the choices"),
        ({"distill.synthetic_sizes": 64}, f"is not searched: did you mean `{SIZE}`?"),
        ({}, "`study.enqueue.0` must name a value of a searched setting"),
        ("64", "`study.enqueue.0` must be a mapping"),
        ({SIZE: {"low": 3}}, f"`study.enqueue.0.{SIZE}` must be"),
    ],
)
def test_what_no_trial_can_have_is_refused(entry, words):
    with pytest.raises(InputError) as caught:
        spec_of(entry)
    assert words in str(caught.value)
    assert is_a_sentence(str(caught.value))


def test_a_queue_is_no_longer_than_the_study_and_names_no_whole_configuration_twice():
    whole = {SIZE: 64, TEMPERATURE: 0, "expert.episodes": [0.9, 1]}
    spec_of({SIZE: 64}, {SIZE: 64}, whole)  # the sampler draws the rest of each anew
    with pytest.raises(InputError, match=r"holds 2 configurations.*`study.trials` is 1"):
        spec_of(whole, {SIZE: 64}, trials=1)
    with pytest.raises(InputError, match=r"`study.enqueue.1` .* stands before it"):
        spec_of(whole, whole | {"expert.episodes": [0.90, 1.0], SIZE: 64.0})


def test_files_in_a_queue_are_by_absolute_paths(tmp_path, monkeypatch):
    (tmp_path / "my.hdf5").touch()
    monkeypatch.chdir(tmp_path)
    search = {"search.dataset": {"type": "categorical", "choices": ["my.hdf5", "other/x-v0"]}}
    queue = {"study.enqueue": [{"dataset": "my.hdf5"}, {"dataset": "other/x-v0"}]}
    spec = load_spec("quickstart", search | queue)
    there = str(tmp_path / "my.hdf5")
    assert [each["dataset"] for each in spec.study.enqueue] == [there, "other/x-v0"]
    assert [*map(spec.params_of, spec.study.enqueue)] == [
        {"dataset": there},
        {"dataset": "other/x-v0"},
    ]
