"""Local datasets: made of one's own data under a Minari id, given reference scores, removed."""

import json
import os
import secrets
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

import minari.namespace
from minari.dataset.minari_storage import METADATA_FILE_NAME

from sdw_core.dataset.arrays import reading
from sdw_core.dataset.loading import BUNDLED, DATASET_ID, datasets_folder, load, split_reference
from sdw_core.dataset.minari_files import (
    IMPORTED,
    MAIN_FILE,
    SOURCE_KEY,
    stated_scores,
    write_minari,
)
from sdw_core.errors import InputError, SDWError, described
from sdw_core.files import created_folder, read_json, write_text
from sdw_core.offline_dataset import OfflineDataset, Scores, require_ascending


def import_dataset(
    source: str | OfflineDataset,
    name: str,
    environment: str | None = None,
    reference_scores: Scores | None = None,
    clip_actions: bool = False,
) -> str:
    """Store a dataset as the local Minari dataset `name`, whole or not at all.

    What is loaded from it equals what is loaded from the source.

    Returns:
        The reference to use it by: the name, with the environment behind it where a module must be
        imported for that, or a file opened. A dataset decides neither.

    Args:
        source: any reference that `load` takes, or a dataset that was loaded.
        name: a Minari id that is free.
        environment: as for `?env=`; None: what the source states.
        reference_scores, clip_actions: as for `load`.

    Raises:
        InputError: the source is not a valid dataset (as in `load`), the name is malformed or
            taken.
        SDWError: the dataset could not be written.
    """
    _require_free(name)
    if isinstance(source, OfflineDataset):
        dataset = source
    else:
        dataset = load(source, reference_scores, clip_actions, environment)
    where, _ = split_reference(dataset.loaded_by.get("dataset", dataset.name))
    folder = datasets_folder() / name
    try:
        with created_folder(folder) as scratch:
            write_minari(
                dataset, name, scratch / "data", description=f"Imported from {Path(where).name}."
            )
        known = minari.namespace.list_local_namespaces()
        for namespace in reversed(_namespaces(name)):
            if namespace not in known:
                minari.namespace.create_namespace(namespace, **IMPORTED)
    except FileExistsError:
        _require_free(name)  # it was made by another process meanwhile
        raise
    except OSError as error:
        raise SDWError(f"`{name}` could not be written to {folder} ({described(error)}).") from None
    kept = dataset.environment
    return f"{name}?env={kept.typed}" if kept.must_be_typed else name


def reference_scores_of(name: str) -> Scores | None:
    """The reference scores that a local dataset states.

    Raises:
        InputError: there is no such local dataset, or its metadata are damaged.
    """
    return stated_scores(_metadata(_local(name)), name)


def set_reference(name: str, scores: Scores) -> list[Any] | None:
    """State the reference scores of a local dataset anew.

    Returns:
        What it stated before, if that was anything.

    Args:
        name: its Minari id.
        scores: returns of a random and of an expert policy.

    Raises:
        InputError: there is no such local dataset, or the scores do not ascend.
        SDWError: its metadata could not be written.
    """
    require_ascending(*scores)
    folder = _local(name)
    metadata = _metadata(folder)
    stood = [metadata.get(key) for key in ("ref_min_score", "ref_max_score")]
    metadata["ref_min_score"], metadata["ref_max_score"] = scores
    metadata[SOURCE_KEY] = "given with `sdw data set-reference`"
    try:
        write_text(folder / "data" / METADATA_FILE_NAME, json.dumps(metadata))
    except OSError as error:
        raise SDWError(f"`{name}` could not be written to {folder} ({described(error)}).") from None
    return None if stood == [None, None] else stood


def remove(name: str) -> Path:
    """Remove a local dataset that `import_dataset` made, and the namespaces that it leaves empty.

    Returns:
        The folder that is gone.

    Raises:
        InputError: there is no such local dataset, another made it, or it holds what is not its.
        SDWError: the folder could not be removed.
    """
    folder = _local(name)
    marked = IMPORTED.items() <= _metadata(folder).items()
    if not marked or folder.is_symlink() or (folder / "data").is_symlink():
        raise InputError(
            f"only what `sdw data import` made is removed, and it did not make {folder}: remove "
            "that folder yourself."
        )
    own = {folder / "data", folder / "data" / MAIN_FILE, folder / "data" / METADATA_FILE_NAME}
    if others := sorted(set(folder.rglob("*")) - own):
        raise InputError(
            f"only what `sdw data import` made is removed, and it did not make {others[0]}: move "
            "that elsewhere."
        )
    leaving = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        folder.rename(leaving)
        shutil.rmtree(leaving)
        for namespace in _namespaces(name):
            held = datasets_folder() / namespace
            marker = held / minari.namespace.NAMESPACE_METADATA_FILENAME
            only_marked = not held.is_symlink() and list(held.iterdir()) == [marker]
            if not only_marked or read_json(marker) != IMPORTED:
                break
            minari.namespace.delete_namespace(namespace)
    except (OSError, ValueError) as error:
        raise SDWError(
            f"`{name}` could not be removed from {folder} ({described(error)})."
        ) from None
    return folder


def _namespaces(name: str) -> list[str]:
    """The namespaces that an id lies in, the innermost first."""
    return [str(namespace) for namespace in PurePosixPath(name).parents][:-1]


def _require_free(name: str) -> None:
    if not DATASET_ID.fullmatch(name):
        raise InputError(
            f"a dataset's name must be words joined by `/` that end in a version, not {name!r}: "
            "choose one such as `my/hopper-v0`."
        )
    if os.path.lexists(datasets_folder() / name) or (BUNDLED / name).exists():
        raise InputError(
            f"a dataset is never overwritten, and `{name}` exists already: choose another name or "
            "version."
        )
    for namespace in _namespaces(name):
        if not minari.namespace.NAMESPACE_REGEX.fullmatch(namespace):
            raise InputError(
                f"a dataset's namespace must have two characters or more, and `{namespace}` of "
                f"`{name}` has one: choose a name such as `my/hopper-v0`."
            )
        if (datasets_folder() / namespace / "data").exists():
            raise InputError(
                f"a dataset cannot lie within another, and `{namespace}` is one: choose another "
                f"name than `{name}`."
            )


def _local(name: str) -> Path:
    """The folder of a local dataset.

    Raises:
        InputError: there is none of that name.
    """
    if DATASET_ID.fullmatch(name) and (BUNDLED / name).is_dir():
        raise InputError(
            f"a bundled dataset stays as it is, and `{name}` is one: import it under a name of "
            f"your own, such as `my/copy-v0`."
        )
    if not DATASET_ID.fullmatch(name) or not (datasets_folder() / name / "data").is_dir():
        raise InputError(
            f"only a local dataset can be changed, by its name, and `{name}` is not the name of "
            f"one in {datasets_folder()}: see `sdw data list`."
        )
    return datasets_folder() / name


def _metadata(folder: Path) -> dict[str, Any]:
    with reading(folder, "Minari dataset"):
        return dict(read_json(folder / "data" / METADATA_FILE_NAME))
