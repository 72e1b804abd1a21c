"""From a finished trial to an exported dataset, judged on seeds that the search never used."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from sdw_core.artifact import (
    CONFIRM,
    Artifact,
    read_artifact,
    refuse_existing,
    score,
    write_artifact,
)
from sdw_core.config import EvaluationConfig, PipelineConfig
from sdw_core.dataset import OfflineDataset, load_dataset
from sdw_core.errors import InputError
from sdw_core.files import read_json, write_json
from sdw_core.normalizer import Normalizer
from sdw_core.pipeline import build_arena, own_recipe, random_subset
from sdw_core.seeds import numpy_generator
from study.folder import StudyFolder
from study.outcomes import finished_result
from study.preflight import check_writable

PICTURED_STATES = 4000
"""Source states in a card's picture."""


@dataclass(frozen=True)
class Confirmed:
    """A trial's rows with their evidence, and some states of the source beside them."""

    artifact: Artifact
    source_states: NDArray[np.float32]


def confirm(folder: StudyFolder, number: int, license: str | None = None) -> Confirmed:
    """Re-evaluate a trial's best rows on fresh seeds, beside random rows and the expert.

    The scores are kept in the trial's folder, if it can be written, so that asking again costs
    nothing; they count for the settings that they were found with.

    Args:
        folder: the study.
        number: a COMPLETE trial.
        license: as for `evidence_of`.

    Raises:
        InputError: its folder does not hold its result any more.
    """
    trial = folder.trial(number)
    config, result = found_by(folder, number)
    dataset = load_dataset(config)
    arena = build_arena(dataset, Normalizer.fit(dataset.observations))
    rows = load_file(trial / "rows.safetensors")
    best = result["best"]
    recipe = own_recipe(config.distill, result["learning_rates"][best])
    seed = result["distillation_seeds"][best]
    evidence = evidence_of(config, result["dataset"], seed, dataset, license)
    artifact = Artifact.distilled(
        rows["observations"][best], rows["actions"][best], arena, recipe, evidence
    )
    kept = trial / "confirmed.json"
    settings = result["config_hash"]
    scores = read_json(kept) if kept.exists() else {}
    if scores.pop("config_hash", None) != settings:
        scores = confirmed_scores(artifact, dataset, config, result)
        if os.access(trial, os.W_OK):
            write_json(kept, {"config_hash": settings} | scores)
    evidence["scores"] = scores
    return Confirmed(artifact, source_states(dataset, config.seed))


def found_by(folder: StudyFolder, number: int) -> tuple[PipelineConfig, dict[str, Any]]:
    """A COMPLETE trial's settings, and its result.

    Raises:
        InputError: its folder does not hold the result and the rows any more.
    """
    book, trial = folder.book(), folder.trial(number)
    row = next(row for row in book.rows() if row.number == number)
    config = book.spec.pipeline_with(row.params)
    result = finished_result(trial, config)
    if result is None or not (trial / "rows.safetensors").exists():
        raise InputError(
            f"{str(trial)!r} does not hold the result of trial {number} any more; put it back, or "
            f"let `sdw status {folder.path} --rebuild` and then `sdw resume {folder.path}` compute "
            "a trial of that number anew."
        )
    return config, result


def evidence_of(
    config: PipelineConfig,
    source: dict[str, Any],
    seed: int,
    dataset: OfflineDataset,
    license: str | None = None,
) -> dict[str, Any]:
    """An export's evidence, but for its scores: where its rows come from and how they are judged.

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
    and what its recipe does. On one torch thread, as `sdw evaluate` does, so that it finds the same
    numbers.

    Args:
        artifact: the rows.
        dataset: their source.
        config: how many policies and episodes, and the root seed.
        found: the run's own `expert` and `normalized_return`.
    """
    torch.set_num_threads(1)
    evaluation = EvaluationConfig(
        policies=config.evaluation.policies, episodes=config.evaluation.episodes
    )
    config = config.model_copy(update={"evaluation": evaluation})
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
    normalize = Normalizer.fit(dataset.observations)
    return normalize(dataset.observations[np.sort(picks)]).astype(np.float32, copy=False)


def export(
    folder: StudyFolder, numbers: list[int], to: Path | None = None, license: str | None = None
) -> list[Path]:
    """Write one folder a trial, `to/trial-N`.

    A folder that exists is refused before any is written; but in the study's own `exports`, the
    default, one that was written before is verified and left as it is.

    Args:
        folder: the study.
        numbers: COMPLETE trials.
        to: where; None: the study's own `exports`.
        license: as for `evidence_of`.

    Raises:
        InputError: there is nothing to export, or a folder exists, or cannot be written, or a trial
            left nothing.
    """
    if not numbers:
        raise InputError(
            f"The study {folder.name!r} has no COMPLETE trial to export; see `sdw status "
            f"{folder.name}`."
        )
    targets = [(to or folder.exports) / f"trial-{number}" for number in numbers]
    for target in targets:
        if target.exists() and to is None and license is None:
            read_artifact(target, trust=True)
        else:
            refuse_existing(target)
    wanted = [
        (n, target) for n, target in zip(numbers, targets, strict=True) if not target.exists()
    ]
    for number, _ in wanted:
        found_by(folder, number)
    if wanted:
        check_writable(to or folder.exports, "--to")
    for number, target in wanted:
        confirmed = confirm(folder, number, license)
        write_artifact(confirmed.artifact, target, confirmed.source_states)
    return targets
