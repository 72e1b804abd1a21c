"""Where studies lie, and what they share."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdw_core.errors import InputError
from sdw_core.files import created_folder, made_folder
from sdw_core.validation import checked

STUDIES = Path("sdw-studies")
"""The folder of studies, unless the environment variable SDW_STORAGE names another."""
CACHE = "cache"
"""In a storage folder the stage cache of its studies and comparisons; in each of these a link."""
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/")
"""How an address of a hub or a bucket begins; a path has one of its two slashes."""


def storage_folder(storage: Path | str | None = None) -> Path:
    """The folder that holds studies.

    Raises:
        InputError: it is named by an address of a bucket.
    """
    named = storage or os.environ.get("SDW_STORAGE") or STUDIES
    if ADDRESS.match(str(named)):
        raise InputError(
            "Studies lie in a folder of a file system that all nodes share, with their database "
            f"there or in PostgreSQL, and `storage` is {str(named)!r}; name a folder, and bring "
            "what came of a study into a bucket with `sdw export --to` and `sdw report --to`."
        )
    return Path(checked(named, Path, "storage"))


def cache_folder(storage: Path, cache: Path | str | None = None) -> Path:
    """The stage cache that was named, that of SDW_CACHE, or that of the storage.

    Raises:
        InputError: it is named by an address, or is no folder.
    """
    named = cache or os.environ.get("SDW_CACHE")
    if not named:
        return storage / CACHE
    folder = Path(checked(named, Path, "cache"))
    if ADDRESS.match(str(named)) or (folder.exists() and not folder.is_dir()):
        raise InputError(
            f"What is computed once is kept in a folder, and `cache` (or SDW_CACHE) is "
            f"{str(named)!r}: name a folder, which need not exist."
        )
    return folder


@contextmanager
def folder_with_cache(path: Path, cache: Path | str | None) -> Iterator[Path]:
    """A new folder under a storage, in which a link keeps, for every node, what its cache is.

    That of the storage is linked by a relative path, which holds wherever the storage is mounted.
    """
    storage = path.parent
    chosen = cache_folder(storage, cache)
    with made_folder(chosen), created_folder(path) as scratch:
        its_own = chosen.resolve() == (storage / CACHE).resolve()
        (scratch / CACHE).symlink_to(Path("..", CACHE) if its_own else chosen.resolve())
        yield scratch
