"""Statistics over runs and tasks: the same as rliable's on the same numbers."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from rliable import metrics

from sdw_core.statistics import (
    gain,
    iqm_score,
    mean_score,
    probability_of_improvement,
    with_interval,
)
from tests.sdw_core.rliable_intervals import scores

REFERENCE = json.loads(Path(__file__).with_name("rliable_intervals.json").read_text())


@pytest.mark.parametrize("runs", [3, 5, 10])
def test_point_estimates_are_rliables(runs: int) -> None:
    ours, theirs = scores(0, runs), scores(1, runs)
    theirs[0] = ours[0]  # ties
    assert with_interval(mean_score, ours).value == pytest.approx(metrics.aggregate_mean(ours))
    assert with_interval(iqm_score, ours).value == pytest.approx(metrics.aggregate_iqm(ours))
    chance = metrics.probability_of_improvement(ours, theirs)
    assert with_interval(probability_of_improvement, ours, theirs).value == pytest.approx(chance)


@pytest.mark.parametrize(
    ("name", "statistic", "sets"),
    [
        ("mean", mean_score, 1),
        ("iqm", iqm_score, 1),
        ("probability", probability_of_improvement, 2),
    ],
)
def test_intervals_are_rliables_up_to_the_noise_of_resampling(
    name: str, statistic: Callable[..., NDArray[np.float64]], sets: int
) -> None:
    """Within 3 % of the interval's width: twice what 20,000 resamples leave open."""
    both = scores(0), scores(0, shift=4.0)[::-1].copy()
    found = with_interval(statistic, *both[:sets], resamples=20_000)
    value, low, high = REFERENCE[name]
    assert found.value == pytest.approx(value)
    assert found.low == pytest.approx(low, abs=0.03 * (high - low))
    assert found.high == pytest.approx(high, abs=0.03 * (high - low))


def test_pairs_that_differ_by_a_constant_have_no_interval() -> None:
    ours = scores(0)
    found = with_interval(gain, ours + 3.0, ours, paired=True)
    assert found.value == pytest.approx(3)
    assert found.low == pytest.approx(3)
    assert found.high == pytest.approx(3)
    alone = with_interval(gain, ours + 3.0, ours)
    assert alone.low < 2.5 < 3.5 < alone.high


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    """Over 300 draws of 20 runs; the percentile bootstrap is a little narrow, so 88 to 99 %."""
    level = np.random.default_rng(0).uniform(0, 80, 4)
    hits = 0
    for seed in range(300):
        drawn = level + 5 * np.random.default_rng(seed + 1).standard_normal((20, 4))
        found = with_interval(mean_score, drawn, seed=seed, resamples=500)
        hits += found.low <= level.mean() <= found.high
    assert 0.88 * 300 <= hits <= 0.99 * 300
