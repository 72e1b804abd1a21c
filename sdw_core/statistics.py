"""Aggregates of evaluation returns, recomputable from the per-policy values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdw_core.seeds import numpy_generator

Returns = NDArray[np.float64]

FEWEST = 6
"""Runs that a 95 % bootstrap interval takes at least. It lies within the range of the runs, and the
range of n runs misses their median in 2^(1 - n) of all cases: of 5 runs, in 1 of 16."""


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
        low, high: 95 % percentile-bootstrap interval of the mean. A resample draws distillation
            seeds, then policies of each seed drawn, and takes every episode of a policy drawn:
            policies of the same rows, and episodes of the same policy, are not independent.
        per_policy: mean of each policy.
        ensemble: networks of a policy, E.
    """

    mean: float
    iqm: float
    low: float
    high: float
    per_policy: tuple[float, ...]
    ensemble: int = 1

    @property
    def standard_error(self) -> float:
        """Of the mean: what a normal distribution of that interval has."""
        return (self.high - self.low) / (2 * 1.96)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "ReturnSummary":
        """What `to_json` made a document of."""
        mean, iqm, low, high = (document[key] for key in ("mean", "iqm", "low", "high"))
        of_each = tuple(document["per_policy"])
        return cls(mean, iqm, low, high, of_each, document.get("ensemble", 1))

    def to_json(self) -> dict[str, float | list[float]]:
        """The JSON object that results state as `normalized_return`; `ensemble` where E > 1."""
        document: dict[str, float | list[float]] = {
            "mean": self.mean,
            "iqm": self.iqm,
            "low": self.low,
            "high": self.high,
            "per_policy": list(self.per_policy),
        }
        return document | ({"ensemble": self.ensemble} if self.ensemble > 1 else {})


def summarize(
    returns: Returns, seed: int, sets: int = 1, resamples: int = 2000, ensemble: int = 1
) -> ReturnSummary:
    """Summarise normalised returns [S * K, M].

    Args:
        returns: one row a policy, those of a set of synthetic rows together; a column an episode.
        seed: root of the bootstrap's random stream.
        sets: S, sets of synthetic rows: distillation seeds.
        resamples: bootstrap resamples.
        ensemble: E, networks of each policy: whoever shows the summary names it by that.
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
        ensemble=ensemble,
    )


@dataclass(frozen=True)
class Estimate:
    """A statistic and its 95 % stratified-bootstrap interval; low and high are None of one run."""

    value: float
    low: float | None
    high: float | None


def with_interval(
    statistic: Callable[..., Returns],
    *scores: Returns,
    paired: bool = False,
    seed: int = 0,
    resamples: int = 2000,
) -> Estimate:
    """A statistic over runs and tasks, with the interval of "Statistical Precipice".

    Runs are resampled separately for each task: the stratified bootstrap of arXiv 2108.13264.

    Args:
        statistic: maps stacks of resampled scores [B, R, T], one argument each of `scores`, to [B].
        scores: [R, T] each: R runs (distillation seeds) of T tasks (datasets).
        paired: whether runs of the same index are drawn together: they share their random numbers.
        seed: root of the bootstrap's random stream.
        resamples: bootstrap resamples.
    """
    runs, tasks = scores[0].shape
    draws = numpy_generator(seed, "bootstrap").integers(
        runs, size=(1 if paired else len(scores), resamples, runs, tasks)
    )
    drawn = draws if not paired else np.broadcast_to(draws, (len(scores), *draws.shape[1:]))
    values = statistic(
        *(each[rows, np.arange(tasks)] for each, rows in zip(scores, drawn, strict=True))
    )
    value = float(statistic(*(each[None] for each in scores))[0])
    if runs == 1:
        return Estimate(value, None, None)
    low, high = np.quantile(values, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def mean_score(scores: Returns) -> Returns:
    """Mean over runs and tasks: [B, R, T] -> [B]."""
    return np.asarray(scores.mean(axis=(1, 2)))


def iqm_score(scores: Returns) -> Returns:
    """Interquartile mean over runs and tasks: [B, R, T] -> [B]."""
    flat = np.sort(scores.reshape(len(scores), -1), axis=1)
    cut = int(0.25 * flat.shape[1])
    return np.asarray(flat[:, cut : flat.shape[1] - cut].mean(axis=1))


def gain(ours: Returns, theirs: Returns) -> Returns:
    """Mean difference over runs and tasks: [B, R, T] x 2 -> [B]."""
    return mean_score(ours - theirs)


def probability_of_improvement(ours: Returns, theirs: Returns) -> Returns:
    """How likely a run of ours beats a run of theirs, ties counting half, mean over the tasks.

    [B, R, T] x 2 -> [B]; the Mann-Whitney statistic of each task over its number of pairs.
    """
    difference = ours[:, :, None, :] - theirs[:, None, :, :]
    return np.asarray((0.5 * (np.sign(difference) + 1)).mean(axis=(1, 2, 3)))


def spearman(ours: Returns, theirs: Returns) -> Returns:
    """Spearman's rank correlation over runs, ties sharing their mean rank: [B, R, 1] x 2 -> [B].

    0 where either is constant: such a variable orders nothing.

    >>> float(spearman(np.array([[[1.0], [2.0], [3.0]]]), np.array([[[9.0], [5.0], [5.0]]]))[0])
    -0.8660254037844387
    """
    a, b = (np.stack([_ranks(run) for run in x[..., 0]]) for x in (ours, theirs))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    spread = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.asarray((a * b).sum(1) / np.where(spread > 0, spread, 1))


def _ranks(values: Returns) -> Returns:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((counts.cumsum() - (counts - 1) / 2)[place])


def principal_components(states: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The centre [O] of states [N, O], and the two directions [O, 2] that they vary most in.

    >>> centre, components = principal_components(np.array([[0, 0, 1], [4, 0, 1], [2, 1, 1]]))
    >>> np.abs(components.T).round(3).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    centre = states.mean(axis=0)
    return centre, np.linalg.svd(states - centre, full_matrices=False)[2][:2].T
