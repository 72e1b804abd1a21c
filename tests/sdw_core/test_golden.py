"""What each stage made of tiny runs when the versions of the method were raised last.

A stage that makes something else of the same settings and data gets a new version in
`sdw_core.identity.METHOD`; then `python -m tests.sdw_core.test_golden` writes the file anew. It
refuses to while the numbers differ and no version does.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch

from sdw_core.config import PipelineConfig
from sdw_core.dataset import load
from sdw_core.files import read_json, write_text
from sdw_core.identity import FIRST_METHOD, METHOD, method_of
from sdw_core.pipeline import Pipeline
from sdw_core.validation import parse

GOLDEN = Path(__file__).with_name("golden.json")
BUNDLED = "sdw/hopper-replay-mini-v0"
EARLIER = {"outer_schedule": "constant", "state_noise": 0, "max_gradient_ratio": None}
SMALL_POLICY = {"layers": 3, "width": 8, "inner_steps": 4, "window": 2, "meta_batch_size": 32}
RUNS: dict[str, dict[str, Any]] = {
    "earlier defaults": {
        "weighting": {"temperature": 0.1},
        "density": {"transforms": 1, "hidden_features": 8, "steps": 8, "batch_size": 64},
        "expert": {"layers": 2, "width": 8, "steps": 8, "value_steps": 100, "learning_rate": 0.003},
        "distill": {
            **EARLIER,
            **SMALL_POLICY,
            "objective": "av_pbc",
            "synthetic_size": 6,
            "seeds": 2,
            "outer_steps": 4,
        },
        "evaluation": {"policies": 2, "episodes": 2},
    },
    "others": {
        "density": {"model": "gaussian"},
        "weighting": {"scheme": "rank", "temperature": 0.5},
        "expert": {
            "method": "cal_ql",
            "steps": 3,
            "batch_size": 32,
            "actor_layers": 2,
            "critic_layers": 2,
            "width": 8,
            "sampled_actions": 2,
        },
        "distill": {
            **EARLIER,
            **SMALL_POLICY,
            "objective": "pbc",
            "synthetic_size": 6,
            "outer_steps": 4,
            "outer_optimizer": "sgd",
            "truncation": "last",
            "max_gradient_norm": 2.0,
            "initial_states": "density",
            "initial_actions": "dataset",
        },
        "evaluation": {"policies": 1, "episodes": 2, "ensemble": 2, "optimizer": "adam"},
    },
}
RUNS["negative rewards"] = {**RUNS["earlier defaults"], "density": {"model": "gaussian"}}
RUNS["defaults"] = {
    **RUNS["earlier defaults"],
    "weighting": {},
    "distill": {**SMALL_POLICY, "layers": 2, "synthetic_size": 6, "seeds": 2, "outer_steps": 4},
}
STAGES = tuple(METHOD)
"""In the order in which a stage's numbers may depend on those of another."""
TOLERANCE = {"evaluate": 0.02}
"""Relative and absolute; else 0.001. Processors differ, and episodes amplify that."""


def dataset_of(run: str, folder: Path) -> str:
    """The bundled dataset; or one like it in whose environment every step costs something."""
    if run != "negative rewards":
        return BUNDLED
    dataset = load(BUNDLED)
    np.savez(
        folder / "negative.npz",
        observations=dataset.observations,
        actions=dataset.actions,
        rewards=dataset.rewards - 5,
        terminals=dataset.terminated,
        timeouts=dataset.truncated,
    )
    return f"{folder}/negative.npz?env=Hopper-v5"


def made(run: str, folder: Path) -> dict[str, list[float]]:
    """Some numbers of each stage, as another processor would have them too."""
    torch.set_num_threads(1)
    document = {"dataset": dataset_of(run, folder), **RUNS[run]}
    pipeline = Pipeline(parse(PipelineConfig, document, "pipeline"))
    prepared = pipeline.prepare()
    result = pipeline.finish(prepared)
    states = slice(None, None, 5000)
    log_density = prepared.task.log_density
    assert log_density is not None
    expert, task = prepared.expert, prepared.task
    actions = expert.actions(task.states[states])
    values = expert.values(task.states[states], actions)
    rates = torch.tensor(result.recipes[0].learning_rates)
    rows = result.observations[0, 0], result.actions[0, 0], result.losses[0], rates
    numbers: dict[str, Any] = {
        "density": log_density[states],
        "weights": prepared.weights[states],
        "expert": torch.cat([actions.flatten(), values.flatten()]),
        "distill": torch.cat([task.weights[states], *rows]),
        "evaluate": result.returns,
    }
    return {
        stage: [float(f"{value:.6g}") for value in np.asarray(numbers[stage]).flatten()]
        for stage in STAGES
    }


def changed(golden: dict[str, list[float]], now: dict[str, list[float]]) -> list[str]:
    """Stages that make other numbers."""
    within = {stage: TOLERANCE.get(stage, 0.001) for stage in STAGES}
    return [
        stage
        for stage in STAGES
        if not np.allclose(now[stage], golden[stage], within[stage], within[stage])
    ]


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    document: dict[str, Any] = read_json(GOLDEN)
    return document


@pytest.mark.parametrize("run", RUNS)
def test_what_a_stage_makes_changes_with_its_version_only(
    golden: dict[str, Any], run: str, tmp_path: Path
) -> None:
    stages = changed(golden["runs"][run], made(run, tmp_path))
    assert not stages, (
        f"{', '.join(stages)}: other numbers than when the versions were raised last; if that is "
        f"meant, raise `sdw_core.identity.METHOD[{(stages or STAGES)[0]!r}]` and run `python -m "
        "tests.sdw_core.test_golden`"
    )


def test_the_golden_numbers_are_those_of_todays_versions(golden: dict[str, Any]) -> None:
    assert golden["method"] == METHOD, "run `python -m tests.sdw_core.test_golden`"


def test_a_change_of_any_stage_would_be_noticed(golden: dict[str, Any]) -> None:
    for stage in STAGES:
        now = {name: list(numbers) for name, numbers in golden["runs"]["earlier defaults"].items()}
        now[stage] = [1.1 * number for number in now[stage]]
        assert changed(golden["runs"]["earlier defaults"], now) == [stage]


def test_the_first_versions_never_change() -> None:
    assert dict(FIRST_METHOD) == {
        "density": 1, "weights": 1, "expert": 2, "distill": 1, "evaluate": 1,
    }  # fmt: skip
    assert all(METHOD[stage] >= version for stage, version in FIRST_METHOD.items())


def test_a_version_that_changed_some_data_leaves_the_others_as_they_were(tmp_path: Path) -> None:
    assert method_of(load(BUNDLED)) == {**METHOD, "distill": FIRST_METHOD["distill"]}
    assert method_of(load(dataset_of("negative rewards", tmp_path))) == METHOD


def write() -> None:
    """Write the numbers anew."""
    with TemporaryDirectory() as folder:
        runs = {run: made(run, Path(folder)) for run in RUNS}
    if GOLDEN.exists():
        old = read_json(GOLDEN)
        stages = [stage for run in old["runs"] for stage in changed(old["runs"][run], runs[run])]
        if stages and old["method"] == dict(METHOD):
            sys.exit(f"{stages[0]} makes other numbers: raise its version in METHOD first")
    text = json.dumps({"method": dict(METHOD), "runs": runs}, indent=1)
    write_text(GOLDEN, text + "\n")


if __name__ == "__main__":
    write()
