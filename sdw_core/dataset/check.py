"""Whether a dataset comes from the environment that policies are judged in.

Where an observation holds the state of the simulation (MuJoCo's qpos, without its first entries
maybe, then qvel), transitions of the data are stepped again, one by one, in the whole environment,
and what follows is compared. Elsewhere no single number can be expected; the data's first
observations and rewards are compared with those of random episodes, which depend little on the
policy, and its observations with the bounds that the environment states.

A disagreement is worth a warning and no refusal: the data may well come from a neighbouring version
of the environment, or an environment may start from states that its `reset` does not show.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sdw_core.environment import Env, quiet
from sdw_core.errors import InputError, described
from sdw_core.offline_dataset import OfflineDataset
from sdw_core.seeds import numpy_generator

STEPPED = 300
"""Transitions that are stepped again."""
RESETS = 32
"""Random episodes whose beginnings are compared."""
BEGINNING = 5
"""Steps of a random episode that are compared."""
AGREEING = {"observation": 0.01, "reward": 0.1}
"""Errors that rounding explains, and what no observation shows: some rewards are of places that
MuJoCo computed at the start of its last step. In units of what changes in a step, and of the
rewards' standard deviation."""
MARGIN = 3.0
"""How many times the range of random episodes the data may leave it by."""

Verdict = Literal["agrees", "disagrees", "cannot tell"]


@dataclasses.dataclass(frozen=True)
class Check:
    """What was found.

    Attributes:
        dataset: its name.
        environment: the one that policies are judged in.
        verdict: whether the data come from that environment.
        method: transitions were `stepped` again, or compared with `random episodes`.
        numbers: what was measured, for people; errors are in units of what changes in a step.
        sentence: the verdict and its reason.
    """

    dataset: str
    environment: str
    verdict: Verdict
    method: Literal["stepped", "random episodes"]
    numbers: dict[str, float]
    sentence: str

    @property
    def warning(self) -> str | None:
        """What to tell whoever is about to use the data; None: nothing."""
        return self.sentence if self.verdict == "disagrees" else None

    def to_json(self) -> dict[str, Any]:
        """All of it, as a JSON document."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How an observation holds a MuJoCo state: [qpos[hidden:], qvel, ...].

    Attributes:
        positions, velocities: entries of qpos and qvel.
        hidden: entries of qpos that no observation shows, for nothing depends on them.
    """

    positions: int
    velocities: int
    hidden: int

    @property
    def width(self) -> int:
        """Entries of an observation that are the state."""
        return self.positions - self.hidden + self.velocities

    def restore(self, env: Env, observation: NDArray[Any]) -> None:
        """Set the simulation to an observed state."""
        state = np.concatenate([np.zeros(self.hidden), observation[: self.width]])
        env.unwrapped.set_state(  # type: ignore[attr-defined]
            state[: self.positions], state[self.positions :]
        )


def check(dataset: OfflineDataset, seed: int = 0) -> Check:
    """Whether a dataset comes from its environment; takes about a second.

    Args:
        dataset: as loaded, with the environment that policies are judged in.
        seed: of the transitions, actions and episodes that are drawn.
    """
    rng = numpy_generator(seed, "check")
    try:
        with quiet(), _made(dataset) as env:
            layout = _layout(env, dataset, rng)
            if layout:
                return _stepped(dataset, env, layout, rng)
            return _compared(dataset, env, rng)
    except InputError:
        raise
    except Exception as error:  # an environment may raise anything
        why = f"the environment failed ({described(error)})"
        return _check(dataset, "cannot tell", "random episodes", {}, why)


@contextmanager
def _made(dataset: OfflineDataset) -> Iterator[Env]:
    env = dataset.environment.make()
    try:
        yield env
    finally:
        env.close()


def _check(
    dataset: OfflineDataset,
    verdict: Verdict,
    method: Literal["stepped", "random episodes"],
    numbers: dict[str, float],
    why: str,
) -> Check:
    environment = str(dataset.environment)
    said = {
        "agrees": f"{dataset.name} agrees with {environment}: {why}.",
        "disagrees": f"{dataset.name} does not seem to come from {environment}: {why}; name the "
        "environment that it was collected in behind `?env=`, if it is another.",
        "cannot tell": f"whether {dataset.name} comes from {environment} cannot be told: {why}.",
    }
    return Check(dataset.name, environment, verdict, method, numbers, said[verdict])


def _random_action(dataset: OfflineDataset, rng: np.random.Generator) -> NDArray[np.float32]:
    low, high = dataset.action_low, dataset.action_high
    return (low + (high - low) * rng.random(len(low))).astype(np.float32)


def _reset(env: Env, rng: np.random.Generator) -> NDArray[np.float64]:
    observation, _ = env.reset(seed=int(rng.integers(2**31)))
    return np.asarray(observation, np.float64)


def _step(env: Env, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], float, bool]:
    observation, reward, terminated, truncated, _ = env.step(action)
    return np.asarray(observation, np.float64), float(reward), bool(terminated or truncated)


def _layout(env: Env, dataset: OfflineDataset, rng: np.random.Generator) -> _Layout | None:
    """Where an observation holds the state, proved by a step that is taken twice; None: it may not.

    What observation wrappers change, what an environment remembers and what is drawn at random all
    show in that step.
    """
    simulated: Any = env.unwrapped
    if not all(hasattr(simulated, name) for name in ("set_state", "data", "model")):
        return None
    observation = _reset(env, rng)
    qpos, qvel = np.array(simulated.data.qpos), np.array(simulated.data.qvel)
    for hidden in range(len(qpos)):
        layout = _Layout(len(qpos), len(qvel), hidden)
        state = np.concatenate([qpos[hidden:], qvel])
        if layout.width > len(observation) or not np.allclose(observation[: layout.width], state):
            continue
        action = _random_action(dataset, rng)
        first, first_reward, _ = _step(env, action)
        layout.restore(env, observation)
        again, again_reward, _ = _step(env, action)
        if np.allclose([*first, first_reward], [*again, again_reward], 1e-3, 1e-3):
            return layout
    return None


def _stepped(dataset: OfflineDataset, env: Env, layout: _Layout, rng: np.random.Generator) -> Check:
    inner = np.setdiff1d(np.arange(len(dataset)), dataset.episode_ends - 1)
    if not inner.size:
        return _check(dataset, "cannot tell", "stepped", {}, "no step of it is followed by another")
    rows = rng.choice(inner, min(STEPPED, len(inner)), replace=False)
    shown = slice(0, layout.width)
    before = dataset.observations[rows, shown].astype(np.float64)
    after = dataset.observations[rows + 1, shown].astype(np.float64)
    found, rewards = np.empty_like(after), np.empty(len(rows))
    for i, row in enumerate(rows):
        layout.restore(env, dataset.observations[row].astype(np.float64))
        observation, rewards[i], _ = _step(env, dataset.actions[row])
        found[i] = observation[shown]
    change = np.sqrt(np.mean((after - before) ** 2, axis=0))
    moving = change > 0
    errors = np.abs(found - after)[:, moving] / change[moving]
    of_rows = np.median(errors, axis=1) if moving.any() else np.zeros(len(rows))
    stated = dataset.rewards[rows].astype(np.float64)
    scale = max(float(stated.std()), 1e-3 * float(np.abs(stated).max()), 1e-6)
    of_rewards = np.abs(rewards - stated) / scale
    numbers: dict[str, float] = {"transitions": float(len(rows))}
    for name, values in (("observation", of_rows), ("reward", of_rewards)):
        for part, quantile in (("median", 0.5), ("three_quarters", 0.75), ("nine_tenths", 0.9)):
            numbers[f"{name}_error_{part}"] = _finite(np.quantile(values, quantile))
    worst = {name: numbers[f"{name}_error_three_quarters"] for name in ("observation", "reward")}
    told = " and ".join(
        f"{name}s by more than {100 * value:.2g} % of {unit}"
        for (name, value), unit in zip(
            worst.items(), ("what changes in a step", "their standard deviation"), strict=True
        )
        if value > AGREEING[name]
    )
    if told:
        why = f"stepped again there, a quarter of {len(rows)} transitions differ in their {told}"
        return _check(dataset, "disagrees", "stepped", numbers, why)
    why = f"{len(rows)} transitions, stepped again there, give the same observations and rewards"
    return _check(dataset, "agrees", "stepped", numbers, why)


def _compared(dataset: OfflineDataset, env: Env, rng: np.random.Generator) -> Check:
    """The data's observations, first observations and first rewards beside random episodes'."""
    starts, beginnings, rewards = [], [], []
    for _ in range(RESETS):
        starts.append(_reset(env, rng))
        for step in range(BEGINNING):
            observation, reward, ended = _step(env, _random_action(dataset, rng))
            beginnings.append(observation)
            if step == 0:
                rewards.append(reward)
            if ended:
                break
    space: Any = env.observation_space
    slack = 1e-3 * np.maximum(1, np.abs(np.where(np.isfinite(space.high), space.high, 0)))
    states = dataset.observations
    outside = (states < space.low - slack) | (states > space.high + slack)
    first = dataset.episode_starts
    seen = np.array(starts)
    numbers = {
        "episodes": float(RESETS),
        "outside_space": float(outside.any(axis=1).mean()),
        "first_observation_distance": _distance(states[first], seen, np.array(beginnings)),
        "first_reward_distance": _distance(
            dataset.rewards[first, None], np.array(rewards)[:, None], np.array(rewards)[:, None]
        ),
    }
    reasons = []
    if numbers["outside_space"] > 0:
        share = 100 * numbers["outside_space"]
        reasons.append(f"{share:.2g} % of its observations lie outside of those that it states")
    if numbers["first_observation_distance"] > MARGIN:
        reasons.append("its episodes do not begin where those of the environment do")
    if numbers["first_reward_distance"] > MARGIN:
        reasons.append("the first rewards of its episodes are on another scale")
    if reasons:
        return _check(dataset, "disagrees", "random episodes", numbers, ", and ".join(reasons))
    why = (
        "no observation there holds the state, to step transitions again from; beside random "
        "episodes nothing is out of place"
    )
    return _check(dataset, "cannot tell", "random episodes", numbers, why)


def _distance(
    stored: NDArray[Any], random: NDArray[np.float64], around: NDArray[np.float64]
) -> float:
    """How far, in any dimension, most of the stored values lie from the random ones.

    Args:
        stored: [*, D].
        random: [*, D] what they are compared with.
        around: [*, D] whose range, or a tenth of whose size, is 1.
    """
    unit = np.maximum(np.ptp(around, axis=0), 0.1 * np.abs(around).max(axis=0)) + 1e-6
    low, high = random.min(axis=0), random.max(axis=0)
    beyond = np.maximum(np.maximum(low - stored, stored - high), 0) / unit
    return _finite(np.median(beyond, axis=0).max())


def _finite(value: float) -> float:
    """A number that JSON has; what is no number is very large, as an error or a distance is."""
    return float(np.nan_to_num(value, nan=1e9, posinf=1e9))
