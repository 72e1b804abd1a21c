"""Where studies lie, and what they share."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdw_core.files import created_folder, made_folder
from sdw_core.validation import checked

STUDIES = Path("sdw-studies")
"""The folder of studies, unless the environment variable SDW_STORAGE names another."""
CACHE = "cache"
"""In a storage folder the stage cache of its studies and comparisons; in each of these a link."""


def storage_folder(storage: Path | str | None = None) -> Path:
    """The folder that holds studies."""
    return Path(checked(storage or os.environ.get("SDW_STORAGE") or STUDIES, Path, "storage"))


def cache_folder(storage: Path, cache: Path | str | None = None) -> Path:
    """The stage cache that was named, that of SDW_CACHE, or that of the storage."""
    named = cache or os.environ.get("SDW_CACHE")
    return Path(checked(named, Path, "cache")) if named else storage / CACHE


@contextmanager
def folder_with_cache(path: Path, cache: Path | str | None) -> Iterator[Path]:
    """A new folder under a storage, in which a link keeps, for every node, what its cache is.

    That of the storage is linked by a relative path, which holds wherever the storage is mounted.
    """
    storage = path.parent
    chosen = cache_folder(storage, cache)
    with made_folder(chosen), created_folder(path) as scratch:
        its_own = chosen == storage / CACHE
        (scratch / CACHE).symlink_to(Path("..", CACHE) if its_own else chosen.resolve())
        yield scratch
