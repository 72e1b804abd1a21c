"""The affine map between raw states and the normalised states that every network sees."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sdw_core.errors import InputError

Floats = NDArray[np.floating[Any]]

_OFFSET = 1e-3


@dataclass(frozen=True, eq=False, repr=False)
class Normalizer:
    """z = (s - mean) / scale, with scale = sigma + 1e-3: what is really divided by.

    Attributes:
        mean: mu of each state dimension, `[O]` float32, environment units.
        scale: sigma + 1e-3 of each state dimension, `[O]` float32, environment units. The offset
            keeps a constant dimension finite: its z is 0.

    >>> normalizer = Normalizer.fit(np.array([[0.0, 5.0], [2.0, 5.0]], np.float32))
    >>> normalizer
    Normalizer(mean=float32[2], scale=float32[2])
    >>> normalizer(np.array([1.0, 5.0], np.float32)).tolist()
    [0.0, 0.0]
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]

    @classmethod
    def fit(cls, observations: Floats) -> Self:
        """The normaliser of a dataset's states `[N, O]`; moments are accumulated in float64."""
        mean = observations.mean(axis=0, dtype=np.float64)
        scale = observations.std(axis=0, dtype=np.float64) + _OFFSET
        return cls(mean.astype(np.float32), scale.astype(np.float32))

    def __call__(self, observations: Floats) -> Floats:
        """Normalised states of raw ones: `[.., O]` to `[.., O]`, dtype kept.

        Raises:
            InputError: the last axis is not O wide.
        """
        self._check_width(observations)
        return (observations - self.mean) / self.scale

    def inverse(self, normalized: Floats) -> Floats:
        """Raw states of normalised ones: `[.., O]` to `[.., O]`, dtype kept.

        Raises:
            InputError: the last axis is not O wide.
        """
        self._check_width(normalized)
        return normalized * self.scale + self.mean

    def _check_width(self, states: Floats) -> None:
        width, received = len(self.mean), states.shape[-1]
        if received != width:
            raise InputError(
                f"the normaliser was fitted on states of width {width}; these are {received} wide."
            )

    def __repr__(self) -> str:
        width = len(self.mean)
        return f"Normalizer(mean=float32[{width}], scale=float32[{width}])"
