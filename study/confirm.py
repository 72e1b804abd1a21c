"""A study's best trials, judged on seeds that the search never used: their race, their scores."""

import logging
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

from sdw_core.artifact import CONFIRM, Artifact, score
from sdw_core.baselines import bc_on_all_data
from sdw_core.config import PipelineConfig
from sdw_core.dataset import OfflineDataset, load_dataset
from sdw_core.errors import DivergenceError, InputError
from sdw_core.evaluate import Arena, one_thread
from sdw_core.evidence import confirmed_scores, evidence_of, networks_of, source_states
from sdw_core.files import read_whole, sha256_of_file, write_json
from sdw_core.identity import METHOD, Sources
from sdw_core.pipeline import Pipeline
from sdw_core.protocols import applied, own_recipe
from sdw_core.units import Units
from study.book import TrialBook
from study.folder import StudyFolder
from study.outcomes import COMPLETE, TrialResult, finished_result
from study.race import POLICIES, STAGE, VERSION, Race, entered, race, raced, races

logger = logging.getLogger(__name__)

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

    That are random rows, behavioural cloning of all the data (`study.bc_steps`) and the expert; and
    by how much the rows' score shrank from that of the search. The scores are kept in the trial's
    folder, if it can be written, so that asking again costs nothing; they count for the settings,
    the rows and the method that they were found with.

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
    kept = folder.trial(number) / "confirmed.json"
    judged = _judged(folder, number, lambda config: dataset, license)
    config, of = judged.config, judged.of
    before = read_whole(kept) or {}
    document = {key: value for key, value in before.items() if key not in of}
    if {key: before.get(key) for key in of} != of:
        say(ON_FRESH_SEEDS)
        document = confirmed_scores(judged.artifact, dataset, config, judged.result.to_json())
    if judged.by_own_recipe:
        fresh = document.get("synthetic_ensemble", document["synthetic"])
        less = {"shrinkage": judged.searched[0] - fresh["mean"]}
        document["search"] = document["search"] | less
    book = folder.book()
    if document.get(ALL_DATA, {}).get("steps", 0) != (steps := book.spec.study.bc_steps):
        document.pop(ALL_DATA, None)
        if steps:
            cloning = bc_on_all_data(config, book.spec.pipeline.expert, steps)
            try:
                document[ALL_DATA] = _bc_score(cloning, dataset, cache, say) | {"steps": steps}
            except (DivergenceError, InputError) as error:  # the rows are whole without it
                logger.warning(f"BC on all data is not judged: {error}")
    if of | document != before and os.access(kept.parent, os.W_OK):
        write_json(kept, of | document)
    race = raced(folder, book)
    told = {"race": stated} if race and (stated := race_told(race, number)) else {}
    judged.artifact.evidence["scores"] = document | told
    return Confirmed(judged.artifact, source_states(dataset, config.seed))


def race_told(race: Race, number: int) -> dict[str, Any] | None:
    """What a trial's manifest states of a race; None: the trial was none of its contenders."""
    return {"trial": number} | race.told if number in race.contenders else None


def hold_race(folder: StudyFolder, book: TrialBook) -> Race | None:
    """Let a study's best trials race, once all have ended; None where they are not to.

    What each trial's policies returned is kept in its folder: neither an interruption nor another
    race of some of the same trials judges anything twice. A race by an earlier version's method is
    held anew, as far as the trials can be judged. See `study.race`.
    """
    if not races(book.spec) or book.remaining():
        return None
    found = raced(folder, book)
    if found and found.method == VERSION:
        return found
    contenders, evaluations = entered(book)
    load = reader()
    try:
        judged = {number: _judged(folder, number, load) for number in contenders}
    except InputError as error:  # what is left of the trials is whole without a race
        logger.warning(f"the best trials do not race: {error}")
        return found
    if not judged:
        return found
    kept = {number: folder.trial(number) / "race.json" for number in judged}
    rounds = {number: _rounds(kept[number], each) for number, each in judged.items()}

    def judge(number: int, round: int) -> NDArray[np.float64]:
        if round == len(rounds[number]):
            rounds[number].append(_in_round(judged[number], round))
            if os.access(kept[number].parent, os.W_OK):
                write_json(kept[number], {"of": judged[number].raced, "rounds": rounds[number]})
        return np.array(rounds[number][round])

    searched = {number: each.searched for number, each in judged.items()}
    of_best = any(len(each.result.distillation_seeds) > 1 for each in judged.values())
    found = race(searched, judge, evaluations, of_best=of_best)
    if os.access(folder.path, os.W_OK):
        write_json(folder.race, found.to_json())
    return found


def _rounds(kept: Path, judged: "_Judged") -> list[list[float]]:
    """What a trial's policies returned in an earlier race, round by round."""
    document = read_whole(kept)
    if not isinstance(document, dict) or document.get("of") != judged.raced:
        return []
    try:
        rounds = np.array(document.get("rounds"), dtype=np.float64)
    except (ValueError, TypeError):
        return []
    whole = rounds.ndim == 2 and rounds.shape[1] == POLICIES and np.isfinite(rounds).all()
    return rounds.tolist() if whole else []


def _in_round(judged: "_Judged", round: int) -> list[float]:
    """Return of each fresh policy of a trial, by the evaluation that its search was by."""
    size = {"policies": POLICIES, "episodes": 1}
    evaluation = judged.config.evaluation.model_copy(update=size)
    try:
        returns = judged.artifact.evaluate(evaluation, stage=f"{STAGE}-{round}")
    except DivergenceError:  # such policies are worth what random ones are
        return [0.0] * POLICIES
    return [float(episode) for (episode,) in returns]


def reader() -> Callable[[PipelineConfig], OfflineDataset]:
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

    @property
    def searched(self) -> tuple[float, int]:
        """Mean return of the rows in the search, and how many policies that is the mean of."""
        policies, summary = self.result.of_best, self.result.normalized_return
        assert summary is not None
        # Of a trial that was judged by few policies, see `TrialResult.judged`.
        unbiased = self.result.metrics.get("normalized_return", summary.mean) - summary.mean
        return float(np.mean(policies) + unbiased), len(policies)

    @property
    def by_own_recipe(self) -> bool:
        """Whether the search cloned policies as an export does, so that the scores compare."""
        return applied(self.config.evaluation, self.artifact.recipe) == self.artifact.recipe

    @property
    def raced(self) -> dict[str, Any]:
        """What its returns in a race hang on."""
        return self.of | {"policies": POLICIES}


def _judged(
    folder: StudyFolder,
    number: int,
    load: Callable[[PipelineConfig], OfflineDataset],
    license: str | None = None,
) -> _Judged:
    config, result, rows = found_by(folder, number)
    dataset = load(config)
    require_source_of(result, dataset, config, number)
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


def _bc_score(
    cloning: PipelineConfig, dataset: OfflineDataset, cache: Path, say: Say
) -> dict[str, Any]:
    """A manifest's account of behavioural cloning of all the data, from the rows' own starts.

    It is one policy: each of its episodes counts as one.

    Args:
        cloning: `bc_on_all_data`.
        dataset: all the data.
        cache: of the study's stages.
        say: told what is being done.
    """

    def progress(stage: str, fraction: float) -> None:
        say(f"cloning all of the data, to compare: {fraction:.0%}")

    pipeline = Pipeline(cloning, cache, progress)
    with one_thread():
        returns = pipeline.judged_expert(dataset, CONFIRM)
    return score(returns.reshape(-1, 1), cloning.seed)


@contextmanager
def cache_of(folder: StudyFolder) -> Iterator[Path]:
    """The study's stage cache, or one for the block where the study cannot be written."""
    if os.access(folder.path, os.W_OK):
        yield folder.cache
    else:
        with TemporaryDirectory() as scratch:
            yield Path(scratch)


def require_source_of(
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
