"""From a finished trial to an exported dataset, judged on seeds that the search never used."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sdw_core.artifact import (
    CONFIRM,
    Artifact,
    Filming,
    read_artifact,
    refuse_existing,
    score,
    write_artifact,
)
from sdw_core.baselines import bc_on_all_data
from sdw_core.config import PipelineConfig, as_written
from sdw_core.dataset import OfflineDataset, load_dataset
from sdw_core.errors import InputError
from sdw_core.evaluate import Arena, one_thread
from sdw_core.evidence import confirmed_scores, evidence_of, networks_of, source_states
from sdw_core.files import read_whole, sha256_of_file, write_json
from sdw_core.identity import METHOD, Sources
from sdw_core.labels import FILM
from sdw_core.pipeline import Pipeline
from sdw_core.protocols import own_recipe
from sdw_core.units import Units
from sdw_core.validation import parse
from study.folder import StudyFolder
from study.outcomes import COMPLETE, TrialResult, config_hash, finished_result
from study.preflight import check_writable

ALL_DATA = "bc_all_data"
"""The score of behavioural cloning of all the data."""
ON_FRESH_SEEDS = "re-evaluating on fresh seeds"
Say = Callable[[str], None]
"""Told what is being done."""


def unheard(said: str) -> None:
    """Where nobody asks what is being done."""


@dataclass(frozen=True)
class Confirmed:
    """A trial's rows with their evidence, and some states of the source beside them."""

    artifact: Artifact
    source_states: NDArray[np.float32]


def confirm(
    folder: StudyFolder,
    number: int,
    dataset: OfflineDataset,
    cache: Path,
    license: str | None = None,
    say: Say = unheard,
) -> Confirmed:
    """Re-evaluate a trial's best rows on fresh seeds, beside what they have to beat.

    That are random rows, behavioural cloning of all the data (`study.bc_steps`) and the expert. The
    scores are kept in the trial's folder, if it can be written, so that asking again costs nothing;
    they count for the settings, the rows and the method that they were found with.

    Args:
        folder: the study.
        number: a COMPLETE trial.
        dataset: what its rows were distilled from.
        cache: of the study's stages; see `cache_of`.
        license: as for `evidence_of`.
        say: told what is being done.

    Raises:
        InputError: its folder does not hold its result any more, or the dataset is another.
    """
    trial = folder.trial(number)
    config, result, rows = found_by(folder, number)
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
    kept = trial / "confirmed.json"
    of = {
        "config_hash": result.config_hash,
        "rows": sha256_of_file(trial / "rows.safetensors"),
        "scores": dataset.reference_scores and list(dataset.reference_scores),
        "method": METHOD["evaluate"],
    } | networks_of(config.evaluation)
    before = read_whole(kept) or {}
    document = {key: value for key, value in before.items() if key not in of}
    if {key: before.get(key) for key in of} != of:
        say(ON_FRESH_SEEDS)
        document = confirmed_scores(artifact, dataset, config, result.to_json())
    if document.get(ALL_DATA, {}).get("steps", 0) != (steps := folder.spec().study.bc_steps):
        document.pop(ALL_DATA, None)
        if steps:
            document[ALL_DATA] = _bc_score(config, dataset, steps, cache, say)
    if of | document != before and os.access(trial, os.W_OK):
        write_json(kept, of | document)
    evidence["scores"] = document
    return Confirmed(artifact, source_states(dataset, config.seed))


def _bc_score(
    config: PipelineConfig, dataset: OfflineDataset, steps: int, cache: Path, say: Say
) -> dict[str, Any]:
    """A manifest's account of behavioural cloning of all the data, from the rows' own starts.

    It is one policy: each of its episodes counts as one.
    """

    def progress(stage: str, fraction: float) -> None:
        say(f"cloning all of the data, to compare: {fraction:.0%}")

    pipeline = Pipeline(bc_on_all_data(config, steps), cache, progress)
    with one_thread():
        returns = pipeline.judged_expert(dataset, CONFIRM)
    return score(returns.reshape(-1, 1), config.seed) | {"steps": steps}


@contextmanager
def cache_of(folder: StudyFolder) -> Iterator[Path]:
    """The study's stage cache, or one for the block where the study cannot be written."""
    if os.access(folder.path, os.W_OK):
        yield folder.cache
    else:
        with TemporaryDirectory() as scratch:
            yield Path(scratch)


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
    say: Say = unheard,
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
        say: told what is being done.

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
    datasets: dict[str, OfflineDataset] = {}
    wanted: list[tuple[int, Path, OfflineDataset]] = []
    for number, target in zip(numbers, targets, strict=True):
        trial, (config, result, rows) = folder.trial(number), found_by(folder, number)
        if target.exists():
            artifact = read_artifact(target, trust=True)
            _require_rows_of(artifact, target, trial, config, result, rows)
            if film and not (target / FILM).exists():
                film(artifact, target / FILM)
            continue
        if config.source not in datasets:
            datasets[config.source] = load_dataset(config)
        _require_source_of(result, datasets[config.source], config, number)
        wanted.append((number, target, datasets[config.source]))
    if wanted:
        check_writable(to or folder.exports, "to")
    with cache_of(folder) as cache:
        for number, target, dataset in wanted:
            confirmed = confirm(folder, number, dataset, cache, license, say)
            write_artifact(confirmed.artifact, target, confirmed.source_states, film)
    return targets
