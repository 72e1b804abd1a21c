"""Arrays that hold all steps one after the other: D4RL's layout, and that of d3rlpy 1.x.

    D4RL     observations, actions, rewards, terminals; timeouts and next_observations may lack
    d3rlpy   observations, actions, rewards, terminals, episode_terminals: where episodes end

Where no timeout is marked, episodes end where `next_observations` are not what follows, or else at
the environment's limit, which is what D4RL does with its own files.
"""

import contextlib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sdw_core.dataset.arrays import (
    Asked,
    Steps,
    assemble,
    flags,
    floats,
    reading,
    require_self_contained,
    stated_license,
)
from sdw_core.environment import Environment
from sdw_core.errors import InputError, described
from sdw_core.offline_dataset import Flags, Floats, OfflineDataset

REQUIRED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("timeouts", "episode_terminals", "next_observations")
OTHER_NAMES = ("truncations", "truncateds", "truncated", "truncation", "timeout")
"""What others call `timeouts`."""
SUFFIXES = (".hdf5", ".h5", ".npz")
D3RLPY_2 = ("observations_0", "actions_0", "rewards_0")


def read_flat(path: Path, reference: str, asked: Asked) -> OfflineDataset:
    """The dataset in a file of either layout.

    Args:
        path: HDF5 or .npz.
        reference: what the user calls it, which is its name.
        asked: what the user says of it.

    Raises:
        InputError: the file is damaged, lacks an array or its environment, or does not fit that.
    """
    where = str(path)
    if not path.is_file():
        raise InputError(f"there is no file {where}: check the path.")
    environment = asked.environment
    stated, license = "", None
    with reading(path, "D4RL-layout HDF5 or .npz file"), _opened(path) as file:
        _require_keys(file, where)
        stored = {key: file[key][()] for key in (*REQUIRED, *OPTIONAL) if key in file}
        if isinstance(file, h5py.File):
            attribute = file.attrs.get("env_id", "")
            stated = attribute.decode() if isinstance(attribute, bytes) else str(attribute)
            license = stated_license(file.attrs.get("license"))
    if environment is None and not stated:
        raise InputError(
            f"a dataset must name its environment, and {where} does not: name it as in "
            f"`{where}?env=Hopper-v5`."
        )
    if environment is None:
        _refuse_foreign(stated, where)
        environment = Environment.named(stated)
    return from_flat(stored, where, reference, environment, asked, license)


def from_flat(
    arrays: Mapping[str, Any],
    where: str,
    name: str,
    environment: Environment,
    asked: Asked,
    license: str | None = None,
) -> OfflineDataset:
    """The dataset of arrays in either layout.

    Args:
        arrays: by the names of the layout; others are left out.
        where: they are, for messages.
        name: of the dataset.
        environment: that they come from.
        asked: what the user says of them.
        license: as they are under.

    Raises:
        InputError: one lacks, or they do not fit the environment.
    """
    _require_keys(arrays, where)
    stored: dict[str, NDArray[Any]] = {}
    for key in (*REQUIRED, *OPTIONAL):
        if key in arrays:
            try:
                stored[key] = np.asarray(arrays[key])
            except (TypeError, ValueError, RuntimeError) as error:
                raise InputError(
                    f"`{key}` must be an array, and in {where} it cannot be made one "
                    f"({described(error)}): convert it to NumPy's."
                ) from None
    if not asked.settings:  # the arrays are the caller's own, who may change them
        stored = {key: array.copy() for key, array in stored.items()}
    spaces = environment.spaces
    steps = len(np.atleast_1d(stored["rewards"]))
    hint = _hint(environment, stored["observations"])
    observations = floats(stored, "observations", (steps, spaces.observations), where, hint)
    terminated = flags(stored, "terminals", (steps,), where)
    following = None
    if "next_observations" in stored:
        following = floats(stored, "next_observations", observations.shape, where)
    truncated = _truncated(stored, terminated, observations, following, environment, where)
    ends = np.flatnonzero(terminated | truncated) + 1
    if steps and (not ends.size or ends[-1] < steps):
        ends = np.append(ends, steps)
    return assemble(
        name,
        environment,
        Steps(
            observations=observations,
            final_observations=(observations if following is None else following)[ends - 1],
            actions=floats(stored, "actions", (steps, len(spaces.action_low)), where),
            rewards=floats(stored, "rewards", (steps,), where),
            terminated=terminated,
            truncated=truncated,
            ends=ends.astype(np.int64),
        ),
        asked,
        license=license,
    )


def _require_keys(arrays: Mapping[str, Any], where: str) -> None:
    """Refuse arrays that are of another layout, or lack what there must be."""
    if all(key in arrays for key in D3RLPY_2):
        raise InputError(
            f"{where} is a replay buffer of d3rlpy 2.x, which is not read: write its episodes "
            f"as arrays named {', '.join((*REQUIRED, 'timeouts'))}, one after the other."
        )
    if missing := [key for key in REQUIRED if key not in arrays]:
        raise InputError(
            f"data in D4RL's layout must hold {', '.join(REQUIRED)}, and {where} lacks "
            f"{', '.join(missing)}: add what is missing."
        )
    misnamed = [key for key in OTHER_NAMES if key in arrays]
    if misnamed and not any(key in arrays for key in ("timeouts", "episode_terminals")):
        raise InputError(
            f"where episodes are cut off is called `timeouts` in D4RL's layout, and {where} "
            f"has `{misnamed[0]}`: rename that."
        )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if zipfile.is_zipfile(path):
        with path.open("rb") as stream, np.load(stream) as file:
            yield file
    else:
        with h5py.File(path) as file:
            require_self_contained(file, path)
            yield file


def _truncated(
    stored: dict[str, NDArray[Any]],
    terminated: Flags,
    observations: Floats,
    following: Floats | None,
    environment: Environment,
    where: str,
) -> Flags:
    """[N] where episodes end that are not terminated: as marked, or else as found."""
    steps = len(terminated)
    if "episode_terminals" in stored:
        marked = flags(stored, "episode_terminals", (steps,), where) & ~terminated
        known = True
    elif "timeouts" in stored:
        marked = flags(stored, "timeouts", (steps,), where)
        known = bool(marked.any())
    else:
        marked, known = np.zeros(steps, np.bool_), False
    if following is None:
        return marked if known or "timeouts" in stored else _at_limit(terminated, environment)
    breaks = _breaks(observations, following)
    unmarked = np.flatnonzero(breaks & ~(marked | terminated)[:-1])
    if not unmarked.size:
        return marked
    if known or 2 * unmarked.size > steps:
        row = int(unmarked[0])
        raise InputError(
            f"rows must be consecutive steps, and in {where} `next_observations` of row {row} are "
            f"not the `observations` of row {row + 1}: restore the order of the steps, or mark "
            "each break in `timeouts`."
        )
    marked[unmarked] = True
    return marked


def _breaks(observations: Floats, following: Floats) -> Flags:
    """[N - 1] where what follows a row is not the next row."""
    same = np.isclose(following[:-1], observations[1:], 1e-4, 1e-4, equal_nan=True)
    return np.asarray(~same.all(axis=1))


def _at_limit(terminated: Flags, environment: Environment) -> Flags:
    """[N] every so many steps since the last end as the environment allows."""
    limit = environment.longest_episode
    truncated = np.zeros_like(terminated)
    start = 0
    for end in [*(np.flatnonzero(terminated) + 1).tolist(), len(terminated)]:
        truncated[start + limit - 1 : end : limit] = True
        start = end
    return truncated & ~terminated


def _refuse_foreign(stated: str, where: str) -> None:
    """A file does not decide which modules are imported, nor what a maker is given."""
    if ":" in stated or "&" in stated:
        raise InputError(
            f"{where} names its environment {stated!r}, and a file may only name a Gymnasium id: "
            f"name it yourself, as in `{where}?env={stated}`."
        )


def _hint(environment: Environment, observations: NDArray[Any]) -> str:
    """The way out that D4RL's Ant needs: its observations hold contact forces."""
    if environment.family == "Ant" and observations.ndim == 2 and observations.shape[1] == 111:
        return "D4RL's Ant is named `?env=Ant-v4&use_contact_forces=true`."
    return ""
