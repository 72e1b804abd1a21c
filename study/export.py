"""From a finished trial to an exported dataset, judged on seeds that the search never used."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from sdw_core.artifact import CONFIRM, Artifact, read_artifact, score, write_artifact
from sdw_core.dataset import OfflineDataset, load
from sdw_core.errors import InputError
from sdw_core.evaluate import Recipe
from sdw_core.files import read_json, write_json
from sdw_core.normalizer import Normalizer
from sdw_core.pipeline import build_arena, random_subset
from sdw_core.seeds import numpy_generator
from study.folder import StudyFolder, check_writable

PICTURED_STATES = 4000
"""Source states in a card's picture."""


@dataclass(frozen=True)
class Confirmed:
    """A trial's rows with their evidence, and some states of the source beside them."""

    artifact: Artifact
    source_states: NDArray[np.float32]


def confirm(folder: StudyFolder, number: int) -> Confirmed:
    """Re-evaluate a trial's best rows on fresh seeds, beside random rows and the expert.

    The scores are kept in the trial's folder, so that asking again costs nothing.

    Args:
        folder: the study.
        number: a COMPLETE trial.
    """
    spec, trial = folder.spec(), folder.trial(number)
    result = read_json(trial / "result.json")
    row = next(row for row in folder.book().rows() if row.number == number)
    config = spec.pipeline_with(row.params)
    dataset = load(config.dataset)
    arena = build_arena(dataset, Normalizer.fit(dataset.observations))
    distill = config.distill
    rows = load_file(trial / "rows.safetensors")
    best = result["best"]
    recipe = Recipe(
        distill.layers, distill.width, distill.inner_steps, tuple(result["learning_rates"][best])
    )
    evidence = {
        "source": result["dataset"],
        "config": config.model_dump(mode="json"),
        "distillation_seed": result["distillation_seeds"][best],
        "evaluation": config.evaluation.model_dump() | {"seed": config.seed, "stage": CONFIRM},
        "scores": {},
    }
    artifact = Artifact.distilled(
        rows["observations"][best], rows["actions"][best], arena, recipe, evidence
    )
    kept = trial / "confirmed.json"
    if not kept.exists():
        policies, episodes = config.evaluation.policies, config.evaluation.episodes
        subset = random_subset(dataset, config, arena, CONFIRM)
        scores = {
            "synthetic": score(artifact.evaluate(policies, episodes, config.seed), config.seed),
            "random_subset": score(subset, config.seed),
            "expert": result["expert"],
            "search": result["normalized_return"],
        }
        write_json(kept, scores)
    evidence["scores"] = read_json(kept)
    return Confirmed(artifact, source_states(dataset, config.seed))


def source_states(dataset: OfflineDataset, seed: int) -> NDArray[np.float32]:
    """Some of the dataset's normalised states [*, O], for a card's picture."""
    count = min(PICTURED_STATES, len(dataset))
    picks = numpy_generator(seed, "card").choice(len(dataset), count, replace=False)
    normalize = Normalizer.fit(dataset.observations)
    return normalize(dataset.observations[np.sort(picks)]).astype(np.float32, copy=False)


def export(folder: StudyFolder, numbers: list[int], to: Path | None = None) -> list[Path]:
    """Write one folder a trial, `to/trial-N`.

    A folder that exists is refused before any is written; but in the study's own `exports`, the
    default, one that was written before is verified and left as it is.

    Raises:
        InputError: there is nothing to export, or a folder exists, or cannot be written.
    """
    if not numbers:
        raise InputError(
            f"The study {folder.name!r} has no COMPLETE trial to export; see `sdw status "
            f"{folder.name}`."
        )
    targets = [(to or folder.exports) / f"trial-{number}" for number in numbers]
    for target in targets:
        if target.exists() and to is None:
            read_artifact(target)
        elif target.exists():
            raise InputError(
                f"An export never overwrites, and {str(target)!r} exists: remove it, or choose "
                "another folder with `--to`."
            )
    check_writable(to or folder.exports)
    torch.set_num_threads(1)  # as `sdw evaluate` does, so that it finds the same numbers
    for number, target in zip(numbers, targets, strict=True):
        if target.exists():
            continue
        confirmed = confirm(folder, number)
        write_artifact(confirmed.artifact, target, confirmed.source_states)
    return targets
