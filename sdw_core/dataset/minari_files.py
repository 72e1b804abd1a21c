"""Minari datasets, read and written through Minari's own storage: HDF5, arrow and parquet."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage
from numpy.typing import NDArray

from sdw_core.dataset.arrays import (
    Asked,
    Steps,
    assemble,
    flags,
    floats,
    reading,
    require_self_contained,
    require_two_episodes,
    stated_license,
)
from sdw_core.environment import Environment
from sdw_core.errors import InputError
from sdw_core.offline_dataset import OfflineDataset, Scores

SOURCE_KEY = "reference_source"
"""Of a dataset's metadata: where its reference scores come from."""
IMPORTED = {"imported_by": "sdw-obd"}
"""Of the metadata of a dataset that this package wrote."""
MAIN_FILE = "main_data.hdf5"
"""Of a dataset in Minari's HDF5 format, beside its metadata."""


def read_minari(
    folder: Path, reference: str, asked: Asked, chosen: Sequence[int] | None = None
) -> OfflineDataset:
    """The Minari dataset in a folder.

    Args:
        folder: holds `metadata.json`.
        reference: what the user calls it.
        asked: what the user says of it.
        chosen: numbers of the episodes that are read; None: all.

    Raises:
        InputError: the dataset is damaged, no environment is known for it, or it does not fit that.
    """
    with reading(folder, "Minari dataset"):
        metadata = MinariStorage.read_raw_metadata(folder)
        name = asked.name or str(metadata["dataset_id"])
        episodes, total = int(metadata["total_episodes"]), int(metadata["total_steps"])
        source = str(metadata.get(SOURCE_KEY, "stated with the dataset"))
        for key in ("observation_space", "action_space"):
            if key not in metadata:  # Minari would make the environment, with all that it says
                raise InputError(
                    f"a Minari dataset must state its `{key}`, and {reference} does not: write it "
                    "again with a newer Minari."
                )
        if (version := metadata.get("minari_version")) not in minari.supported_dataset_versions:
            raise InputError(
                f"{reference} was written by Minari {version}, which Minari {minari.__version__} "
                "does not read: fetch or write it again."
            )
        storage = MinariStorage.read(folder)
        if storage.FORMAT == "hdf5":
            with h5py.File(folder / MAIN_FILE) as file:
                require_self_contained(file, folder / MAIN_FILE)
    environment, scores = asked.environment, stated_scores(metadata, reference)
    if environment is None:
        environment = stated_environment(metadata, reference)
    spaces = environment.spaces
    parts: list[tuple[NDArray[Any], ...]] = []
    with reading(folder, "Minari dataset"):
        wanted = range(episodes) if chosen is None else chosen
        for index, episode in zip(wanted, storage.get_episodes(wanted), strict=False):
            where = f"episode {index} of {name}"
            steps = len(episode["rewards"])
            if steps == 0:
                raise InputError(f"an episode must have a step, and {where} has none: remove it.")
            parts.append(
                (
                    floats(episode, "observations", (steps + 1, spaces.observations), where),
                    floats(episode, "actions", (steps, len(spaces.action_low)), where),
                    floats(episode, "rewards", (steps,), where),
                    flags(episode, "terminations", (steps,), where),
                    flags(episode, "truncations", (steps,), where),
                )
            )
    ends = np.cumsum([len(rewards) for _, _, rewards, *_ in parts], dtype=np.int64)
    if chosen is None and (len(parts) != episodes or (episodes and ends[-1] != total)):
        found = f"{len(parts)} of {ends[-1] if parts else 0}"
        raise InputError(
            f"{name} states {episodes} episodes of {total} steps, and Minari reads {found}: fetch "
            "or write the data again, in Minari's HDF5 format where an episode is very long."
        )
    require_two_episodes(name, len(parts))
    states, actions, rewards, terminated, truncated = zip(*parts, strict=True)
    return assemble(
        name,
        environment,
        Steps(
            observations=np.concatenate([rows[:-1] for rows in states]),
            final_observations=np.stack([rows[-1] for rows in states]),
            actions=np.concatenate(actions),
            rewards=np.concatenate(rewards),
            terminated=np.concatenate(terminated),
            truncated=np.concatenate(truncated),
            ends=ends,
        ),
        asked,
        scores,
        source,
        stated_license(metadata.get("license")),
    )


def stated_environment(metadata: Mapping[str, Any], reference: str) -> Environment:
    """The environment that a Minari dataset is judged in: its evaluation's, else its own.

    Raises:
        InputError: the dataset states none, or one that cannot be made again.
    """
    text = stated_spec(metadata)
    if not text:
        raise InputError(
            f"a dataset must name the environment that it is evaluated in, and {reference} names "
            f"none: name it as in `{reference}?env=Hopper-v5`."
        )
    try:
        document = json.loads(text)
    except (TypeError, ValueError):
        document = None
    return Environment.of_dataset(document, reference)


def stated_spec(metadata: Mapping[str, Any]) -> Any:
    """Gymnasium's JSON of the environment that a Minari dataset is judged in; empty: none."""
    return metadata.get("eval_env_spec") or metadata.get("env_spec")


def stated_scores(metadata: Mapping[str, Any], reference: str) -> Scores | None:
    """The reference scores that a Minari dataset states, if it states any."""
    stated = [metadata.get(key) for key in ("ref_min_score", "ref_max_score")]
    if None in stated:
        return None
    try:
        low, high = map(float, stated)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise InputError(
            f"the reference scores of {reference} must be two numbers, not {stated}: correct its "
            "metadata."
        ) from None
    return low, high


def write_minari(dataset: OfflineDataset, name: str, folder: Path, description: str) -> None:
    """Write a dataset in Minari's HDF5 format.

    Args:
        dataset: what to write.
        name: its Minari id.
        folder: the `data` folder of the dataset; it must not exist.
        description: of where it comes from.
    """
    env = dataset.environment.make()
    env.close()
    storage = MinariStorage.new(
        folder, observation_space=env.observation_space, action_space=env.action_space
    )
    metadata: dict[str, Any] = {
        "dataset_id": name,
        "env_spec": dataset.environment.spec_json(),
        "minari_version": minari.__version__,
        "description": description,
        **IMPORTED,
    }
    if dataset.reference_scores:
        metadata["ref_min_score"], metadata["ref_max_score"] = dataset.reference_scores
        metadata[SOURCE_KEY] = dataset.reference_source
    if dataset.license:
        metadata["license"] = dataset.license
    storage.update_metadata(metadata)
    bounds = zip(dataset.episode_starts, dataset.episode_ends, strict=True)
    storage.update_episodes(
        EpisodeBuffer(
            observations=np.append(dataset.observations[start:end], final[None], axis=0),
            actions=dataset.actions[start:end],
            rewards=dataset.rewards[start:end],
            terminations=dataset.terminated[start:end],
            truncations=dataset.truncated[start:end],
        )
        for (start, end), final in zip(bounds, dataset.final_observations, strict=True)
    )
