"""A distillation of a tenth of a second, and what its tests compare."""

from dataclasses import replace

import torch

from sdw_core.config import DistillConfig
from sdw_core.distill.state import Distilled
from sdw_core.distill.task import Task, initial_rows

SMALL = DistillConfig(
    synthetic_size=6,
    seeds=2,
    layers=3,
    width=8,
    inner_steps=7,
    window=4,
    outer_steps=12,
    outer_schedule="constant",
    state_noise=0,
    max_gradient_ratio=None,
    averaging=0.7,
    rate_lr=0.05,
    meta_batch_size=32,
)


def small_task(count: int = 200) -> Task:
    """States, a nonlinear target to imitate, and weights that differ."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(count, 5, generator=generator)
    weights = torch.rand(count, generator=generator) + 0.5
    targets = small_targets(states)
    actions = (targets + 0.3 * torch.randn(count, 3, generator=generator)).clamp(-1, 1)
    return Task(states, actions, targets, weights / weights.mean(), targets_at=small_targets)


def small_targets(states: torch.Tensor) -> torch.Tensor:
    """Of the small task, at any states [*, 5]: actions [*, 3]."""
    x = states
    return torch.tanh(x[..., :3] * x[..., 1:4] - x[..., 2:5])


def changed(config: DistillConfig, **changes: object) -> DistillConfig:
    return DistillConfig(**{**config.model_dump(), **changes})


def assert_same_bits(one: Distilled, other: Distilled) -> None:
    assert torch.equal(one.observations, other.observations)
    assert torch.equal(one.actions, other.actions)
    assert torch.equal(one.learning_rates, other.learning_rates)
    assert torch.equal(one.losses, other.losses)
    assert one.diverged == other.diverged


OUTER = {
    "adam": {"outer_optimizer": "adam"},
    "momentum": {"outer_optimizer": "sgd", "outer_momentum": 0.9, "outer_lr": 0.5},
    "plain": {"outer_optimizer": "sgd", "outer_momentum": 0.0, "outer_lr": 0.5},
    "cosine": {"outer_schedule": "cosine"},
    "cosine with momentum": {"outer_optimizer": "sgd", "outer_lr": 0.5, "outer_schedule": "cosine"},
    "noise": {"state_noise": 0.4},
    "calmed": {"max_gradient_ratio": 1.1},
    "clipped": {"outer_optimizer": "sgd", "outer_lr": 3.0, "max_gradient_norm": 0.03},
}


LONG = changed(SMALL, outer_steps=130)


def poisoned(stream: int, config: DistillConfig) -> Task:
    """A task in which one distillation seed starts from a row whose action is enormous."""
    task = small_task()
    rows = initial_rows(task, config, 0)[0]
    in_stream = [[(state == row).all(1).any() for row in rows] for state in task.states[:, None]]
    index = next(i for i, found in enumerate(in_stream) if found[stream] and sum(found) == 1)
    actions = task.actions.clone()
    actions[index] = 1e30
    return replace(task, actions=actions)
