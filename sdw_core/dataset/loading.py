"""Where a reference leads: to a bundled, a local or a remote dataset, or to a file."""

import contextlib
import dataclasses
import json
import os
import re
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies

import minari
from gymnasium.envs.registration import EnvSpec
from minari.dataset.minari_storage import METADATA_FILE_NAME
from numpy.typing import ArrayLike

from sdw_core.config import PipelineConfig
from sdw_core.dataset.arrays import Asked, reading
from sdw_core.dataset.flat_files import SUFFIXES, from_flat, read_flat
from sdw_core.dataset.minari_files import MAIN_FILE, read_minari, stated_spec
from sdw_core.environment import Environment, quiet
from sdw_core.errors import InputError, described
from sdw_core.offline_dataset import IN_MEMORY, OfflineDataset, Scores
from sdw_core.validation import nearest, shown

BUNDLED = Path(__file__).parents[1] / "data"
ARRAYS = "data in memory"
"""What arrays that are given as such are called."""
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
    """The dataset of a pipeline: the one that it was given, or else what its settings name."""
    if config.data is not None:
        return config.data
    return load(config.dataset, config.reference_scores, config.clip_actions)


def load_datasets(configs: Iterable[PipelineConfig]) -> dict[str, OfflineDataset]:
    """The datasets of several pipelines, by `PipelineConfig.source`; each is loaded once.

    As other processes load them, who know the settings only.
    """
    datasets: dict[str, OfflineDataset] = {}
    for config in configs:
        if config.source not in datasets:
            known = config.reference_scores, config.clip_actions
            datasets[config.source] = load(config.dataset, *known)
    return datasets


def load(
    source: str | Path | Mapping[str, ArrayLike] | minari.MinariDataset,
    reference_scores: Scores | None = None,
    clip_actions: bool = False,
    environment: str | EnvSpec | None = None,
) -> OfflineDataset:
    """A dataset for the pipeline, checked, numbers as float32.

    Args:
        source: a reference (see the package for its forms); a Minari dataset, of which the episodes
            that it was filtered to are taken; or arrays by their names in D4RL's layout.
        reference_scores: undiscounted returns of a random and of an expert policy; None: as the
            dataset states them, or D4RL's.
        clip_actions: clip actions to the environment's bounds, where they would be refused.
        environment: what the data come from and policies are judged in: text as behind `?env=`, or
            the `spec` of an environment, for data that are no reference; None: what they state.

    Raises:
        InputError: the reference is unknown, or what it names is not a readable dataset of two or
            more episodes whose finite values fit a Gymnasium environment with Box spaces.
    """
    if not isinstance(source, str | Path | Mapping | minari.MinariDataset):
        raise InputError(
            "a dataset is loaded from a reference, from a Minari dataset or from arrays by their "
            f"names, not from {shown(source)}: give one of these."
        )
    if not isinstance(environment, str | EnvSpec | None):
        raise InputError(
            f"`environment` must be text or the `spec` of an environment, not "
            f'{shown(environment)}: give it as in `environment="Hopper-v5"` or `env.spec`.'
        )
    if reference_scores is not None:
        reference_scores = _two_numbers(reference_scores)
    if isinstance(source, Mapping):
        if environment is None:
            raise InputError(
                "arrays do not say which environment they come from: name it, as in "
                '`environment="Hopper-v5"`.'
            )
        made = _environment(environment)
        return from_flat(source, ARRAYS, ARRAYS, made, Asked(made, reference_scores, clip_actions))
    if isinstance(source, minari.MinariDataset):
        folder, chosen = Path(source.storage.data_path), source.episode_indices
        if isinstance(environment, EnvSpec) or len(chosen) < source.storage.total_episodes:
            made_here = _environment(environment) if environment else None
            asked = Asked(made_here, reference_scores, clip_actions)
            return read_minari(folder, source.id, asked, chosen.tolist())
        source = source.id if folder_of_id(source.id) == folder else folder
    if isinstance(environment, EnvSpec):
        raise InputError(
            f"a reference names its environment in text, and `environment` is the EnvSpec of "
            f'{environment.id}: give it as in `environment="Hopper-v5"`.'
        )
    return _load(_with_environment(str(source), environment), reference_scores, clip_actions)


def _two_numbers(scores: Any) -> Scores:
    try:
        low, high = (float(score) for score in scores)
    except (TypeError, ValueError):
        raise InputError(
            "`reference_scores` must be two numbers, the returns of a random and of an expert "
            f"policy, not {shown(scores)}: give them as in `reference_scores=(-20.3, 3234.3)`."
        ) from None
    return low, high


def _environment(environment: str | EnvSpec) -> Environment:
    if isinstance(environment, EnvSpec):
        return Environment.of_spec(environment)
    return Environment.named(environment)


def _with_environment(reference: str, environment: str | None) -> str:
    """A reference that names its environment, if one is given."""
    where, named = split_reference(reference)
    if named and environment and named != environment:
        raise InputError(
            f"the environment is named twice, {named!r} and {environment!r}: name it once."
        )
    return f"{where}?env={environment}" if environment else reference


def _load(reference: str, reference_scores: Scores | None, clip_actions: bool) -> OfflineDataset:
    if reference.startswith(IN_MEMORY):
        raise InputError(
            f"`{reference}` are data that were made in memory, and settings do not hold them: load "
            "them again and give them as `pipeline.dataset`, or, for other processes to read, "
            'store them with `sdw_core.dataset.import_dataset(data, "my/data-v0")`.'
        )
    with reading(Path(reference), "dataset"):
        where, environment = split_reference(reference)
        path = Path(where)
        folder, is_file, is_folder = folder_of(where), path.is_file(), path.is_dir()
        name = where if folder_of_id(where) else None
    said = {"reference_scores": reference_scores, "clip_actions": clip_actions}
    asked = Asked(
        Environment.named(environment) if environment else None,
        reference_scores,
        clip_actions,
        name,
        {"dataset": reference} | {key: value for key, value in said.items() if value},
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
