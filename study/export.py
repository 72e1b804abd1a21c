"""From a finished trial to an exported dataset."""

import logging
from collections.abc import Collection
from pathlib import Path
from shutil import copyfile

import numpy as np
from torch import Tensor

from sdw_core.artifact import Artifact, Filming, read_artifact, refuse_existing, write_artifact
from sdw_core.config import PipelineConfig, as_written
from sdw_core.dataset import OfflineDataset, load_dataset
from sdw_core.errors import InputError
from sdw_core.files import read_whole, replaced_folder
from sdw_core.labels import FILM, GIF, POSTER
from sdw_core.manifest import NAME
from sdw_core.validation import parse
from study.confirm import (
    Say,
    cache_of,
    confirm,
    found_by,
    race_told,
    reader,
    require_source_of,
    unheard,
)
from study.folder import StudyFolder
from study.outcomes import TrialResult, config_hash
from study.preflight import check_writable
from study.race import Race, raced

logger = logging.getLogger(__name__)


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
    formats: Collection[str] = (),
) -> list[Path]:
    """Write one folder a trial, `to/trial-N`.

    A folder that exists is refused before any is written; but in the study's own `exports`, the
    default, one that was written before is verified, compared with the trial, and left as it is,
    unless the study's best trials have raced since: then all that lie there say how.

    Args:
        folder: the study.
        numbers: COMPLETE trials.
        to: where; None: the study's own `exports`.
        license: as for `evidence_of`.
        film: as for `write_artifact`; one that was written before without a film gets it beside
            what its manifest lists.
        say: told what is being done.
        formats: as for `write_artifact`.

    Raises:
        InputError: there is nothing to export, or a folder exists, or cannot be written, or holds
            something else than the trial's rows, or a trial left nothing, or its dataset changed.
    """
    if not numbers:
        within = " within its constraints" if folder.spec().study.constraints else ""
        raise InputError(
            f"The study {folder.name!r} has no COMPLETE trial{within} to export; see `sdw status "
            f"{folder.called}`."
        )
    targets = [(to or folder.exports) / f"trial-{number}" for number in numbers]
    for target in targets:
        if not (target.exists() and to is None and license is None and not formats):
            refuse_existing(target)
    load = reader()
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
        require_source_of(result, dataset, config, number)
        wanted.append((number, target, dataset))
    if wanted:
        check_writable(to or folder.exports, "to")
    with cache_of(folder) as cache:
        for number, target, dataset in wanted:
            confirmed = confirm(folder, number, dataset, cache, license, say)
            write_artifact(confirmed.artifact, target, confirmed.source_states, film, formats)
        book = folder.book()
        if to is None and (race := raced(folder, book)):
            for row in book.rows():
                _bring_up_to_date(folder, row.number, race, cache, say)
    return targets


def _bring_up_to_date(folder: StudyFolder, number: int, race: Race, cache: Path, say: Say) -> None:
    """Let a trial's own export, if there is one, tell of the study's race: it is written anew.

    Its licence and its film stay, and whatever else was put beside them.
    """
    target, trial = folder.exports / f"trial-{number}", folder.trial(number)
    stated = (read_whole(target / NAME) or {}).get("scores", {})
    if not target.is_dir() or stated.get("race") == race_told(race, number):
        return
    try:
        before = read_artifact(target, trust=True)
        config, result, rows = found_by(folder, number)
        _require_rows_of(before, target, trial, config, result, rows)
        license = before.evidence["source"].get("license")
        confirmed = confirm(folder, number, load_dataset(config), cache, license, say)
    except InputError as error:
        logger.warning(f"{str(target)!r} does not tell of the study's last race: {error}")
        return

    def film(artifact: Artifact, path: Path) -> None:
        for name in (FILM, POSTER, GIF):
            copyfile(target / name, path.with_name(name))

    with replaced_folder(target) as scratch:
        filmed = film if (target / FILM).exists() else None
        write_artifact(confirmed.artifact, scratch, confirmed.source_states, filmed)
