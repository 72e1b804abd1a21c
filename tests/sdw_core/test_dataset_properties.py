"""Generated datasets of every form: what is loaded is what was generated, or a sentence refuses it.

`Made` says what was generated, episode by episode; `expected` says, from that alone and in plain
loops, what must be loaded of it. Nothing here is shared with the reader.
"""

import json
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium import wrappers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from sdw_core.dataset import load
from sdw_core.errors import InputError

MINARI = ("hdf5", "arrow", "parquet")
FLAT = ("d4rl.hdf5", "d4rl.npz", "d3rlpy.h5")
ENVIRONMENTS = {
    "Pendulum-v1": (3, 1, 2.0),
    "InvertedPendulum-v5": (4, 1, 3.0),
    "Hopper-v5": (11, 3, 1.0),
}
WRAPPED = {
    "": lambda env: env,
    "statistics": wrappers.RecordEpisodeStatistics,
    "rescale": lambda env: wrappers.RescaleAction(env, -0.5, 0.5),
    "clip": wrappers.ClipAction,
    "time": wrappers.TimeAwareObservation,
    "normalize": wrappers.NormalizeObservation,
    "stack": lambda env: wrappers.FrameStackObservation(env, 2),
}
NOT_MADE_AGAIN = ("normalize", "stack")
ENDS = ("terminated", "truncated", "both", "unfinished")
FAULTS = ("", "", "", "", "nan", "outside", "narrow", "lacks", "flag", "half")


@dataclass
class Episode:
    """observations [T + 1, O], actions [T, A], rewards [T]; how it ends."""

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    end: str

    def __len__(self):
        return len(self.rewards)

    def flags(self, kinds):
        """[T] true at the last step, if it ends so."""
        return np.arange(len(self)) == (len(self) - 1 if self.end in kinds else -1)


@dataclass
class Made:
    """A dataset, as it was generated and is to be written."""

    form: str
    environment: str
    limit: int | None
    wrapper: str
    evaluated_elsewhere: bool
    timeouts: str
    following: bool
    column: bool
    fault: str
    episodes: list[Episode] = field(repr=False)

    @property
    def bound(self):
        return 0.5 if self.wrapper == "rescale" else ENVIRONMENTS[self.environment][2]

    @property
    def longest(self):
        return self.limit or {"Pendulum-v1": 200}.get(self.environment, 1000)


@st.composite
def datasets(draw):
    form = draw(st.sampled_from(MINARI + FLAT))
    environment = draw(st.sampled_from(sorted(ENVIRONMENTS)))
    width, actions, _ = ENVIRONMENTS[environment]
    limit = draw(st.one_of(st.none(), st.integers(2, 9)))
    wrapper = draw(st.sampled_from(sorted(WRAPPED))) if form in MINARI else ""
    width += wrapper == "time"
    made = Made(
        form,
        environment,
        limit,
        wrapper,
        draw(st.booleans()),
        draw(st.sampled_from(["marked", "marked", "absent", "false"])),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.sampled_from(FAULTS)),
        [],
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kinds = [np.float32, np.float64]
    kinds += [np.int8] if form in MINARI else [np.int8, np.float16, ">f4", ">f8"]
    dtypes = [draw(st.sampled_from(kinds)) for _ in range(3)]
    too_long = draw(st.booleans()) and draw(st.booleans())
    count = draw(st.sampled_from([2, 3, 4, 5, 6, 2, 3, 4, 5, 0, 1]))
    for index in range(count):
        end = draw(st.sampled_from(ENDS))
        steps = draw(st.integers(1, min(made.longest, 9)))
        if form in FLAT and end == "unfinished" and index < count - 1:
            end = "truncated"  # a file of steps cannot say that an episode just stops
        if form.startswith("d4rl") and made.timeouts != "marked" and not made.following:
            if end == "both":
                end = "terminated"
            if end == "truncated":
                steps = made.longest  # nothing but the limit says where it ends
        if too_long and index == 1 and form in MINARI:
            steps = made.longest + 1
        made.episodes.append(
            Episode(
                (9 * rng.standard_normal((steps + 1, width))).astype(dtypes[0]),
                (made.bound * rng.uniform(-1, 1, (steps, actions))).astype(dtypes[1]),
                (9 * rng.standard_normal(steps)).astype(dtypes[2]),
                end,
            )
        )
    if made.fault in ("nan", "outside") and made.episodes:
        last = made.episodes[-1]
        if made.fault == "nan":
            last.rewards = last.rewards.astype(np.float32)
            last.rewards[0] = np.nan
        else:
            for episode in made.episodes:
                episode.actions = episode.actions.astype(np.float32)
            last.actions[0, 0] = 1.5 * made.bound
    return made


@cache
def spec(environment, limit, wrapper):
    env = WRAPPED[wrapper](gymnasium.make(environment, max_episode_steps=limit))
    env.close()
    return env.spec.to_json()


def write(made, folder):
    """Write it as its form says; returns what to load."""
    return (write_minari if made.form in MINARI else write_flat)(made, folder)


def write_minari(made, folder):
    first = made.episodes[0] if made.episodes else None
    width, actions, _ = ENVIRONMENTS[made.environment]

    def space(values, size):
        dtype = values.dtype if first else np.float32
        if dtype == np.int8:
            return gymnasium.spaces.Box(-128, 127, (size,), np.int8)
        return gymnasium.spaces.Box(-np.inf, np.inf, (size,), dtype)

    storage = MinariStorage.new(
        folder / "data",
        space(first and first.observations, width + (made.wrapper == "time")),
        space(first and first.actions, actions),
        data_format=made.form,
    )
    own = spec(made.environment, made.limit, made.wrapper)
    metadata = {"dataset_id": "my/made-v0", "minari_version": minari.__version__, "env_spec": own}
    if made.evaluated_elsewhere:
        metadata |= {"env_spec": spec("Pendulum-v1", 1, ""), "eval_env_spec": own}
    storage.update_metadata(metadata)
    for index, episode in enumerate(made.episodes):
        terminations = episode.flags(("terminated", "both"))
        truncations = episode.flags(("truncated", "both"))
        if made.fault == "flag" and index == 0 and len(episode) > 1:
            truncations[0] = True
        rewards = episode.rewards
        if made.column:
            rewards, terminations = rewards[:, None], terminations[:, None]
        storage.update_episodes(
            [
                EpisodeBuffer(
                    observations=episode.observations,
                    actions=episode.actions,
                    rewards=rewards,
                    terminations=terminations,
                    truncations=truncations,
                )
            ]
        )
    if made.form == "hdf5" and made.episodes and made.fault in ("narrow", "lacks", "half"):
        with h5py.File(folder / "data/main_data.hdf5", "a") as file:
            spoil(file["episode_0"], made.fault, "terminations")
    return str(folder)


def spoil(arrays, fault, flag):
    if fault == "narrow":
        narrow = np.asarray(arrays["observations"])[:, :-1]
        del arrays["observations"]
        arrays["observations"] = narrow
    elif fault == "lacks":
        del arrays["actions"]
    elif fault == "half":
        half = np.full(np.asarray(arrays[flag]).shape, 0.5)
        del arrays[flag]
        arrays[flag] = half


def write_flat(made, folder):
    width, actions, _ = ENVIRONMENTS[made.environment]

    def joined(values, *shape):
        parts = [values(episode) for episode in made.episodes]
        return np.concatenate(parts) if parts else np.zeros((0, *shape), np.float32)

    arrays = {
        "observations": joined(lambda e: e.observations[:-1], width),
        "actions": joined(lambda e: e.actions, actions),
        "rewards": joined(lambda e: e.rewards),
        "terminals": joined(lambda e: e.flags(("terminated", "both"))),
    }
    if made.following:
        arrays["next_observations"] = joined(lambda e: e.observations[1:], width)
    if made.form.startswith("d3rlpy"):
        arrays["episode_terminals"] = joined(lambda e: e.flags(ENDS[:3]))
    elif made.timeouts != "absent":
        arrays["timeouts"] = joined(lambda e: e.flags(("truncated", "both")))
        if made.timeouts == "false":
            arrays["timeouts"][:] = False
    if made.column:
        for key in {"rewards", "terminals", "timeouts", "episode_terminals"} & arrays.keys():
            arrays[key] = arrays[key][:, None]
    spoil(arrays, made.fault, "terminals")
    path = folder / made.form
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for key, values in arrays.items():
                file[key] = values
    limit = f"&max_episode_steps={made.limit}" if made.limit else ""
    return f"{path}?env={made.environment}{limit}"


def expected(made):
    """The episodes that must be loaded, or why there can be none."""
    episodes = made.episodes
    if made.wrapper in NOT_MADE_AGAIN:
        return "wrapper"
    if len(episodes) < 2:
        return "few"
    if any(len(episode) > made.longest for episode in episodes):
        return "long"
    if made.fault == "nan" or (made.fault == "outside" and made.wrapper != "clip"):
        return "values"
    if made.fault in ("narrow", "lacks", "half") and made.form not in ("arrow", "parquet"):
        return "damaged"
    if made.fault == "flag" and made.form in MINARI and len(episodes[0]) > 1:
        return "flag"
    if made.form.startswith("d4rl") and made.timeouts != "marked":
        hidden = [e for e in episodes[:-1] if e.end == "truncated"]
        if made.following:
            if 2 * len(hidden) > sum(map(len, episodes)):
                return "shuffled, as far as anyone can tell"
        elif made.timeouts == "false" and hidden:
            return "joined, and so longer than the limit"
    loaded = []
    for episode in episodes:
        actions = np.float32(episode.actions)
        observations = np.float32(episode.observations)
        if made.form in FLAT and not made.following:
            observations = np.append(observations[:-1], observations[-2:-1], axis=0)
        if made.wrapper == "clip":
            actions = np.clip(actions, -made.bound, made.bound)
        terminated = episode.end in ("terminated", "both")
        truncated = not terminated or (
            episode.end == "both" and (made.form in MINARI or marks_both(made))
        )
        loaded.append((observations, actions, np.float32(episode.rewards), terminated, truncated))
    return loaded


def marks_both(made):
    """Whether a file says of a step that it is terminated and truncated as well."""
    return made.form.startswith("d4rl") and made.timeouts == "marked"


def check(made):
    wanted = expected(made)
    with tempfile.TemporaryDirectory() as folder:
        try:
            dataset = load(write(made, Path(folder)))
        except InputError as error:
            assert "\n" not in str(error)
            assert str(error).endswith((".", "?"))
            assert isinstance(wanted, str), error
            return
    assert not isinstance(wanted, str), wanted
    bounds = list(zip(dataset.episode_starts, dataset.episode_ends, strict=True))
    assert len(bounds) == len(wanted)
    for (start, end), episode in zip(bounds, wanted, strict=True):
        observations, actions, rewards, terminated, truncated = episode
        np.testing.assert_array_equal(dataset.observations[start:end], observations[:-1])
        np.testing.assert_array_equal(dataset.next_observations[start:end], observations[1:])
        np.testing.assert_array_equal(dataset.actions[start:end], actions)
        np.testing.assert_array_equal(dataset.rewards[start:end], rewards)
        ends = np.arange(end - start) == end - start - 1
        np.testing.assert_array_equal(dataset.terminated[start:end], ends & terminated)
        np.testing.assert_array_equal(dataset.truncated[start:end], ends & truncated)
    environment = dataset.environment
    assert (environment.id, environment.max_episode_steps) == (made.environment, made.longest)
    kept = {"rescale": ["RescaleAction"], "clip": ["ClipAction"], "time": ["TimeAwareObservation"]}
    assert [w.name for w in environment.wrappers] == kept.get(made.wrapper, [])
    assert (dataset.action_high == np.float32(made.bound)).all()
    json.dumps(environment.to_json(), allow_nan=False)


OPTIONS = {"suppress_health_check": list(HealthCheck)}


@pytest.mark.filterwarnings("ignore")  # gymnasium's and Minari's, of what is written
@settings(max_examples=25, **OPTIONS)
@given(datasets())
def test_what_is_loaded_is_what_was_made(made):
    check(made)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@settings(max_examples=500, **OPTIONS)
@given(datasets())
def test_what_is_loaded_is_what_was_made_500_times(made):
    check(made)
