"""Files that settings name, by absolute paths: the settings may be read elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

Document = dict[str, Any]


def absolute_paths(pipeline: Mapping[str, Any]) -> Document:
    """A pipeline's document, or a part of one, with its files by absolute paths."""
    document = dict(pipeline)
    if "dataset" in document:
        document["dataset"] = absolute_reference(document["dataset"])
    expert = document.get("expert")
    if isinstance(expert, Mapping) and "path" in expert:
        document["expert"] = {**expert, "path": absolute_file(expert["path"])}
    return document


def absolute_reference(reference: Any) -> Any:
    """A dataset on disk by its absolute path, with the environment that its reference names.

    An id stays what it is, and comes before a path that reads the same, as for
    `sdw_core.dataset.load`; what is not text stays, for validation to refuse.
    """
    if not isinstance(reference, str):
        return reference
    where, mark, environment = reference.rpartition("?env=")
    if not mark or _expanded(reference).exists():  # a path may hold a question mark
        where, mark, environment = reference, "", ""
    file = _expanded(where)
    if not where or not file.exists():
        return reference
    from sdw_core.dataset.loading import folder_of_id

    return reference if folder_of_id(where) else f"{file.resolve()}{mark}{environment}"


def absolute_file(path: Any) -> Any:
    """A file by its absolute path; what is not text stays, for validation to refuse."""
    return str(_expanded(path).resolve()) if isinstance(path, str) else path


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # there is no such user, or no home
        return Path(path)
