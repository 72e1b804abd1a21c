"""Where a reference leads: to a bundled, a local or a remote dataset, or to a file."""

import contextlib
import dataclasses
import json
import os
import re
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import getproxies

import minari
from minari.dataset.minari_storage import METADATA_FILE_NAME

from sdw_core.config import PipelineConfig
from sdw_core.dataset.arrays import Asked, reading
from sdw_core.dataset.flat_files import SUFFIXES, read_flat
from sdw_core.dataset.minari_files import MAIN_FILE, read_minari, stated_spec
from sdw_core.environment import Environment, quiet
from sdw_core.errors import InputError, described
from sdw_core.offline_dataset import OfflineDataset, Scores
from sdw_core.validation import nearest

BUNDLED = Path(__file__).parents[1] / "data"
DATASET_ID = re.compile(r"([-\w]+/)*[-\w]+-v\d+")
Place = Literal["bundled", "local"]


@dataclasses.dataclass(frozen=True)
class AvailableDataset:
    """A Minari dataset that `load` finds without a network; counts as its metadata state them."""

    id: str
    where: Place
    episodes: int
    transitions: int
    environment: str | None


def load_dataset(config: PipelineConfig) -> OfflineDataset:
    """The dataset of a pipeline, by all that its settings say of it; see `load`."""
    return load(config.dataset, config.reference_scores, config.clip_actions)


def load_datasets(configs: Iterable[PipelineConfig]) -> dict[str, OfflineDataset]:
    """The datasets of several pipelines, by `PipelineConfig.source`; each is loaded once."""
    datasets: dict[str, OfflineDataset] = {}
    for config in configs:
        if config.source not in datasets:
            datasets[config.source] = load_dataset(config)
    return datasets


def load(
    reference: str, reference_scores: Scores | None = None, clip_actions: bool = False
) -> OfflineDataset:
    """The dataset that `reference` names (see the package for its forms), numbers as float32.

    Args:
        reference: id, folder or file, and maybe `?env=ENVIRONMENT`.
        reference_scores: undiscounted returns of a random and of an expert policy; None: as the
            dataset states them, or D4RL's.
        clip_actions: clip actions to the environment's bounds, where they would be refused.

    Raises:
        InputError: the reference is unknown, or what it names is not a readable dataset of two or
            more episodes whose finite values fit a Gymnasium environment with Box spaces.
    """
    with reading(Path(reference), "dataset"):
        where, environment = split_reference(reference)
        path = Path(where)
        folder, is_file, is_folder = folder_of(where), path.is_file(), path.is_dir()
        name = where if folder_of_id(where) else None
    asked = Asked(
        Environment.named(environment) if environment else None,
        reference_scores,
        clip_actions,
        name,
    )
    if folder:
        return read_minari(folder, where, asked)
    if is_file or path.suffix.lower() in SUFFIXES:
        return read_flat(path, reference, asked)
    if is_folder:
        raise InputError(
            f"a dataset's folder must hold data/{METADATA_FILE_NAME}, and {path} does not: give "
            "the folder of a Minari dataset."
        )
    _download(where)
    return read_minari(datasets_folder() / where / "data", where, asked)


def split_reference(reference: str) -> tuple[str, str]:
    """The id or path of a reference, and the environment that it names; empty if it names none."""
    with contextlib.suppress(OSError, ValueError):  # it is no path: too long, or with a null in it
        if Path(reference).exists():  # a path may hold a question mark
            return reference, ""
    where, mark, environment = reference.rpartition("?env=")
    return (where, environment) if mark else (reference, "")


def folder_of(where: str) -> Path | None:
    """The folder of a Minari dataset's data that is here: bundled, local, or at that path.

    An id comes before a folder of that name. A path may be that of the dataset, of its data, or of
    what lies in these.
    """
    path = Path(where)
    if named := folder_of_id(where):
        return named
    if (path / "data").is_dir():
        return path / "data"
    folder = path.parent if path.name in (METADATA_FILE_NAME, MAIN_FILE) else path
    return folder if (folder / METADATA_FILE_NAME).is_file() else None


def folder_of_id(where: str) -> Path | None:
    """The folder of the data of the bundled or local dataset of an id; None if there is none."""
    if DATASET_ID.fullmatch(where):
        for root in (BUNDLED, datasets_folder()):
            if (root / where / "data").is_dir():
                return root / where / "data"
    return None


def available() -> list[AvailableDataset]:
    """The bundled and local datasets, by id; a bundled one hides a local one of the same id.

    Only metadata are read; a folder whose metadata are unreadable is left out.
    """
    found: dict[str, AvailableDataset] = {}
    places: list[tuple[Place, Path]] = [("bundled", BUNDLED)]
    with contextlib.suppress(InputError):  # no home: nothing is local
        places.insert(0, ("local", datasets_folder()))
    for where, root in places:
        for file in root.glob(f"**/data/{METADATA_FILE_NAME}"):
            identifier = file.relative_to(root).parents[1].as_posix()
            if not DATASET_ID.fullmatch(identifier):
                continue
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                metadata = json.loads(file.read_text(encoding="utf-8"))
                environment = json.loads(stated_spec(metadata) or "{}").get("id")
                counts = int(metadata["total_episodes"]), int(metadata["total_steps"])
                found[identifier] = AvailableDataset(identifier, where, *counts, environment)
    return sorted(found.values(), key=lambda entry: entry.id)


def datasets_folder() -> Path:
    """Where Minari keeps local datasets: `MINARI_DATASETS_PATH` or `~/.minari/datasets`.

    Raises:
        InputError: neither is known, for there is no home folder.
    """
    try:
        named = os.environ.get("MINARI_DATASETS_PATH")
        return Path(named or Path.home() / ".minari" / "datasets").absolute()
    except RuntimeError:
        raise InputError(
            "local datasets lie under the home folder, and there is none: set "
            "MINARI_DATASETS_PATH to a folder, or HOME."
        ) from None


def _download(reference: str) -> None:
    reason = "not an id that could be downloaded"
    if DATASET_ID.fullmatch(reference):
        try:
            with quiet():
                _require_route()
                return minari.download_dataset(reference)  # type: ignore[no-any-return]
        except Exception as error:  # no network, no client, no such dataset: all the same here
            reason = f"not downloadable ({described(error)})"
    raise InputError(
        f"unknown dataset `{reference}`, which is not bundled, not in {datasets_folder()} and "
        f"{reason}: {nearest(reference, [entry.id for entry in available()])}"
    )


def _require_route() -> None:
    """Raises OSError where the hub has no address: the client would try for long.

    The hub is what HF_ENDPOINT says, which may be a mirror. A proxy resolves names by itself.
    """
    from huggingface_hub.constants import ENDPOINT

    if not getproxies():
        socket.getaddrinfo(urlsplit(ENDPOINT).hostname, None)
