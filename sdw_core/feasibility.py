"""Whether settings can be run: with the dataset that they name, on this machine."""

import torch

from sdw_core.config import CheckpointConfig, PercentBCConfig, PipelineConfig
from sdw_core.distill.objectives import check_rewards
from sdw_core.distill.selection import available_rows
from sdw_core.errors import InputError
from sdw_core.evaluate import require_feasible
from sdw_core.expert.checkpoint import read_checkpoint
from sdw_core.expert.percent_bc import cloned_rows
from sdw_core.offline_dataset import OfflineDataset
from sdw_core.protocols import applied, own_recipe
from sdw_core.registry import require_parts


def check_fit(config: PipelineConfig, dataset: OfflineDataset) -> None:
    """Refuse settings that do not fit the dataset, or one another.

    Raises:
        InputError: a part of the user's own that cannot be used, more synthetic rows than there are
            to start from, rewards that the objective cannot weigh by, an evaluation that cannot be,
            no reference scores, or an expert's checkpoint that cannot be used or is for another
            environment.
    """
    require_parts(config)
    size, initial_states = config.distill.synthetic_size, config.distill.initial_states
    transitions, source = len(dataset), dataset.name
    if config.distill.states == "teacher":
        if not isinstance(config.expert, PercentBCConfig):
            raise InputError(
                "`pipeline.distill.states: teacher` takes the states of the episodes that "
                f"`percent_bc` clones, and `pipeline.expert.method` is `{config.expert.method}`; "
                "choose `all`."
            )
        transitions = len(cloned_rows(dataset, config.expert))
        source = f"the teacher's episodes in {dataset.name}"
    available = available_rows(initial_states, transitions)
    if size > available:
        chosen = "" if initial_states == "random" else f" that `{initial_states}` chooses from"
        raise InputError(
            f"`pipeline.distill.synthetic_size` cannot exceed the {available} transitions of "
            f"{source}{chosen}, and is {size}; lower it."
        )
    check_rewards(config.distill, dataset.rewards, dataset.name)
    evaluation = config.evaluation
    require_feasible(
        applied(evaluation, own_recipe(config.distill)),
        dataset.observations.shape[1],
        dataset.actions.shape[1],
        size,
        config.distill.seeds * evaluation.policies,
        evaluation.episodes,
        evaluation.ensemble,
    )
    _ = dataset.required_scores
    if isinstance(config.expert, CheckpointConfig):
        read_checkpoint(config.expert.path).require_fit(dataset)


def resolve_device(name: str) -> torch.device:
    """`auto` is the first GPU if there is one; a GPU that is not there is an error."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device, present = torch.device(name), torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= present:
        raise InputError(
            f"`pipeline.device` is {name!r}, but torch sees {present or 'no'} GPU here; use `auto`."
        )
    return device
