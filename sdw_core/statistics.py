"""Aggregates of evaluation returns, recomputable from the per-policy values."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdw_core.seeds import numpy_generator

Returns = NDArray[np.float64]


def interquartile_mean(values: Returns) -> float:
    """Mean of the middle half: 25 % are cut at either end (rounded down).

    The robust aggregate of "Deep RL at the Edge of the Statistical Precipice" (arXiv 2108.13264).

    >>> interquartile_mean(np.array([0.0, 1.0, 2.0, 100.0]))
    1.5
    """
    ordered = np.sort(values, axis=None)
    cut = int(0.25 * len(ordered))
    return float(ordered[cut : len(ordered) - cut].mean())


@dataclass(frozen=True)
class ReturnSummary:
    """Normalised returns of K policies x M episodes.

    Attributes:
        mean: over all episodes.
        iqm: interquartile mean over all episodes.
        low, high: 95 % percentile-bootstrap interval of the mean; policies are resampled, each with
            all of its episodes, because the episodes of one policy are not independent draws of the
            training's randomness.
        per_policy: mean of each policy.
    """

    mean: float
    iqm: float
    low: float
    high: float
    per_policy: tuple[float, ...]

    def to_json(self) -> dict[str, float | list[float]]:
        """The object that `--json` prints as `normalized_return`."""
        return {
            "mean": self.mean,
            "iqm": self.iqm,
            "low": self.low,
            "high": self.high,
            "per_policy": list(self.per_policy),
        }


def summarize(returns: Returns, seed: int, resamples: int = 2000) -> ReturnSummary:
    """Summarise normalised returns [K, M].

    Args:
        returns: one row a policy, one column an episode.
        seed: root of the bootstrap's random stream.
        resamples: bootstrap resamples.
    """
    per_policy = returns.mean(axis=1)
    picks = numpy_generator(seed, "bootstrap").integers(
        len(returns), size=(resamples, len(returns))
    )
    low, high = np.quantile(per_policy[picks].mean(axis=1), [0.025, 0.975])
    return ReturnSummary(
        mean=float(returns.mean()),
        iqm=interquartile_mean(returns),
        low=float(low),
        high=float(high),
        per_policy=tuple(map(float, per_policy)),
    )
