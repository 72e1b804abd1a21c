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
    """A dataset on disk by its absolute path, with what its reference says behind a `?`.

    An id stays what it is, and so does whatever is not text, which validation refuses. As for
    `sdw_core.dataset.load`, an id comes before a folder of that name.
    """
    if not isinstance(reference, str):
        return reference
    path, mark, query = reference.partition("?")
    file = _expanded(path)
    if not path or not file.exists():
        return reference
    from sdw_core.dataset import BUNDLED, datasets_folder

    if any((root / reference / "data").is_dir() for root in (BUNDLED, datasets_folder())):
        return reference
    return f"{file.resolve()}{mark}{query}"


def absolute_file(path: Any) -> Any:
    """A file by its absolute path; what is not text stays, for validation to refuse."""
    return str(_expanded(path).resolve()) if isinstance(path, str) else path


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # there is no such user, or no home
        return Path(path)
