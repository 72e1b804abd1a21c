"""The analyses' quantities, against closed forms, plain loops and scipy."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from scipy.special import digamma
from scipy.stats import spearmanr
from torch import Tensor

from sdw_core.analysis import report
from sdw_core.analysis.coverage import Source, mean_distance, neighbour_entropy, shares
from sdw_core.analysis.errors import (
    Policies,
    PolicyErrors,
    Support,
    Visited,
    action_error,
    clone_policies,
    correlations,
    expert_support,
    measure,
)
from sdw_core.analysis.misalignment import (
    BATCH,
    LEARNING_RATE,
    ByLoss,
    Course,
    TrainingSet,
    compare_by_loss,
    crossings,
    follow,
    of_rows,
    spaced_steps,
)
from sdw_core.analysis.report import Analysis
from sdw_core.artifact import Artifact
from sdw_core.config import DensityConfig, PipelineConfig
from sdw_core.density import fit_density
from sdw_core.distill.task import Task
from sdw_core.errors import InputError
from sdw_core.evaluate import Recipe, rollout
from sdw_core.policy import MLP, Parameters, clone
from sdw_core.seeds import derive_seed, numpy_generator, torch_generator
from sdw_core.statistics import spearman
from tests.sdw_core.arenas import HOPPER

Array = np.ndarray[Any, np.dtype[Any]]
GAUSSIAN = DensityConfig(model="gaussian")


def random_states(count: int, width: int = 11, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


# ---- rank correlation


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=20))
def test_spearman_is_scipys(pairs):
    ours, theirs = np.array(pairs, np.float64).T
    found = spearman(ours[None, :, None], theirs[None, :, None])[0]
    if len(set(ours)) == 1 or len(set(theirs)) == 1:
        assert found == 0
    else:
        assert found == pytest.approx(spearmanr(ours, theirs).statistic, abs=1e-12)


# ---- rollouts that are recorded


def test_a_recorded_rollout_shows_every_state_that_an_action_was_taken_in():
    def act(observations: Array) -> Array:
        return np.tanh(observations[..., :3] * np.array([1.0, -2.0])[:, None, None])

    visited = Visited(episodes=2)
    returns = rollout(act, HOPPER, 2, 2, 5, "errors", record=visited.record)
    assert (returns == rollout(act, HOPPER, 2, 2, 5, "errors")).all()
    seen = visited.by_policy(2)
    for k, scale in enumerate((1.0, -2.0)):
        expected = []
        for m in range(2):
            env = gymnasium.make("Hopper-v5")
            state, _ = env.reset(seed=derive_seed(5, "errors/episode", k, m) % 2**31)
            ended = False
            while not ended:
                state = np.asarray(state, np.float32)
                expected.append(state)
                action = np.tanh(state[:3] * np.float64(scale))
                state, _, terminated, truncated, _ = env.step(action)
                ended = terminated or truncated
        assert sorted(map(tuple, seen[k])) == sorted(map(tuple, expected))


# ---- misalignment


def course(losses: Array, returns: Array, policies: int = 6, spread: float = 0.0) -> Course:
    """Policies that lie around one curve, evenly on both sides."""
    offsets = np.linspace(-spread, spread, policies)
    return Course(
        np.arange(len(losses)),
        np.repeat(losses[:, None], policies, 1),
        returns[:, None] + offsets,
    )


LOSSES = np.geomspace(1.0, 0.01, 81)


def crossing_courses(at: float) -> tuple[Course, Course]:
    """The narrow set's return passes the diverse set's where the loss falls below `at`."""
    return (
        course(LOSSES, 40 - 10 * np.log10(LOSSES), spread=1.0),
        course(LOSSES, 40 - 10 * np.log10(LOSSES) - 30 * np.log10(LOSSES / at), spread=1.0),
    )


@pytest.mark.parametrize("at", [0.3, 0.1, 0.04])
def test_curves_that_cross_are_found_to_cross_where_they_do(at):
    by_loss = compare_by_loss(*crossing_courses(at), bins=10, seed=0)
    assert by_loss.crossings == [pytest.approx(at, rel=0.03)]
    assert by_loss.reverses


def test_the_other_order_is_no_reversal():
    diverse, narrow = crossing_courses(0.1)
    by_loss = compare_by_loss(narrow, diverse, bins=10, seed=0)
    assert len(by_loss.crossings) == 1
    assert not by_loss.reverses


def test_a_difference_within_the_policies_spread_is_no_reversal():
    diverse, narrow = crossing_courses(0.1)
    scattered = [
        replace(c, returns=c.returns + np.array([-90, 80, -70, 80, -90, 90]))
        for c in crossing_courses(0.1)
    ]
    assert compare_by_loss(diverse, narrow, 10, 0).reverses
    assert not compare_by_loss(*scattered, bins=10, seed=0).reverses


def test_bins_hold_the_mean_of_their_points():
    diverse = Course(
        np.arange(3), np.array([[1.0], [0.2], [0.01]]), np.array([[0.0], [10.0], [20.0]])
    )
    narrow = Course(
        np.arange(3), np.array([[1.0], [0.05], [0.01]]), np.array([[4.0], [30.0], [50.0]])
    )
    by_loss = compare_by_loss(diverse, narrow, bins=2, seed=0)
    assert by_loss.edges == pytest.approx([0.01, 0.1, 1.0])
    assert by_loss.diverse == pytest.approx([20.0, 5.0])
    assert by_loss.narrow == pytest.approx([40.0, 4.0])
    assert by_loss.difference == pytest.approx([20.0, -1.0])
    assert np.isnan(by_loss.low).all()  # one policy: nothing to resample
    assert by_loss.lacking == (
        "An interval takes at least 6 policies of each set, and there are 1; raise `policies`."
    )


@pytest.mark.parametrize("policies", [2, 5])
def test_too_few_policies_give_no_verdict(policies: int):
    """Curves that cross clearly, but the same few initialisations might have done that by luck."""
    few = [
        replace(c, losses=c.losses[:, :policies], returns=c.returns[:, :policies])
        for c in crossing_courses(0.1)
    ]
    by_loss = compare_by_loss(*few, bins=10, seed=0)
    assert by_loss.reverses is None
    assert f"and there are {policies}; raise `policies`" in by_loss.lacking
    assert np.isnan([by_loss.low, by_loss.high]).all()
    assert np.isfinite(by_loss.difference).all()
    assert by_loss.crossings == [pytest.approx(0.1, rel=0.03)]


def test_a_bin_that_few_policies_pass_has_no_interval():
    """Six policies a set, of which one alone is seen in the lower half of the losses."""
    diverse, narrow = crossing_courses(0.1)
    alone = narrow.losses.copy()
    alone[LOSSES < 0.1, 1:] = 0.9
    by_loss = compare_by_loss(diverse, replace(narrow, losses=alone), bins=2, seed=0)
    assert np.isnan(by_loss.low).tolist() == [True, False]
    assert by_loss.reverses is None
    assert "A reversal takes two bins with points of at least 6 policies" in by_loss.lacking
    assert "and there are 1 of 2" in by_loss.lacking


def test_losses_of_zero_lie_beyond_every_bin():
    diverse, narrow = crossing_courses(0.1)
    perfect = [replace(c, losses=np.where(c.losses < 0.02, 0, c.losses)) for c in (diverse, narrow)]
    by_loss = compare_by_loss(*perfect, bins=5, seed=0)
    assert by_loss.edges[0] == pytest.approx(0.02, rel=0.06)
    assert by_loss.reverses


def test_a_bin_that_one_set_never_passes_is_unknown_and_no_obstacle():
    diverse, narrow = crossing_courses(0.1)
    kept = (LOSSES < 0.2) | (LOSSES > 0.5)
    gap = Course(diverse.steps[kept], diverse.losses[kept], diverse.returns[kept])
    by_loss = compare_by_loss(gap, narrow, bins=10, seed=0)
    unknown = np.isnan(by_loss.difference)
    assert unknown.any()
    assert np.isnan(by_loss.low[unknown]).all()
    assert by_loss.crossings == [pytest.approx(0.1, rel=0.05)]


def test_losses_that_do_not_overlap_leave_nothing_to_compare():
    high = course(LOSSES, LOSSES)
    by_loss = compare_by_loss(high, course(LOSSES / 1000, LOSSES), bins=5, seed=0)
    assert isinstance(by_loss, ByLoss)
    assert not len(by_loss.difference)
    assert by_loss.crossings is None
    assert by_loss.reverses is None
    assert "do not overlap" in by_loss.lacking


def test_a_difference_of_zero_is_crossed_once():
    assert crossings(np.array([0.1, 0.2, 0.4]), np.array([1.0, 0.0, -1.0])) == [pytest.approx(0.2)]
    assert crossings(np.array([0.1, 0.2, 0.4]), np.array([1.0, 0.0, 1.0])) == []


@pytest.mark.parametrize(("last", "count"), [(2, 5), (40, 4), (2000, 16)])
def test_points_of_judgement_ascend_to_the_last_step(last, count):
    steps = spaced_steps(last, count)
    assert steps == sorted(set(steps))
    assert steps[-1] == last
    assert steps[0] >= 1
    assert len(steps) <= count


def training_set(state_noise: float, targets_at: Callable[[Tensor], Tensor] | None) -> TrainingSet:
    states = torch.as_tensor(random_states(400))
    actions = torch.as_tensor(random_states(400, 3, seed=1)).tanh()
    targets = targets_at(states) if targets_at else actions
    task = Task(states, actions, targets, torch.zeros(400), targets_at=targets_at)
    return TrainingSet("some", task, HOPPER, state_noise)


def expert_of_a_formula(states: Tensor) -> Tensor:
    return (states[..., :3] * 1.5).tanh()


@pytest.mark.parametrize(
    ("noise", "expert"), [(0.0, None), (0.3, expert_of_a_formula), (0.3, None)]
)
def test_a_course_is_that_of_torchs_adam(
    noise: float, expert: Callable[[Tensor], Tensor] | None
) -> None:
    """Of states perturbed as in a distillation, with the expert asked anew where there is one."""

    def perturbed(picks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        states, targets = task.states[picks], task.targets[picks]
        for each in states if noise else ():
            drawn = torch.randn(each.shape, generator=generator)
            each[len(each) // 4 :] += noise * drawn[len(each) // 4 :]
        return states, expert(states) if expert else targets

    network = MLP.build(11, 3, layers=3, width=8)
    training = training_set(noise, expert)
    task = training.task
    order = numpy_generator(4, "misalignment", 0).permutation(400)
    judged = perturbed(torch.from_numpy(order[None]), torch_generator(4, "misalignment/judged"))
    told: list[float] = []
    found = follow(training, network, [3, 10], 2, 1, seed=4, progress=told.append)
    for k in range(2):
        initial = network.initial_parameters([torch_generator(4, "misalignment", k)])
        parameters = [p.clone().requires_grad_() for p in initial]
        adam = torch.optim.Adam(parameters, LEARNING_RATE)
        for step in range(1, 11):
            generator = torch_generator(4, "misalignment/batch", 0, step)
            picks = torch.randint(400, (2, BATCH), generator=generator)
            states, targets = perturbed(picks, generator)
            adam.zero_grad()
            (network(parameters, states[k][None])[0] - targets[k]).square().mean().backward()
            adam.step()
            if step in (3, 10):
                with torch.no_grad():
                    loss = (network(parameters, judged[0]) - judged[1]).square().mean()
                assert found.losses[[3, 10].index(step), k] == pytest.approx(float(loss), rel=1e-4)
    assert found.returns.shape == (2, 2)
    assert np.isfinite(found.returns).all()
    assert told == [0.3, 1.0]


def test_policies_of_rows_are_judged_by_the_same_loss_and_by_their_own_score() -> None:
    """Rows of another scale than the normalised: an artifact's policies see environment units."""
    training = training_set(0.3, expert_of_a_formula)
    recipe = Recipe(layers=2, width=16, steps=30, learning_rates=(0.1, 0.1))
    stated = {"policies": 3, "episodes": 2, "seed": 5, "stage": "confirm", "ensemble": 4}
    x = torch.as_tensor(random_states(12, seed=2))
    y = expert_of_a_formula(x)
    artifact = Artifact.distilled(x, y, HOPPER, recipe, {"evaluation": stated})
    found = of_rows(training, artifact, seed=4)
    assert found.steps.tolist() == [30]
    returns = artifact.evaluate(artifact.evaluation(ensemble=1))
    assert found.returns == pytest.approx(returns.mean(1)[None])
    judged = training.judged(4)
    for k in range(3):
        network = recipe.network(11, 3)
        initial = network.initial_parameters([torch_generator(5, "confirm", k)])
        trained = clone(
            network, initial, x[None], y[None], torch.full((1, 12), 1 / 12),
            torch.full((1, 2), 0.1), 30,
        )  # fmt: skip
        loss = (network(trained, judged.states) - judged.targets).square().mean()
        assert found.losses[0, k] == pytest.approx(float(loss), rel=1e-3)


def test_the_return_at_a_loss_is_that_of_its_bin() -> None:
    by_loss = compare_by_loss(*crossing_courses(0.1), bins=4, seed=0)
    middle = float(np.sqrt(by_loss.edges[1] * by_loss.edges[2]))
    assert by_loss.at("diverse", middle) == by_loss.diverse[1]
    assert by_loss.at("narrow", middle) == by_loss.narrow[1]
    assert by_loss.at("diverse", float(by_loss.edges[-1])) == by_loss.diverse[-1]
    assert np.isnan(by_loss.at("diverse", 2.0))


# ---- errors


class Network:
    """An expert that is a network, plus a constant."""

    def __init__(self, network: MLP, parameters: Parameters, offset: float = 0.0) -> None:
        self.network, self.parameters, self.offset = network, parameters, offset

    def actions(self, states: Tensor) -> Tensor:
        with torch.no_grad():
            return self.network(self.parameters, states[None])[0] + self.offset

    def values(self, states: Tensor, actions: Tensor) -> Tensor:
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        raise NotImplementedError


NETWORK = MLP.build(11, 3, layers=3, width=16)


def two_policies() -> Policies:
    parameters = NETWORK.initial_parameters([torch_generator(0, "test", k) for k in range(2)])
    made = [{"choice": "random", "rows": 8, "steps": 5, "repeat": r} for r in range(2)]
    return Policies(NETWORK, parameters, made)


@pytest.fixture(scope="module")
def measured() -> tuple[Policies, Support, list[PolicyErrors], list[PolicyErrors]]:
    """Two policies, the first of which is the expert; and the same by an expert 0.1 off."""
    policies = two_policies()
    first = policies.one(0).parameters
    expert = Network(NETWORK, first)
    cpu = torch.device("cpu")
    support = expert_support(expert, HOPPER, 6, 0.2, GAUSSIAN, 3, cpu)
    shifted = Network(NETWORK, first, 0.1)
    return (
        policies,
        support,
        measure(policies, expert, support, HOPPER, 3, 7),
        measure(policies, shifted, support, HOPPER, 3, 7),
    )


def test_a_policy_that_is_the_expert_has_no_error(measured):
    _, _, (same, other), _ = measured
    assert same.pivotal_error == 0
    assert same.pooled_surrounding_error == 0
    assert same.surrounding_error == 0 or np.isnan(same.surrounding_error)
    assert other.pivotal_error > 0
    assert other.surrounding_error > 0


def test_a_constant_offset_is_the_error_everywhere(measured):
    _, _, _, (shifted, _) = measured
    assert shifted.pivotal_error == pytest.approx(0.01, rel=1e-4)
    assert shifted.pooled_surrounding_error == pytest.approx(0.01, rel=1e-4)


def test_surrounding_states_are_those_below_the_quantile_of_held_out_states(measured):
    policies, support, found, _ = measured
    assert support.off(support.pivotal).mean() == pytest.approx(0.2, abs=1 / len(support.pivotal))
    visited = Visited(3)
    act = HOPPER.actor(policies.actions, "cpu")
    rollout(act, HOPPER, 2, 3, 7, "errors", record=visited.record)
    for each, seen in zip(found, visited.by_policy(2), strict=True):
        states = HOPPER.units.normalized_states(seen)
        low = support.density.log_prob(states) < support.threshold
        assert each.surrounding_share == low.mean()
        if low.any():
            z = torch.as_tensor(states[low])
            error = (
                policies.actions(z)[each.repeat]
                - Network(NETWORK, policies.one(0).parameters).actions(z)
            ).square()
            assert each.surrounding_error == pytest.approx(float(error.mean()), rel=1e-4, abs=1e-12)


def test_the_density_never_sees_the_held_out_episodes():
    expert = Network(NETWORK, two_policies().one(0).parameters)
    found = expert_support(expert, HOPPER, 4, 0.1, GAUSSIAN, 0, torch.device("cpu"))
    visited = Visited(1)
    act = HOPPER.actor(lambda z: expert.actions(z.flatten(0, 1))[:, None], "cpu")
    rollout(act, HOPPER, 4, 1, 0, "errors/expert", record=visited.record)
    seen = [HOPPER.units.normalized_states(states) for states in visited.by_policy(4)]
    assert (found.pivotal == np.concatenate([seen[1], seen[3]])).all()
    twin = fit_density(np.concatenate([seen[0], seen[2]]), GAUSSIAN, 0)
    assert (twin.log_prob(found.pivotal) == found.density.log_prob(found.pivotal)).all()


def test_the_error_of_no_states_is_unknown():
    assert np.isnan(action_error(torch.zeros(0, 3), torch.zeros(0, 3)))
    assert action_error(torch.ones(4, 2), torch.zeros(4, 2)) == 1


def test_policies_are_of_every_kind_and_best_rows_are_of_the_best_episodes():
    states, targets = torch.as_tensor(random_states(200)), torch.zeros(200, 3)
    targets[:20] = 0.9  # of the best episode only
    returns = torch.cat([torch.full((20,), 9.0), torch.zeros(180)]).double()
    told: list[float] = []
    made = clone_policies(
        NETWORK, states, targets, torch.ones(200), returns,
        ["random", "weighted", "best"], [4, 16], [3, 60], 2, 0, told.append,
    )  # fmt: skip
    kinds = {(m["choice"], m["rows"], m["steps"], m["repeat"]) for m in made.made}
    assert len(kinds) == len(made.made) == len(made.parameters[0]) == 24
    assert told[-1] == 1.0
    actions = made.actions(states)
    by_kind = {
        (m["choice"], m["rows"], m["steps"]): float(actions[k].mean())
        for k, m in enumerate(made.made)
    }
    assert by_kind["best", 16, 60] > 0.5 > by_kind["random", 16, 60]
    assert by_kind["weighted", 16, 60] == by_kind["random", 16, 60]  # all weights are one


def policy_errors(pivotal: float, surrounding: float, found: float) -> PolicyErrors:
    return PolicyErrors("random", 8, 5, 0, found, pivotal, surrounding, surrounding, 0.5)


def test_correlations_are_over_all_and_over_halves_by_pivotal_error():
    """Where the pivotal error is large, only the surrounding error orders returns; else only it."""
    rising = np.linspace(0.0, 1.0, 12)
    large = [policy_errors(2 + x * (-1) ** i, x, -x) for i, x in enumerate(rising)]
    small = [policy_errors(x, x * (-1) ** i, 10 - x) for i, x in enumerate(rising / 4)]
    found = correlations([*large, *small], seed=0)
    assert set(found) == {"all", "large pivotal error", "small pivotal error"}
    assert found["large pivotal error"]["surrounding_error"]["value"] == pytest.approx(-1)
    assert abs(found["large pivotal error"]["pivotal_error"]["value"]) < 0.5
    assert found["small pivotal error"]["pivotal_error"]["value"] == pytest.approx(-1)
    assert abs(found["small pivotal error"]["surrounding_error"]["value"]) < 0.5
    for group in found.values():
        constant = group.pop("surrounding_share")
        assert np.isnan(constant["value"])
        assert constant["lacking"] == "nothing to order: all are equal"
        for each in group.values():
            assert each["low"] <= each["value"] <= each["high"]
            assert each["lacking"] is None


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_policies_have_no_correlation(count: int):
    for group in correlations([policy_errors(x, x, -x) for x in range(count)], 0).values():
        for each in group.values():
            assert np.isnan(each["value"])
            assert (each["low"], each["high"]) == (None, None)
            assert each["lacking"] == "takes at least 6 policies"


def test_policies_without_surrounding_states_are_left_out_of_its_correlation():
    some = [policy_errors(x, x if x < 6 else float("nan"), -x) for x in range(10)]
    found = correlations(some, seed=0)["all"]
    assert found["surrounding_error"]["policies"] == 6
    assert found["pivotal_error"]["policies"] == 10


# ---- coverage


def test_distance_by_hand_and_by_scipy():
    assert mean_distance(np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 8.0]])) == pytest.approx(6)
    states = random_states(50)
    assert mean_distance(states) == pytest.approx(pdist(states.astype(np.float64)).mean())
    assert np.isnan(mean_distance(states[:1]))


def test_entropy_by_hand_and_of_densities_whose_entropy_is_known():
    line = np.array([[0.0], [1.0], [3.0]])  # nearest: 1, 1, 2
    expected = digamma(3) - digamma(1) + np.log(2) + np.log([1, 1, 2]).mean()
    assert neighbour_entropy(line) == pytest.approx(expected)
    generator = np.random.default_rng(0)
    normal = generator.normal(size=(4000, 2)) * [1.0, 3.0]
    assert neighbour_entropy(normal) == pytest.approx(np.log(2 * np.pi * np.e * 3), abs=0.05)
    uniform = generator.uniform(0, 2, size=(4000, 3))
    assert neighbour_entropy(uniform) == pytest.approx(3 * np.log(2), abs=0.15)
    assert neighbour_entropy(np.zeros((2, 3))) == -np.inf


def test_histograms_hold_every_state():
    edges = np.linspace(-2.0, 2.0, 5)
    assert shares(np.array([-9.0, -1.5, 0.5, 2.0, 9.0, -np.inf, 0.2, 0.1]), edges).tolist() == [
        0.375, 0, 0.375, 0.25,
    ]  # fmt: skip


def test_a_set_drawn_from_the_source_is_as_the_source():
    states = random_states(20_000, 4)
    source = Source(states, fit_density(states, GAUSSIAN, 0), bins=10, seed=0)
    assert source.histogram.sum() == pytest.approx(1)
    whole = source.covered("all", states)
    assert (whole.histogram == source.histogram).all()
    assert whole.rare_share == pytest.approx(0.05, abs=1e-3)
    drawn = source.covered("some", states[::10])
    assert np.abs(drawn.histogram - source.histogram).sum() / 2 < 0.05
    assert drawn.source_distance[0] == pytest.approx(drawn.distance, rel=0.02)
    assert drawn.source_entropy[0] == pytest.approx(drawn.entropy, abs=0.15)


def test_wide_sets_and_tight_sets_are_told_apart():
    states = random_states(5_000, 4)
    source = Source(states, fit_density(states, GAUSSIAN, 0), bins=10, seed=0)
    tight = source.covered("tight", 0.1 * states[:200])
    wide = source.covered("wide", 3 * states[:200])
    assert tight.histogram[-1] > 0.9
    assert tight.rare_share == 0
    assert wide.rare_share > 0.5
    for name in ("distance", "entropy"):
        mean, low, high = getattr(wide, f"source_{name}")
        assert getattr(tight, name) < low < mean < high < getattr(wide, name)


# ---- what is written


def test_an_analysis_is_written_whole_or_not_at_all(tmp_path: Path):
    def draw(path: Path) -> None:
        path.write_bytes(b"a picture")

    good = Analysis("some", [{"a": 1, "b": 0.123456789}], {"found": 1}, draw)
    good.write(tmp_path / "good")
    assert (tmp_path / "good" / "some.csv").read_text() == "a,b\n1,0.123457\n"
    assert {p.name for p in (tmp_path / "good").iterdir()} == {"some.csv", "some.json", "some.png"}
    with pytest.raises(ZeroDivisionError):
        replace(good, draw=lambda path: 1 / 0).write(tmp_path / "bad")
    assert [p.name for p in tmp_path.iterdir()] == ["good"]


def test_an_analysis_is_written_once_and_takes_text_as_a_path(tmp_path):
    found = Analysis("a", [{"x": 1}], {"y": 2}, lambda path: path.touch())
    found.write(str(tmp_path / "found"))
    assert sorted(each.name for each in (tmp_path / "found").iterdir()) == [
        "a.csv",
        "a.json",
        "a.png",
    ]
    with pytest.raises(InputError, match="found' exists"):
        found.write(tmp_path / "found")
    with pytest.raises(InputError, match="`folder` must be a path"):
        found.write(3)


TINY = PipelineConfig(dataset="sdw/hopper-replay-mini-v0")


@pytest.mark.parametrize(
    ("analysis", "arguments", "said"),
    [
        (report.misalignment, {"policies": 1}, "`policies` must be at least 2, not 1"),
        (report.misalignment, {"points": "x"}, "`points` must be a whole number, not 'x'"),
        (report.misalignment, {"steps": 10**7}, "`steps` must be at most 1000000"),
        (report.misalignment, {"narrow": 3}, "`dataset` must be text"),
        (report.misalignment, {"narrow": "sdw/hoper-replay-mini-v0"}, "hoper-replay"),
        (report.errors, {"size": []}, "`size` must be a list of 1 or more"),
        (report.errors, {"steps": [50, 0]}, "`steps.1` must be greater than 0, not 0"),
        (report.errors, {"quantile": float("nan")}, "`quantile` must be"),
        (report.errors, {"size": 8}, "`size` must be a list, not 8"),
        (report.coverage, {"bins": 2.5}, "`bins` must be a whole number, not 2.5"),
    ],
)
def test_an_analysis_refuses_what_it_cannot_use_before_any_work(analysis, arguments, said):
    with pytest.raises(InputError, match=said):
        analysis(TINY, **arguments, tell=pytest.fail)
