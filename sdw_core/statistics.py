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
        low, high: 95 % percentile-bootstrap interval of the mean. Distillation seeds are resampled,
            within them policies, each with all of its episodes: what shares rows or weights is no
            independent draw.
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


def summarize(returns: Returns, seed: int, sets: int = 1, resamples: int = 2000) -> ReturnSummary:
    """Summarise normalised returns [S * K, M].

    Args:
        returns: one row a policy, those of a set of synthetic rows together; a column an episode.
        seed: root of the bootstrap's random stream.
        sets: S, sets of synthetic rows: distillation seeds.
        resamples: bootstrap resamples.
    """
    per_policy = returns.mean(axis=1)
    policies = len(per_policy) // sets
    generator = numpy_generator(seed, "bootstrap")
    drawn_sets = generator.integers(sets, size=(resamples, sets, 1))
    drawn_policies = generator.integers(policies, size=(resamples, sets, policies))
    means = per_policy.reshape(sets, policies)[drawn_sets, drawn_policies].mean(axis=(1, 2))
    low, high = np.quantile(means, [0.025, 0.975])
    return ReturnSummary(
        mean=float(returns.mean()),
        iqm=interquartile_mean(returns),
        low=float(low),
        high=float(high),
        per_policy=tuple(map(float, per_policy)),
    )
