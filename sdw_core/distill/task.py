"""What is distilled, and the rows that a distillation starts from."""

from dataclasses import dataclass

from torch import Tensor

from sdw_core.config import DistillConfig
from sdw_core.distill.selection import select_rows
from sdw_core.seeds import torch_generator


@dataclass(frozen=True)
class Task:
    """What rows are distilled from: N states, each with a target and a weight.

    Attributes:
        states: z [N, O], normalised.
        actions: the dataset's actions [N, A], in [-1, 1].
        targets: target(s) [N, A].
        weights: w(s) c(s) [N].
        log_density: log d(s) [N], nats; only `initial_states: density` needs it.
        episode_returns: return of the episode that a state is of [N]; only `best` needs it.
    """

    states: Tensor
    actions: Tensor
    targets: Tensor
    weights: Tensor
    log_density: Tensor | None = None
    episode_returns: Tensor | None = None


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
        config.initial_options,
    ).to(task.states.device)
    actions = task.targets if config.initial_actions == "expert" else task.actions
    return task.states[picks].clone(), actions[picks].clone()
