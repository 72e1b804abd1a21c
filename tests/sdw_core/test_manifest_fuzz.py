"""Exports that someone edited, every checksum made anew: refused in a sentence, or right."""

import hashlib
import json
import shutil
from pathlib import Path
from random import Random
from time import process_time
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from sdw_core.artifact import Artifact, read_artifact, score, write_artifact
from sdw_core.config import EvaluationConfig, PipelineConfig
from sdw_core.environment import Environment
from sdw_core.errors import InputError
from sdw_core.evaluate import Arena, Recipe, require_feasible
from sdw_core.files import sha256_of_json
from sdw_core.units import Units
from tests.mutations import is_a_sentence, mutated, mutated_bytes, with_raw

ROWS = 6


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small export whose manifest has a bit of everything."""
    environment = Environment.of_json(
        {
            "id": "Hopper-v5",
            "kwargs": {"reset_noise_scale": 0.01, "healthy_z_range": [0.7, "Infinity"]},
            "max_episode_steps": 50,
            "wrappers": [
                {
                    "entry_point": "gymnasium.wrappers.transform_reward:ClipReward",
                    "kwargs": {"min_reward": -5.0, "max_reward": 5.0},
                }
            ],
        }
    )
    spaces = environment.spaces
    mean, scale = np.zeros(11, np.float32), np.ones(11, np.float32)
    units = Units(mean, scale, spaces.action_low, spaces.action_high)
    arena = Arena(environment, units, (-20.0, 3000.0))
    config = PipelineConfig(dataset="some/source-v0", evaluation={"policies": 2, "episodes": 1})
    generator = torch.Generator().manual_seed(0)
    evidence: dict[str, Any] = {
        "source": {"name": "some/source-v0", "content_hash": "ab" * 32}
        | {"episodes": 9, "transitions": 54321, "license": None, "reference_source": "mine"},
        "config": config.model_dump(mode="json"),
        "distillation_seed": 0,
        "evaluation": {"policies": 2, "episodes": 1, "ensemble": 2, "seed": 7, "stage": "confirm"},
        "scores": {},
    }
    artifact = Artifact.distilled(
        torch.randn(ROWS, 11, generator=generator),
        torch.randn(ROWS, 3, generator=generator),
        arena,
        Recipe(3, 8, 5, (0.1, 0.2, 0.1)),
        evidence,
    )
    found = score(artifact.evaluate(config.evaluation, 7), 7)
    ensembles = score(artifact.evaluate(), 7, 2)
    evidence["scores"] |= {"synthetic": found, "synthetic_ensemble": ensembles, "expert": found}
    folder = tmp_path_factory.mktemp("fuzz") / "export"
    write_artifact(artifact, folder, np.random.default_rng(0).normal(size=(50, 11)))
    return folder


def sealed(document: Any, folder: Path) -> None:
    """Write a manifest with the checksum that it should have."""
    if isinstance(document, dict):
        document.pop("checksum", None)
        try:
            document["checksum"] = sha256_of_json(document)
        except (ValueError, RecursionError, TypeError):
            document["checksum"] = "0" * 64
    text = json.dumps(document, allow_nan=True, skipkeys=True)
    (folder / "manifest.json").write_text(with_raw(text), encoding="utf-8")


def require_refused_or_right(folder: Path, document: Any) -> bool:
    """Whether it was right."""
    start = process_time()
    try:
        read = read_artifact(folder)
    except InputError as error:
        assert is_a_sentence(str(error)), str(error)
        return False
    finally:
        assert process_time() - start < 2
    stated = json.loads((folder / "manifest.json").read_text()) if document is None else document
    environment = read.arena.environment
    assert environment.to_json() == {
        key: stated["environment"][key]
        for key in ("id", "kwargs", "max_episode_steps", "wrappers")
        if key in stated["environment"]
    } | {key: environment.to_json()[key] for key in {"max_episode_steps", "wrappers"}}
    assert read.arena.units.action_low.tolist() == stated["environment"]["action_low"]
    assert list(read.arena.reference_scores) == stated["environment"]["reference_scores"]
    assert len(read.observations) == len(read.actions) == stated["rows"]
    assert list(read.recipe.learning_rates) == stated["recipe"]["learning_rates"]
    for key in ("layers", "width", "steps"):
        assert getattr(read.recipe, key) == stated["recipe"][key]
    for key, value in read.evidence.items():
        assert value == stated[key]
    EvaluationConfig(**{k: stated["evaluation"][k] for k in ("policies", "episodes")})
    assert read.evaluation().ensemble == stated["evaluation"].get("ensemble", 1)
    assert ("synthetic_ensemble" in stated["scores"]) == (read.ensemble > 1)
    return True


def fuzz(exported: Path, home: Path, count: int, seed: int) -> tuple[int, int]:
    """How many were refused, and how many right."""
    random = Random(seed)
    folder = Path(shutil.copytree(exported, home / "copy"))
    sound = json.loads((exported / "manifest.json").read_text())
    content = (exported / "manifest.json").read_bytes()
    data = (exported / "synthetic.safetensors").read_bytes()
    right = 0
    for _ in range(count):
        kind = random.random()
        (folder / "synthetic.safetensors").write_bytes(data)
        document: Any = None
        if kind < 0.7:
            document = mutated(sound, random)
            sealed(document, folder)
        elif kind < 0.85:
            (folder / "manifest.json").write_bytes(mutated_bytes(content, random))
        else:
            changed = mutated_bytes(data, random)
            (folder / "synthetic.safetensors").write_bytes(changed)
            digest = hashlib.sha256(changed).hexdigest()
            document = {**sound, "files": {**sound["files"], "synthetic.safetensors": digest}}
            sealed(document, folder)
        right += require_refused_or_right(folder, document)
    return count - right, right


def test_what_was_edited_is_refused_in_a_sentence_or_right(exported: Path, tmp_path: Path) -> None:
    refused, right = fuzz(exported, tmp_path, 300, 0)
    assert refused > 150
    assert right > 10


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1, 6))
def test_so_it_is_ten_thousand_times(exported: Path, tmp_path: Path, seed: int) -> None:
    refused, right = fuzz(exported, tmp_path, 2000, seed)
    assert min(refused, right) > 50


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("observations", np.full((ROWS, 11), np.nan, np.float32)),
        ("observations", np.zeros((ROWS, 11))),
        ("observations", np.zeros((ROWS + 1, 11), np.float32)),
        ("observations", np.zeros((ROWS, 12), np.float32)),
        ("observations", np.zeros((ROWS, 0), np.float32)),
        ("observations", np.zeros((ROWS, 20_000), np.float32)),
        ("actions", np.full((ROWS, 3), np.inf, np.float32)),
        ("actions", np.zeros((ROWS, 4), np.float32)),
        ("actions", np.zeros(ROWS, np.float32)),
        ("observation_scale", np.zeros(11, np.float32)),
        ("observation_scale", np.full(11, np.nan, np.float32)),
        ("observation_scale", np.full(11, -1, np.float32)),
        ("observation_scale", np.full(11, 1e-45, np.float32)),
        ("observation_mean", np.full(11, np.inf, np.float32)),
        ("observation_mean", np.zeros(3, np.float32)),
        ("extra", np.zeros(3, np.float32)),
        ("actions", None),
    ],
)
def test_rows_that_cannot_be_are_refused(
    exported: Path, tmp_path: Path, name: str, value: Any
) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    read = read_artifact(folder)
    rows: dict[str, Any] = {
        "observations": read.observations,
        "actions": read.actions,
        "observation_mean": read.arena.units.observation_mean,
        "observation_scale": read.arena.units.observation_scale,
        name: value,
    }
    content = save({key: array for key, array in rows.items() if array is not None})
    (folder / "synthetic.safetensors").write_bytes(content)
    sound = json.loads((exported / "manifest.json").read_text())
    sound["files"]["synthetic.safetensors"] = hashlib.sha256(content).hexdigest()
    sealed(sound, folder)
    with pytest.raises(InputError, match=r"synthetic.safetensors|must fit their environment") as e:
        read_artifact(folder)
    assert is_a_sentence(str(e.value))


LIMIT, WRAPPER = "max_episode_steps", "gymnasium.wrappers.rendering:RecordVideo"
REPEAT = {"entry_point": "gymnasium.wrappers:RepeatAction", "kwargs": {"num_repeats": 100}}
STACKS = [
    {"entry_point": "gymnasium.wrappers:FrameStackObservation", "kwargs": {"stack_size": 100}},
    {"entry_point": "gymnasium.wrappers:FlattenObservation", "kwargs": {}},
]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("environment.id", "Pendulum-v1", "argument|fit their environment|cannot be made"),
        ("environment.id", "os:Hopper-v5", "import a module.*`trust`"),
        ("environment.id", "NoSuch-v1", "unknown environment"),
        ("environment.kwargs", {"xml_file": "/etc/passwd"}, "the argument 'xml_file'.*`trust`"),
        ("environment.kwargs", {"reset_noise_scale": 1e9}, "at most 1e6.*`trust`"),
        ("environment.kwargs", {"reset_noise_scale": "a"}, "a number.*`trust`"),
        ("environment.kwargs", {"frame_skip": 10**6}, "a whole number from 1 to 100;.*`trust`"),
        ("environment.kwargs", {"frame_skip": -1}, "a whole number from 1 to 100;.*`trust`"),
        ("environment.kwargs", {"frame_skip": True}, "a whole number from 1 to 100;.*`trust`"),
        ("environment.kwargs", {"healthy_z_range": 3}, "cannot be (made|run)"),
        ("environment.kwargs", {"healthy_z_range": [0] * 10**4}, "1000 such numbers"),
        (f"environment.{LIMIT}", 10**12, f"`environment.{LIMIT}` must be at most 1000000"),
        (f"environment.{LIMIT}", True, f"`environment.{LIMIT}` must be a whole number"),
        ("environment.wrappers", [{"entry_point": WRAPPER, "kwargs": {}}], "RecordVideo.*`trust`"),
        ("environment.wrappers", [{"entry_point": "os:system", "kwargs": {}}], "`trust`"),
        ("environment.wrappers", [{"entry_point": "a", "kwargs": {}}] * 100, "20 at most"),
        ("environment.wrappers", STACKS * 5, "do so 100 x 100 x .* times; look at it.*`trust`"),
        ("environment.wrappers", [REPEAT] * 20, "do so 100 x 100 x .* times; look at it.*`trust`"),
        ("environment.reference_scores", [1, 1], "`environment.reference_scores`"),
        ("environment.reference_scores", [2, 1], "`environment.reference_scores`"),
        ("environment.reference_scores", [-1e308, 1e308], "`environment.reference_scores`"),
        ("environment.reference_scores", [0, 5e-324], "`environment.reference_scores`"),
        ("environment.reference_scores", [1, 1 + 1e-15], "not 1.0 and 1.000000000000001"),
        ("environment.action_low", [1, 1, 1], "`environment.action_low` must lie below"),
        ("environment.action_low", [-1, -1], "`environment.action_low` must lie below"),
        ("environment.action_low", [-2, -2, -2], "must fit their environment"),
        ("environment.action_high", [1e300] * 3, "finite in 32 bits"),
        ("recipe.layers", 10**6, "`recipe.layers` must be at most 100"),
        ("recipe.width", 10**7, "`recipe.width` must be at most 16384"),
        ("recipe.steps", 10**12, "`recipe.steps` must be at most 1000000"),
        ("recipe.learning_rates", [0.1], "one for each of the 3 layers"),
        ("recipe.learning_rates", [0.1, -1, 0.1], r"`recipe.learning_rates.1` must be greater"),
        ("recipe.architecture", "transformer", "`recipe.architecture` cannot be"),
        ("recipe.momentum", 1, "unknown key `recipe.momentum`"),
        ("evaluation.policies", 10**9, "`evaluation.policies` must be at most 10000"),
        ("evaluation.episodes", 10**9, "`evaluation.episodes` must be at most 10000"),
        ("evaluation.seed", -1, "`evaluation.seed` must be at least 0"),
        ("evaluation.stage", "\x1b[31m", "`evaluation.stage` cannot be"),
        ("evaluation.ensemble", 0, "`evaluation.ensemble` must be greater than 0"),
        ("evaluation.ensemble", 10**6, "`evaluation.ensemble` must be at most 1000"),
        ("evaluation.ensemble", 1, "`scores.synthetic_ensemble` must be there where"),
        ("evaluation.ensemble", 3, "`scores.synthetic_ensemble.ensemble` must be 3, as"),
        ("scores.synthetic_ensemble", None, "`scores.synthetic_ensemble` must be there where"),
        ("scores.synthetic_ensemble.ensemble", 1, "`scores.synthetic_ensemble.ensemble` must be 2"),
        ("scores.synthetic.ensemble", 2, "`scores.synthetic.ensemble` must be 1, of single polic"),
        ("scores.expert.ensemble", 2, "`scores.expert.ensemble` must be 1, of single policies"),
        ("scores.synthetic", [], "`scores.synthetic` must be a mapping"),
        ("scores.synthetic.mean", "a", "`scores.synthetic.mean` must be"),
        ("rows", 7, r"`observations` of synthetic.safetensors must be \[7, 11\]"),
        ("rows", 10**9, "`rows` must be at most 1000000"),
        ("files", {"../../etc/passwd": "0" * 64}, "`files` must be README.md"),
        ("files", {"a" * 10**5: "0" * 64}, "`files` must be README.md"),
        ("files", {"\x00": "0" * 64}, "`files` must be README.md"),
        ("config", 3, "`config` must be a mapping"),
    ],
)
def test_a_manifest_says_only_what_may_be(
    exported: Path, tmp_path: Path, path: str, value: Any, words: str
) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    document = json.loads((exported / "manifest.json").read_text())
    *above, last = path.split(".")
    parent = document
    for part in above:
        parent = parent[part]
    parent[last] = value
    sealed(document, folder)
    with pytest.raises(InputError, match=words) as caught:
        read_artifact(folder)
    assert is_a_sentence(str(caught.value))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"rows": 1, "rows": 2}', "the key 'rows' stands twice"),
        ('{"rows": NaN}', "NaN in it is no finite number"),
        ('{"rows": 1e400}', "1e400 in it is no finite number"),
        ('{"rows": ' + "9" * 5000 + "}", "no JSON in UTF-8"),
        ("[" * 100_000, "no JSON in UTF-8"),
        ('{"a": "\\ud800"}', "no JSON in UTF-8"),
        ("\ufeff{}", "no JSON in UTF-8"),
        (" " * 11_000_000, "10000000 bytes at most"),
    ],
)
def test_json_that_says_two_things_or_none_is_refused(
    tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=words) as caught:
        read_artifact(tmp_path)
    assert is_a_sentence(str(caught.value))


@pytest.mark.parametrize("name", ["manifest.json", "README.md", "synthetic.safetensors"])
@pytest.mark.parametrize("kind", ["link", "device", "folder", "pipe", "huge", "missing"])
def test_what_is_no_plain_file_of_its_size_is_refused(
    exported: Path, tmp_path: Path, name: str, kind: str
) -> None:
    """At once: nothing is waited for, and nothing huge is read."""
    import os

    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    file = folder / name
    file.rename(tmp_path / "kept")
    if kind == "link":
        file.symlink_to(tmp_path / "kept")
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "huge":
        with file.open("wb") as stream:
            stream.truncate(10**12)
    start = process_time()
    with pytest.raises(InputError, match=r"no plain file|bytes at most|missing|no readable") as e:
        read_artifact(folder)
    assert process_time() - start < 2
    assert is_a_sentence(str(e.value))


def test_who_trusts_the_author_lets_an_export_say_more(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    document = json.loads((exported / "manifest.json").read_text())
    document["environment"]["id"] = "gymnasium.envs.mujoco:Hopper-v5"
    document["environment"]["kwargs"] = {"xml_file": "hopper.xml"}
    sealed(document, folder)
    with pytest.raises(InputError, match="`trust`"):
        read_artifact(folder)
    trusted = read_artifact(folder, trust=True).arena.environment
    assert trusted.id == "gymnasium.envs.mujoco:Hopper-v5"
    assert trusted.kwargs == {"xml_file": "hopper.xml"}


def test_an_export_of_the_first_version_is_read(exported: Path, tmp_path: Path) -> None:
    """It stated neither a time limit nor wrappers, which then were the registered ones."""
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    document = json.loads((exported / "manifest.json").read_text())
    document["schema_version"] = 1
    for key in ("max_episode_steps", "wrappers"):
        del document["environment"][key]
    document["environment"]["kwargs"] = {}
    del document["actions_outside_bounds"]
    sealed(document, folder)
    assert read_artifact(folder).arena.environment == Environment.named("Hopper-v5")


def test_what_needs_more_than_there_is_is_refused_before_it_is_begun(exported: Path) -> None:
    artifact = read_artifact(exported)
    many = EvaluationConfig(policies=10_000, episodes=10_000)
    slow = Recipe(4, 256, 10**6, (0.1,) * 4)
    start = process_time()
    with pytest.raises(InputError, match=r"GB of memory, and .* lower `evaluation.policies`"):
        artifact.evaluate(many, 0)
    with pytest.raises(InputError, match=r"operations, and .* at most are begun; lower"):
        require_feasible(slow, 11, 3, 100_000, 1, 1, 1)
    assert process_time() - start < 1
