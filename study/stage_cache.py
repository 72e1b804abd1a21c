"""A study's stage cache: which trials its entries serve, and what can go."""

from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState

from sdw_core.artifact import CONFIRM
from sdw_core.baselines import bc_on_all_data
from sdw_core.cache import Entry, StageCache
from sdw_core.dataset import load_datasets
from sdw_core.identity import Inventory
from sdw_core.stage_keys import cache_entries, judged_entries
from study.folder import StudyFolder


@dataclass(frozen=True)
class CacheEntry:
    """An entry as `sdw cache list --json` prints it.

    Attributes:
        file: its name in the study's cache.
        stage: whose result it is.
        bytes: its size.
        written: when, in seconds since the epoch.
        trials: numbers of the trials that use it.
        needed: whether a trial that has no final state uses it, or one that is not asked yet may.
    """

    file: str
    stage: str
    bytes: int
    written: float
    trials: list[int]
    needed: bool


def contents(folder: StudyFolder) -> list[CacheEntry]:
    """The entries of a study's cache.

    What a trial that is not asked yet will need is not known: until the last one is asked, all that
    any trial used counts as needed.
    """
    users = _users(folder)
    book = folder.book()
    unfinished = {t.number for t in book.trials(TrialState.WAITING, TrialState.RUNNING)}
    all_asked = book.remaining() <= len(unfinished)
    entries = []
    for entry in StageCache(folder.cache).entries():
        trials = users.get(entry.name, [])
        needed = bool(unfinished.intersection(trials) if all_asked else trials)
        stat = entry.path.stat()
        entries.append(
            CacheEntry(entry.path.name, entry.stage, stat.st_size, stat.st_mtime, trials, needed)
        )
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


def prune(folder: StudyFolder, everything: bool) -> dict[str, Any]:
    """Remove entries that are not needed, and what killed writers left behind.

    An entry that a process uses at this moment stays.

    Args:
        folder: the study.
        everything: remove needed entries as well; they are computed again.

    Returns:
        `removed` files, `in_use` files that stayed for that reason, and `bytes_freed`.
    """
    cache = StageCache(folder.cache)
    kept = set() if everything else {e.file for e in contents(folder) if e.needed}
    going: list[Entry] = [entry for entry in cache.entries() if entry.path.name not in kept]
    removed: list[str] = []
    in_use: list[str] = []
    freed = 0
    for entry in going + cache.leftovers():
        size = entry.discard()
        (in_use if size is None else removed).append(entry.path.name)
        freed += size or 0
    return {"removed": removed, "in_use": in_use, "bytes_freed": freed}
