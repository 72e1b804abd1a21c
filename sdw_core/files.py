"""Files that are whole or absent: write beside, fsync, rename."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replaced_atomically(path: Path) -> Iterator[Path]:
    """Yield a scratch path; on a clean exit it becomes `path`, on an error it is removed.

    The data are on disk before the name is, so a crash at any moment leaves either the old file or
    the whole new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    scratch = Path(name)
    try:
        yield scratch
        scratch.chmod(0o644)
        _fsync(scratch)
        scratch.replace(path)
        _fsync(path.parent)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def created_folder(path: Path) -> Iterator[Path]:
    """Yield a scratch folder beside `path`; on a clean exit it becomes `path`, else it is removed.

    Raises FileExistsError if `path` exists: a folder is never overwritten.
    """
    if path.exists():
        raise FileExistsError(str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield scratch
        for entry in scratch.rglob("*"):
            _fsync(entry)
        scratch.chmod(0o755)
        scratch.rename(path)
        _fsync(path.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replaced_atomically(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Any) -> None:
    """Write a JSON document atomically; non-finite numbers are refused."""
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON document."""
    return json.loads(path.read_text(encoding="utf-8"))


def sha256_of_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(document: Any) -> str:
    """Hex SHA-256 of a JSON document in canonical form (sorted keys, no spaces)."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
