"""What the benchmarks make of what they measure."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from benchmarks import patience, samplers, stability, surrogate
from benchmarks.cells import measure_all
from benchmarks.teachers import TEACHERS, correlations, rank_correlations, steadiness
from sdw_core.config import PipelineConfig
from sdw_core.distill.task import Task
from study.samplers import as_it_stands

RESULTS = Path(stability.__file__).parent / "results"


def test_rank_correlations_are_spearmans_within_datasets_and_over_all() -> None:
    generator = np.random.default_rng(0)
    estimates = generator.normal(size=(6, 5)).round(1)
    returns = (estimates + generator.normal(size=(6, 5))).round(1)  # with ties
    by_dataset, within, over_all = rank_correlations(estimates, returns)
    expected = [spearmanr(a, b).statistic for a, b in zip(estimates, returns, strict=True)]
    np.testing.assert_allclose(by_dataset, expected)
    assert within.value == pytest.approx(np.mean(expected))
    assert over_all.value == pytest.approx(spearmanr(estimates.ravel(), returns.ravel()).statistic)
    drawn = generator.integers(6, size=(4000, 6))
    for found, resampled in (
        (within, [np.mean(by_dataset[rows]) for rows in drawn]),
        (over_all, [spearmanr(estimates[r].ravel(), returns[r].ravel())[0] for r in drawn[:1000]]),
    ):
        np.testing.assert_allclose(
            (found.low, found.high), np.quantile(resampled, [0.025, 0.975]), atol=0.05
        )


def test_an_estimate_may_rank_teachers_within_datasets_and_not_between_them() -> None:
    teachers, offsets = np.arange(5.0), np.array([[0.0], [-10], [-20], [-30]])
    by_dataset, within, over_all = rank_correlations(teachers + offsets, teachers - offsets)
    assert by_dataset.tolist() == pytest.approx([1] * 4)
    assert (within.low, within.high) == pytest.approx((1, 1))
    assert over_all.value < -0.5
    assert rank_correlations(teachers[None], teachers[None])[1].low is None  # of one dataset


def test_a_dataset_that_lacks_a_teacher_is_not_correlated() -> None:
    def cell(dataset: str, value: float) -> dict[str, object]:
        return {"dataset": dataset, "estimates": {"fit": value}, "return": {"mean": -value}}

    whole = [cell("a", k) for k in range(len(TEACHERS))]
    found = correlations([*whole, cell("b", 1.0)])["fit"]
    assert found["by_dataset"] == pytest.approx({"a": -1})
    assert found["within"] == pytest.approx({"value": -1, "low": None, "high": None})
    assert correlations(whole[1:]) == {}


def test_a_line_that_was_torn_is_measured_again_and_leaves_the_others(tmp_path: Path) -> None:
    file, whole = tmp_path / "cells.jsonl", {"case": 1, "found": 2}
    file.write_text(json.dumps(whole) + "\n" + '{"case": 2, "fou')
    assert measure_all([{"case": 1}], _is_not_called, 1, file) == [whole]
    assert file.read_text() == json.dumps(whole) + "\n"


def _is_not_called(asked: dict[str, Any]) -> dict[str, Any]:
    raise AssertionError(asked)


def test_stability_after_is_of_the_defaults_and_lines_say_what_they_were_made_with() -> None:
    def config(**settings: Any) -> PipelineConfig:
        return PipelineConfig(dataset="d", **settings)

    assert config(**stability.settings("after")) == config()
    lines = (RESULTS / "stability.jsonl").read_text().splitlines()
    stated = {cell["name"]: cell["settings"] for cell in map(json.loads, lines)}
    assert stated["before"] == stability.settings("before")
    for settings in stated.values():
        config(**settings)


@pytest.mark.parametrize("slope", [0.1, 5.0])
def test_steadiness_of_a_linear_teacher(slope: float) -> None:
    """It changes by (0.3 slope)^2, and the variance of its actions is slope^2."""
    states = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0))
    task = Task(states, states, slope * states, torch.ones(20_000), targets_at=lambda s: slope * s)
    assert steadiness(task, 0.3) == pytest.approx(1 - 0.09 / 2, abs=0.005)


def test_simulated_policies_lie_around_their_rows_and_studies_begin_with_defaults() -> None:
    spec = samplers.spec_of({"study": "tpe", "trials": 16, "startup": 4}, 0)
    first = as_it_stands(spec)
    assert first.keys() == surrogate.SEARCH.keys()
    settings = first | {"expert.episodes": json.loads(first["expert.episodes"])}
    start = np.array([0.0] * (surrogate.LENGTHS + 1) + [-1.0, -1.0])
    for rows in surrogate.real_rows(surrogate.TRIALS).values():
        truth = surrogate.Study(surrogate.Surrogate(rows, start, 0.1), 3)
        assert truth.mean(settings) == truth.mean(dict(settings))
        returns = truth.policies(settings, "search", 20_000)
        assert returns.mean() == pytest.approx(truth.mean(settings), abs=1)
        assert any(each.settings == settings for each in rows)


def test_what_a_rule_loses_is_held_against_as_many_trials_fewer_in_every_study() -> None:
    def study(repetition: int, end: int) -> dict[str, Any]:
        returns = [10.0, 20.0, 30.0, 40.0]
        raced = {str(n): value for n, value in enumerate(returns, 1)}
        found = {"searched": returns, "raced": raced, "ends": {"rule": end}}
        return {"trials": 4, "repetition": repetition} | found

    (row,) = patience.means([study(0, 1), study(1, 4)])
    means = {name: row[name][0] for name in patience.FOUND}
    assert means == {"saved": 1.5, "lost": 15.0, "lost raced": 15.0, "even": 20.0}
