"""Specs: what loads, what an override does, and one sentence for everything that is refused."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sdw_core.errors import InputError
from search_spaces import IntRange, load_spec, parse_spec, shipped_specs
from search_spaces.reference import reference

ROOT = Path(__file__).parents[2]
TEMPERATURE = "weighting.temperature"


def document(**changes: object) -> dict[str, object]:
    base: dict[str, object] = {
        "study": {"name": "a", "seed": 3},
        "pipeline": {"dataset": "sdw/hopper-replay-mini-v0"},
        "search": {TEMPERATURE: {"type": "float", "low": 0.01, "high": 1.0, "log": True}},
    }
    return base | changes


def refusal(*arguments: object) -> str:
    with pytest.raises(InputError) as caught:
        load_spec(*arguments)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("name", shipped_specs())
def test_every_shipped_spec_loads_and_so_do_the_ends_of_its_ranges(name):
    spec = load_spec(name)
    assert len(list(spec.extremes())) >= 2
    assert spec.pipeline.seed == spec.study.seed


def test_there_are_the_specs_that_are_written_of():
    assert {"quickstart", "pareto", "paper", "teachers"} <= set(shipped_specs())


def test_what_is_searched_first_holds_the_unweighted_baseline():
    for name in ("quickstart", "pareto", "teachers"):
        assert 0 in load_spec(name).search[TEMPERATURE].choices
    assert 0 in load_spec("teachers").search["distill.state_noise"].choices


def test_a_list_of_numbers_is_one_choice():
    spec = load_spec("teachers")
    episodes = spec.search["expert.episodes"]
    assert episodes.choices == ((0.9, 1), (0.5, 1), (0, 0.5), (0, 0.3), (0, 1))
    assert episodes.params == ("[0.9, 1]", "[0.5, 1]", "[0, 0.5]", "[0, 0.3]", "[0, 1]")
    for param, choice in zip(episodes.params, episodes.choices, strict=True):
        for value in (param, choice, list(choice)):
            assert spec.pipeline_with({"expert.episodes": value}).expert.episodes == choice
    assert {config.expert.episodes for config in spec.extremes()} == set(episodes.choices)
    written = yaml.safe_load(yaml.safe_dump(spec.model_dump(mode="json")))
    assert parse_spec(written) == spec
    assert parse_spec(written).identity == spec.identity
    whole = "search.expert.episodes={type: categorical, choices: [[0.90, 1.0], [0, 1]]}"
    assert load_spec("teachers", [whole]).search["expert.episodes"].choices == ((0.9, 1), (0, 1))


def test_lists_stand_among_other_choices():
    choices = "search.expert.episodes={type: categorical, choices: [null, null, [0, 0.50]]}"
    searched = load_spec("quickstart", [choices]).search["expert.episodes"]
    assert searched.params == (None, None, "[0, 0.5]")  # one that stands twice is as likely again
    equal = "search.expert.episodes={type: categorical, choices: [[0.5, 1], [0.5, 1.0]]}"
    searched = load_spec("quickstart", [equal]).search["expert.episodes"]
    assert searched.params == ("[0.5, 1]", "[0.5, 1]")
    numbers = "search.weighting.options.cap={type: categorical, choices: [1, [1, 2], text]}"
    spec = load_spec("quickstart", ["pipeline.weighting.scheme=my:own", numbers])
    for param, value in ((1, 1), ("[1, 2]", [1, 2]), ("text", "text")):
        found = spec.pipeline_with({"weighting.options.cap": param}).weighting.options["cap"]
        assert repr(found) == repr(value)  # whole numbers stay whole


def test_paper_is_the_published_protocol():
    distill = load_spec("paper").pipeline.distill
    assert (distill.synthetic_size, distill.inner_steps, distill.width) == (256, 100, 256)
    assert (distill.outer_optimizer, distill.outer_lr, distill.outer_momentum) == ("sgd", 0.1, 0.9)
    assert (distill.max_gradient_norm, distill.meta_batch_size, distill.beta) == (2, 2560, 0.02)
    assert (distill.window, distill.rate_lr, distill.averaging) == (None, 0, 0)


def test_overrides_are_paths_from_the_root():
    spec = load_spec(
        "quickstart",
        [
            "study.trials=3",
            "pipeline.distill.outer_steps=7",
            "search.distill.synthetic_size.high=50",
            "search.distill.width={type: int, low: 8, high: 16}",
        ],
    )
    assert spec.study.trials == 3
    assert spec.pipeline.distill.outer_steps == 7
    assert spec.search["distill.synthetic_size"].high == 50
    assert spec.search["distill.width"] == IntRange(type="int", low=8, high=16)


def test_the_study_seed_is_the_pipelines_unless_it_has_its_own():
    assert load_spec("quickstart", ["study.seed=5"]).pipeline.seed == 5
    assert load_spec("quickstart", ["study.seed=5", "pipeline.seed=2"]).pipeline.seed == 2


def test_a_single_run_may_fix_what_is_searched():
    override = ["pipeline.weighting.temperature=0.3"]
    spec = load_spec("quickstart", override, searched_is_fixed=True)
    assert spec.pipeline.weighting.temperature == 0.3
    assert TEMPERATURE not in spec.search


def test_a_trials_settings_are_the_defaults_with_the_searched_values_in_place():
    spec = load_spec("quickstart")
    config = spec.pipeline_with({TEMPERATURE: 0.7, "distill.synthetic_size": 20})
    assert config.weighting.temperature == 0.7
    assert config.distill.synthetic_size == 20
    assert config.distill.outer_steps == spec.pipeline.distill.outer_steps


def test_settings_of_the_experts_method_can_be_searched():
    override = ["search.expert.fraction={type: float, low: 0.05, high: 0.5}"]
    config = load_spec("quickstart", override).pipeline_with({"expert.fraction": 0.3})
    assert (config.expert.method, config.expert.fraction) == ("percent_bc", 0.3)
    override = [
        "pipeline.expert={method: cal_ql, steps: 9}",
        "search.expert.conservatism={type: float, low: 1, high: 10, log: true}",
    ]
    config = load_spec("quickstart", override).pipeline_with({"expert.conservatism": 2.0})
    assert (config.expert.method, config.expert.steps, config.expert.conservatism) == (
        *("cal_ql", 9),
        2.0,
    )


def test_identity_is_what_makes_trials_comparable():
    spec = load_spec("quickstart")
    for same in ("study.trials=99", "study.concurrency=1", "study.name=b", "pipeline.device=cpu"):
        assert load_spec("quickstart", [same]).identity == spec.identity
    for other in (
        "study.seed=1",
        "pipeline.distill.width=64",
        "search.distill.synthetic_size.low=12",
    ):
        assert load_spec("quickstart", [other]).identity != spec.identity


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["study.trails=3"], ["study.trails", "`trials`"]),
        (["pipeline.distil.width=3"], ["pipeline.distil", "`distill`"]),
        (["pipeline.distill.objective=avpbc"], ["pipeline.distill.objective", "`av_pbc`"]),
        (["pipeline.distill.outer_steps=-1"], ["pipeline.distill.outer_steps", "-1"]),
        (["pipeline.weighting.temperature=0.2"], ["weighting.temperature", "search"]),
        (["search.distill.synthetic_size.low=200"], ["low", "high", "200"]),
        (["search.distill.synthetic_size.low=0"], ["logarithmic", "0"]),
        (["search.distill.synthetic_size.step=2"], ["log", "step"]),
        (
            ["search.weighting.temperature={type: float, low: 0, high: 1, step: 1e-300}"],
            ["divides its range of 1", "1e-300", "leave `step` out"],
        ),
        (["study.time_budget=1e300"], ["study.time_budget", "at most 1000000000"]),
        (["study.trial_timeout=1e10"], ["study.trial_timeout", "at most 1000000000"]),
        (["study.early_stopping={policies: 1000000000}"], ["policies", "at most 10000"]),
        (["pipeline.density.steps=10000000000000"], ["density.steps", "at most 100000000"]),
        (["pipeline.expert.steps=10000000000000000000"], ["expert.steps", "at most 100000000"]),
        (["pipeline.seed=18446744073709551616"], ["pipeline.seed", "18446744073709551616"]),
        (["search.distill.synthetic_size.type=flaot"], ["flaot", "float"]),
        (["search.weighting.temprature={type: float, low: 0, high: 1}"], [f"`{TEMPERATURE}`"]),
        (["search.weighting={type: float, low: 0, high: 1}"], ["section", f"`{TEMPERATURE}`"]),
        (["search.weighting.clip_quantile={type: float, low: 0, high: 2}"], ["clip_quantile", "2"]),
        (
            ["search.expert.episodes={type: categorical, choices: [[0.9, 1], [1, 0.5]]}"],
            ["`search.expert.episodes`", "the lower one first", "not (1, 0.5)"],
        ),
        (
            ["search.expert.episodes={type: categorical, choices: [[0.9, 1], [0.5]]}"],
            ["`search.expert.episodes`", "a list of 2", "not (0.5,)"],
        ),
        (
            ["search.expert.episodes={type: categorical, choices: [[0.5, 1], [0, true]]}"],
            ["`search.expert.episodes.choices.1.1` must be a number, not True"],
        ),
        (
            ["search.expert.episodes={type: categorical, choices: [['0.5', 1]]}"],
            ["`search.expert.episodes.choices.0.0` must be a number, not '0.5'"],
        ),
        (
            ["search.expert.episodes={type: categorical, choices: [0.9]}"],
            ["`search.expert.episodes`", "a list, not 0.9"],
        ),
        (
            ["search.expert.episodes={type: categorical, choices: [[0.9, .nan]]}"],
            ["`search.expert.episodes.choices.0.1`", "a finite number, not nan"],
        ),
        (
            ["search.expert.episodes={type: categorical, choices: [[low, high]]}"],
            ["`search.expert.episodes.choices.0.0`", "a number, not 'low'"],
        ),
        (
            ["search.expert.episodes={type: float, low: 0, high: 1}"],
            ["`search.expert.episodes`", "a list, not 0.0"],
        ),
        (
            ["search.distill.state_noise={type: categorical, choices: [0.3, [0.1, 0.2]]}"],
            ["`search.distill.state_noise`", "a number, not (0.1, 0.2)"],
        ),
        (
            ["search.distill.state_noise={type: float, low: -0.1, high: 0.3}"],
            ["`search.distill.state_noise`", "at least 0, not -0.1"],
        ),
        (
            ["search.distill.max_gradient_ratio={type: float, low: 0.5, high: 3}"],
            ["`search.distill.max_gradient_ratio`", "greater than 1, not 0.5"],
        ),
        (
            ["search.evaluation.ensemble={type: int, low: 0, high: 3}"],
            ["`search.evaluation.ensemble`", "greater than 0, not 0"],
        ),
        (["search.expert.method={type: categorical, choices: [cal_ql]}"], ["one study for each"]),
        (["search.expert.conservatism={type: float, low: 1, high: 2}"], ["expert.conservatism"]),
        (["pipeline.expert.method=calql"], ["pipeline.expert.method", "`cal_ql`"]),
        (["study.name=../up"], ["study.name", "../up"]),
        (["study.objectives=[]"], ["study.objectives"]),
        (["study.objectives=[{metric: speed, mode: max}]"], ["speed", "`seconds`"]),
        (
            [
                "study.objectives=[{metric: iqm, mode: max}, {metric: iqm, mode: min}]",
            ],
            ["once", "iqm"],
        ),
        (["study.trials"], ["key=value", "study.trials"]),
        (["study.trials=[1"], ["YAML", "[1"]),
        (["study.trials.more=1"], ["study.trials"]),
        (["nonsense=1"], ["nonsense"]),
    ],
)
def test_a_bad_override_is_refused_with_what_was_received_and_the_way_out(overrides, words):
    sentence = refusal("quickstart", overrides)
    for word in words:
        assert word in sentence, sentence


def test_an_unknown_spec_names_the_nearest():
    assert "`quickstart`" in refusal("quikstart")
    assert "missing.yaml" in refusal("missing.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("study: [1", ["YAML", "line"]),
        ("- 1", ["study"]),
        ("study: {name: a}", ["pipeline"]),
        ("pipeline: {dataset: x}", ["study"]),
        ("study: {trials: 2}\npipeline: {dataset: x}", ["study.name"]),
        ("study: 3\npipeline: {dataset: x}", ["study"]),
        ("", ["study"]),
    ],
)
def test_a_file_that_is_no_spec_is_refused(tmp_path, text, words):
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    sentence = refusal(str(path))
    for word in words:
        assert word in sentence, sentence


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_bytes(b"\xff\xfe\x00study")
    assert "cannot be read" in refusal(str(path))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=150)
@given(part=st.sampled_from(["study", "pipeline", "search"]), value=anything)
def test_parsing_never_fails_in_any_other_way(part, value):
    try:
        parse_spec(document(**{part: value}))
    except InputError as error:
        assert "\n" not in str(error)


@settings(max_examples=150)
@given(
    key=st.text(alphabet="abcdefghijklmnopqrstuvwxyz._ ", max_size=30), value=st.text(max_size=8)
)
def test_overrides_never_fail_in_any_other_way(key, value):
    for root in ("", "study.", "pipeline.distill.", "search.", f"search.{TEMPERATURE}."):
        try:
            load_spec("quickstart", [f"{root}{key}={value}"])
        except InputError as error:
            assert "\n" not in str(error)


def test_a_resolved_spec_reads_back_as_itself():
    spec = load_spec("pareto")
    text = yaml.safe_dump(spec.model_dump(mode="json"))
    assert parse_spec(yaml.safe_load(text)) == spec


def test_the_configuration_page_is_up_to_date():
    assert (ROOT / "docs" / "configuration.md").read_text() == reference()


GRID = "study.sampler=grid"
SIZES = "search.distill.synthetic_size={type: int, low: 16, high: 18}"


def test_a_grid_has_finitely_many_combinations_and_no_more_trials_than_these():
    spec = load_spec("quickstart", [GRID, SIZES, "study.trials=12"])  # of 4 x 3
    assert "there are 12, not the 13" in refusal("quickstart", [GRID, SIZES, "study.trials=13"])
    assert spec.identity != load_spec("quickstart", [SIZES, "study.trials=12"]).identity
    real = "search.weighting.temperature={type: float, low: 0, high: 1}"
    assert "any number in a range" in refusal("quickstart", [GRID, SIZES, real])
    stepped = "search.weighting.temperature={type: float, low: 0, high: 0.3, step: 0.1}"
    load_spec("quickstart", [GRID, SIZES, stepped, "study.trials=12"])
    many = "search.distill.synthetic_size={type: int, low: 1, high: 20000}"
    assert "20000 values, more than 10000" in refusal("quickstart", [GRID, many])
