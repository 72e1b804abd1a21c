"""Where studies lie, and what they share."""

import os
from pathlib import Path

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


def link_cache(folder: Path, storage: Path, cache: Path | str | None) -> None:
    """Keep in a new folder under a storage which stage cache it works with, for every node.

    That of the storage is linked by a relative path, which holds wherever the storage is mounted.
    It is made, so that whoever copies the folder can follow the link.
    """
    chosen = cache_folder(storage, cache)
    chosen.mkdir(parents=True, exist_ok=True)
    its_own = chosen == storage / CACHE
    (folder / CACHE).symlink_to(Path("..", CACHE) if its_own else chosen.resolve())
