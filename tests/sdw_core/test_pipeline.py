"""The whole pipeline, small, on the bundled dataset."""

import dataclasses
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.text import Text

from sdw_core.artifact import read_artifact
from sdw_core.baselines import random_subset
from sdw_core.cache import StageResult
from sdw_core.config import STAGES, PipelineConfig
from sdw_core.dataset import load
from sdw_core.distill.stability import risen
from sdw_core.errors import InputError, SourceChanged, StopRequested
from sdw_core.evaluate import Arena, Recipe, evaluate_rows
from sdw_core.expert.percent_bc import cloned_rows
from sdw_core.feasibility import check_fit, resolve_device
from sdw_core.identity import METHOD, Sources
from sdw_core.pipeline import Pipeline, Rungs
from sdw_core.result import PipelineResult
from sdw_core.statistics import summarize
from sdw_core.validation import parse
from sdw_core.waiting import GoOn, Waiting
from tests.sdw_core.processes import ROOT, run
from tests.sdw_core.told import Told

BUNDLED = "sdw/hopper-replay-mini-v0"
TINY = {
    "dataset": BUNDLED,
    "density": {"transforms": 1, "hidden_features": 8, "steps": 20},
    "weighting": {"temperature": 0.1},
    "expert": {"layers": 2, "width": 16, "steps": 40, "value_steps": 40},
    "distill": {
        "objective": "av_pbc",
        "synthetic_size": 10,
        "seeds": 2,
        "layers": 2,
        "width": 8,
        "inner_steps": 5,
        "outer_steps": 6,
        "meta_batch_size": 32,
    },
    "evaluation": {"policies": 2, "episodes": 2},
}


EVALUATION = TINY["evaluation"]


def tiny(**changes: Any) -> PipelineConfig:
    return parse(PipelineConfig, {**TINY, **changes}, "pipeline")


class Story(list[tuple[str, float]]):
    """What a progress callback is told."""

    def __call__(self, stage: str, fraction: float) -> None:
        self.append((stage, fraction))

    def worked(self) -> set[str]:
        """Stages that reported a fraction above 0: nothing of theirs came from the cache."""
        return {stage for stage, fraction in self if fraction > 0}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def story() -> Story:
    return Story()


@pytest.fixture(scope="module")
def result(cache: Path, story: Story) -> PipelineResult:
    return Pipeline(tiny(), cache, story).run()


def assert_equal(one: PipelineResult, other: PipelineResult) -> None:
    assert torch.equal(one.observations, other.observations)
    assert torch.equal(one.actions, other.actions)
    assert torch.equal(one.losses, other.losses)
    assert one.recipes == other.recipes
    np.testing.assert_array_equal(one.returns, other.returns)
    np.testing.assert_array_equal(one.expert_returns, other.expert_returns)
    assert one.log_likelihood == other.log_likelihood
    assert one.effective_sample_size_percent == other.effective_sample_size_percent


# One run from end to end


def test_a_run_yields_rows_and_how_good_they_are(result: PipelineResult) -> None:
    assert result.observations.shape == (2, 10, 11)
    assert result.actions.shape == (2, 10, 3)
    assert result.losses.shape == (2, 6)
    assert (result.losses > 0).all()
    assert result.returns.shape == (4, 2)
    assert np.isfinite(result.returns).all()
    assert result.expert_returns.shape == (10, 1)
    assert 0 < result.effective_sample_size_percent < 100
    assert 0 < result.density_effective_sample_size_percent < 100
    assert result.log_likelihood is not None
    assert result.source == {
        "name": BUNDLED,
        "content_hash": load(BUNDLED).content_hash,
        "episodes": len(load(BUNDLED).episode_ends),
        "transitions": len(load(BUNDLED)),
    }
    assert len(result.recipes) == 2
    assert result.recipes[0].steps == 5
    assert len(result.recipes[0].learning_rates) == 2


def test_its_json_has_the_keys_that_scripts_rely_on(result: PipelineResult) -> None:
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert {
        "normalized_return",
        "expert",
        "effective_sample_size_percent",
        "density_effective_sample_size_percent",
        "log_likelihood",
        "seconds",
        "outer_steps",
        "seconds_per_outer_step",
        "warnings",
    } <= set(document)
    keys = {"mean", "iqm", "low", "high", "per_policy"}
    assert set(document["normalized_return"]) == set(document["expert"]) == keys
    assert document["normalized_return"]["mean"] == pytest.approx(result.returns.mean())
    assert len(document["normalized_return"]["per_policy"]) == 4
    assert document["outer_steps"] == 6
    assert set(document["seconds"]) == set(STAGES)
    assert document["seconds_per_outer_step"] == document["seconds"]["distill"] / 6


def test_progress_tells_the_stages_in_order(result: PipelineResult, story: Story) -> None:
    told = list(dict.fromkeys(stage for stage, _ in story))
    assert told == list(STAGES)
    assert all(0 <= fraction <= 1 for _, fraction in story)
    assert {"density", "expert", "distill"} <= story.worked()
    assert story[-1][0] == "evaluate"


def test_the_scores_are_those_of_the_rows(result: PipelineResult) -> None:
    again = evaluate_rows(
        result.observations, result.actions, result.recipes, result.arena, 2, 2, 0, "evaluate"
    )
    np.testing.assert_array_equal(again, result.returns)
    assert result.summary == summarize(result.returns, 0, sets=2)
    means = [result.returns[:2].mean(), result.returns[2:].mean()]
    assert result.best == int(np.argmax(means))


def test_its_frame_has_a_line_an_episode(result: PipelineResult) -> None:
    frame = result.frame()
    finished = frame[frame.outer_step == 6]
    assert len(frame) == len(finished) == result.returns.size
    by_seed = finished.groupby("distillation_seed").normalized_return.mean()
    assert by_seed.to_dict() == pytest.approx(
        dict(zip(result.seeds, result.returns.reshape(2, -1).mean(1), strict=True))
    )
    last = finished[(finished.distillation_seed == 1) & (finished.policy == 1)]
    assert last.normalized_return.tolist() == result.returns[3].tolist()


def test_it_exports_its_best_rows_with_their_score_on_fresh_seeds(
    result: PipelineResult, tmp_path: Path
) -> None:
    made = result.export(tmp_path / "rows", license="CC-BY-4.0")
    read = read_artifact(tmp_path / "rows")
    np.testing.assert_array_equal(read.observations, made.observations)
    assert read.evidence == made.evidence
    scores = read.evidence["scores"]
    assert summarize(read.evaluate(), 0).to_json() == scores["synthetic"]
    assert scores["search"] == result.summary.to_json() != scores["synthetic"]
    assert read.evidence["source"] == result.source | {
        "license": "cc-by-4.0",
        "reference_source": result.dataset.reference_source,
    }
    with pytest.raises(InputError, match="never overwrites"):
        result.export(tmp_path / "rows")


def test_an_ensemble_is_exported_beside_the_single_policy(
    result: PipelineResult, tmp_path: Path
) -> None:
    """Of the same rows, on the same seeds, and so are the random rows."""
    config = tiny(evaluation={**TINY["evaluation"], "ensemble": 3, "optimizer": "adam"})
    of_ensembles = dataclasses.replace(result, config=config)
    single = result.export(tmp_path / "single").evidence["scores"]
    made = of_ensembles.export(tmp_path / "ensembles")
    scores = made.evidence["scores"]
    assert (made.ensemble, read_artifact(tmp_path / "ensembles").ensemble) == (3, 3)
    assert list(scores) == [
        *("synthetic", "random_subset", "synthetic_ensemble", "random_subset_ensemble"),
        *("expert", "search"),
    ]
    for name in ("synthetic", "random_subset"):
        assert scores[name] == single[name]
        assert scores[f"{name}_ensemble"]["ensemble"] == 3
        assert scores[f"{name}_ensemble"]["mean"] != single[name]["mean"]
    subset = random_subset(
        result.dataset,
        tiny(evaluation={**TINY["evaluation"], "ensemble": 3}),
        result.arena,
        "confirm",
    )
    assert summarize(subset, 0, ensemble=3).to_json() == scores["random_subset_ensemble"]
    assert scores["search"]["ensemble"] == 3
    assert repr(of_ensembles).count("normalised return, ensembles of 3 ") == 1


def test_a_notebook_names_ensembles(result: PipelineResult) -> None:
    config = tiny(evaluation={**TINY["evaluation"], "ensemble": 3})
    shown = dataclasses.replace(result, config=config)._repr_html_()
    for name in ("these rows", "random rows, as many"):
        assert f"<td>{name}, ensembles of 3</td>" in shown
        assert f"<td>{name}</td>" not in shown


def test_a_notebook_shows_its_table_and_its_picture(result: PipelineResult) -> None:
    shown = result._repr_html_()
    random = summarize(result.random_returns, 0).mean
    assert f"<td>random rows, as many</td><td>{random:.1f}</td>" in shown
    assert "data:image/png;base64,iVBOR" in shown
    assert repr(result).startswith(f"PipelineResult(10 rows of {BUNDLED!r}, normalised return ")


def test_a_run_that_is_watched_says_what_the_expert_is(result: PipelineResult, cache: Path) -> None:
    """On a terminal with bars; the result is that of a run that nobody watches."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=1000)
    assert_equal(Pipeline(tiny(), cache).run(progress=console), result)
    said = Text.from_ansi(written.getvalue()).plain
    expert = summarize(result.expert_returns, 0)
    assert f"expert (percent_bc): normalised return {expert.mean:.1f}" in said
    assert result.warnings[0] in said
    assert all(stage in said for stage in ("distill", "evaluate"))


def test_a_meta_loss_that_rose_for_good_is_told_after_the_distillation(cache: Path) -> None:
    wild = {**TINY["distill"], "outer_steps": 200, "seeds": 12, "rate_lr": 0.5}
    evaluation = {"policies": 1, "episodes": 1}
    pipeline = Pipeline(tiny(distill=wild, evaluation=evaluation), cache)
    written = io.StringIO()
    result = pipeline.run(progress=Console(file=written, force_terminal=True, width=1000))
    *before, rose = result.warnings
    assert before == list(pipeline.prepare().warnings)
    assert rose == risen(result.config.distill, result.losses, result.seeds)
    assert rose.startswith("The meta-loss of ")
    assert f"warning: {rose}" in Text.from_ansi(written.getvalue()).plain
    assert result.to_json()["warnings"][-1] == rose


# The cache, and going on


def test_a_pipeline_can_run_again(result: PipelineResult, cache: Path) -> None:
    told: list[str] = []
    pipeline = Pipeline(tiny(), cache, lambda stage, fraction: told.append(stage))
    first = pipeline.run(progress=Console(file=io.StringIO()))
    seconds, stages = dict(first.seconds), len(told)
    assert stages
    again = pipeline.run()
    assert_equal(again, result)
    assert len(told) == 2 * stages
    assert first.seconds == seconds != again.seconds
    assert first != again
    assert len({first, again, first}) == 2


def test_a_second_run_takes_density_and_expert_from_the_cache(
    result: PipelineResult, cache: Path
) -> None:
    story = Story()
    assert_equal(Pipeline(tiny(), cache, story).run(), result)
    assert not {"density", "expert"} & story.worked()


def test_a_run_without_a_cache_gives_the_same(result: PipelineResult) -> None:
    assert_equal(Pipeline(tiny()).run(), result)


def test_another_temperature_shares_the_density_and_the_expert(
    result: PipelineResult, cache: Path
) -> None:
    story = Story()
    prepared = Pipeline(tiny(weighting={"temperature": 0.7}), cache, story).prepare()
    assert not {"density", "expert"} & story.worked()
    assert prepared.log_likelihood == result.log_likelihood


@pytest.mark.parametrize(
    ("changes", "recomputed"),
    [
        ({"density": {**TINY["density"], "steps": 21}}, {"density"}),
        ({"expert": {**TINY["expert"], "value_steps": 60}}, {"expert"}),
        ({"seed": 1}, {"density", "expert"}),
    ],
)
def test_another_setting_computes_again_what_depends_on_it(
    result: PipelineResult, cache: Path, changes: dict[str, Any], recomputed: set[str]
) -> None:
    story = Story()
    Pipeline(tiny(**changes), cache, story).prepare()
    assert story.worked() & {"density", "expert"} == recomputed


def test_temperature_zero_needs_no_density() -> None:
    story = Story()
    config = tiny(weighting={"temperature": 0}, distill={**TINY["distill"], "objective": "pbc"})
    prepared = Pipeline(config, None, story).prepare()
    assert "density" not in story.worked()
    assert prepared.log_likelihood is None
    assert (prepared.weights == 1).all()
    assert (prepared.task.weights == 1).all()


def test_a_stopped_run_goes_on_from_its_checkpoint(
    result: PipelineResult, cache: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(StopRequested, match="Stopped after 1 of 6 outer steps"):
        Pipeline(tiny(), cache, checkpoint=checkpoint, should_stop=lambda: True).run()
    story = Story()
    assert_equal(Pipeline(tiny(), cache, story, checkpoint).run(), result)
    assert ("distill", 1 / 6) not in story


def test_other_reference_scores_are_used_although_the_content_is_cached(
    result: PipelineResult, cache: Path, tmp_path: Path
) -> None:
    """The content hash leaves the scores out, so nothing that is cached may depend on them."""
    folder = Path(shutil.copytree(ROOT / "sdw_core/data" / BUNDLED, tmp_path / "own-v0"))
    path = folder / "data" / "metadata.json"
    metadata = json.loads(path.read_text()) | {"ref_min_score": 0.0, "ref_max_score": 1000.0}
    path.write_text(json.dumps(metadata))
    story = Story()
    prepared = Pipeline(tiny(dataset=str(folder)), cache, story).prepare()
    assert not {"density", "expert"} & story.worked()
    low, high = load(BUNDLED).required_scores
    returns = low + (high - low) * result.expert_returns / 100
    np.testing.assert_allclose(prepared.expert_returns, returns / 10)


# Evaluation protocols, and baselines


def test_another_evaluation_judges_the_same_rows(result: PipelineResult, cache: Path) -> None:
    change = {"optimizer": "adam", "architecture": "residual", "layers": 3, "ensemble": 2}
    other = Pipeline(tiny(evaluation={**TINY["evaluation"], **change}), cache).run()
    assert torch.equal(other.observations, result.observations)
    assert other.recipes == result.recipes
    assert not np.isclose(other.returns, result.returns).any()
    recipe = Recipe(3, 8, 5, (0.001,) * 3, "residual", "adam")
    rows = (other.observations, other.actions)
    again = evaluate_rows(*rows, [recipe] * 2, other.arena, 2, 2, 0, "evaluate", ensemble=2)
    np.testing.assert_array_equal(again, other.returns)
    subsets = [random_subset(load(BUNDLED), r.config, r.arena, "evaluate") for r in (result, other)]
    assert not np.isclose(*subsets).any()


def test_a_distillation_of_no_steps_is_rows_of_the_dataset(cache: Path, tmp_path: Path) -> None:
    """Rows of the best episodes, with the dataset's actions."""
    dataset = load(BUNDLED)
    distill = {"outer_steps": 0, "initial_states": "best", "initial_actions": "dataset"}
    baseline = Pipeline(
        tiny(distill={**TINY["distill"], **distill}), cache, checkpoint=tmp_path / "checkpoint"
    ).run()
    assert baseline.losses.shape == (2, 0)
    assert baseline.to_json()["seconds_per_outer_step"] is None
    for recipe in baseline.recipes:
        assert recipe.learning_rates == pytest.approx((0.1, 0.1))
    states = dataset.states
    returns = np.repeat(dataset.episode_returns(), np.diff(dataset.episode_ends, prepend=0))
    for x, y in zip(baseline.observations.numpy(), baseline.actions.numpy(), strict=True):
        found = [int(np.flatnonzero((states == row).all(1))[0]) for row in x]
        np.testing.assert_array_equal(dataset.unit_actions[found], y)
        assert returns[found].min() >= np.quantile(returns, 0.9)


def test_strata_of_the_density_need_one_although_no_weight_does(cache: Path) -> None:
    distill = {**TINY["distill"], "objective": "pbc", "initial_states": "density"}
    prepared = Pipeline(tiny(weighting={"temperature": 0}, distill=distill), cache).prepare()
    assert prepared.log_likelihood is not None
    assert prepared.task.log_density is not None
    assert prepared.task.log_density.unique().numel() > 1000
    assert (prepared.weights == 1).all()


def test_stepwise_dual_ranking_is_told_of_density_value_and_timestep(cache: Path) -> None:
    dataset = load(BUNDLED)
    distill = {"outer_steps": 0, "initial_states": "sdr", "initial_actions": "dataset"}
    distill = TINY["distill"] | distill | {"synthetic_size": 300, "seeds": 1}
    run = Pipeline(tiny(weighting={"temperature": 0}, distill=distill), cache)
    prepared = run.prepare()
    task = prepared.task
    assert task.timesteps is not None
    assert task.expert_values is not None
    assert task.log_density.unique().numel() > 1000
    expected = [step for end in np.diff(dataset.episode_ends, prepend=0) for step in range(end)]
    assert task.timesteps.tolist() == expected
    values = prepared.expert.values(task.states, prepared.expert.actions(task.states))
    torch.testing.assert_close(task.expert_values, values)
    found = torch.cdist(run.finish(prepared).observations[0], task.states).argmin(1)
    late = found[task.timesteps[found] > 150]
    assert len(late) > 100
    for row in late:
        peers = task.timesteps == task.timesteps[row]
        assert (values[peers] <= values[row]).double().mean() > 0.18
        assert (task.log_density[peers] >= task.log_density[row]).double().mean() > 0.18
    plain = Pipeline(tiny(), cache).prepare().task
    assert plain.expert_values is plain.timesteps is None


# What a person should know, and what is refused before the work


Rewards = Callable[[np.ndarray[Any, Any], np.ndarray[Any, Any]], Any]


def pendulum(folder: Path, rewards: Rewards, **changes: Any) -> PipelineConfig:
    """Of a file of Pendulum-v1 with these rewards of the angle and the speed."""
    generator = np.random.default_rng(0)
    angle, speed = generator.uniform(-3, 3, 1200), generator.uniform(-4, 4, 1200)
    path = folder / "pendulum.npz"
    np.savez(
        path,
        observations=np.stack([np.cos(angle), np.sin(angle), speed], 1).astype(np.float32),
        actions=generator.uniform(-2, 2, (1200, 1)).astype(np.float32),
        rewards=np.asarray(rewards(angle, speed), np.float32),
        terminals=np.zeros(1200, bool),
        timeouts=np.arange(1200) % 200 == 199,
    )
    dataset = f"{path}?env=Pendulum-v1"
    return tiny(dataset=dataset, reference_scores=(-1400.0, -150.0), **changes)


def costs(angle: Any, speed: Any) -> Any:
    return -(angle**2) - 0.1 * speed**2


def test_negative_rewards_leave_most_states_their_weight(tmp_path: Path) -> None:
    config = pendulum(tmp_path, costs)
    prepared, result = Pipeline(config).prepare(), Pipeline(config).run()
    final, density = prepared.task.weights.double().numpy(), prepared.weights
    assert (final > 0).mean() > 0.99
    for weights, found in (
        (final, result.effective_sample_size_percent),
        (density, result.density_effective_sample_size_percent),
    ):
        expected = 100 * weights.sum() ** 2 / (len(weights) * np.square(weights).sum())
        assert found == pytest.approx(expected)
    assert not any("have a weight of 0 or less" in said for said in result.warnings)


def test_states_without_weight_and_a_useless_expert_are_told(tmp_path: Path) -> None:
    """Values of both signs, and rewards in the data that no policy gets in the environment."""
    expert = {**TINY["expert"], "value_steps": 400, "discount": 0.0}
    distill = {**TINY["distill"], "value_scale": "paper", "outer_steps": 0}
    config = pendulum(
        tmp_path, lambda angle, speed: 9 * np.cos(angle), distill=distill, expert=expert
    )
    result = Pipeline(config).run()
    weightless, useless = result.warnings
    assert "`pipeline.distill.value_scale: paper`" in weightless
    assert "far below the" in useless
    assert result.to_json()["warnings"] == [weightless, useless]


@pytest.mark.parametrize(
    ("value_scale", "rewards", "said"),
    [
        ("mean", lambda angle, speed: 0 * angle, r"every reward of .* is 0; choose `pbc`"),
        ("paper", costs, r"no reward of .* is above 0, .* choose `mean`"),
    ],
)
def test_rewards_without_a_weight_are_refused_before_the_work(
    tmp_path: Path, value_scale: str, rewards: Rewards, said: str
) -> None:
    story = Story()
    distill = {**TINY["distill"], "value_scale": value_scale}
    with pytest.raises(InputError, match=said):
        Pipeline(pendulum(tmp_path, rewards, distill=distill), None, story).run()
    assert {stage for stage, _ in story} == {"dataset"}


def test_a_log_likelihood_that_is_not_finite_is_none(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = Pipeline._density

    def density(self: Pipeline, *given: Any) -> StageResult:
        found = computed(self, *given)
        return StageResult(found.tensors, {"held_out_log_likelihood": float("-inf")})

    monkeypatch.setattr(Pipeline, "_density", density)
    assert Pipeline(tiny(), cache).prepare().log_likelihood is None


# The random subset


def test_a_curve_holds_what_shorter_runs_score(cache: Path) -> None:
    evaluation = {"policies": 2, "episodes": 2, "curve": 3}
    distill = {**TINY["distill"], "outer_schedule": "constant"}  # cosine hangs on the length
    result = Pipeline(tiny(evaluation=evaluation, distill=distill), cache).run()
    assert list(result.curve) == [2, 4, 6]
    assert np.array_equal(result.curve[6], result.returns)
    shorter = tiny(distill={**distill, "outer_steps": 4})
    assert np.array_equal(Pipeline(shorter, cache).run().returns, result.curve[4])


@pytest.mark.parametrize("visit", ["curve", "rung"])
def test_an_evaluation_on_the_way_can_be_stopped(cache: Path, visit: str) -> None:
    """The first look after two whole outer steps is that of the visit at the third."""
    steps: list[float] = []

    def story(stage: str, fraction: float) -> None:
        if stage == "distill" and fraction:
            steps.append(fraction)

    def judge(step: int, value: float, waiting: Waiting) -> None:
        raise AssertionError("the evaluation ran to its end")

    rungs = Rungs((3,), 2, 2, 0, np.mean, judge) if visit == "rung" else None
    config = tiny(evaluation={"policies": 2, "episodes": 2, "curve": 2 if visit == "curve" else 1})
    with pytest.raises(StopRequested, match="through an evaluation on the way"):
        Pipeline(config, cache, story, None, lambda: len(steps) == 2, rungs).run()
    assert len(steps) == 2


def test_a_rung_judges_by_the_protocol_of_the_evaluation_that_counts(cache: Path) -> None:
    """With as many policies and episodes it finds what a run of that length ends with, but for the
    random stream, which the same streams show to be the only difference."""
    protocol = {"optimizer": "adam", "architecture": "residual", "layers": 3, "ensemble": 2}
    evaluation = {"policies": 2, "episodes": 2, **protocol, "steps": 9, "learning_rate": 0.02}
    seen: dict[int, float] = {}

    def judge(step: int, value: float, waiting: Waiting) -> None:
        seen[step] = value

    rungs = Rungs((2, 4), 2, 2, 3, np.max, judge)
    distill = {**TINY["distill"], "outer_schedule": "constant"}
    Pipeline(tiny(evaluation=evaluation, distill=distill), cache, rungs=rungs).run()
    assert list(seen) == [2, 4]
    for step, value in seen.items():
        shorter = tiny(distill={**distill, "outer_steps": step})
        rows = Pipeline(shorter, cache).run()
        recipe = Recipe(3, 8, 9, (0.02,) * 3, "residual", "adam")
        sets = rows.observations, rows.actions
        found = evaluate_rows(*sets, [recipe] * 2, rows.arena, 2, 2, 3, "rung", ensemble=2)
        assert value == found.max()
        own = evaluate_rows(*sets, rows.recipes, rows.arena, 2, 2, 3, "rung")
        assert value != own.max()


def test_a_wait_for_an_answer_is_no_time_of_a_stage(cache: Path) -> None:
    waits: list[str] = []

    @contextmanager
    def waiting() -> Iterator[GoOn]:
        waits.append("begins")
        yield lambda: None
        waits.append("ends")

    def judge(step: int, value: float, wait: Waiting) -> None:
        with wait():
            sleep(0.5)

    begun = perf_counter()
    result = Pipeline(
        tiny(), cache, rungs=Rungs((3,), 2, 2, 0, np.mean, judge), waiting=waiting
    ).run()
    assert waits == ["begins", "ends"]
    assert sum(result.seconds.values()) < perf_counter() - begun - 0.5


def test_the_random_subset_is_rows_of_the_dataset_as_many(result: PipelineResult) -> None:
    dataset = load(BUNDLED)
    returns = random_subset(dataset, result.config, result.arena, "evaluate")
    assert returns.shape == (2, 2)
    again = random_subset(dataset, result.config, result.arena, "evaluate")
    np.testing.assert_array_equal(returns, again)
    other = random_subset(dataset, result.config, result.arena, "confirm")
    assert not np.isin(other, returns).any()


# What is refused


def test_more_rows_than_the_dataset_has_are_refused() -> None:
    dataset = load(BUNDLED)
    count = len(dataset)
    check_fit(tiny(distill={"synthetic_size": count}), dataset)
    with pytest.raises(InputError, match=f"cannot exceed the {count} transitions of {BUNDLED}"):
        Pipeline(tiny(distill={"synthetic_size": count + 1})).run()


def test_more_rows_than_the_best_episodes_have_are_refused() -> None:
    dataset = load(BUNDLED)
    best = {"initial_states": "best", "synthetic_size": 4976}
    check_fit(tiny(distill=best), dataset)
    words = (
        rf"cannot exceed the 4976 transitions of {BUNDLED} that `best` chooses from, and is 4977"
    )
    with pytest.raises(InputError, match=words):
        Pipeline(tiny(distill=best | {"synthetic_size": 4977})).run()


def test_states_may_be_those_of_the_teachers_episodes() -> None:
    dataset = load(BUNDLED)
    teacher = {"states": "teacher"}
    lower = TINY["expert"] | {"episodes": [0, 0.5]}
    own = tiny(distill=teacher, expert=lower)
    task = Pipeline(own).prepare().task
    rows = cloned_rows(dataset, own.expert)
    assert 0.45 < len(rows) / len(dataset) < 0.55
    assert np.array_equal(task.states.numpy(), dataset.states[rows])
    every = Pipeline(tiny(distill={}, expert=lower)).prepare().task
    for name in ("targets", "weights", "actions", "episode_returns"):
        assert torch.equal(getattr(task, name), getattr(every, name)[torch.from_numpy(rows)])
    more = {"states": "teacher", "synthetic_size": len(rows) + 1}
    with pytest.raises(
        InputError, match=rf"the {len(rows)} transitions of the teacher's episodes in sdw/"
    ):
        Pipeline(tiny(distill=more, expert=lower)).run()
    with pytest.raises(InputError, match=r"`pipeline.expert.method` is `checkpoint`; choose `all`"):
        Pipeline(
            tiny(distill={"states": "teacher"}, expert={"method": "checkpoint", "path": "e.pt"})
        ).run()


def test_a_residual_network_without_a_layer_to_skip_is_refused_before_the_work() -> None:
    story = Story()
    with pytest.raises(InputError, match="at least 3 layers, and has 2"):
        Pipeline(tiny(evaluation={"architecture": "residual"}), None, story).run()
    assert {stage for stage, _ in story} == {"dataset"}


def test_a_dataset_without_reference_scores_is_refused() -> None:
    dataset = dataclasses.replace(load(BUNDLED), reference_scores=None)
    with pytest.raises(
        InputError, match=r"no reference scores: give .* as `pipeline.reference_scores"
    ):
        check_fit(tiny(), dataset)
    with pytest.raises(InputError, match="has no reference scores"):
        Arena.of(dataset)


def test_an_unknown_dataset_is_refused() -> None:
    with pytest.raises(InputError, match="hopper-replay-mini"):
        Pipeline(tiny(dataset="sdw/hopper-replay-mimi-v0")).run()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3"])
def test_a_gpu_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(InputError, match=f"`pipeline.device` is '{device}', but .* use `auto`"):
        Pipeline(tiny(device=device))
    assert resolve_device("auto") == torch.device("cpu")


def test_the_method_loads_neither_ray_nor_optuna() -> None:
    loaded = run(
        """if True:
        import importlib, pkgutil, sys, sdw_core
        modules = list(pkgutil.walk_packages(sdw_core.__path__, "sdw_core."))
        for module in modules:
            importlib.import_module(module.name)
        print(len(modules), sorted({"ray", "optuna", "study", "search_spaces"} & set(sys.modules)))
        """
    )
    count, names = loaded.split(maxsplit=1)
    assert int(count) > 15
    assert names.strip() == "[]"


# What a run is made of


@pytest.mark.parametrize(
    "evaluation",
    [{"curve": 3}, {"curve": 2, "optimizer": "adam"}, {"curve": 2, "policies": 3}],
    ids=["other points", "another optimiser", "another number"],
)
def test_a_checkpoint_is_of_the_evaluation_that_it_holds_points_of(
    cache: Path, tmp_path: Path, evaluation: dict[str, Any]
) -> None:
    checkpoint, steps = tmp_path / "checkpoint", list[float]()

    def story(stage: str, fraction: float) -> None:
        if stage == "distill" and fraction:
            steps.append(fraction)

    before = tiny(evaluation={**EVALUATION, "curve": 2})
    with pytest.raises(StopRequested):
        Pipeline(before, cache, story, checkpoint, lambda: len(steps) >= 4).run()
    assert checkpoint.exists()
    now = tiny(evaluation={**EVALUATION, **evaluation})
    went_on = Pipeline(now, cache, checkpoint=checkpoint).run()
    alone = Pipeline(now, cache).run()
    assert went_on.curve.keys() == alone.curve.keys()
    for step, returns in alone.curve.items():
        assert np.array_equal(went_on.curve[step], returns)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dataset": "of other content"}, f"The content of the dataset '{BUNDLED}' changed"),
        ({"scores": (0.0, 1.0)}, f"The reference scores of the dataset '{BUNDLED}' changed"),
        ({"method": {"distill": 0}}, "The method (its stage `distill` is of version"),
    ],
)
def test_sources_that_are_not_those_of_earlier_runs_are_refused(
    cache: Path, change: dict[str, Any], said: str
) -> None:
    now = Sources.of(load(BUNDLED), None)
    assert Pipeline(tiny(), cache, sources=now).prepare()
    story = Story()
    with pytest.raises(SourceChanged, match=re.escape(said)) as error:
        Pipeline(tiny(), cache, story, sources=dataclasses.replace(now, **change)).prepare()
    assert "begin anew under another name" in str(error.value)
    assert {stage for stage, _ in story} == {"dataset"}


def test_what_is_not_known_of_earlier_runs_is_not_held_against_one(cache: Path) -> None:
    prepared = Pipeline(tiny(), cache, sources=Sources(load(BUNDLED).content_hash)).prepare()
    assert prepared.dataset.content_hash == load(BUNDLED).content_hash


def test_an_identity_is_of_what_paths_name_and_not_of_their_names() -> None:
    sources = Sources("content", (0.0, 1.0), "sha", METHOD)
    at = {
        name: tiny(dataset=name, expert={"method": "checkpoint", "path": f"{name}.pt"})
        for name in ("data/a.hdf5", "/home/me/data/a.hdf5")
    }
    assert len({sources.identity(config) for config in at.values()}) == 1
    config = at["data/a.hdf5"]
    others = [
        dataclasses.replace(sources, **change)
        for change in (
            {"dataset": "edited"},
            {"scores": (0.0, 2.0)},
            {"checkpoint": "trained on"},
            {"method": {**METHOD, "weights": METHOD["weights"] + 1}},
        )
    ]
    assert len({each.identity(config) for each in (sources, *others)}) == 5
    assert sources.identity(tiny()) != sources.identity(tiny(seed=1))


def test_a_pipeline_tells_the_curves_of_its_stages_and_again_from_cache_and_checkpoint(
    tmp_path: Path,
) -> None:
    """The second run finds density and expert in the cache, and is stopped; the third goes on."""
    config = tiny(evaluation=EVALUATION | {"curve": 3})
    mean = float
    rungs = Rungs((3,), 2, 1, 0, lambda returns: mean(returns.mean()), lambda *judged: None)
    answers = iter([False] * 4 + [True])
    told = Told(), Told(), Told()
    result = Pipeline(config, tmp_path, rungs=rungs, measured=told[0]).run()
    with pytest.raises(StopRequested):
        Pipeline(config, tmp_path, rungs=rungs, measured=told[1], checkpoint=tmp_path / "c",
                 should_stop=lambda: next(answers)).run()  # fmt: skip
    Pipeline(config, tmp_path, rungs=rungs, measured=told[2], checkpoint=tmp_path / "c").run()
    first, stopped, resumed = (each.curves for each in told)
    assert {name.partition("/")[0] for name in first} == {"density", "expert", "distill", "return"}
    assert first["return/mean"] == {
        step: pytest.approx(returns.mean()) for step, returns in result.curve.items()
    }
    assert len(first["density/held_out_log_likelihood"]) > 1
    for name in ("density/held_out_log_likelihood", "expert/policy_loss", "expert/value_loss"):
        assert first[name] == stopped[name] == resumed[name]
    assert first["return/mean"] == resumed["return/mean"]
    assert first["distill/meta_loss"] == resumed["distill/meta_loss"]
    assert list(first["return/rung"]) == [3]
