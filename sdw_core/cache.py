"""The stage cache: what a stage computed, under a key that hashes all that it depends on."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sdw_core.files import replaced_atomically, sha256_of_json
from sdw_core.waiting import Waiting, holding, patiently

OWN_NAME = re.compile(r"\.?\w+-[0-9a-f]{20}\.(safetensors|checkpoint)(\.\w+)?")
"""Of an entry, or of what a writer that was killed left beside it."""


@dataclass(frozen=True, eq=False)
class StageResult:
    """A stage's result: tensors, and a JSON document beside them."""

    tensors: Mapping[str, Tensor]
    document: Mapping[str, Any] = field(default_factory=dict)


class StageCache:
    """A folder of stage results, safe to share between processes.

    Two processes that need the same result compute it once: the second waits for the first. An
    entry is written atomically; one that fails its checksum is removed and computed again. Tensors
    are mapped from the entry's file, by the process that computed them too: all processes of a node
    share one copy in memory, and each gets pages of its own where it writes.

    Args:
        folder: where entries live; None keeps nothing.
        waiting: told while another process computes what is needed here.
    """

    def __init__(self, folder: Path | None, waiting: Waiting = patiently) -> None:
        self.folder = folder
        self._waiting = waiting

    @staticmethod
    def key(stage: str, version: int, settings: Any, *inputs: str) -> str:
        """Hex key of a result: the stage, its version, its settings and its inputs' keys."""
        return sha256_of_json([stage, version, settings, *inputs])

    def checkpoint(self, stage: str, key: str) -> Path | None:
        """Where a computation keeps what it has so far; removed when its result is stored.

        The checkpoint lies in the cache and not in the folder of the run that computes, so that any
        run that needs the result next goes on from it.
        """
        return self.folder / f"{stage}-{key[:20]}.checkpoint" if self.folder else None

    def result(self, stage: str, key: str, compute: Callable[[], StageResult]) -> StageResult:
        """The stored result under `key`, or else `compute()`, stored.

        Raises:
            StopRequested: the wait for another process was ended.
        """
        if self.folder is None:
            return compute()
        path = self.folder / entry_name(stage, key)
        if stored := _read(path):  # without the lock, so that many nodes read at a time
            return stored
        self.folder.mkdir(parents=True, exist_ok=True)
        with holding(_lock_of(path), self._waiting):
            if stored := _read(path):
                return stored
            path.unlink(missing_ok=True)
            _write(path, compute())
            path.with_suffix(".checkpoint").unlink(missing_ok=True)
            return _mapped(path)

    def computed_elsewhere(self, stage: str, key: str) -> bool:
        """Whether another process computes a result that is not there yet."""
        if self.folder is None or not self.folder.exists():
            return False
        path = self.folder / entry_name(stage, key)
        try:
            with _lock_of(path, timeout=0):
                return False
        except Timeout:
            return not path.exists()

    def entries(self) -> list["Entry"]:
        """What is kept, by name: results, and checkpoints of such as are not computed yet."""
        return [entry for entry in self._files() if not entry.path.name.startswith(".")]

    def leftovers(self) -> list["Entry"]:
        """What processes that were killed while they wrote left behind."""
        return [entry for entry in self._files() if entry.path.name.startswith(".")]

    def _files(self) -> Iterator["Entry"]:
        """What bears an entry's name; whatever else lies in the folder is not the cache's."""
        files = sorted(self.folder.iterdir()) if self.folder and self.folder.is_dir() else ()
        return (Entry(path) for path in files if OWN_NAME.fullmatch(path.name) and path.is_file())


@dataclass(frozen=True)
class Entry:
    """A file of a stage cache: a stage's result, or the beginning of one."""

    path: Path

    @property
    def name(self) -> str:
        """The name of the result's file."""
        return self.path.name.removeprefix(".").partition(".")[0] + ".safetensors"

    @property
    def stage(self) -> str:
        """Whose result it is."""
        return self.name.partition("-")[0]

    def sound(self) -> bool:
        """Whether it is what was written, by its checksum."""
        return _read(self.path) is not None

    def discard(self) -> int | None:
        """Remove it; returns the bytes freed, or None if a process computes it now."""
        try:
            with _lock_of(self.path.with_name(self.name), timeout=0):
                size = self.path.stat().st_size if self.path.exists() else 0
                self.path.unlink(missing_ok=True)
        except Timeout:
            return None
        return size


def entry_name(stage: str, key: str) -> str:
    """The name of the file that holds a result."""
    return f"{stage}-{key[:20]}.safetensors"


def _lock_of(path: Path, timeout: float = -1) -> FileLock:
    return FileLock(path.with_suffix(".lock"), timeout=timeout)


def _write(path: Path, result: StageResult) -> None:
    whole = torch.contiguous_format  # and of its own: safetensors refuses tensors that share memory
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=whole)
        for name, tensor in result.tensors.items()
    }
    document = json.dumps(dict(result.document))
    metadata = {"document": document, "sha256": _checksum(tensors, document)}
    with replaced_atomically(path) as scratch:
        save_file(tensors, scratch, metadata)


def _read(path: Path) -> StageResult | None:
    """The entry, or None if there is none, or it is not what was written."""
    try:
        return _mapped(path) if _is_sound(path) else None
    except (SafetensorError, OSError):
        return None


def _is_sound(path: Path) -> bool:
    """Whether an entry is what was written; what is looked at for that does not stay in memory."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return metadata.get("sha256") == _checksum(tensors, metadata.get("document", ""))


def _mapped(path: Path) -> StageResult:
    """The entry, whose tensors safetensors maps from the file, copy on write."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return StageResult(tensors, json.loads(file.metadata()["document"]))


def _checksum(tensors: Mapping[str, Tensor], document: str) -> str:
    digest = hashlib.sha256(document.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
