"""The stage cache of a storage folder: which studies its entries serve, and what can go."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from sdw_core.artifact import CONFIRM
from sdw_core.baselines import bc_on_all_data
from sdw_core.cache import Entry, StageCache
from sdw_core.dataset import load_datasets
from sdw_core.errors import SDWError
from sdw_core.identity import Inventory
from sdw_core.stage_keys import cache_entries, judged_entries
from study.folder import StudyFolder


@dataclass(frozen=True)
class CacheEntry:
    """An entry as `sdw cache list --json` prints it.

    Attributes:
        file: its name in the cache.
        stage: whose result it is.
        bytes: its size.
        written: when, in seconds since the epoch.
        trials: numbers of the trials that use it, of the study that was asked about.
        needed: whether a trial that has no final state uses it, or one that is not asked yet may.
        studies: names of the studies that use it.
    """

    file: str
    stage: str
    bytes: int
    written: float
    trials: list[int]
    needed: bool
    studies: list[str]


def contents(folder: StudyFolder) -> list[CacheEntry]:
    """What a study has in its cache; all that is there, where the cache is the study's alone."""
    found = _entries(folder.cache, _sharing(folder), folder)
    return [e for e in found if e.trials] if folder.shares_cache else found


def all_contents(cache: Path, storage: Path) -> list[CacheEntry]:
    """All that is in a cache, and which studies of a storage folder use it."""
    return _entries(cache, _studies(cache, storage))


def prune(folder: StudyFolder, everything: bool) -> dict[str, Any]:
    """Remove entries of a study that no study needs, and what killed writers left behind.

    An entry that a process uses at this moment stays.

    Args:
        folder: the study.
        everything: remove needed entries as well; they are computed again.

    Returns:
        `removed` files, `in_use` files that stayed for that reason, and `bytes_freed`.
    """
    return _pruned(folder.cache, contents(folder), everything)


def prune_all(cache: Path, storage: Path, everything: bool) -> dict[str, Any]:
    """Remove entries that no study of a storage folder needs; see `prune`."""
    return _pruned(cache, all_contents(cache, storage), everything)


def _sharing(folder: StudyFolder) -> Iterable[StudyFolder]:
    """The studies beside a study that have their results in the same cache; itself too."""
    return _studies(folder.cache, folder.path.parent) if folder.shares_cache else [folder]


def _studies(cache: Path, storage: Path) -> list[StudyFolder]:
    beside = (StudyFolder(file.parent.resolve()) for file in sorted(storage.glob("*/study.yaml")))
    return [study for study in beside if study.cache == cache.resolve()]


def _entries(
    cache: Path, studies: Iterable[StudyFolder], asked: StudyFolder | None = None
) -> list[CacheEntry]:
    """The entries of a cache.

    What a trial that is not asked yet will need is not known: until the last one of a study is
    asked, all that any trial of it used counts as needed.
    """
    users: dict[str, list[str]] = {}
    trials: dict[str, list[int]] = {}
    needed: set[str] = set()
    for study in studies:
        try:
            its = _users(study)
            book = study.book()
        except SDWError:
            if study == asked:
                raise
            continue  # of a study that cannot be read nothing is known
        unfinished = {t.number for t in book.trials(TrialState.WAITING, TrialState.RUNNING)}
        all_asked = book.remaining() <= len(unfinished)
        for name, numbers in its.items():
            users.setdefault(name, []).append(study.name)
            if unfinished.intersection(numbers) or not all_asked:
                needed.add(name)
        if study == asked:
            trials = its
    entries = []
    for entry in StageCache(cache).entries():
        stat = entry.path.stat()
        used = trials.get(entry.name, []), entry.name in needed, users.get(entry.name, [])
        entries.append(CacheEntry(entry.path.name, entry.stage, stat.st_size, stat.st_mtime, *used))
    return entries


def _users(folder: StudyFolder) -> dict[str, list[int]]:
    """Name of an entry -> numbers of the trials that use it."""
    spec, inventory = folder.spec(), folder.inventory()
    configs = {t.number: spec.pipeline_with(t.params) for t in folder.book().trials()}
    unknown = [c for c in configs.values() if c.source not in inventory.datasets]
    if unknown:  # of a study of the first version, in which no trial has ended
        inventory = inventory.completed(Inventory.of(unknown, load_datasets(unknown)))
    users: dict[str, list[int]] = {}
    for number, config in configs.items():
        sources = inventory.sources(config)
        assert sources.dataset is not None
        used = cache_entries(config, sources.dataset, sources.checkpoint, sources.code)
        if steps := spec.study.bc_steps:
            cloning = bc_on_all_data(config, spec.pipeline.expert, steps)
            used |= judged_entries(cloning, sources.dataset, CONFIRM)
        for name in used:
            users.setdefault(name, []).append(number)
    return users


def _pruned(cache: Path, found: list[CacheEntry], everything: bool) -> dict[str, Any]:
    going = [Entry(cache / e.file) for e in found if everything or not e.needed]
    removed: list[str] = []
    in_use: list[str] = []
    freed = 0
    for entry in going + StageCache(cache).leftovers():
        size = entry.discard()
        (in_use if size is None else removed).append(entry.path.name)
        freed += size or 0
    return {"removed": removed, "in_use": in_use, "bytes_freed": freed}
