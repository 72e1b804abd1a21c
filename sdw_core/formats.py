"""The rows in other formats, beside the safetensors and parquet files that every export has."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sdw_core.errors import InputError
from sdw_core.evaluate import Arena
from sdw_core.manifest import CSV, MINARI, NPZ
from sdw_core.validation import shown

Rows = dict[str, NDArray[np.float32]]
"""What the safetensors file holds."""
Writer = Callable[[Rows, pd.DataFrame, Arena, Path], None]
"""Writes the rows, of which the parquet file holds the table, into a folder."""


def write_npz(rows: Rows, table: pd.DataFrame, arena: Arena, folder: Path) -> None:
    """The arrays of the safetensors file, and the clipped actions, for numpy."""
    units = arena.units
    clipped = np.clip(rows["actions"], units.action_low, units.action_high)
    arrays: dict[str, Any] = rows | {"actions_clipped": clipped}
    np.savez(folder / NPZ, **arrays)


def write_csv(rows: Rows, table: pd.DataFrame, arena: Arena, folder: Path) -> None:
    """The table of the parquet file; nine digits, from which float32 comes back exactly."""
    table.to_csv(folder / CSV, index=False, float_format="%.9g")


def write_minari(rows: Rows, table: pd.DataFrame, arena: Arena, folder: Path) -> None:
    """The rows as a Minari dataset, for whatever clones observations and actions from one.

    A row is an episode of one step. It has no reward and no next observation: both are NaN, which
    spoils, and does not mislead, what would learn from them. Actions are unbounded, as they are
    trained on; the environment that the dataset names has its bounds.
    """
    import minari
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    data = (folder / MINARI[0]).parent
    data.parent.mkdir(parents=True)
    env = arena.environment.make()
    env.close()
    unbounded = Box(-np.inf, np.inf, rows["actions"].shape[1:], np.float32)
    storage = MinariStorage.new(
        data, observation_space=env.observation_space, action_space=unbounded
    )
    low, high = arena.reference_scores
    storage.update_metadata(
        {
            "dataset_id": data.parent.name,
            "env_spec": arena.environment.spec_json(),
            "minari_version": minari.__version__,
            "description": "Synthetic rows, an episode of one step each; NaN: there is none.",
            "ref_min_score": low,
            "ref_max_score": high,
        }
    )
    storage.update_episodes(
        EpisodeBuffer(
            observations=np.stack([observation, np.full_like(observation, np.nan)]),
            actions=action[None],
            rewards=np.array([np.nan]),
            terminations=np.array([False]),
            truncations=np.array([True]),
        )
        for observation, action in zip(rows["observations"], rows["actions"], strict=True)
    )


def _is_there(rows: Rows, table: pd.DataFrame, arena: Arena, folder: Path) -> None:
    """Every export has it."""


FORMATS: dict[str, Writer] = {
    "parquet": _is_there,
    "npz": write_npz,
    "csv": write_csv,
    "minari": write_minari,
}


def require_formats(names: Iterable[str]) -> tuple[str, ...]:
    """Formats that a user named, each once.

    Raises:
        InputError: one is none of these.
    """
    names = tuple(dict.fromkeys(names))
    for name in names:
        if name not in FORMATS:
            raise InputError(
                f"A format of an export is one of {', '.join(FORMATS)}, not {shown(name)}: give "
                "one of these."
            )
    return names
