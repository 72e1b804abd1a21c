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
PROOFS = 16
"""Times that a step is taken again before an observation is believed to hold all it depends on."""
RESETS = 32
"""Random episodes whose beginnings are compared."""
BEGINNING = 10
"""Steps of an episode that are compared."""
AGREEING = {"observation": 0.01, "reward": 0.1}
"""Errors that rounding explains, and what no observation shows: some rewards are of places that
MuJoCo computed at the start of its last step. In units of what changes in a step, and of the
rewards' standard deviation."""
DISTANT = 3.0
"""Ranges of random episodes' first observations by which the data's may lie outside of them."""
UNLIKE = 0.3
"""Error of the first rewards that is more than chance, where they can be told."""

Verdict = Literal["agrees", "disagrees", "cannot tell"]
Method = Literal["stepped", "random episodes"]


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
    method: Method
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
    method: Method,
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
    """Where an observation holds the state, proved by a step taken again; None: it may not.

    A step that is taken again often enough, each time after a different step, reveals what
    observation wrappers change, what the environment remembers of the step before, and what the
    environment draws at random.
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
        for _ in range(PROOFS):
            layout.restore(env, observation)
            _step(env, _random_action(dataset, rng))
            layout.restore(env, observation)
            again, again_reward, _ = _step(env, action)
            if not np.allclose([*first, first_reward], [*again, again_reward], 1e-3, 1e-3):
                break
        else:
            return layout
    return None


def _stepped(dataset: OfflineDataset, env: Env, layout: _Layout, rng: np.random.Generator) -> Check:
    followed = np.ones(len(dataset), np.bool_)
    followed[dataset.episode_ends - 1] = False
    whole = followed & ~_clipped(dataset.observations[:, : layout.width])
    inner = np.flatnonzero(whole if whole.any() else followed)
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


def _clipped(states: NDArray[np.float32]) -> NDArray[np.bool_]:
    """[N] where a part of the state stands at a bound, as a velocity that is not shown in full."""
    low, high = states.min(axis=0), states.max(axis=0)
    clipped = np.zeros(len(states), np.bool_)
    for at_bound in (states == low, states == high):
        clipped |= at_bound[:, (at_bound.sum(axis=0) > 1) & (low < high)].any(axis=1)
    return clipped


def _compared(dataset: OfflineDataset, env: Env, rng: np.random.Generator) -> Check:
    """The beginnings of the data's episodes beside those of random ones, which are as long."""
    starts, steps, rewards = [], [], []
    for _ in range(RESETS):
        observation = _reset(env, rng)
        starts.append(observation)
        for _ in range(BEGINNING):
            action = _random_action(dataset, rng)
            following, reward, ended = _step(env, action)
            steps.append(np.concatenate([observation, action, following]))
            rewards.append(reward)
            observation = following
            if ended:
                break
    space: Any = env.observation_space
    slack = 1e-3 * np.maximum(1, np.abs(np.where(np.isfinite(space.high), space.high, 0)))
    states = dataset.observations
    outside = ((states < space.low - slack) | (states > space.high + slack)).any(axis=1).mean()
    first = dataset.episode_starts
    reached = np.array(steps)[:, -states.shape[1] :]
    distance = _distance(states[first], np.array(starts), reached)
    step = np.arange(len(dataset)) - np.repeat(first, np.diff(dataset.episode_ends, prepend=0))
    rows = np.flatnonzero(step < BEGINNING)
    stored = np.concatenate(
        [states[rows], dataset.actions[rows], dataset.next_observations[rows]], axis=1
    )
    error, own = _reward_errors(np.array(steps), np.array(rewards), stored, dataset.rewards[rows])
    numbers = {
        "episodes": float(RESETS),
        "outside_space": float(outside),
        "first_observation_distance": distance,
        "first_rewards_error": error,
        "first_rewards_error_of_random_episodes": own,
    }
    reasons = []
    if outside > 0:
        reasons.append(f"{100 * outside:.2g} % of its observations lie outside of its space")
    if distance > DISTANT:
        reasons.append("the first observations of episodes are others")
    if error > max(UNLIKE, 5 * own):
        reasons.append("the first rewards of episodes are others")
    if reasons:
        why = f"beside {RESETS} random episodes there, {' and '.join(reasons)}"
        return _check(dataset, "disagrees", "random episodes", numbers, why)
    why = (
        "no observation there holds the state from which a step could be taken again; beside "
        "random episodes nothing is out of place"
    )
    return _check(dataset, "cannot tell", "random episodes", numbers, why)


def _reward_errors(
    steps: NDArray[np.float64],
    rewards: NDArray[np.float64],
    stored_steps: NDArray[Any],
    stored_rewards: NDArray[Any],
) -> tuple[float, float]:
    """Median errors of rewards as told from (s, a, s'): of the data's, and of random episodes'.

    What the reward is, is told by a regression on every other random step, with squares; errors are
    in standard deviations of the random rewards, or tenths of their size.
    """
    mean, scale = steps.mean(axis=0), steps.std(axis=0) + 1e-6

    def features(values: NDArray[Any]) -> NDArray[np.float64]:
        z = np.clip((values - mean) / scale, -5, 5)
        return np.concatenate([np.ones((len(z), 1)), z, z**2], axis=1)

    unit = max(float(rewards.std()), 0.1 * float(np.abs(rewards).max()), 1e-6)
    x, y = features(steps[::2]), rewards[::2]
    weights = np.linalg.solve(x.T @ x + 1e-2 * np.eye(x.shape[1]), x.T @ y)
    error = np.abs(features(stored_steps) @ weights - stored_rewards) / unit
    own = np.abs(features(steps[1::2]) @ weights - rewards[1::2]) / unit
    return _finite(np.median(error)), _finite(np.median(own))


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
    """The number, if JSON can hold it; nan and infinity count as a very large error."""
    return float(np.nan_to_num(value, nan=1e9, posinf=1e9))
