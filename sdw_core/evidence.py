"""What an export says for itself: where its rows come from, and their score on fresh seeds."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdw_core.artifact import CONFIRM, Artifact, score
from sdw_core.baselines import random_subset
from sdw_core.config import EvaluationConfig, PipelineConfig
from sdw_core.evaluate import one_thread
from sdw_core.offline_dataset import OfflineDataset
from sdw_core.seeds import numpy_generator

PICTURED_STATES = 4000
"""Source states in a card's picture."""


def evidence_of(
    config: PipelineConfig,
    source: dict[str, Any],
    seed: int,
    dataset: OfflineDataset,
    license: str | None = None,
) -> dict[str, Any]:
    """An export's evidence without its scores: where its rows come from and how they are judged.

    Args:
        config: the settings that the rows were distilled with.
        source: name, content hash and size of the dataset.
        seed: the distillation seed of the rows.
        dataset: the source itself.
        license: the export's, where it is chosen; None: the source's, if that states one.
    """
    return {
        "source": source
        | {
            "reference_source": dataset.reference_source,
            "license": license or dataset.license,
        },
        "config": config.model_dump(mode="json"),
        "distillation_seed": seed,
        "evaluation": config.evaluation.model_dump(include={"policies", "episodes"})
        | {"seed": config.seed, "stage": CONFIRM},
        "scores": {},
    }


def confirmed_scores(
    artifact: Artifact, dataset: OfflineDataset, config: PipelineConfig, found: dict[str, Any]
) -> dict[str, Any]:
    """Scores of the rows and of as many random ones on fresh seeds, beside what the run found.

    By the rows' own recipe, whatever protocol the search evaluated by: an export states one score,
    and what its recipe does.

    Args:
        artifact: the rows.
        dataset: their source.
        config: how many policies and episodes, and the root seed.
        found: the run's own `expert` and `normalized_return`.
    """
    evaluation = EvaluationConfig(
        policies=config.evaluation.policies, episodes=config.evaluation.episodes
    )
    config = config.model_copy(update={"evaluation": evaluation})
    with one_thread():
        subset = random_subset(dataset, config, artifact.arena, CONFIRM)
    return {
        "synthetic": score(artifact.evaluate(evaluation, config.seed), config.seed),
        "random_subset": score(subset, config.seed),
        "expert": found["expert"],
        "search": found["normalized_return"],
    }


def source_states(dataset: OfflineDataset, seed: int) -> NDArray[np.float32]:
    """Some of the dataset's normalised states [*, O], for a card's picture."""
    count = min(PICTURED_STATES, len(dataset))
    picks = numpy_generator(seed, "card").choice(len(dataset), count, replace=False)
    return dataset.units.normalized_states(dataset.observations[np.sort(picks)])
