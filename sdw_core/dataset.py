"""The dataset stage: a reference becomes an `OfflineDataset`.

A reference is one of:

- a Minari id (`sdw/hopper-replay-mini-v0`): bundled, else local, else downloaded. Local datasets
  lie under `MINARI_DATASETS_PATH` (default `~/.minari/datasets`);
- the folder of a Minari dataset, the one that holds `data/main_data.hdf5`;
- a file in D4RL's layout, HDF5 or .npz: `observations`, `actions`, `rewards`, `terminals`,
  `timeouts` and, optionally, `next_observations`. It names its environment in the HDF5 attribute
  `env_id`, or the reference does: `file.hdf5?env=Hopper-v5`.
"""

import contextlib
import dataclasses
import json
import logging
import os
import re
import socket
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import gymnasium
import h5py
import minari
import minari.namespace
import numpy as np
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage
from numpy.typing import NDArray

from sdw_core.config import nearest
from sdw_core.errors import InputError, SDWError
from sdw_core.files import created_folder
from sdw_core.offline_dataset import Flags, Floats, OfflineDataset, Scores, describe

try:
    import mujoco
except Exception:  # MUJOCO_GL names what is not there, and nothing is drawn here
    wanted, os.environ["MUJOCO_GL"] = os.environ["MUJOCO_GL"], "disabled"
    import mujoco

    os.environ["MUJOCO_GL"] = wanted

__all__ = [
    "AvailableDataset",
    "OfflineDataset",
    "available",
    "datasets_folder",
    "describe",
    "import_file",
    "load",
]

HUB = "huggingface.co"  # where Minari's remote datasets lie
BUNDLED = Path(__file__).parent / "data"
DATASET_ID = re.compile(r"([-\w]+/)*[-\w]+-v\d+")
MINARI_KEYS = ("observations", "actions", "rewards", "terminations", "truncations")
D4RL_KEYS = ("observations", "actions", "rewards", "terminals", "timeouts")

# Undiscounted returns of a random and of an expert policy: Fu et al., D4RL (arXiv 2004.07219).
D4RL_SCORES: dict[str, Scores] = {
    "HalfCheetah": (-280.178953, 12135.0),
    "Hopper": (-20.272305, 3234.3),
    "Walker2d": (1.629008, 4592.3),
    "Ant": (-325.6, 3879.7),
}


@dataclasses.dataclass(frozen=True)
class AvailableDataset:
    """A Minari dataset that `load` finds without a network; counts as its metadata state them."""

    id: str
    where: Literal["bundled", "local"]
    episodes: int
    transitions: int
    environment: str | None


def load(reference: str) -> OfflineDataset:
    """The dataset that `reference` names (see the module for its forms), numbers as float32.

    Raises:
        InputError: the reference is unknown, or what it names is not a readable dataset of two or
            more episodes whose finite values fit a Gymnasium environment with Box spaces.
    """
    for root in (BUNDLED, datasets_folder(), Path()):
        if (root / reference / "data").is_dir():
            return _read_minari(root / reference)
    path, _, environment = reference.partition("?env=")
    if Path(path).is_file() or Path(path).suffix in {".hdf5", ".h5", ".npz"}:
        return _read_d4rl(Path(path), environment, name=reference)
    if Path(path).is_dir():
        raise InputError(
            f"a dataset's folder must hold data/main_data.hdf5, and {path} does not: give the "
            "folder of a Minari dataset."
        )
    _download(reference)
    return _read_minari(datasets_folder() / reference)


def available() -> list[AvailableDataset]:
    """The bundled and local datasets, by id; a bundled one hides a local one of the same id.

    Only metadata are read; a folder whose metadata are unreadable is left out.
    """
    found: dict[str, AvailableDataset] = {}
    places: list[tuple[Literal["bundled", "local"], Path]] = [
        ("local", datasets_folder()),
        ("bundled", BUNDLED),
    ]
    for where, root in places:
        for file in root.glob("**/data/metadata.json"):
            identifier = file.relative_to(root).parents[1].as_posix()
            if not DATASET_ID.fullmatch(identifier):
                continue
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                metadata = json.loads(file.read_text(encoding="utf-8"))
                environment = json.loads(metadata.get("env_spec", "{}")).get("id")
                counts = int(metadata["total_episodes"]), int(metadata["total_steps"])
                found[identifier] = AvailableDataset(identifier, where, *counts, environment)
    return sorted(found.values(), key=lambda entry: entry.id)


def datasets_folder() -> Path:
    """Where Minari keeps local datasets: `MINARI_DATASETS_PATH` or `~/.minari/datasets`."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def import_file(path: str | Path, env_id: str, reference: Scores | None, name: str) -> str:
    """Store a D4RL-layout file as the local Minari dataset `name`; returns `name`.

    `reference` holds the undiscounted returns of a random and of an expert policy. The dataset is
    written whole or not at all, and what is loaded from it equals what is loaded from the file.

    Raises:
        InputError: the file is not a valid dataset (as in `load`), the name is malformed or taken.
        SDWError: the dataset could not be written.
    """
    if not DATASET_ID.fullmatch(name):
        raise InputError(
            f"a dataset's name must be words joined by `/` that end in a version, not {name!r}: "
            "choose one such as `my/hopper-v0`."
        )
    folder = datasets_folder() / name
    if folder.exists() or (BUNDLED / name).exists():
        raise InputError(
            f"a dataset is never overwritten, and `{name}` exists already: choose another name or "
            "version."
        )
    dataset = _read_d4rl(Path(path), env_id, name, reference)
    try:
        with created_folder(folder) as scratch:
            _write_minari(
                dataset, scratch / "data", description=f"Imported from {Path(path).name}."
            )
        namespace = name.rpartition("/")[0]
        if namespace and namespace not in minari.namespace.list_local_namespaces():
            minari.namespace.create_namespace(namespace)
    except OSError as error:
        raise SDWError(f"`{name}` could not be written to {folder} ({_reason(error)}).") from None
    return name


def _download(reference: str) -> None:
    reason = "not an id that could be downloaded"
    if DATASET_ID.fullmatch(reference):
        try:
            with _quiet(), contextlib.redirect_stdout(sys.stderr):
                socket.getaddrinfo(HUB, 443)  # without a network the client would try for long
                return minari.download_dataset(reference)  # type: ignore[no-any-return]
        except Exception as error:  # no network, no client, no such dataset: all the same here
            reason = f"not downloadable ({_reason(error)})"
    raise InputError(
        f"unknown dataset `{reference}`, which is not bundled, not in {datasets_folder()} and "
        f"{reason}: {nearest(reference, [entry.id for entry in available()])}"
    )


def _read_minari(folder: Path) -> OfflineDataset:
    with _reading(folder, "Minari dataset"):
        stored = minari.MinariDataset(folder / "data")
        name, spec, episodes = stored.spec.dataset_id, stored.env_spec, stored.total_episodes
        stated = [stored.storage.metadata.get(key) for key in ("ref_min_score", "ref_max_score")]
        reference = None if None in stated else (float(stated[0]), float(stated[1]))
    if spec is None:
        raise InputError(
            f"a dataset must name the environment that it is evaluated in, and {name} names none: "
            "create it again with the `env` argument of Minari."
        )
    low, high, width = _spaces(spec.id, spec.kwargs)
    _require_two_episodes(name, episodes)
    parts: list[tuple[NDArray[Any], ...]] = []
    with _reading(folder, "Minari dataset"), h5py.File(folder / "data/main_data.hdf5") as file:
        for index in range(episodes):
            where = f"episode {index} of {name}"
            episode = {key: file[f"episode_{index}/{key}"][()] for key in MINARI_KEYS}
            steps = len(episode["rewards"])
            if steps == 0:
                raise InputError(f"an episode must have a step, and {where} has none: remove it.")
            parts.append(
                (
                    _floats(episode, "observations", (steps + 1, width), where),
                    _floats(episode, "actions", (steps, len(low)), where),
                    _floats(episode, "rewards", (steps,), where),
                    _flags(episode, "terminations", (steps,), where),
                    _flags(episode, "truncations", (steps,), where),
                )
            )
    states, actions, rewards, terminated, truncated = zip(*parts, strict=True)
    return _assemble(
        name,
        (spec.id, spec.kwargs, low, high),
        observations=np.concatenate([rows[:-1] for rows in states]),
        final_observations=np.stack([rows[-1] for rows in states]),
        actions=np.concatenate(actions),
        rewards=np.concatenate(rewards),
        terminated=np.concatenate(terminated),
        truncated=np.concatenate(truncated),
        ends=np.cumsum([len(part) for part in rewards], dtype=np.int64),
        reference=reference,
    )


def _read_d4rl(
    path: Path, environment: str, name: str, reference: Scores | None = None
) -> OfflineDataset:
    """`environment` may be empty where the file names it."""
    where = str(path)
    if not path.is_file():
        raise InputError(f"there is no file {where}: check the path.")
    with _reading(path, "D4RL-layout HDF5 or .npz file"), _opened(path) as file:
        if missing := [key for key in D4RL_KEYS if key not in file]:
            raise InputError(
                f"a D4RL-layout file must hold {', '.join(D4RL_KEYS)}, and {where} lacks "
                f"{', '.join(missing)}: add what is missing."
            )
        keys = [key for key in (*D4RL_KEYS, "next_observations") if key in file]
        stored = {key: np.asarray(file[key][()]) for key in keys}
        if not environment and isinstance(file, h5py.File):
            attribute = file.attrs.get("env_id", "")
            environment = attribute.decode() if isinstance(attribute, bytes) else str(attribute)
    if not environment:
        raise InputError(
            f"a dataset must name its environment, and {where} does not: name it as in "
            f"`{where}?env=Hopper-v5`."
        )
    low, high, width = _spaces(environment, {})
    steps = stored["rewards"].size
    observations = _floats(stored, "observations", (steps, width), where)
    terminated = _flags(stored, "terminals", (steps,), where)
    truncated = _flags(stored, "timeouts", (steps,), where)
    ends = np.flatnonzero(terminated | truncated) + 1
    if steps and (not ends.size or ends[-1] < steps):
        ends = np.append(ends, steps)
    _require_two_episodes(where, len(ends))
    following = observations
    if "next_observations" in stored:
        following = _floats(stored, "next_observations", (steps, width), where)
        _require_consecutive(observations, following, ends, where)
    return _assemble(
        name,
        (environment, {}, low, high),
        observations=observations,
        final_observations=following[ends - 1],
        actions=_floats(stored, "actions", (steps, len(low)), where),
        rewards=_floats(stored, "rewards", (steps,), where),
        terminated=terminated,
        truncated=truncated,
        ends=ends.astype(np.int64),
        reference=reference,
    )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if path.suffix == ".npz":
        with path.open("rb") as stream, np.load(stream) as file:
            yield file
    else:
        with h5py.File(path) as file:
            yield file


def _assemble(
    name: str,
    environment: tuple[str, dict[str, Any], Floats, Floats],
    *,
    observations: Floats,
    final_observations: Floats,
    actions: Floats,
    rewards: Floats,
    terminated: Flags,
    truncated: Flags,
    ends: NDArray[np.int64],
    reference: Scores | None,
) -> OfflineDataset:
    """Close unfinished episodes as truncated; fill in D4RL's scores where none are stated."""
    identifier, kwargs, low, high = environment
    truncated[ends - 1] |= ~terminated[ends - 1]
    family = identifier.rpartition("-v")[0]
    source = "stated with the dataset"
    if reference is None and family in D4RL_SCORES:
        reference, source = D4RL_SCORES[family], f"D4RL's for {family} (arXiv 2004.07219)"
    return OfflineDataset(
        name=name,
        environment=identifier,
        observations=observations,
        final_observations=final_observations,
        actions=actions,
        rewards=rewards,
        terminated=terminated,
        truncated=truncated,
        episode_ends=ends,
        action_low=low,
        action_high=high,
        environment_kwargs=kwargs,
        reference_scores=reference,
        reference_source=source if reference else None,
    )


def _write_minari(dataset: OfflineDataset, folder: Path, description: str) -> None:
    with _quiet():
        storage = MinariStorage.new(folder, env_spec=gymnasium.spec(dataset.environment))
    metadata: dict[str, Any] = {
        "dataset_id": dataset.name,
        "minari_version": minari.__version__,
        "description": description,
    }
    if dataset.reference_scores:
        metadata["ref_min_score"], metadata["ref_max_score"] = dataset.reference_scores
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


def _spaces(environment: str, kwargs: Mapping[str, Any]) -> tuple[Floats, Floats, int]:
    """Lower and upper bounds of the actions, width of the observations."""
    if environment not in gymnasium.registry:
        raise InputError(
            f"unknown environment `{environment}`: {nearest(environment, gymnasium.registry)}"
        )
    try:
        with _quiet():
            env = gymnasium.make(environment, **kwargs)
            env.close()
    except Exception as error:  # an environment may raise anything
        raise InputError(
            f"the environment `{environment}` cannot be made ({_reason(error)}): install what it "
            "needs or choose another."
        ) from None
    states = _box(env.observation_space, "observations", environment)
    actions = _box(env.action_space, "actions", environment)
    low, high = actions.low.astype(np.float32), actions.high.astype(np.float32)
    if not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
        raise InputError(
            f"actions must have finite bounds, the lower below the upper, and those of "
            f"{environment} are {actions}: choose an environment that bounds them."
        )
    return low, high, states.shape[0]


def _box(space: gymnasium.Space[Any], what: str, environment: str) -> gymnasium.spaces.Box:
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        raise InputError(
            f"{what} must be vectors of real numbers (a Box of one axis), and those of "
            f"{environment} are {space}: choose an environment with continuous {what}."
        )
    return space


def _floats(arrays: Mapping[str, Any], key: str, shape: tuple[int, ...], where: str) -> Floats:
    _require_numbers(arrays[key], shape, key, where)
    with np.errstate(over="ignore"):  # becomes infinite, which is reported with its place
        return np.asarray(arrays[key], np.float32)


def _flags(arrays: Mapping[str, Any], key: str, shape: tuple[int, ...], where: str) -> Flags:
    values = arrays[key]
    _require_numbers(values, shape, key, where)
    flags = np.asarray(values, np.bool_)
    if (wrong := np.flatnonzero(flags != values)).size:
        raise InputError(
            f"`{key}` must be true or false (1 or 0), and row {wrong[0]} in {where} is "
            f"{values[wrong[0]]}: repair the data."
        )
    return flags


def _require_numbers(values: NDArray[Any], shape: tuple[int, ...], key: str, where: str) -> None:
    if values.dtype.kind not in "biuf":
        raise InputError(
            f"`{key}` must be real numbers, and in {where} they are of type {values.dtype}: "
            "convert them."
        )
    if values.shape != shape:
        raise InputError(
            f"`{key}` in {where} must have the shape {shape}, which the number of rewards and the "
            f"environment call for, not {values.shape}: name the environment that the data come "
            "from, or repair them."
        )


def _require_two_episodes(where: str, episodes: int) -> None:
    if episodes < 2:
        raise InputError(
            f"a dataset must hold at least two episodes, and {where} holds {episodes}: collect "
            "more, or mark where each ends."
        )


def _require_consecutive(
    observations: Floats, following: Floats, ends: NDArray[np.int64], where: str
) -> None:
    inside = np.delete(np.arange(len(observations)), ends - 1)
    same = np.isclose(following[inside], observations[inside + 1], 1e-4, 1e-4, equal_nan=True)
    if not same.all():
        row = int(inside[np.flatnonzero(~same.all(axis=1))[0]])
        raise InputError(
            f"rows must be consecutive steps, and in {where} `next_observations` of row {row} are "
            f"not the `observations` of row {row + 1}: restore the order of the steps, or mark "
            "each break in `timeouts`."
        )


@contextlib.contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a library raises on a damaged file into an `InputError`."""
    try:
        with _quiet():
            yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path} is not a readable {kind} ({_reason(error)}): check the path, or fetch or "
            "write the data again."
        ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings, Python's or MuJoCo's, which would also write MUJOCO_LOG.TXT, and no logs."""
    handler = mujoco.get_mju_user_warning()
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        mujoco.set_mju_user_warning(handler)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
