"""`import sdw_core as sdw`: what it costs, what it names, and data that are no file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
import torch

import sdw_core as sdw
from sdw_core.dataset import import_dataset, load_dataset
from sdw_core.errors import InputError
from sdw_core.validation import parse
from tests.sdw_core.processes import run

BUNDLED = "sdw/hopper-replay-mini-v0"
SMALL: dict[str, Any] = {
    "density": {"model": "gaussian"},
    "expert": {"layers": 2, "width": 16, "steps": 20, "value_steps": 20},
    "distill": {"synthetic_size": 10, "layers": 2, "width": 8, "inner_steps": 5, "outer_steps": 3},
    "evaluation": {"policies": 2, "episodes": 1},
}


def arrays(episodes: int = 6, steps: int = 20) -> dict[str, Any]:
    """Of Hopper's shape, in D4RL's layout; each episode times out."""
    generator = np.random.default_rng(0)
    count = episodes * steps
    return {
        "observations": generator.normal(size=(count, 11)).astype(np.float32),
        "actions": generator.uniform(-1, 1, (count, 3)).astype(np.float32),
        "rewards": generator.uniform(0, 1, count).astype(np.float32),
        "terminals": np.zeros(count, bool),
        "timeouts": np.arange(count) % steps == steps - 1,
    }


# The names


def test_the_import_is_cheap_and_its_names_come_when_they_are_asked_for() -> None:
    said = run(
        "import sys, sdw_core as sdw\n"
        "heavy = {'torch', 'ray', 'optuna', 'pandas', 'gymnasium', 'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "print({*sdw.__all__} <= {*dir(sdw)}, sdw.PipelineConfig.__module__)\n"
        "print(sorted({'torch', 'ray', 'optuna'} & set(sys.modules)))"
    )
    assert said.splitlines() == ["[]", "True sdw_core.config", "[]"]


def test_every_name_is_there_and_no_other() -> None:
    assert all(getattr(sdw, name).__name__ == name for name in sdw.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = sdw.lode


# Data that are no file


@pytest.mark.parametrize("given", [np.asarray, torch.as_tensor, np.ndarray.tolist])
def test_arrays_are_what_a_file_of_them_is(tmp_path: Path, given: Callable[[Any], Any]) -> None:
    file = tmp_path / "data.npz"
    np.savez(file, **arrays())
    stored = sdw.load(f"{file}?env=Hopper-v5")
    held = sdw.load({key: given(value) for key, value in arrays().items()}, environment="Hopper-v5")
    assert held.content_hash == stored.content_hash
    assert held.reference_scores == stored.reference_scores == (-20.272305, 3234.3)


def test_arrays_stay_the_callers_own() -> None:
    given = arrays()
    given["timeouts"][-1] = False
    before = {key: array.copy() for key, array in given.items()}
    data = sdw.load(given, environment="Hopper-v5")
    assert data.truncated[-1]  # which the array does not say
    assert all(np.array_equal(given[key], before[key]) for key in given)
    for array in given.values():
        array[:] = 0
    assert data.content_hash == sdw.load(before, environment="Hopper-v5").content_hash


def test_an_environment_is_named_or_gymnasiums_own_record_of_one() -> None:
    env = gymnasium.make("Hopper-v5", frame_skip=2, max_episode_steps=50)
    by_record = sdw.load(arrays(), environment=env.spec)
    by_name = sdw.load(arrays(), environment="Hopper-v5&frame_skip=2&max_episode_steps=50")
    env.close()
    assert by_record.environment == by_name.environment
    assert by_record.environment.longest_episode == 50


def test_what_data_in_memory_lack_is_given_where_they_are_loaded() -> None:
    with pytest.raises(InputError, match=r"clip them too with `load\(..., clip_actions=True\)`"):
        sdw.load(arrays() | {"actions": 2 * arrays()["actions"]}, environment="Hopper-v5")
    data = sdw.load(arrays(), environment="Hopper-v5&frame_skip=2")
    with pytest.raises(InputError, match=r"as `load\(..., reference_scores=\(LOW, HIGH\)\)`"):
        sdw.Pipeline(sdw.PipelineConfig(dataset=data)).run()


def test_what_a_spec_may_say_of_a_dataset_can_be_said_of_arrays() -> None:
    outside = arrays() | {"actions": 2 * arrays()["actions"]}
    with pytest.raises(InputError, match="actions must lie within the bounds"):
        sdw.load(outside, environment="Hopper-v5")
    data = sdw.load(outside, [-1, 7], clip_actions=True, environment="Hopper-v5")
    assert data.reference_scores == (-1.0, 7.0)
    assert np.abs(data.actions).max() == 1


def test_a_minari_dataset_is_the_reference_that_it_lies_under() -> None:
    held = minari.MinariDataset(Path(sdw.__file__).parent / "data" / BUNDLED / "data")
    assert sdw.load(held).settings == {"dataset": BUNDLED}
    assert sdw.load(held).content_hash == sdw.load(BUNDLED).content_hash


def test_a_minari_dataset_that_was_filtered_is_the_episodes_that_it_was_filtered_to() -> None:
    whole = minari.MinariDataset(Path(sdw.__file__).parent / "data" / BUNDLED / "data")
    best = whole.filter_episodes(lambda episode: episode.rewards.sum() > 2000)
    data, source = sdw.load(best), sdw.load(BUNDLED)
    assert (data.episode_returns() > 2000).all()
    assert len(data.episode_ends) == (source.episode_returns() > 2000).sum() > 2
    assert not data.loaded_by


def ragged() -> dict[str, Any]:
    return arrays() | {"rewards": [[1.0], [1.0, 2.0]]}


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "no environment": (lambda: sdw.load(arrays()), "arrays do not say which environment.*name it"),
    "unknown environment": (
        lambda: sdw.load(arrays(), environment="Hoppr-v5"),
        "did you mean `Hopper-v5`",
    ),
    "an array lacks": (
        lambda: sdw.load({"rewards": [1.0]}, environment="Hopper-v5"),
        "data in memory lacks observations, actions, terminals: add",
    ),
    "ragged": (
        lambda: sdw.load(ragged(), environment="Hopper-v5"),
        "`rewards` must be an array, and in data in memory it cannot be made one",
    ),
    "a record for a reference": (
        lambda: sdw.load(BUNDLED, environment=gymnasium.spec("Hopper-v5")),
        "a reference names its environment in text",
    ),
    "no reference": (lambda: sdw.load(None), "Minari dataset or from arrays.*, not from None"),  # type: ignore[arg-type]
    "loaded already": (
        lambda: sdw.load(sdw.load(BUNDLED)),  # type: ignore[arg-type]
        r"not from OfflineDataset\('sdw/hopper",
    ),
    "an environment that was made": (
        lambda: sdw.load(arrays(), environment=gymnasium.make("Pendulum-v1")),  # type: ignore[arg-type]
        r"must be text or the `spec` of an environment, not <.* or `env.spec`",
    ),
    "one score": (
        lambda: sdw.load(BUNDLED, (1.0,)),  # type: ignore[arg-type]
        r"`reference_scores` must be two numbers, .*, not \(1.0,\)",
    ),
    "scores that are none": (
        lambda: sdw.load(BUNDLED, "ab"),  # type: ignore[arg-type]
        "`reference_scores` must be two numbers, .*, not 'ab'",
    ),
    "arrays in settings": (
        lambda: sdw.PipelineConfig(dataset=arrays()),
        "`dataset` must be text, not {'actions': array",
    ),
    "named twice": (
        lambda: sdw.load(f"{BUNDLED}?env=Hopper-v5", environment="Hopper-v4"),
        "named twice, 'Hopper-v5' and 'Hopper-v4'",
    ),
    "a record of mujoco-py": (
        lambda: sdw.load(arrays(), environment=gymnasium.spec("Hopper-v2")),
        r"gave that up: name the same model on today's MuJoCo, `environment=Hopper-v4`",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_loaded_is_refused_in_a_sentence(case: str) -> None:
    ask, said = REFUSED[case]
    with pytest.raises(InputError, match=said) as error:
        ask()
    assert "\n" not in str(error.value)


# In settings


def test_settings_name_the_reference_that_a_dataset_was_loaded_by() -> None:
    data = sdw.load(BUNDLED, (0, 100))
    config = sdw.PipelineConfig(dataset=data)
    said = {"dataset": BUNDLED, "reference_scores": (0.0, 100.0)}
    assert config.model_dump() == sdw.PipelineConfig(**said).model_dump()
    assert load_dataset(config) is data
    assert config.model_copy(update={"seed": 3}).data is data
    assert config.model_copy(update={"dataset": "another/data-v0"}).data is None
    assert parse(sdw.PipelineConfig, {"dataset": data}, "pipeline").data is data
    whole = sdw.PipelineConfig(dataset="another/data-v0").model_dump()
    assert parse(sdw.PipelineConfig, {**whole, "dataset": data}, "pipeline") == config


def test_a_pipeline_runs_on_data_in_memory_as_on_a_file(tmp_path: Path) -> None:
    file = tmp_path / "data.npz"
    np.savez(file, **arrays())
    config = sdw.PipelineConfig(dataset=sdw.load(arrays(), environment="Hopper-v5"), **SMALL)
    assert config.dataset.startswith("in-memory:")
    held = sdw.Pipeline(config).run()
    stored = sdw.Pipeline(sdw.PipelineConfig(dataset=f"{file}?env=Hopper-v5", **SMALL)).run()
    assert torch.equal(held.observations, stored.observations)
    np.testing.assert_array_equal(held.returns, stored.returns)
    held.export(tmp_path / "rows")
    rows = sdw.read_artifact(str(tmp_path / "rows"))
    assert rows.evidence["config"]["dataset"] == config.dataset
    assert rows.evidence["source"]["name"] == "data in memory"


def test_settings_without_the_data_are_refused_and_the_data_can_be_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    data = sdw.load(arrays(), environment="Hopper-v5")
    written = json.dumps(sdw.PipelineConfig(dataset=data).model_dump())
    again = parse(sdw.PipelineConfig, json.loads(written), "pipeline")
    with pytest.raises(InputError, match=r"made in memory.* load them again .*import_dataset"):
        sdw.Pipeline(again).run()
    assert import_dataset(data, "my/data-v0") == "my/data-v0"
    assert sdw.load("my/data-v0").content_hash == data.content_hash


def test_settings_that_are_wrong_are_refused_in_a_sentence_that_names_their_place() -> None:
    with pytest.raises(InputError, match=r"^`width` must be at least 1|^`width` must be greater"):
        sdw.DistillConfig(width=0)
    with pytest.raises(InputError, match=r"^unknown key `distill.widht`: did you mean `width`\?$"):
        sdw.PipelineConfig(dataset=BUNDLED, distill={"widht": 3})


def test_what_counts_where_data_are_loaded_is_refused_afterwards() -> None:
    data = sdw.load(arrays(), environment="Hopper-v5")
    with pytest.raises(InputError, match=r"`pipeline.clip_actions` counts where data are loaded"):
        sdw.PipelineConfig(dataset=data, clip_actions=True)
