"""What an export says for itself: where its rows come from, and their score on fresh seeds."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdw_core.artifact import CONFIRM, Artifact, score
from sdw_core.baselines import random_subset
from sdw_core.config import EvaluationConfig, PipelineConfig
from sdw_core.evaluate import one_thread
from sdw_core.manifest import OF_ENSEMBLES
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
        | networks_of(config.evaluation)
        | {"seed": config.seed, "stage": CONFIRM},
        "scores": {},
    }


def networks_of(evaluation: EvaluationConfig) -> dict[str, int]:
    """What is stated of policies that are ensembles; of single ones nothing is."""
    return {"ensemble": evaluation.ensemble} if evaluation.ensemble > 1 else {}


def confirmed_scores(
    artifact: Artifact, dataset: OfflineDataset, config: PipelineConfig, found: dict[str, Any]
) -> dict[str, Any]:
    """Scores of the rows and of as many random ones on fresh seeds, beside what the run found.

    By the rows' own recipe, whatever protocol the search evaluated by: an export states what its
    recipe does. Where the search's policies were ensembles, both are stated, of single policies
    first: these are the first K of the ensembles' K * E networks, and policy k of either kind
    starts its episodes alike.

    Args:
        artifact: the rows.
        dataset: their source.
        config: how many policies, networks of a policy and episodes, and the root seed.
        found: the run's own `expert` and `normalized_return`.
    """
    seed, size = config.seed, config.evaluation.model_dump(include={"policies", "episodes"})
    scores: dict[str, Any] = {}
    for networks in sorted({1, config.evaluation.ensemble}):
        evaluation = EvaluationConfig(**size, ensemble=networks)
        judged = config.model_copy(update={"evaluation": evaluation})
        with one_thread():
            subset = random_subset(dataset, judged, artifact.arena, CONFIRM)
        returns = {"synthetic": artifact.evaluate(evaluation, seed), "random_subset": subset}
        kind = OF_ENSEMBLES if networks > 1 else ""
        scores |= {name + kind: score(each, seed, networks) for name, each in returns.items()}
    return scores | {
        "expert": found["expert"],
        "search": found["normalized_return"] | networks_of(config.evaluation),
    }


def source_states(dataset: OfflineDataset, seed: int) -> NDArray[np.float32]:
    """Some of the dataset's normalised states [*, O], for a card's picture."""
    count = min(PICTURED_STATES, len(dataset))
    picks = numpy_generator(seed, "card").choice(len(dataset), count, replace=False)
    return dataset.units.normalized_states(dataset.observations[np.sort(picks)])
