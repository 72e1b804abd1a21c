"""Targets and weights of each objective, against the table of the paper in numpy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sdw_core.config import DistillConfig
from sdw_core.distill.objectives import build_task
from sdw_core.errors import SDWError

STATES, ACTIONS = 40, 3
WEIGHTED = [
    ("dbc", "mean"),
    ("pbc", "mean"),
    ("av_pbc", "mean"),
    ("av_pbc", "paper"),
]


def draws() -> dict[str, Tensor]:
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
    }


def c_twin(objective: str, value_scale: str, beta: float, q: np.ndarray) -> np.ndarray:
    if objective != "av_pbc":
        return np.ones_like(q)
    if value_scale == "paper":
        return beta * q
    return np.maximum(q, 0) / np.maximum(q, 0).mean()


@pytest.mark.parametrize(("objective", "value_scale"), WEIGHTED)
def test_the_meta_loss_is_that_of_the_table(objective: str, value_scale: str) -> None:
    given = draws()
    config = DistillConfig(objective=objective, value_scale=value_scale, beta=0.03)
    task = build_task(config, **given)
    q, w = (given[key].double().numpy() for key in ("expert_values", "density_weights"))
    target = given["actions" if objective == "dbc" else "expert_actions"].double().numpy()
    policy = np.random.default_rng(1).uniform(-1, 1, (STATES, ACTIONS))  # pi_theta_T(s)
    expected = np.mean(
        w * c_twin(objective, value_scale, 0.03, q) * np.mean((policy - target) ** 2, axis=1)
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
    expected = c_twin(objective, value_scale, 0.03, given["expert_values"].double().numpy())
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_a_state_of_negative_value_weighs_nothing_but_in_paper_mode() -> None:
    given = draws()
    negative = given["expert_values"] < 0
    assert negative.any()
    assert not build_task(DistillConfig(objective="av_pbc"), **given).weights[negative].any()
    paper = DistillConfig(objective="av_pbc", value_scale="paper")
    assert (build_task(paper, **given).weights[negative] < 0).all()


@pytest.mark.parametrize(("value_scale", "value"), [("mean", 0.0), ("mean", -3.0), ("paper", 0.0)])
def test_weights_that_are_zero_everywhere_are_an_error(value_scale: str, value: float) -> None:
    given = draws() | {"expert_values": torch.full((STATES,), value)}
    with pytest.raises(SDWError, match="every weight of `av_pbc` is 0; choose") as caught:
        build_task(DistillConfig(objective="av_pbc", value_scale=value_scale), **given)
    assert len(str(caught.value).splitlines()) == 1
    task = build_task(DistillConfig(objective="pbc"), **given)  # the way out that it names
    assert torch.equal(task.weights, given["density_weights"])
