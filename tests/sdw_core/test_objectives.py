"""Targets and weights of each objective, against the table of the paper in numpy."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sdw_core.config import DistillConfig
from sdw_core.distill.objectives import build_task, check_rewards, warnings_of
from sdw_core.errors import InputError, SDWError
from sdw_core.registry import OBJECTIVES
from sdw_core.weights import effective_sample_size_percent

STATES, ACTIONS = 40, 3
WEIGHTED = [
    ("dbc", "mean"),
    ("pbc", "mean"),
    ("av_pbc", "mean"),
    ("av_pbc", "paper"),
]


def draws(zero_is_arbitrary: bool = False) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    weights = normal(STATES).exp()
    return {
        "states": normal(STATES, 5),
        "actions": normal(STATES, ACTIONS).tanh(),
        "expert_actions": normal(STATES, ACTIONS).tanh(),
        "expert_values": 50 * normal(STATES),  # of both signs
        "density_weights": weights / weights.mean(),
        "zero_is_arbitrary": zero_is_arbitrary,
    }


def c_twin(
    objective: str, value_scale: str, beta: float, q: np.ndarray, zero_is_arbitrary: bool
) -> np.ndarray:
    if objective != "av_pbc":
        return np.ones_like(q)
    if value_scale == "paper":
        return beta * q
    c = q - q.min() if zero_is_arbitrary else np.maximum(q, 0)
    return c / c.mean()


def test_the_table_has_every_objective() -> None:
    assert {objective for objective, _ in WEIGHTED} == set(OBJECTIVES.builtin)


@pytest.mark.parametrize("zero_is_arbitrary", [False, True])
@pytest.mark.parametrize(("objective", "value_scale"), WEIGHTED)
def test_the_meta_loss_is_that_of_the_table(
    objective: str, value_scale: str, zero_is_arbitrary: bool
) -> None:
    given = draws(zero_is_arbitrary)
    config = DistillConfig(objective=objective, value_scale=value_scale, beta=0.03)
    task = build_task(config, **given)
    q, w = (given[key].double().numpy() for key in ("expert_values", "density_weights"))
    target = given["actions" if objective == "dbc" else "expert_actions"].double().numpy()
    policy = np.random.default_rng(1).uniform(-1, 1, (STATES, ACTIONS))  # pi_theta_T(s)
    expected = np.mean(
        w
        * c_twin(objective, value_scale, 0.03, q, zero_is_arbitrary)
        * np.mean((policy - target) ** 2, axis=1)
    )
    error = (torch.from_numpy(policy) - task.targets).square().mean(1)
    assert (task.weights * error).mean().item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(task.states, given["states"])
    assert torch.equal(task.actions, given["actions"])


@pytest.mark.parametrize(("objective", "value_scale"), WEIGHTED)
def test_equal_densities_change_nothing(objective: str, value_scale: str) -> None:
    given = draws() | {"density_weights": torch.ones(STATES)}
    config = DistillConfig(objective=objective, value_scale=value_scale, beta=0.03)
    weights = build_task(config, **given).weights.numpy()
    expected = c_twin(objective, value_scale, 0.03, given["expert_values"].double().numpy(), False)
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def value_weights(values: Tensor, zero_is_arbitrary: bool) -> Tensor:
    given = draws(zero_is_arbitrary) | {
        "expert_values": values,
        "density_weights": torch.ones(STATES),
    }
    return build_task(DistillConfig(objective="av_pbc"), **given).weights


def test_values_of_positive_data_are_weights_to_the_last_bit() -> None:
    """Also where many fitted values are negative, as a poor fit makes them."""
    values = draws()["expert_values"]
    for each in (values.abs(), values):
        clamped = each.clamp_min(0)
        assert torch.equal(value_weights(each, False), clamped / clamped.mean())


@pytest.mark.parametrize("shift", [-1e4, -500.0, -200.0])
def test_weights_of_negative_values_do_not_change_with_the_rewards_zero(shift: float) -> None:
    values = draws()["expert_values"]
    weights = value_weights(values - 200, True)
    assert (values - 200).max() < 0
    torch.testing.assert_close(value_weights(values + shift, True), weights, rtol=1e-3, atol=1e-3)
    assert (weights == 0).sum() == 1
    assert torch.equal(weights.argsort(), values.argsort())
    assert effective_sample_size_percent(weights.numpy()) > 50


def test_paper_weighs_by_the_value_as_it_is() -> None:
    given = draws()
    negative = given["expert_values"] < 0
    assert negative.any()
    paper = DistillConfig(objective="av_pbc", value_scale="paper")
    assert (build_task(paper, **given).weights[negative] < 0).all()


def test_many_states_without_weight_are_worth_a_sentence() -> None:
    config = DistillConfig(objective="av_pbc", value_scale="paper")
    task = replace(build_task(config, **draws()), weights=torch.ones(100), targets_at=Tensor.tanh)
    task.weights[:9] = 0
    assert warnings_of(config, task) == []
    task.weights[10:30] = -1
    (said,) = warnings_of(config, task)
    assert said.startswith("29% of the states have a weight of 0 or less")
    assert "`pipeline.distill.value_scale: paper`" in said
    assert "`objective: pbc`" in said


def test_targets_that_nobody_can_be_asked_for_beside_the_data_are_worth_a_sentence() -> None:
    own = DistillConfig(objective="my:mixed")
    task = build_task(DistillConfig(objective="pbc"), **draws())
    (said,) = warnings_of(own, task)
    assert said.startswith(
        "The targets of `pipeline.distill.objective: my:mixed` are not the expert"
    )
    assert "`pipeline.distill.state_noise: 0.3` perturbs keeps the target of" in said
    assert warnings_of(own, replace(task, targets_at=Tensor.tanh)) == []
    for quiet in ({"objective": "dbc"}, {"state_noise": 0}, {"outer_steps": 0}):
        assert warnings_of(own.model_copy(update=quiet), task) == []


def test_rewards_that_no_weight_can_come_of_are_refused() -> None:
    zero, negative = np.zeros(9, np.float32), -np.ones(9, np.float32)
    mean = DistillConfig(objective="av_pbc")
    paper = DistillConfig(objective="av_pbc", value_scale="paper")
    with pytest.raises(InputError, match=r"every reward of my/data-v0 is 0; choose `pbc`"):
        check_rewards(mean, zero, "my/data-v0")
    with pytest.raises(InputError, match=r"no reward of my/data-v0 is above 0, .* choose `mean`"):
        check_rewards(paper, negative, "my/data-v0")
    check_rewards(mean, negative, "my/data-v0")
    check_rewards(DistillConfig(objective="pbc"), zero, "my/data-v0")
    negative[3] = 0.5
    check_rewards(paper, negative, "my/data-v0")


@pytest.mark.parametrize(
    ("value_scale", "value", "zero_is_arbitrary"),
    [
        *(("mean", 0.0, False), ("mean", -3.0, False), ("mean", -3.0, True)),
        *(("paper", 0.0, False), ("paper", -3.0, True)),
    ],
)
def test_weights_that_are_zero_everywhere_are_an_error(
    value_scale: str, value: float, zero_is_arbitrary: bool
) -> None:
    given = draws(zero_is_arbitrary) | {"expert_values": torch.full((STATES,), value)}
    with pytest.raises(SDWError, match="every weight of `av_pbc` is 0 or less; choose") as caught:
        build_task(DistillConfig(objective="av_pbc", value_scale=value_scale), **given)
    assert len(str(caught.value).splitlines()) == 1
    task = build_task(DistillConfig(objective="pbc"), **given)  # the way out that it names
    assert torch.equal(task.weights, given["density_weights"])
