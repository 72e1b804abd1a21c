"""What synthetic rows have to beat: as many rows drawn at random, and cloning all of the data."""

import numpy as np
import torch
from numpy.typing import NDArray

from sdw_core.config import ExpertConfig, PercentBCConfig, PipelineConfig
from sdw_core.evaluate import Arena, evaluate_rows
from sdw_core.offline_dataset import OfflineDataset
from sdw_core.protocols import applied, own_recipe
from sdw_core.seeds import numpy_generator
from sdw_core.statistics import Returns


def random_rows(dataset: OfflineDataset, size: int, sets: int, seed: int) -> NDArray[np.int64]:
    """Numbers of distinct rows of the dataset [sets, size], each set drawn anew."""
    generator = numpy_generator(seed, "random_subset")
    return np.stack([generator.choice(len(dataset), size, replace=False) for _ in range(sets)])


def random_subset(
    dataset: OfflineDataset,
    config: PipelineConfig,
    arena: Arena,
    stage: str,
    labels: NDArray[np.float32] | None = None,
) -> Returns:
    """Normalised returns [K, M] of policies trained on as many random rows of the dataset.

    Every policy gets rows of its own, with the dataset's actions or with other `labels` [N, A], in
    units of the bounds, so that the spread includes the luck of the draw. The learning rate is
    `inner_lr`: learned rates belong to the rows that they were learned with.
    """
    size, sets = config.distill.synthetic_size, config.evaluation.policies
    picks = random_rows(dataset, size, sets, config.seed)
    return evaluate_rows(
        torch.as_tensor(arena.units.normalized_states(dataset.observations[picks])),
        torch.as_tensor((dataset.unit_actions if labels is None else labels)[picks]),
        [applied(config.evaluation, own_recipe(config.distill))] * sets,
        arena,
        1,
        config.evaluation.episodes,
        config.seed,
        stage,
        ensemble=config.evaluation.ensemble,
    )


def bc_on_all_data(config: PipelineConfig, expert: ExpertConfig, steps: int) -> PipelineConfig:
    """The settings of a run whose expert is behavioural cloning of all the data.

    Args:
        config: of a run.
        expert: a study's own, not that of the run, where experts are searched: all its runs are
            held against one cloning. Its networks are used, where it is cloned from episodes.
        steps: gradient steps of the cloning.
    """
    own = expert if isinstance(expert, PercentBCConfig) else PercentBCConfig()
    cloning = {"fraction": 1.0, "episodes": None, "ensemble": 1, "steps": steps, "value_steps": 50}
    update = {"expert": own.model_copy(update=cloning), "device": "cpu"}
    return config.model_copy(update=update)
