"""A line of the leaderboard: each score by its own definition, and what it refuses."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from sdw_core import leaderboard
from sdw_core.artifact import Artifact
from sdw_core.baselines import random_rows
from sdw_core.config import EvaluationConfig, PipelineConfig
from sdw_core.dataset import load
from sdw_core.errors import InputError
from sdw_core.evaluate import evaluate_rows
from sdw_core.leaderboard import NAMES, STAGE, leaderboard_line, markdown
from sdw_core.pipeline import Pipeline
from sdw_core.protocols import applied, own_recipe

CONFIG = PipelineConfig(
    dataset="sdw/hopper-replay-mini-v0",
    seed=3,
    expert={"layers": 2, "width": 16, "steps": 20, "value_steps": 20},
    distill={"layers": 2, "width": 8, "synthetic_size": 8, "inner_steps": 4, "outer_steps": 2},
    evaluation={"policies": 2, "episodes": 1},
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def exported(cache: Path) -> Artifact:
    return Pipeline(CONFIG, cache).run().export(cache / "rows")


def test_rows_and_labels_are_told_apart(
    exported: Artifact, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By fewer policies and steps than the protocol's."""
    protocol = EvaluationConfig(policies=3, episodes=2)
    monkeypatch.setattr(leaderboard, "PROTOCOL", protocol)
    monkeypatch.setattr(leaderboard, "BC_STEPS", 20)
    line = leaderboard_line(exported, cache)
    scores = line["scores"]
    assert list(scores) == list(NAMES)
    assert all(len(each["per_policy"]) == protocol.policies for each in scores.values())
    rows = exported.evaluate(protocol, CONFIG.seed, STAGE)
    assert scores["synthetic"]["per_policy"] == list(rows.mean(axis=1))

    dataset, arena = load(CONFIG.dataset), exported.arena
    expert = Pipeline(CONFIG, cache).prepare().expert
    picks = random_rows(dataset, 8, protocol.policies, CONFIG.seed)
    states = torch.as_tensor(arena.units.normalized_states(dataset.observations[picks]))
    recipes = [applied(protocol, own_recipe(CONFIG.distill))] * protocol.policies
    given = states, expert.actions(states), recipes, arena, 1, protocol.episodes, CONFIG.seed, STAGE
    labelled = evaluate_rows(*given).mean(axis=1)
    np.testing.assert_allclose(scores["random_rows_expert_actions"]["per_policy"], labelled)
    mean = {name: each["mean"] for name, each in scores.items()}
    assert line["labels"] == mean["random_rows_expert_actions"] - mean["random_rows"] != 0
    assert line["labels"] + line["rows_alone"] == pytest.approx(
        mean["synthetic"] - mean["random_rows"]
    )
    assert markdown(line).count("|") == 10
    assert line["content_hash"][:12] in markdown(line)


@pytest.mark.parametrize(
    ("config", "source", "said"),
    [
        ({"dataset": "/etc/secret.hdf5"}, {}, "names '/etc/secret.hdf5'"),
        ({"expert": {"method": "evil:Expert"}}, {}, "names 'evil:Expert'"),
        ({"density": {"model": "evil:Density"}}, {}, "names 'evil:Density'"),
        ({"distill": {"objective": "evil:objective"}}, {}, "names 'evil:objective'"),
        ({"distill": {"initial_states": "evil:rows"}}, {}, "names 'evil:rows'"),
        ({"weighting": {"scheme": "evil:weights"}}, {}, "names 'evil:weights'"),
        ({"expert": {"steps": 90_000_000}}, {}, "asks for 90,000,000"),
        ({}, {"content_hash": "ab" * 32}, "holds other data"),
    ],
)
def test_a_manifest_opens_no_file_and_imports_nothing_without_trust(
    exported: Artifact, config: dict[str, object], source: dict[str, str], said: str
) -> None:
    evidence = dict(exported.evidence)
    evidence |= {"config": evidence["config"] | config, "source": evidence["source"] | source}
    with pytest.raises(InputError, match=said):
        leaderboard_line(dataclasses.replace(exported, evidence=evidence))
