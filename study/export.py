"""From a finished trial to an exported dataset, judged on seeds that the search never used."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sdw_core.artifact import Artifact, Filming, read_artifact, refuse_existing, write_artifact
from sdw_core.config import PipelineConfig, as_written
from sdw_core.dataset import OfflineDataset, load_dataset
from sdw_core.errors import DivergenceError, InputError
from sdw_core.evaluate import Arena
from sdw_core.evidence import confirmed_scores, evidence_of, networks_of, source_states
from sdw_core.files import read_whole, sha256_of_file, write_json
from sdw_core.identity import METHOD, Sources
from sdw_core.labels import FILM
from sdw_core.protocols import own_recipe
from sdw_core.units import Units
from sdw_core.validation import parse
from study.folder import StudyFolder
from study.outcomes import COMPLETE, TrialResult, config_hash, finished_result
from study.preflight import check_writable
from study.race import POLICIES, STAGE, Race, entered, race, raced, races


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
    kept = folder.trial(number) / "confirmed.json"
    judged = _judged(folder, number, lambda config: dataset, license)
    document = read_whole(kept) or {}
    if {key: document.pop(key, None) for key in judged.of} != judged.of:
        found = judged.result.to_json()
        document = confirmed_scores(judged.artifact, dataset, judged.config, found)
        if os.access(kept.parent, os.W_OK):
            write_json(kept, judged.of | document)
    judged.artifact.evidence["scores"] = document
    return Confirmed(judged.artifact, source_states(dataset, judged.config.seed))


def hold_race(folder: StudyFolder) -> Race | None:
    """Let a study's best trials race, if they are to race and have not raced; see `study.race`.

    What each trial's policies returned is kept in its folder: neither an interruption nor another
    race of some of the same trials judges anything twice.

    Raises:
        InputError: a trial's folder does not hold its result any more, or its dataset changed.
    """
    book = folder.book()
    if not races(book.spec) or (found := raced(folder, book)):
        return found
    contenders, evaluations = entered(book)
    if len(contenders) < 2:
        return None
    load = _loader()
    judged = {number: _judged(folder, number, load) for number in contenders}

    def judge(number: int, round: int) -> NDArray[np.float64]:
        return _in_round(folder.trial(number) / "race.json", judged[number], round)

    found = race(contenders, judge, evaluations)
    if os.access(folder.path, os.W_OK):
        write_json(folder.race, found.to_json())
    return found


def _in_round(kept: Path, judged: "_Judged", round: int) -> NDArray[np.float64]:
    """Returns [P] of fresh policies of a trial, by the evaluation that its search was by."""
    document = read_whole(kept) or {}
    rounds: list[list[float]] = document["rounds"] if document.get("of") == judged.of else []
    if round == len(rounds):
        size = {"policies": POLICIES, "episodes": 1}
        evaluation = judged.config.evaluation.model_copy(update=size)
        try:
            returns = judged.artifact.evaluate(evaluation, stage=f"{STAGE}-{round}")[:, 0]
        except DivergenceError:  # such policies are worth what random ones are
            returns = np.zeros(POLICIES)
        rounds = [*rounds, returns.tolist()]
        if os.access(kept.parent, os.W_OK):
            write_json(kept, {"of": judged.of, "rounds": rounds})
    return np.array(rounds[round])


def _loader() -> Callable[[PipelineConfig], OfflineDataset]:
    """Reads each dataset once."""
    datasets: dict[str, OfflineDataset] = {}

    def load(config: PipelineConfig) -> OfflineDataset:
        if config.source not in datasets:
            datasets[config.source] = load_dataset(config)
        return datasets[config.source]

    return load


@dataclass(frozen=True)
class _Judged:
    """A trial's best rows, to be judged.

    Attributes:
        config, result: of the trial.
        artifact: the rows, whose evidence has no scores yet.
        of: what the scores hang on that are found with them.
    """

    config: PipelineConfig
    result: TrialResult
    artifact: Artifact
    of: dict[str, Any]


def _judged(
    folder: StudyFolder,
    number: int,
    load: Callable[[PipelineConfig], OfflineDataset],
    license: str | None = None,
) -> _Judged:
    config, result, rows = found_by(folder, number)
    dataset = load(config)
    _require_source_of(result, dataset, config, number)
    # The first version stated no units.
    stated = {f.name: rows[f.name].numpy() for f in fields(Units) if f.name in rows}
    arena = replace(Arena.of(dataset), units=replace(dataset.units, **stated))
    best = result.best
    recipe = own_recipe(config.distill, result.learning_rates[best])
    seed = result.distillation_seeds[best]
    evidence = evidence_of(config, result.dataset, seed, dataset, license)
    artifact = Artifact.distilled(
        rows["observations"][best], rows["actions"][best], arena, recipe, evidence
    )
    of = {
        "config_hash": result.config_hash,
        "rows": sha256_of_file(folder.trial(number) / "rows.safetensors"),
        "scores": dataset.reference_scores and list(dataset.reference_scores),
        "method": METHOD["evaluate"],
    } | networks_of(config.evaluation)
    return _Judged(config, result, artifact, of)


def _require_source_of(
    result: TrialResult, dataset: OfflineDataset, config: PipelineConfig, number: int
) -> None:
    """Refuse a dataset that is not the one that a trial's rows were distilled from.

    Raises:
        InputError: its content or its reference scores changed.
    """
    now = Sources(dataset.content_hash, dataset.reference_scores)
    if what := result.made_of.changed(now, config):
        raise InputError(
            f"{what[0].upper()}{what[1:]} changed since trial {number} was distilled from it, so "
            "that its rows cannot be judged beside it; put back what was there, and export again."
        )


def found_by(
    folder: StudyFolder, number: int
) -> tuple[PipelineConfig, TrialResult, dict[str, Tensor]]:
    """A COMPLETE trial's settings, its result and its rows.

    Raises:
        InputError: there is no such trial, or its folder does not hold the result and the rows any
            more.
    """
    book, trial = folder.book(), folder.trial(number)
    row = next((row for row in book.rows() if row.number == number), None)
    if row is None or row.outcome != COMPLETE:
        raise InputError(
            f"Only a COMPLETE trial has rows, and trial {number} of {folder.name!r} is none; see "
            f"`sdw status {folder.called}`."
        )
    config = book.spec.pipeline_with(row.params)
    result = finished_result(trial, config, folder.inventory().sources(config))
    with suppress(FileNotFoundError, SafetensorError):
        if result is not None:
            return config, result, load_file(trial / "rows.safetensors")
    raise InputError(
        f"{str(trial)!r} does not hold the result of trial {number} any more; put it back, or "
        f"remove that folder and let `sdw status {folder.called} --rebuild` and then `sdw "
        f"resume {folder.called}` compute a trial of that number anew."
    )


def _require_rows_of(
    artifact: Artifact,
    target: Path,
    trial: Path,
    config: PipelineConfig,
    result: TrialResult,
    rows: dict[str, Tensor],
) -> None:
    """Refuse an export that was not made of a trial's result.

    Raises:
        InputError: its source, settings or rows are others.
    """
    best = result.best
    stated = artifact.evidence
    made = Artifact.distilled(
        rows["observations"][best], rows["actions"][best], artifact.arena, artifact.recipe, stated
    )
    settings = parse(PipelineConfig, as_written(PipelineConfig, stated["config"]), "config")
    same = (
        config_hash(settings) == config_hash(config)
        and result.dataset.items() <= stated["source"].items()
        and np.array_equal(made.observations, artifact.observations)
        and np.array_equal(made.actions, artifact.actions)
    )
    if not same:
        raise InputError(
            f"{str(target)!r} holds other rows than {str(trial)!r}, as if the trial had been run "
            "again since; move it away, or choose another folder with `to`."
        )


def export(
    folder: StudyFolder,
    numbers: list[int],
    to: Path | None = None,
    license: str | None = None,
    film: Filming | None = None,
) -> list[Path]:
    """Write one folder a trial, `to/trial-N`.

    A folder that exists is refused before any is written; but in the study's own `exports`, the
    default, one that was written before is verified, compared with the trial, and left as it is.

    Args:
        folder: the study.
        numbers: COMPLETE trials.
        to: where; None: the study's own `exports`.
        license: as for `evidence_of`.
        film: as for `write_artifact`; one that was written before without a film gets it beside
            what its manifest lists.

    Raises:
        InputError: there is nothing to export, or a folder exists, or cannot be written, or holds
            something else than the trial's rows, or a trial left nothing, or its dataset changed.
    """
    if not numbers:
        raise InputError(
            f"The study {folder.name!r} has no COMPLETE trial to export; see `sdw status "
            f"{folder.called}`."
        )
    targets = [(to or folder.exports) / f"trial-{number}" for number in numbers]
    for target in targets:
        if not (target.exists() and to is None and license is None):
            refuse_existing(target)
    load = _loader()
    wanted: list[tuple[int, Path, OfflineDataset]] = []
    for number, target in zip(numbers, targets, strict=True):
        trial, (config, result, rows) = folder.trial(number), found_by(folder, number)
        if target.exists():
            artifact = read_artifact(target, trust=True)
            _require_rows_of(artifact, target, trial, config, result, rows)
            if film and not (target / FILM).exists():
                film(artifact, target / FILM)
            continue
        dataset = load(config)
        _require_source_of(result, dataset, config, number)
        wanted.append((number, target, dataset))
    if wanted:
        check_writable(to or folder.exports, "to")
    for number, target, dataset in wanted:
        confirmed = confirm(folder, number, dataset, license)
        write_artifact(confirmed.artifact, target, confirmed.source_states, film)
    return targets
