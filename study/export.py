"""From a finished trial to an exported dataset, judged on seeds that the search never used."""

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sdw_core.artifact import (
    CONFIRM,
    Artifact,
    read_artifact,
    refuse_existing,
    score,
    write_artifact,
)
from sdw_core.baselines import random_subset
from sdw_core.config import EvaluationConfig, PipelineConfig
from sdw_core.dataset import OfflineDataset, load_dataset
from sdw_core.errors import InputError
from sdw_core.evaluate import Arena
from sdw_core.files import read_whole, sha256_of_file, write_json
from sdw_core.identity import METHOD, Sources
from sdw_core.normalizer import Normalizer
from sdw_core.protocols import own_recipe
from sdw_core.seeds import numpy_generator
from sdw_core.validation import parse
from study.folder import StudyFolder
from study.outcomes import UNITS, config_hash, finished_result
from study.preflight import check_writable

PICTURED_STATES = 4000
"""Source states in a card's picture."""


@dataclass(frozen=True)
class Confirmed:
    """A trial's rows with their evidence, and some states of the source beside them."""

    artifact: Artifact
    source_states: NDArray[np.float32]


def confirm(
    folder: StudyFolder, number: int, dataset: OfflineDataset, license: str | None = None
) -> Confirmed:
    """Re-evaluate a trial's best rows on fresh seeds, beside random rows and the expert.

    The scores are kept in the trial's folder, if it can be written, so that asking again costs
    nothing; they count for the settings, the rows and the method that they were found with.

    Args:
        folder: the study.
        number: a COMPLETE trial.
        dataset: what its rows were distilled from.
        license: as for `evidence_of`.

    Raises:
        InputError: its folder does not hold its result any more, or the dataset is another.
    """
    trial = folder.trial(number)
    config, result, rows = found_by(folder, number)
    _require_source_of(result, dataset, config, number)
    units: dict[str, Any] = {name: rows[name].numpy() for name in UNITS if name in rows}
    arena = replace(Arena.of(dataset, Normalizer.fit(dataset.observations)), **units)
    best = result["best"]
    recipe = own_recipe(config.distill, result["learning_rates"][best])
    seed = result["distillation_seeds"][best]
    evidence = evidence_of(config, result["dataset"], seed, dataset, license)
    artifact = Artifact.distilled(
        rows["observations"][best], rows["actions"][best], arena, recipe, evidence
    )
    kept = trial / "confirmed.json"
    of = {
        "config_hash": result["config_hash"],
        "rows": sha256_of_file(trial / "rows.safetensors"),
        "scores": dataset.reference_scores and list(dataset.reference_scores),
        "method": METHOD["evaluate"],
    }
    document = read_whole(kept) or {}
    if {key: document.pop(key, None) for key in of} != of:
        document = confirmed_scores(artifact, dataset, config, result)
        if os.access(trial, os.W_OK):
            write_json(kept, of | document)
    evidence["scores"] = document
    return Confirmed(artifact, source_states(dataset, config.seed))


def _require_source_of(
    result: dict[str, Any], dataset: OfflineDataset, config: PipelineConfig, number: int
) -> None:
    """Refuse a dataset that is not the one that a trial's rows were distilled from.

    Raises:
        InputError: its content or its reference scores changed.
    """
    now = Sources(dataset.content_hash, dataset.reference_scores)
    if what := Sources.stated_by(result).changed(now, config):
        raise InputError(
            f"{what[0].upper()}{what[1:]} changed since trial {number} was distilled from it, so "
            "that its rows cannot be judged beside it; put back what was there, and export again."
        )


def found_by(
    folder: StudyFolder, number: int
) -> tuple[PipelineConfig, dict[str, Any], dict[str, Tensor]]:
    """A COMPLETE trial's settings, its result and its rows.

    Raises:
        InputError: its folder does not hold the result and the rows any more.
    """
    book, trial = folder.book(), folder.trial(number)
    row = next(row for row in book.rows() if row.number == number)
    config = book.spec.pipeline_with(row.params)
    result = finished_result(trial, config, folder.inventory().sources(config))
    with suppress(FileNotFoundError, SafetensorError):
        if result is not None:
            return config, result, load_file(trial / "rows.safetensors")
    raise InputError(
        f"{str(trial)!r} does not hold the result of trial {number} any more; put it back, or "
        f"remove that folder and let `sdw status {folder.path} --rebuild` and then `sdw resume "
        f"{folder.path}` compute a trial of that number anew."
    )


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


def _require_rows_of(
    artifact: Artifact,
    target: Path,
    trial: Path,
    config: PipelineConfig,
    result: dict[str, Any],
    rows: dict[str, Tensor],
) -> None:
    """Refuse an export that was not made of a trial's result.

    Raises:
        InputError: its source, settings or rows are others.
    """
    best = result["best"]
    stated = artifact.evidence
    made = Artifact.distilled(
        rows["observations"][best], rows["actions"][best], artifact.arena, artifact.recipe, stated
    )
    same = (
        config_hash(parse(PipelineConfig, stated["config"], "config")) == config_hash(config)
        and result["dataset"].items() <= stated["source"].items()
        and np.array_equal(made.observations, artifact.observations)
        and np.array_equal(made.actions, artifact.actions)
    )
    if not same:
        raise InputError(
            f"{str(target)!r} holds other rows than {str(trial)!r}, as if the trial had been run "
            "again since; move it away, or choose another folder with `--to`."
        )


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
    default, one that was written before is verified, compared with the trial, and left as it is.

    Args:
        folder: the study.
        numbers: COMPLETE trials.
        to: where; None: the study's own `exports`.
        license: as for `evidence_of`.

    Raises:
        InputError: there is nothing to export, or a folder exists, or cannot be written, or holds
            something else than the trial's rows, or a trial left nothing, or its dataset changed.
    """
    if not numbers:
        raise InputError(
            f"The study {folder.name!r} has no COMPLETE trial to export; see `sdw status "
            f"{folder.name}`."
        )
    targets = [(to or folder.exports) / f"trial-{number}" for number in numbers]
    for target in targets:
        if not (target.exists() and to is None and license is None):
            refuse_existing(target)
    datasets: dict[str, OfflineDataset] = {}
    wanted: list[tuple[int, Path, OfflineDataset]] = []
    for number, target in zip(numbers, targets, strict=True):
        trial, (config, result, rows) = folder.trial(number), found_by(folder, number)
        if target.exists():
            artifact = read_artifact(target, trust=True)
            _require_rows_of(artifact, target, trial, config, result, rows)
            continue
        if config.source not in datasets:
            datasets[config.source] = load_dataset(config)
        _require_source_of(result, datasets[config.source], config, number)
        wanted.append((number, target, datasets[config.source]))
    if wanted:
        check_writable(to or folder.exports, "--to")
    for number, target, dataset in wanted:
        confirmed = confirm(folder, number, dataset, license)
        write_artifact(confirmed.artifact, target, confirmed.source_states)
    return targets
