"""The record of an offline dataset: arrays that are checked once and trusted from then on."""

import dataclasses
import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdw_core import html
from sdw_core.environment import Environment
from sdw_core.errors import InputError
from sdw_core.units import Units, normalized_returns

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]
Scores = tuple[float, float]

IN_MEMORY = "in-memory:"
"""How settings call data that no reference leads to; a hash of the content follows."""
MANY_NEGATIVE = 0.2
"""Part of the returns-to-go; see `OfflineDataset.zero_is_arbitrary`."""
LEAST_APART, MOST_APART = 1e-9, 1e30
"""Of an expert's return above a random policy's."""
ACTION_TOLERANCE = 1e-5  # of the width of the bounds: the rounding of stored float32 actions


@dataclasses.dataclass(frozen=True, eq=False)
class OfflineDataset:
    """Offline transitions (s, a, r, s', terminated, truncated): N steps in E whole episodes.

    Episodes lie one after the other: episode e is the rows `episode_starts[e]:episode_ends[e]`.
    Its last step is terminated (the environment ended it) or truncated (a time limit did, or the
    data leave it unfinished).

    Raises:
        InputError: a number is not finite, an action lies outside its bounds, or the reference
            scores are not two finite numbers, the lower first.
    """

    name: str
    environment: Environment
    """What the data come from, and policies are judged in."""
    observations: Floats
    """[N, O] states, environment units."""
    final_observations: Floats
    """[E, O] the state after each episode's last step (see `next_observations`)."""
    actions: Floats
    """[N, A] environment units; outside the bounds by 1e-5 of their width at most."""
    rewards: Floats
    """[N] environment units."""
    terminated: Flags
    """[N]"""
    truncated: Flags
    """[N]"""
    episode_ends: NDArray[np.int64]
    """[E] one past each episode's last row, ascending."""
    action_low: Floats
    """[A] finite."""
    action_high: Floats
    """[A] finite."""
    reference_scores: Scores | None = None
    """Undiscounted returns of a random and of an expert policy."""
    reference_source: str | None = None
    """Where the reference scores come from."""
    license: str | None = None
    """As the dataset states it."""
    loaded_by: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The settings of a pipeline that load it again; empty: it was made in memory."""

    def __post_init__(self) -> None:
        _require_finite(self)
        _require_actions_in_bounds(self)
        if self.reference_scores is not None:
            require_ascending(*self.reference_scores)

    @classmethod
    def trusted(cls, known: Mapping[str, Any]) -> Self:
        """One that was checked before: its fields, and what was derived from them then."""
        dataset = object.__new__(cls)
        vars(dataset).update(known)
        return dataset

    def __len__(self) -> int:
        return len(self.rewards)

    def __repr__(self) -> str:
        return (
            f"OfflineDataset({self.name!r}, {self.environment}, {len(self.episode_ends)} episodes, "
            f"{len(self)} transitions)"
        )

    def _repr_html_(self) -> str:
        return html.table(describe(self).items())

    @property
    def settings(self) -> Mapping[str, Any]:
        """What a pipeline's settings say of it."""
        return self.loaded_by or {"dataset": f"{IN_MEMORY}{self.content_hash[:16]}"}

    def said(self, setting: str, argument: str) -> str:
        """Where more is said of these data: in the settings that load them, or to `load`."""
        return f"`pipeline.{setting}`" if self.loaded_by else f"`load(..., {argument})`"

    @property
    def episode_starts(self) -> NDArray[np.int64]:
        """[E] first row of each episode."""
        return np.concatenate([np.zeros(1, np.int64), self.episode_ends[:-1]])

    @property
    def timesteps(self) -> NDArray[np.int64]:
        """[N] steps since the episode began, from 0."""
        lengths = np.diff(self.episode_ends, prepend=0)
        return np.arange(len(self)) - np.repeat(self.episode_starts, lengths)

    @property
    def next_observations(self) -> Floats:
        """[N, O] s', a new array: the observations moved up one row, episode by episode.

        A D4RL-layout file without `next_observations` does not say what followed an episode's last
        step; its last observation is repeated there. That is harmless after a termination; at a
        truncation it biases whatever bootstraps from s'.
        """
        following = np.empty_like(self.observations)
        following[:-1] = self.observations[1:]
        following[self.episode_ends - 1] = self.final_observations
        return following

    @cached_property
    def units(self) -> Units:
        """What networks see and do, in terms of these states and of the environment's bounds."""
        return Units.fit(self.observations, self.action_low, self.action_high)

    @cached_property
    def states(self) -> Floats:
        """[N, O] the observations as networks see them."""
        return self.units.normalized_states(self.observations)

    @cached_property
    def unit_actions(self) -> Floats:
        """[N, A] the actions in units of their bounds; `actions` itself, where those are 1."""
        if (self.action_low == -1).all() and (self.action_high == 1).all():
            return self.actions
        return self.units.unit_actions(self.actions)

    def episode_returns(self) -> NDArray[np.float64]:
        """[E] undiscounted sums of rewards, environment units."""
        return np.add.reduceat(self.rewards, self.episode_starts, dtype=np.float64)

    @cached_property
    def zero_is_arbitrary(self) -> bool:
        """Whether 0 says nothing of what a state is worth: many returns-to-go lie below.

        They are undiscounted, and many is `MANY_NEGATIVE` of them: all or most where each step
        costs something, 16 % on the medium-replay data of HalfCheetah, less than 1 % on Hopper's.
        """
        return bool((self.returns_to_go(1.0) < 0).mean() >= MANY_NEGATIVE)

    def returns_to_go(self, discount: float) -> NDArray[np.float64]:
        """[N] G_t = r_t + discount * G_{t+1} within an episode, environment units.

        After the last step nothing is added, also where the episode was truncated: G is the
        discounted sum of the rewards that were observed, not an estimate of what would follow.
        """
        lengths = np.diff(self.episode_ends, prepend=0)
        longest_first = np.argsort(-lengths, kind="stable")
        lengths, ends = lengths[longest_first], self.episode_ends[longest_first]
        returns = self.rewards.astype(np.float64)
        for steps_from_end in range(2, lengths[0] + 1):
            reaching = np.searchsorted(-lengths, -steps_from_end, side="right")
            rows = ends[:reaching] - steps_from_end
            returns[rows] += discount * returns[rows + 1]
        return returns

    @property
    def required_scores(self) -> Scores:
        """The reference scores, where they are needed.

        Raises:
            InputError: the dataset has none.
        """
        if self.reference_scores is None:
            raise InputError(
                f"returns of {self.name} cannot be normalised, for it has no reference scores: "
                "give the returns of a random and of an expert policy as "
                f"{self.said('reference_scores: [LOW, HIGH]', 'reference_scores=(LOW, HIGH)')}."
            )
        return self.reference_scores

    def normalized(self, returns: ArrayLike) -> NDArray[np.float64]:
        """100 (R - R_random) / (R_expert - R_random), any shape; may leave [0, 100].

        Raises:
            InputError: the dataset has no reference scores.
        """
        return normalized_returns(returns, *self.required_scores)

    @cached_property
    def content_hash(self) -> str:
        """Hex SHA-256 of the arrays and of the environment; name and scores do not enter."""
        digest = hashlib.sha256(self.environment.canonical.encode())
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                digest.update(f"{field.name} {value.dtype.str} {value.shape}".encode())
                digest.update(np.ascontiguousarray(value).data)
        return digest.hexdigest()


def describe(dataset: OfflineDataset) -> dict[str, Any]:
    """What a user wants to know of a dataset, as a JSON document; returns are undiscounted."""
    returns = dataset.episode_returns()
    scores = dataset.reference_scores
    observations = dataset.observations
    constant = observations.min(axis=0) == observations.max(axis=0)
    environment = dataset.environment.to_json()
    return {
        "name": dataset.name,
        "environment": environment["id"],
        "environment_kwargs": environment["kwargs"],
        "max_episode_steps": environment["max_episode_steps"],
        "wrappers": environment["wrappers"],
        "episodes": len(dataset.episode_ends),
        "transitions": len(dataset),
        "terminated": int(dataset.terminated.sum()),
        "truncated": int(dataset.truncated.sum()),
        "observation_dimensions": observations.shape[1],
        "constant_observation_dimensions": np.flatnonzero(constant).tolist(),
        "action_dimensions": dataset.actions.shape[1],
        "returns": _summary(returns),
        "normalized_returns": _summary(dataset.normalized(returns)) if scores else None,
        "reference_scores": list(scores) if scores else None,
        "reference_source": dataset.reference_source,
        "content_hash": dataset.content_hash,
    }


def _summary(values: NDArray[np.float64]) -> dict[str, float]:
    return {"mean": float(values.mean()), "min": float(values.min()), "max": float(values.max())}


def _require_finite(dataset: OfflineDataset) -> None:
    for key in ("observations", "final_observations", "actions", "rewards"):
        values = getattr(dataset, key)
        if not np.isfinite(values).all():
            row, *dimension = map(int, np.argwhere(~np.isfinite(values))[0])
            place = f"episode {row}" if key == "final_observations" else _place(dataset, row)
            place += f", dimension {dimension[0]}" if dimension else ""
            what = key.removesuffix("s").replace("_", " ")
            raise InputError(
                f"every number must be finite (in float32), and in {dataset.name} {what} {place} "
                f"is {values[row, *dimension]}: repair or remove its episode."
            )


def _require_actions_in_bounds(dataset: OfflineDataset) -> None:
    actions, low, high = dataset.actions, dataset.action_low, dataset.action_high
    slack = ACTION_TOLERANCE * (high - low)
    outside = (actions < low - slack) | (actions > high + slack)
    if outside.any():
        row, dimension = map(int, np.argwhere(outside)[0])
        raise InputError(
            f"actions must lie within the bounds of {dataset.environment}, and in {dataset.name} "
            f"action {_place(dataset, row)}, dimension {dimension} is {actions[row, dimension]}, "
            f"outside [{low[dimension]}, {high[dimension]}]: name the environment that the data "
            "come from, or, where that environment clips what it is given, clip them too with "
            f"{dataset.said('clip_actions: true', 'clip_actions=True')}."
        )


def tell_apart(low: float, high: float) -> bool:
    """Whether reference scores can normalise a return: 0 and 100 must lie apart, also as floats."""
    return LEAST_APART <= high - low <= MOST_APART and high - low > 1e-9 * max(abs(low), abs(high))


def require_ascending(low: float, high: float) -> None:
    """Refuse reference scores that normalise nothing."""
    if not tell_apart(low, high):
        raise InputError(
            "the reference scores must be two finite returns, the random policy's below the "
            f"expert's by {LEAST_APART:g} to {MOST_APART:g}, not {low} and {high}: give the lower "
            "one first, and each as a policy earns it."
        )


def _place(dataset: OfflineDataset, row: int) -> str:
    episode = int(np.searchsorted(dataset.episode_ends, row, side="right"))
    return f"{row} (step {row - dataset.episode_starts[episode]} of episode {episode})"
