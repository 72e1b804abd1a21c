"""Ranges that count only where another setting has some value: for spec, sampler, book and page."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdw_core.errors import InputError
from search_spaces import parse_spec
from study import Study
from study.folder import StudyFolder
from study.search import StudySearch
from tests.mutations import is_a_sentence
from tests.study.conftest import small_spec
from tests.study.reports import report

OBJECTIVE, BETA, SIZE = "distill.objective", "distill.beta", "distill.synthetic_size"
SEARCH: dict[str, Any] = {
    BETA: {"type": "float", "low": 0.01, "high": 0.1, "when": {OBJECTIVE: "av_pbc"}},
    OBJECTIVE: {"type": "categorical", "choices": ["pbc", "av_pbc"]},
    SIZE: {"type": "int", "low": 16, "high": 24},
}


def spec_of(search: dict[str, Any], **study: Any) -> Any:
    pipeline = {"dataset": "sdw/hopper-replay-mini-v0"}
    return parse_spec({"study": {"name": "a"} | study, "pipeline": pipeline, "search": search})


def with_when(path: str, **when: Any) -> dict[str, Any]:
    named = {key.replace("__", "."): value for key, value in when.items()}
    return SEARCH | {path: SEARCH[path] | {"when": named}}


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
def test_a_trial_has_a_value_only_where_its_range_counts(tmp_path, sampler, caplog):
    settings = f"study.sampler={sampler}", "study.trials=14", "study.database=journal"
    spec = small_spec(*settings, f"search={SEARCH}", "study.startup_trials=4")
    folder = StudyFolder.create(spec, tmp_path)
    search, kinds = StudySearch(folder.book()), set()
    for number in range(14):
        params = search.suggest(str(number))["params"]
        kinds.add(params[OBJECTIVE])
        assert (BETA in params) == (params[OBJECTIVE] == "av_pbc")
        assert folder.spec().pipeline_with(params).distill.objective == params[OBJECTIVE]
        search.on_trial_complete(str(number), report(normalized_return=float(params[SIZE])))
    assert kinds == {"pbc", "av_pbc"}
    assert caplog.records == []
    before = [row.params for row in folder.book().rows()]
    folder.rebuild()
    assert [row.params for row in folder.book().rows()] == before
    page = Study.open(folder.path).report().read_text()
    assert f"Importances leave out what not every trial has: {BETA}." in page


def test_what_is_asked_names_what_its_settings_hang_on():
    right = {BETA: 0.05, OBJECTIVE: "av_pbc"}
    assert spec_of(SEARCH, enqueue=[right]).study.enqueue == (right,)
    for wrong in ({BETA: 0.05}, {BETA: 0.05, OBJECTIVE: "pbc"}):
        with pytest.raises(InputError, match=r"`distill.objective` is av_pbc; name that as well"):
            spec_of(SEARCH, enqueue=[wrong])
    of_sizes = with_when(BETA, distill__synthetic_size=[16, 20])
    with pytest.raises(InputError, match=r"`distill.synthetic_size` is \[16, 20\]; name that"):
        spec_of(of_sizes, enqueue=[{BETA: 0.05}])
    whole = {OBJECTIVE: "pbc", SIZE: 16}
    with pytest.raises(InputError, match="stands before it"):
        spec_of(SEARCH, enqueue=[whole, whole])


@pytest.mark.parametrize(
    ("search", "words"),
    [
        (with_when(BETA, distill__objective="pb"), "`search.distill.beta.when.distill.objective`"),
        (with_when(BETA, distill__objectiv="pbc"), "did you mean `distill.objective`?"),
        (with_when(BETA, distill__objective=["pbc", 3]), "one of pbc, av_pbc), not 3"),
        (with_when(BETA, distill__synthetic_size=99), "whole numbers from 16 to 24), not 99"),
        (with_when(BETA, distill__beta=0.05), "in a circle (`distill.beta` -> `distill.beta`)"),
        (
            with_when(OBJECTIVE, distill__beta=0.05),
            "in a circle (`distill.beta` -> `distill.objective` -> `distill.beta`)",
        ),
    ],
)
def test_conditions_that_make_no_sense_are_refused(search, words):
    with pytest.raises(InputError) as caught:
        spec_of(search)
    assert words in str(caught.value)
    assert is_a_sentence(str(caught.value))


def test_a_grid_refuses_conditions():
    search = {OBJECTIVE: SEARCH[OBJECTIVE], SIZE: SEARCH[SIZE] | {"when": {OBJECTIVE: "pbc"}}}
    with pytest.raises(InputError, match="drop `when`, or choose another sampler"):
        spec_of(search, sampler="grid", trials=2)


@pytest.mark.parametrize(("value", "word"), [("pbc", "always"), (["dbc", "av_pbc"], "never")])
def test_a_condition_on_what_is_fixed_is_said(value, word):
    spec = spec_of({SIZE: SEARCH[SIZE] | {"when": {OBJECTIVE: value}}})
    assert spec.remarks == [
        f"`search.{SIZE}` {word} counts: its `when` names `{OBJECTIVE}`, which is not searched"
    ]
    assert spec.counts(SIZE, {}) == (word == "always")


def test_a_spec_without_conditions_is_the_spec_that_it_was():
    plain = {path: {k: v for k, v in each.items() if k != "when"} for path, each in SEARCH.items()}
    null = {path: each | {"when": None} for path, each in plain.items()}
    assert spec_of(plain).identity == spec_of(null).identity != spec_of(SEARCH).identity
    assert spec_of(plain).order == list(plain)


PATHS = ("distill.width", "distill.inner_steps", "distill.outer_steps", SIZE)


@settings(max_examples=60)
@given(st.lists(st.sets(st.integers(0, 3)), min_size=4, max_size=4))
def test_whatever_hangs_on_what_it_is_refused_or_put_in_an_order(above):
    """`above[i]` are the settings that setting i hangs on."""
    ranges = {"type": "int", "low": 16, "high": 24}
    search = {
        path: ranges | {"when": {PATHS[other]: 16 for other in others}}
        for path, others in zip(PATHS, above, strict=True)
    }
    reach = [set(each) for each in above]
    for _ in range(4):
        reach = [each | {far for near in each for far in reach[near]} for each in reach]
    circular = any(index in each for index, each in enumerate(reach))
    try:
        order = spec_of(search).order
    except InputError as error:
        assert circular
        path = str(error).partition("(`")[2].partition("`)")[0].split("` -> `")
        assert path[0] == path[-1]
        assert all(PATHS.index(o) in above[PATHS.index(p)] for p, o in pairwise(path))
    else:
        assert not circular
        for index, others in enumerate(above):
            assert all(order.index(PATHS[o]) < order.index(PATHS[index]) for o in others)
