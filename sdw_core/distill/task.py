"""What is distilled, and the rows that a distillation starts from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sdw_core.config import DistillConfig
from sdw_core.distill.engine import MetaBatch
from sdw_core.distill.selection import select_rows
from sdw_core.seeds import torch_generator


@dataclass(frozen=True, eq=False)
class Task:
    """What rows are distilled from: N states, each with a target and a weight.

    Attributes:
        states: z [N, O], normalised.
        actions: the dataset's actions [N, A], in [-1, 1].
        targets: target(s) [N, A].
        weights: w(s) c(s) [N].
        log_density, episode_returns, expert_values, timesteps: what initial rows are chosen by, as
            far as the selection needs it: see `select_rows`.
        targets_at: the targets [*, A] at any states [*, O]; None where nobody can be asked beside
            the dataset's states, as under `dbc`: the target then stays that of the state nearby.
    """

    states: Tensor
    actions: Tensor
    targets: Tensor
    weights: Tensor
    log_density: Tensor | None = None
    episode_returns: Tensor | None = None
    expert_values: Tensor | None = None
    timesteps: Tensor | None = None
    targets_at: Callable[[Tensor], Tensor] | None = None

    def of(self, rows: Tensor) -> "Task":
        """The task on some of the states only: their indices [*]."""
        chosen: dict[str, Any] = {
            name: t[rows.to(t.device)] for name, t in vars(self).items() if torch.is_tensor(t)
        }
        return replace(self, **chosen)

    def batch(self, picks: Tensor, noise: Tensor | None) -> MetaBatch:
        """States that policies are judged on.

        Args:
            picks: rows of the dataset [P, B].
            noise: what is added to their states [P, B, O]; None: nothing. A perturbed state keeps
                the weight of its row.
        """
        states = self.states[picks] if noise is None else self.states[picks] + noise
        if noise is None or self.targets_at is None:
            return MetaBatch(states, self.targets[picks], self.weights[picks])
        return MetaBatch(states, self.targets_at(states), self.weights[picks])


def state_noise(
    scale: float, batch: int, generators: Sequence[torch.Generator], like: Tensor
) -> Tensor | None:
    """Perturbations [P, B, O] of a batch: none of its first quarter, Gaussian of the rest.

    So a policy is judged on the dataset's states, and where it goes when it leaves them.

    Args:
        scale: their standard deviation, in normalised units; 0: there are none.
        batch: B.
        generators: one a problem.
        like: states [*, O], on the device.
    """
    if not scale:
        return None
    size = batch, like.shape[-1]
    noise = torch.stack(
        [torch.randn(size, generator=g, dtype=like.dtype, device=g.device) for g in generators]
    ).to(like.device)
    noise[:, : batch // 4] = 0
    return noise.mul_(scale)


def initial_rows(task: Task, config: DistillConfig, seed: int) -> tuple[Tensor, Tensor]:
    """The rows that each distillation seed starts from: distinct rows of the dataset.

    Which, `config.initial_states` says.

    Returns:
        observations [S, n, O] and actions [S, n, A]; the actions are the expert's targets or the
        dataset's own, as `config.initial_actions` says.
    """
    picks = select_rows(
        config.initial_states,
        config.synthetic_size,
        [torch_generator(seed, "distill", stream) for stream in range(config.seeds)],
        task.states,
        task.log_density,
        task.episode_returns,
        task.expert_values,
        task.timesteps,
        config.initial_options,
    ).to(task.states.device)
    actions = task.targets if config.initial_actions == "expert" else task.actions
    return task.states[picks].clone(), actions[picks].clone()
