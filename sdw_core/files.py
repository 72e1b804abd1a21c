"""Files that are whole or absent: write beside, fsync, rename.

Who may read and write them is what the umask and the folder's default ACL say of any new file.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def replaced_atomically(path: Path) -> Iterator[Path]:
    """Yield a scratch path; on a clean exit it becomes `path`, on an error it is removed.

    The data are on disk before the name is, so a crash at any moment leaves either the old file or
    the whole new one.
    """
    scratch = _beside(path)
    with made_folder(path.parent):
        mode = _touch(scratch)
        try:
            yield scratch
            scratch.chmod(mode)  # a writer may have put a file of its own in the place
            _fsync(scratch)
            scratch.replace(path)
            _fsync(path.parent)
        finally:
            scratch.unlink(missing_ok=True)


@contextmanager
def created_file(path: Path) -> Iterator[Path]:
    """Yield a scratch path that becomes `path`, as `replaced_atomically` does, but a new one.

    Raises FileExistsError if `path` exists, be it a link to nothing, before the work or after it.
    """
    _require_absent(path)
    with replaced_atomically(path) as scratch:
        yield scratch
        _require_absent(path)


@contextmanager
def created_folder(path: Path) -> Iterator[Path]:
    """Yield a scratch folder beside `path`; on a clean exit it becomes `path`, else it is removed.

    Raises FileExistsError if `path` exists, be it a link to nothing, or was made by another process
    meanwhile: a folder is never overwritten.
    """
    _require_absent(path)
    scratch = _beside(path)
    with made_folder(path.parent):
        scratch.mkdir()
        try:
            probe = scratch / "probe"
            mode = _touch(probe)
            probe.unlink()
            yield scratch
            for entry in scratch.rglob("*"):
                if entry.is_symlink():  # what it leads to is not of this folder
                    continue
                if entry.is_file():
                    entry.chmod(mode)
                _fsync(entry)
            _require_absent(path)
            try:
                scratch.rename(path)
            except OSError:
                _require_absent(path)
                raise
            _fsync(path.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Yield where to make a folder anew; on a clean exit that takes the place of `path`.

    What else lies in `path` by then is kept. A crash between two renames leaves nothing at `path`:
    this is for what can be made again.
    """
    scratch = _beside(path)
    scratch.mkdir()
    try:
        new, old = scratch / "new", scratch / "old"
        yield new
        path.rename(old)
        new.rename(path)
        for entry in old.iterdir():
            if not os.path.lexists(path / entry.name):
                entry.rename(path / entry.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def made_folder(path: Path) -> Iterator[None]:
    """Make a folder and its parents; on an error, those that were made go again if they are empty.

    Raises OSError if they cannot be made.
    """
    made: list[Path] = []
    try:
        for folder in (*reversed(path.parents), path):
            if not folder.exists():
                with suppress(FileExistsError):  # made by another process meanwhile
                    folder.mkdir()
                    made.append(folder)
        yield
    except BaseException:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()
        raise


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


def read_whole(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None if the file is missing, or holds something else."""
    try:
        document = read_json(path)
    except (FileNotFoundError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def sha256_of_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(document: Any) -> str:
    """Hex SHA-256 of a JSON document in canonical form (sorted keys, no spaces)."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _require_absent(path: Path) -> None:
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def _touch(path: Path) -> int:
    """Make a new file; returns the mode that it was given."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
