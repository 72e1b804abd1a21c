"""Units: what an environment gives and takes, and what networks see and do."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdw_core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.floating[Any]]
Numbers = TypeVar("Numbers", Floats, "Tensor")

_OFFSET = 1e-3


@dataclass(frozen=True, eq=False)
class Units:
    """The maps between an environment's units and those of networks: `scaled` and `unscaled`.

        states    z = (s - mean) / scale, with scale = sigma + 1e-3: what is really divided by
        actions   u = (a - centre) / half the width of the bounds, which are [-1, 1] then

    Attributes:
        observation_mean: mu of each state dimension, `[O]` float32, environment units.
        observation_scale: sigma + 1e-3 of each state dimension, `[O]` float32, environment units.
            The offset keeps a constant dimension finite: its z is 0.
        action_low, action_high: the bounds, `[A]` float32, environment units.

    >>> low, high = np.array([0], np.float32), np.array([4], np.float32)
    >>> units = Units.fit(np.array([[0.0, 5.0], [2.0, 5.0]], np.float32), low, high)
    >>> units.normalized_states(np.array([1.0, 5.0], np.float32)).tolist()
    [0.0, 0.0]
    >>> units.unit_actions(np.array([3.0], np.float32)).tolist()
    [0.5]
    """

    observation_mean: NDArray[np.float32]
    observation_scale: NDArray[np.float32]
    action_low: NDArray[np.float32]
    action_high: NDArray[np.float32]

    @classmethod
    def fit(
        cls, observations: Floats, action_low: NDArray[np.float32], action_high: NDArray[np.float32]
    ) -> Self:
        """Those of a dataset's states `[N, O]` and bounds; moments are accumulated in float64."""
        mean = observations.mean(axis=0, dtype=np.float64)
        scale = observations.std(axis=0, dtype=np.float64) + _OFFSET
        return cls(mean.astype(np.float32), scale.astype(np.float32), action_low, action_high)

    def normalized_states(self, observations: Floats) -> Floats:
        """States as networks see them: `[.., O]` to `[.., O]`, dtype kept.

        Raises:
            InputError: the last axis is not O wide.
        """
        self._check_width(observations)
        return scaled(observations, self.observation_mean, self.observation_scale)

    def environment_states(self, states: Floats) -> Floats:
        """Undoes `normalized_states`, up to rounding.

        Raises:
            InputError: the last axis is not O wide.
        """
        self._check_width(states)
        return unscaled(states, self.observation_mean, self.observation_scale)

    def unit_actions(self, actions: Floats) -> Floats:
        """Actions in units of the bounds, [-1, 1] within them: `[.., A]` to `[.., A]`."""
        return scaled(actions, *self.centre_and_half_width)

    def environment_actions(self, actions: Floats) -> Floats:
        """Undoes `unit_actions`, up to rounding."""
        return unscaled(actions, *self.centre_and_half_width)

    @property
    def centre_and_half_width(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Of the bounds, [A] each."""
        half, low, high = np.float32(0.5), self.action_low, self.action_high
        return half * (low + high), half * (high - low)

    def _check_width(self, states: Floats) -> None:
        width, received = len(self.observation_mean), states.shape[-1]
        if received != width:
            raise InputError(
                f"the normaliser was fitted on states of width {width}; these are {received} wide."
            )


def scaled(values: Numbers, origin: Numbers, scale: Numbers) -> Numbers:
    """`(values - origin) / scale`, of arrays or of tensors."""
    return (values - origin) / scale


def unscaled(values: Numbers, origin: Numbers, scale: Numbers) -> Numbers:
    """Undoes `scaled`, up to rounding."""
    return values * scale + origin


def normalized_returns(returns: ArrayLike, low: float, high: float) -> NDArray[np.float64]:
    """100 (R - low) / (high - low), any shape: a random policy's return is 0, an expert's 100."""
    return np.asarray(100 * (np.asarray(returns, np.float64) - low) / (high - low))
