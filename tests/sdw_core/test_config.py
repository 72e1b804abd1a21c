"""Settings: what is refused, and in which words."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from sdw_core.config import (
    Config,
    PercentBCConfig,
    PipelineConfig,
    added,
    as_written,
    identifying,
)
from sdw_core.errors import InputError
from sdw_core.files import sha256_of_json
from sdw_core.seeds import derive_seed
from sdw_core.validation import nearest, parse, submodels

SECTIONS = ("density", "weighting", "expert", "distill", "evaluation")


def models_of(section: str) -> list[type[BaseModel]]:
    return submodels(PipelineConfig.model_fields[section].annotation)


LEAVES = {
    (section, name)
    for section in SECTIONS
    for model in models_of(section)
    for name in model.model_fields
}
EXPERTS = {
    name: getattr(model.model_fields["method"].annotation, "__args__", ["my.module:Expert"])[0]
    for model in models_of("expert")
    for name in model.model_fields
}
"""A method that has the setting."""


def refused(document: Any, model: type[Config] = PipelineConfig, where: str = "pipeline") -> str:
    with pytest.raises(InputError) as caught:
        parse(model, document, where)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"distill": {"outer_stepz": 3}},
            "unknown key `pipeline.distill.outer_stepz`: did you mean `outer_steps`?",
        ),
        ({"distil": {}}, "unknown key `pipeline.distil`: did you mean `distill`?"),
        (
            {"meta_batch_size": 8},
            "unknown key `pipeline.meta_batch_size`: did you mean "
            "`pipeline.distill.meta_batch_size`?",
        ),
        (
            {"evaluation": {"zzz": 3}},
            "unknown key `pipeline.evaluation.zzz`: the choices are `architecture`, `curve`, "
            "`ensemble`, "
                "`episodes`, `layers`, `learning_rate`, `optimizer`, `policies`, `steps`.",
        ),
        (
            {"distill": {"objective": "avpbc"}},
            "`pipeline.distill.objective` cannot be 'avpbc': it is `dbc`, `pbc`, `av_pbc`, or "
            "your own as `module:Name`.",
        ),
        (
            {"distill": {"objective": 3}},
            "`pipeline.distill.objective` cannot be 3: it is `dbc`, `pbc`, `av_pbc`, or your own "
            "as `module:Name`.",
        ),
        (
            {"device": "gpu"},
            "`pipeline.device` cannot be 'gpu': it is `auto`, `cpu`, `cuda` or `cuda:N`.",
        ),
        ({"distill": 5}, "`pipeline.distill` must be a mapping of keys to values, not 5."),
        ({"distill": None}, "`pipeline.distill` must be a mapping of keys to values, not None."),
        ({"distill": {"window": 0}}, "`pipeline.distill.window` must be greater than 0, not 0."),
        ({"seed": -1}, "`pipeline.seed` must be at least 0, not -1."),
        ({"seed": 1.5}, "`pipeline.seed` must be a whole number, not 1.5."),
        ({"seed": "x"}, "`pipeline.seed` must be a whole number, not 'x'."),
        (
            {"weighting": {"clip_quantile": 1}},
            "`pipeline.weighting.clip_quantile` must be less than 1, not 1.",
        ),
        ({"expert": {"fraction": 2}}, "`pipeline.expert.fraction` must be at most 1, not 2."),
        (
            {"expert": {"episodes": [0.9, 0.9]}},
            "`pipeline.expert.episodes` must be a range of quantiles, the lower one first, such as "
            "[0.9, 1], not [0.9, 0.9].",
        ),
        (
            {"expert": {"episodes": [0, 1.5]}},
            "`pipeline.expert.episodes.1` must be at most 1, not 1.5.",
        ),
        ({"expert": {"episodes": []}}, "`pipeline.expert.episodes` must be a list of 2, not []."),
        (
            {"expert": {"episodes": [0.5]}},
            "`pipeline.expert.episodes` must be a list of 2, not [0.5].",
        ),
        (
            {"expert": {"episodes": [0.9, 0.5]}},
            "`pipeline.expert.episodes` must be a range of quantiles, the lower one first, such as "
            "[0.9, 1], not [0.9, 0.5].",
        ),
        (
            {"expert": {"episodes": [0, float("nan")]}},
            "`pipeline.expert.episodes.1` must be a finite number, not nan.",
        ),
        ({"expert": {"episodes": 0.5}}, "`pipeline.expert.episodes` must be a list, not 0.5."),
        (
            {"expert": {"episodes": {0, 1}}},
            "`pipeline.expert.episodes` must be a list, not {0, 1}.",
        ),
        (
            {"expert": {"episodes": [0, True]}},
            "`pipeline.expert.episodes.1` must be a number, not True.",
        ),
        (
            {"expert": {"episodes": ["0.5", 1]}},
            "`pipeline.expert.episodes.0` must be a number, not '0.5'.",
        ),
        (
            {"reference_scores": [0, True]},
            "`pipeline.reference_scores.1` must be a number, not True.",
        ),
        (
            {"distill": {"state_noise": -0.1}},
            "`pipeline.distill.state_noise` must be at least 0, not -0.1.",
        ),
        (
            {"distill": {"state_noise": float("nan")}},
            "`pipeline.distill.state_noise` must be a finite number, not nan.",
        ),
        (
            {"distill": {"state_noise": None}},
            "`pipeline.distill.state_noise` must be a number, not None.",
        ),
        (
            {"distill": {"outer_schedule": "linear"}},
            "`pipeline.distill.outer_schedule` cannot be 'linear': the choices are `constant`, "
            "`cosine`.",
        ),
        (
            {"distill": {"max_gradient_ratio": 1}},
            "`pipeline.distill.max_gradient_ratio` must be greater than 1, not 1.",
        ),
        (
            {"distill": {"max_gradient_ratio": float("inf")}},
            "`pipeline.distill.max_gradient_ratio` must be a finite number, not inf.",
        ),
        (
            {"distill": {"states": "teachers"}},
            "`pipeline.distill.states` cannot be 'teachers': did you mean `teacher`?",
        ),
        (
            {"evaluation": {"ensemble": 0}},
            "`pipeline.evaluation.ensemble` must be greater than 0, not 0.",
        ),
        (
            {"weighting": {"temperature": float("inf")}},
            "`pipeline.weighting.temperature` must be a finite number, not inf.",
        ),
        (
            {"weighting": {"temperature": float("nan")}},
            "`pipeline.weighting.temperature` must be a finite number, not nan.",
        ),
        ({"expert": {"width": "x"}}, "`pipeline.expert.width` must be a whole number, not 'x'."),
        (
            {"expert": {"method": "cal_ql", "step": 3}},
            "unknown key `pipeline.expert.step`: did you mean `steps`?",
        ),
        (
            {"expert": {"method": "checkpoint", "fraction": 0.1}},
            "`pipeline.expert.path` is missing: it has no default and must be given.",
        ),
        (
            {"expert": {"method": "checkpoint", "path": "e.pt", "fraction": 0.1}},
            "unknown key `pipeline.expert.fraction`: the choices are `method`, `path`.",
        ),
        (
            {"expert": {"method": "calql"}},
            "`pipeline.expert.method` cannot be 'calql': it is `percent_bc`, `cal_ql`, "
            "`checkpoint`, or your own as `module:Name`.",
        ),
        (
            {"expert": {"method": "my_module:Mine", "fraction": 0.1}},
            "unknown key `pipeline.expert.fraction`: the choices are `method`, `options`.",
        ),
        (
            {"density": {"options": {"bandwidth": {"low": 1}}}},
            "`pipeline.density.options.bandwidth` must be true or false or a whole number or a "
            "number or text or a list, not {'low': 1}.",
        ),
        (
            {"density": {"options": {"bandwidth": [0.1, {"low": 1}]}}},
            "`pipeline.density.options.bandwidth.1` must be true or false or a whole number or a "
            "number or text, not {'low': 1}.",
        ),
        (
            {"expert": {"method": "cal_ql", "conservatism": -1}},
            "`pipeline.expert.conservatism` must be at least 0, not -1.",
        ),
        ({"expert": None}, "`pipeline.expert` must be a mapping of keys to values, not None."),
        ({"distill": {"beta": "x"}}, "`pipeline.distill.beta` must be a number, not 'x'."),
        ({"dataset": 3}, "`pipeline.dataset` must be text, not 3."),
        ({1: 2}, "a key must be text, and `pipeline.1` is not: put it in quotes."),
        (
            {"seed": list(range(100))},
            "`pipeline.seed` must be a whole number, not [0, 1, 2, 3, 4, 5, ...].",
        ),
    ],
)  # fmt: skip
def test_a_bad_value_is_one_sentence(changes: dict[Any, Any], sentence: str) -> None:
    assert refused({"dataset": "d", **changes}) == sentence


def test_a_missing_key_is_named() -> None:
    assert refused({}) == "`pipeline.dataset` is missing: it has no default and must be given."


@pytest.mark.parametrize(("where", "named"), [("pipeline", "pipeline"), ("", "the document")])
def test_what_is_no_mapping_is_refused(where: str, named: str) -> None:
    sentence = f"{named} must be a mapping of keys to values, not [1]."
    assert refused([1], where=where) == sentence


class Inner(Config):
    low: int | float | str = 0
    high: float = 1


class Outer(Config):
    either: Inner | None = None
    several: tuple[Inner, ...] = Field((), min_length=1, validate_default=False)
    named: dict[str, Inner] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"either": {"hihg": 1}}, "unknown key `either.hihg`: did you mean `high`?"),
        (
            {"either": {"low": []}},
            "`either.low` must be a whole number or a number or text, not [].",
        ),
        ({"several": [{}, {"high": "x"}]}, "`several.1.high` must be a number, not 'x'."),
        ({"several": []}, "`several` must be a list of 1 or more, not []."),
        ({"several": 4}, "`several` must be a list, not 4."),
        ({"named": {"a.b": {"lwo": 1}}}, "unknown key `named.a.b.lwo`: did you mean `low`?"),
        ({"named": {"a\nb": 1}}, "`named.'a\\nb'` must be a mapping of keys to values, not 1."),
    ],
)
def test_a_path_leads_through_unions_lists_and_named_sections(
    document: dict[str, Any], sentence: str
) -> None:
    assert refused(document, Outer, "") == sentence


@pytest.mark.parametrize(("section", "name"), sorted(LEAVES))
def test_every_setting_refuses_a_list_and_names_itself(section: str, name: str) -> None:
    method = {"method": EXPERTS[name]} if section == "expert" else {}
    sentence = refused({"dataset": "d", section: {**method, name: [7]}})
    assert f"`pipeline.{section}.{name}" in sentence
    assert "[7]" in sentence or "not 7." in sentence


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
sections = st.one_of(
    [
        st.dictionaries(
            st.sampled_from(
                sorted({name for model in models_of(section) for name in model.model_fields})
            ),
            json_like,
            max_size=2,
        ).map(lambda content, section=section: {section: content})
        for section in SECTIONS
    ]
)


@given(
    st.one_of(
        json_like,
        sections.map(lambda changes: {"dataset": "d", **changes}),
        st.dictionaries(st.sampled_from(sorted(PipelineConfig.model_fields)), json_like),
    )
)
@settings(max_examples=300, derandomize=True)
def test_whatever_is_given_is_accepted_or_refused_in_one_line(document: Any) -> None:
    sentence, config = "", None
    try:
        config = parse(PipelineConfig, document, "pipeline")
    except InputError as error:
        sentence = str(error)
    if config is None:
        assert sentence.endswith((".", "?"))
        assert len(sentence.splitlines()) == 1
        return
    # what was accepted can be hashed, written, read back and seeded from
    accepted = config.model_dump(mode="json")
    assert parse(PipelineConfig, accepted, "pipeline") == config
    assert len(sha256_of_json(accepted)) == 64
    assert derive_seed(config.seed, "any") >= 0


def test_the_expert_is_percent_bc_unless_it_says_another_method() -> None:
    given = {"dataset": "d", "expert": {"fraction": 0.2}}
    assert parse(PipelineConfig, given, "pipeline").expert == PercentBCConfig(fraction=0.2)
    assert PipelineConfig(dataset="d").expert == PercentBCConfig()


def test_settings_cannot_be_changed_afterwards() -> None:
    config = PipelineConfig(dataset="d")
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3  # type: ignore[misc]


def test_every_setting_says_what_it_means() -> None:
    for section, name in LEAVES:
        for model in models_of(section):
            if name in model.model_fields:
                assert model.model_fields[name].description, f"{section}.{name}"


def test_nearest_lists_the_choices_where_none_is_near() -> None:
    assert nearest("steps", ["outer_steps", "seeds"]) == "did you mean `outer_steps`?"
    assert nearest("qqq", ["b", "a"]) == "the choices are `a`, `b`."


def test_what_a_version_wrote_whole_is_read_as_it_meant_it() -> None:
    """As before every key that came later, in each section, whatever its default is now."""

    def without_later(settings: BaseModel) -> dict[str, Any]:
        kept = {
            name: getattr(settings, name)
            for name, field in type(settings).model_fields.items()
            if not isinstance(field.json_schema_extra, dict)
        }
        return {k: without_later(v) if isinstance(v, BaseModel) else v for k, v in kept.items()}

    now = PipelineConfig(dataset="d")
    earlier = without_later(now)
    meant = parse(PipelineConfig, as_written(PipelineConfig, earlier), "pipeline")
    assert identifying(meant) == earlier
    distill = meant.distill
    assert (distill.outer_schedule, distill.state_noise, distill.max_gradient_ratio) == (
        *("constant", 0),
        None,
    )
    assert identifying(parse(PipelineConfig, earlier, "pipeline")) == identifying(now) != earlier
    assert as_written(PipelineConfig, now.model_dump()) == now.model_dump()


class Grown(Config):
    kind: str = Field("deep", json_schema_extra=added("flat"))


def test_what_is_read_as_it_was_meant_goes_into_sections_that_may_be_null_or_of_several_kinds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Whole(Config):
        maybe: Grown | None = None

    assert as_written(Whole, {"maybe": {}}) == {"maybe": {"kind": "flat"}}
    assert as_written(Whole, {"maybe": None}) == {"maybe": None}
    fields = PercentBCConfig.model_fields
    monkeypatch.setitem(fields, "ensemble", Field(5, json_schema_extra=added(1)))
    earlier = {"dataset": "d", "expert": {"method": "percent_bc", "steps": 7}}
    assert as_written(PipelineConfig, earlier)["expert"]["ensemble"] == 1
    for method in ("cal_ql", "checkpoint", "my:Own"):
        other = {"method": method}
        assert as_written(PipelineConfig, {"expert": other})["expert"] == other
