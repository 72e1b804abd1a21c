"""Aggregates, against scipy and an independent bootstrap."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import bootstrap, trim_mean

from sdw_core.statistics import ReturnSummary, interquartile_mean, summarize

finite = st.floats(-1e3, 1e3)


@given(arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(1, 7)), elements=finite))
def test_interquartile_mean_is_scipys_trimmed_mean(values: np.ndarray) -> None:
    expected = trim_mean(values, 0.25, axis=None)
    assert interquartile_mean(values) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_interquartile_mean_ignores_outliers() -> None:
    assert interquartile_mean(np.array([-1e9, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1e9])) == 3.5


@given(arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(1, 5)), elements=finite))
def test_a_summary_is_ordered_and_recomputable_from_its_policies(values: np.ndarray) -> None:
    summary = summarize(values, seed=0, resamples=100)
    assert summary.per_policy == tuple(values.mean(axis=1))
    assert summary.mean == pytest.approx(np.mean(summary.per_policy), rel=1e-9, abs=1e-9)
    tiny = 1e-9
    assert min(summary.per_policy) - tiny <= summary.low <= summary.high
    assert summary.high <= max(summary.per_policy) + tiny


def test_the_interval_is_that_of_a_plain_bootstrap_over_policies() -> None:
    returns = np.random.default_rng(0).gamma(2.0, 10.0, (10, 5))
    summary = summarize(returns, seed=3)
    rng = np.random.default_rng(1)
    means = [
        np.mean([returns[k].mean() for k in rng.integers(0, 10, 10)])  # a policy with its episodes
        for _ in range(20_000)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    width = high - low
    assert summary.low == pytest.approx(low, abs=0.05 * width)
    assert summary.high == pytest.approx(high, abs=0.05 * width)
    interval = bootstrap(
        (returns.mean(axis=1),), np.mean, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert summary.low == pytest.approx(interval.low, abs=0.05 * width)
    assert summary.high == pytest.approx(interval.high, abs=0.05 * width)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    """With 20 policies a percentile bootstrap covers a little less than its nominal 95 %."""
    rng = np.random.default_rng(0)
    policies = 50 + 10 * rng.standard_normal((600, 20, 1))
    returns = policies + 3 * rng.standard_normal((600, 20, 5))
    covered = [
        summary.low <= 50 <= summary.high
        for summary in (summarize(trial, seed, resamples=400) for seed, trial in enumerate(returns))
    ]
    assert 0.89 <= np.mean(covered) <= 0.97


def test_episodes_of_one_policy_are_no_independent_evidence() -> None:
    """Ten policies, each with the same return in all of its episodes: more episodes say nothing."""
    policies = np.random.default_rng(0).normal(50, 10, (10, 1))
    few, many = (summarize(np.repeat(policies, m, axis=1), seed=0) for m in (1, 50))
    assert (few.low, few.high) == pytest.approx((many.low, many.high))


def test_one_policy_has_an_interval_of_no_width() -> None:
    summary = summarize(np.array([[1.0, 2.0, 6.0]]), seed=0)
    assert summary.mean == summary.low == summary.high == 3.0
    assert summary.per_policy == (3.0,)


def test_the_same_seed_gives_the_same_interval() -> None:
    returns = np.random.default_rng(0).normal(size=(10, 5))
    assert summarize(returns, 1) == summarize(returns, 1)
    assert summarize(returns, 1) != summarize(returns, 2)


def test_json_has_the_keys_that_scripts_rely_on() -> None:
    returns = np.array([[1.0, 2.0], [3.0, 4.0]])
    of_ensembles = summarize(returns, seed=0, ensemble=10)
    assert of_ensembles.to_json() == summarize(returns, seed=0).to_json() | {"ensemble": 10}
    assert ReturnSummary.from_json(of_ensembles.to_json()) == of_ensembles
    document = summarize(returns, seed=0).to_json()
    assert list(document) == ["mean", "iqm", "low", "high", "per_policy"]
    assert document["per_policy"] == [1.5, 3.5]


def test_the_interval_knows_that_policies_of_one_set_of_rows_are_not_independent() -> None:
    generator = np.random.default_rng(0)
    sets, policies, trials = 5, 10, 200
    seeds = generator.normal(0, 10, size=(trials, sets, 1))
    returns = (seeds + generator.normal(0, 3, size=(trials, sets, policies))).reshape(trials, -1, 1)
    covered = {
        count: sum(
            summary.low <= 0 <= summary.high
            for summary in (
                summarize(trial, seed, count, resamples=400) for seed, trial in enumerate(returns)
            )
        )
        for count in (1, sets)
    }
    assert covered[1] < 0.6 * trials
    assert covered[sets] > 0.75 * trials  # five sets are few: a percentile bootstrap is narrow
