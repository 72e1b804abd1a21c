"""What the meta-loss asks of a policy at a state: a target and a weight.

    H = mean_{s in B} w(s) c(s) (1/A) || pi_theta_T(s) - target(s) ||^2

    objective   target(s)             c(s)
    dbc         the dataset's action  1
    pbc         pi*(s)                1
    av_pbc      pi*(s)                max(q*(s, pi*(s)) - q0, 0) / its mean over D   (mean)
                                      beta q*(s, pi*(s))                             (paper)

`value_scale` chooses between the last two. Its `mean` has the origin

    q0 = min_{s in D} q*(s, pi*(s))      where many of D's returns-to-go are negative
    q0 = 0                               elsewhere

so that in the first case the zero of the reward, which says nothing of what a state is worth (all
rewards of a pendulum are negative), takes no state's weight away: c(s) is the advantage over the
worst state, whatever is added to all values. The data decide which case it is
(`OfflineDataset.zero_is_arbitrary`), and not the fitted values, whose errors differ with the seed.

DBC, PBC and Av-PBC: arXiv 2410.22728. With density weights w(s), each is its SDW form:
arXiv 2512.06692.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdw_core.config import DistillConfig
from sdw_core.distill.task import Task
from sdw_core.errors import InputError, SDWError
from sdw_core.registry import OBJECTIVES
from sdw_core.validation import shown

TOLD = 0.1
"""Part of the states without weight from which on a run says so."""


def build_task(
    config: DistillConfig,
    states: Tensor,
    actions: Tensor,
    expert_actions: Tensor,
    expert_values: Tensor,
    density_weights: Tensor,
    zero_is_arbitrary: bool,
    log_density: Tensor | None = None,
    episode_returns: Tensor | None = None,
) -> Task:
    """Targets and weights of the configured objective over the whole dataset.

    Args:
        config: which objective.
        states: z [N, O], normalised.
        actions: the dataset's [N, A].
        expert_actions: pi*(s) [N, A].
        expert_values: q*(s, pi*(s)) [N].
        density_weights: w(s) [N], mean one.
        zero_is_arbitrary: see `OfflineDataset`.
        log_density, episode_returns: see `Task`.

    Raises:
        SDWError: the action value makes no weight positive.
        InputError: an objective gives something else than targets and weights.
    """
    name = config.objective
    found = OBJECTIVES.make(
        name,
        config.objective_options,
        states=states,
        actions=actions,
        expert_actions=expert_actions,
        expert_values=expert_values,
        episode_returns=episode_returns,
        zero_is_arbitrary=zero_is_arbitrary,
        config=config,
    )
    if not isinstance(found, tuple) or len(found) != 2:
        raise InputError(
            f"The objective `{name}` must give a tuple of targets and weights, and gives "
            f"{shown(found)}; correct it."
        )
    targets = OBJECTIVES.numbers(name, "targets", found[0], actions.shape).to(actions)
    weights = OBJECTIVES.numbers(name, "weights", found[1], density_weights.shape)
    if not (weights > 0).any():
        raise InputError(
            f"The objective `{name}` must give at least one state a weight above 0, and gives "
            "none; correct it."
        )
    weights = density_weights * weights.to(density_weights)
    return Task(states, actions, targets, weights, log_density, episode_returns)


def dbc(actions: Tensor, expert_values: Tensor) -> tuple[Tensor, Tensor]:
    """Targets [N, A] and c(s) [N]; see the module."""
    return actions, torch.ones_like(expert_values)


def pbc(expert_actions: Tensor, expert_values: Tensor) -> tuple[Tensor, Tensor]:
    """Targets [N, A] and c(s) [N]; see the module."""
    return expert_actions, torch.ones_like(expert_values)


def av_pbc(
    expert_actions: Tensor, expert_values: Tensor, zero_is_arbitrary: bool, config: DistillConfig
) -> tuple[Tensor, Tensor]:
    """Targets [N, A] and c(s) [N]; see the module.

    Raises:
        SDWError: no weight is positive.
    """
    paper = config.value_scale == "paper"
    origin = expert_values.min() if zero_is_arbitrary else 0.0
    weights = config.beta * expert_values if paper else (expert_values - origin).clamp_min(0)
    if not (weights > 0).any():
        raise SDWError(
            "The expert's action value is positive at no state, or the same at each, so that every "
            "weight of `av_pbc` is 0 or less; choose `pipeline.distill.objective: pbc`, which does "
            "without it."
        )
    return expert_actions, weights if paper else weights / weights.mean()


def check_rewards(config: DistillConfig, rewards: NDArray[np.float32], name: str) -> None:
    """Refuse what the rewards [N] alone rule out, before anything is computed from them.

    Args:
        config: which objective.
        rewards: of the dataset.
        name: of the dataset.

    Raises:
        InputError: no weight of `av_pbc` could be positive but by an error of the fitted values.
    """
    if config.objective != "av_pbc":
        return
    if not rewards.any():
        raise InputError(
            f"`pipeline.distill.objective: av_pbc` weighs states by the expert's action value, and "
            f"every reward of {name} is 0; choose `pbc`, which does without it."
        )
    if config.value_scale == "paper" and rewards.max() <= 0:
        raise InputError(
            "`pipeline.distill.value_scale: paper` weighs states by the action value as it is, and "
            f"no reward of {name} is above 0, so that no weight would be; choose `mean`, which "
            "weighs by the advantage over the worst states."
        )


def warnings_of(config: DistillConfig, task: Task) -> list[str]:
    """What a person should know of a task's targets and of its final weights w(s) c(s)."""
    return [*_of_targets(config, task), *_of_weights(config, task.weights)]


def _of_targets(config: DistillConfig, task: Task) -> list[str]:
    """Of an objective, a user's own, whose targets are none of those that an expert can give."""
    perturbed = config.state_noise and config.outer_steps
    if task.targets_at or config.objective == "dbc" or not perturbed:
        return []
    return [
        f"The targets of `pipeline.distill.objective: {config.objective}` are not the expert's "
        "actions, so that nobody can be asked for a target beside the dataset's states: what "
        f"`pipeline.distill.state_noise: {config.state_noise:g}` perturbs keeps the target of the "
        "unperturbed state; see whether that is meant, or set the noise to 0."
    ]


def _of_weights(config: DistillConfig, weights: Tensor) -> list[str]:
    nothing = float((weights <= 0).double().mean())
    if nothing < TOLD:
        return []
    without = f"{nothing:.0%} of the states have a weight of 0 or less in the distillation"
    if config.objective != "av_pbc":
        return [
            f"{without}, by `pipeline.distill.objective: {config.objective}` or "
            "`pipeline.weighting`, so that the rows learn nothing there: see whether that is meant."
        ]
    return [
        f"{without}, by `pipeline.distill.value_scale: {config.value_scale}`, so that the rows "
        "learn nothing of the expert there: compare with `objective: pbc`, which does without the "
        "action value."
    ]
