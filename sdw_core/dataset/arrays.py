"""Arrays as files hold them, checked and brought to the shapes and types of an `OfflineDataset`."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sdw_core.environment import Environment, quiet
from sdw_core.errors import InputError, described
from sdw_core.offline_dataset import Flags, Floats, OfflineDataset, Scores

# Undiscounted returns of a random and of an expert policy: Fu et al., D4RL (arXiv 2004.07219).
D4RL_SCORES: dict[str, Scores] = {
    "HalfCheetah": (-280.178953, 12135.0),
    "Hopper": (-20.272305, 3234.3),
    "Walker2d": (1.629008, 4592.3),
    "Ant": (-325.6, 3879.7),
}
OF_OBSERVATIONS = {"use_contact_forces", "exclude_current_positions_from_observation"}
"""Arguments of these environments' makers that no reward depends on."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What whoever loads a dataset says of it, above what the dataset states.

    Attributes:
        environment: the one to use; None: what the dataset states.
        reference_scores: returns of a random and of an expert policy; None: as stated, or D4RL's.
        clip_actions: whether actions outside the environment's bounds are clipped to them.
        name: the id that it lies under, which a copy does not state; None: what it calls itself.
        settings: of a pipeline, to load it again; empty: nothing does.
    """

    environment: Environment | None = None
    reference_scores: Scores | None = None
    clip_actions: bool = False
    name: str | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Steps:
    """The steps of a dataset, episode after episode, as `OfflineDataset` has them.

    Attributes:
        observations: [N, O].
        final_observations: [E, O].
        actions: [N, A], in or outside of the environment's bounds.
        rewards, terminated, truncated: [N].
        ends: [E].
    """

    observations: Floats
    final_observations: Floats
    actions: Floats
    rewards: Floats
    terminated: Flags
    truncated: Flags
    ends: NDArray[np.int64]


def assemble(
    name: str,
    environment: Environment,
    steps: Steps,
    asked: Asked,
    stated: Scores | None = None,
    source: str = "stated with the dataset",
    license: str | None = None,
) -> OfflineDataset:
    """The dataset of steps: unfinished episodes are truncated, actions clipped where that is right.

    Reference scores are those that were asked for, else the `stated` ones, else D4RL's for the
    environment as D4RL has it: with its own time limit and rewards.

    Raises:
        InputError: the arrays are no valid dataset of the environment.
    """
    _require_ends(name, steps)
    _require_length(name, environment, steps.ends)
    require_two_episodes(name, len(steps.ends))
    steps.truncated[steps.ends - 1] |= ~steps.terminated[steps.ends - 1]
    scores = asked.reference_scores or stated
    if asked.reference_scores:
        source = "given with `reference_scores`"
    family = environment.family
    if scores is None and family in D4RL_SCORES and _scored_as_in_d4rl(environment):
        scores, source = D4RL_SCORES[family], f"D4RL's for {family} (arXiv 2004.07219)"
    spaces, actions = environment.spaces, steps.actions
    if spaces.clips_actions or asked.clip_actions:
        actions = np.clip(actions, spaces.action_low, spaces.action_high)
    return OfflineDataset(
        name=name,
        environment=environment,
        observations=steps.observations,
        final_observations=steps.final_observations,
        actions=actions,
        rewards=steps.rewards,
        terminated=steps.terminated,
        truncated=steps.truncated,
        episode_ends=steps.ends,
        action_low=spaces.action_low,
        action_high=spaces.action_high,
        reference_scores=scores,
        reference_source=source if scores else None,
        license=license,
        loaded_by=asked.settings,
    )


def floats(
    arrays: Mapping[str, Any], key: str, shape: tuple[int, ...], where: str, hint: str = ""
) -> Floats:
    """An array of real numbers of that shape, as float32."""
    values = _shaped(arrays[key], shape, key, where, hint)
    with np.errstate(over="ignore"):  # becomes infinite, which is reported with its place
        return np.ascontiguousarray(values, np.float32)


def flags(arrays: Mapping[str, Any], key: str, shape: tuple[int, ...], where: str) -> Flags:
    """An array of true and false, or of 1 and 0, of that shape."""
    values = _shaped(arrays[key], shape, key, where)
    found = np.asarray(values, np.bool_)
    if (wrong := np.flatnonzero(found != values)).size:
        raise InputError(
            f"`{key}` must be true or false (1 or 0), and row {wrong[0]} in {where} is "
            f"{values[wrong[0]]}: repair the data."
        )
    return found


def _shaped(
    values: Any, shape: tuple[int, ...], key: str, where: str, hint: str = ""
) -> NDArray[Any]:
    """The values in that shape; a column [N, 1] and a vector [N] hold the same."""
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise InputError(
            f"`{key}` must be real numbers, and in {where} they are of type {values.dtype}: "
            "convert them."
        )
    columns = {shape, shape[:1]} if shape[1:] == (1,) else {shape, (*shape, 1)}
    if values.shape not in columns:
        raise InputError(
            f"`{key}` in {where} must have the shape {shape}, which the number of rewards and the "
            f"environment call for, not {values.shape}: "
            f"{hint or 'name the environment that the data come from, or repair them.'}"
        )
    return np.asarray(values.reshape(shape))


def stated_license(stated: Any) -> str | None:
    """The licence in a dataset's metadata, where it is text."""
    text = stated.decode(errors="replace") if isinstance(stated, bytes) else stated
    return text.strip() or None if isinstance(text, str) else None


def require_two_episodes(where: str, episodes: int) -> None:
    """Refuse what no expert can be chosen from."""
    if episodes < 2:
        raise InputError(
            f"a dataset must hold at least two episodes, and {where} holds {episodes}: collect "
            "more, or mark where each ends."
        )


def _require_ends(where: str, steps: Steps) -> None:
    ended = steps.terminated | steps.truncated
    ended[steps.ends - 1] = False
    if ended.any():
        row = int(ended.argmax())
        episode = int(np.searchsorted(steps.ends, row, side="right"))
        step = row - (int(steps.ends[episode - 1]) if episode else 0)
        raise InputError(
            f"an episode must end where it is terminated or truncated, and episode {episode} of "
            f"{where} goes on after step {step}, which is: divide it there, or correct the flag."
        )


def _require_length(where: str, environment: Environment, ends: NDArray[np.int64]) -> None:
    lengths, limit = np.diff(ends, prepend=0), environment.longest_episode
    if (long := np.flatnonzero(lengths > limit)).size:
        raise InputError(
            f"an episode must end within the {limit} steps of {environment}, and episode {long[0]} "
            f"of {where} has {lengths[long[0]]}: mark where each episode ends (`timeouts` in "
            "D4RL's layout), or, if the data were collected under a longer limit, name that as in "
            f"`?env={environment.id}&max_episode_steps=STEPS`."
        )


def require_self_contained(file: h5py.File, where: Path) -> None:
    """Refuse HDF5 whose arrays lie in other files: it would decide what is opened."""
    names: list[bytes] = []
    outside: list[bytes] = []

    def look(name: bytes, link: Any) -> None:
        (outside if link.type == h5py.h5l.TYPE_EXTERNAL else names).append(name)

    file.id.links.visit(look, info=True)
    for name in () if outside else names:
        with contextlib.suppress(KeyError):  # a link to nothing, which reading it will say
            found = h5py.h5o.open(file.id, name)
            if isinstance(found, h5py.h5d.DatasetID):
                stored = found.get_create_plist()
                if stored.get_layout() == h5py.h5d.VIRTUAL or stored.get_external_count():
                    outside.append(name)
    if outside:
        raise InputError(
            f"a dataset must hold its data itself, and `{outside[0].decode()}` of {where} lies in "
            "another file: copy it into this one."
        )


def _scored_as_in_d4rl(environment: Environment) -> bool:
    others = environment.kwargs.keys() - OF_OBSERVATIONS
    names = [wrapper.name for wrapper in environment.wrappers]
    bare = dataclasses.replace(environment, wrappers=())
    if not str(bare.spec().entry_point).startswith("gymnasium.envs.mujoco."):
        return False  # another's `mine/Hopper-v0`
    return bare.plain and not others and not any("Reward" in n or n == "TimeLimit" for n in names)


@contextlib.contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a library raises on a damaged file into an `InputError`."""
    try:
        with quiet():
            yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path} is not a readable {kind} ({described(error)}): check the path, or fetch or "
            "write the data again."
        ) from None
