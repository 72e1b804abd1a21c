"""Evaluation in real environments, against plain loops of one policy and one episode."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from sdw_core.errors import DivergenceError, SDWError
from sdw_core.evaluate import Arena, Recipe, evaluate_rows, rollout
from sdw_core.policy import MLP, ResidualMLP, clone
from sdw_core.seeds import derive_seed, torch_generator
from tests.sdw_core.arenas import HOPPER, arena

Array = np.ndarray[Any, np.dtype[Any]]


PENDULUM = arena("Pendulum-v1", reference_scores=(-1500.0, -150.0))
RECIPE = Recipe(layers=3, width=16, steps=25, learning_rates=(0.3, 0.2, 0.1))


def rows(sets: int = 2, size: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    observations = torch.randn(sets, size, 11, generator=generator)
    return observations, torch.randn(sets, size, 3, generator=generator).tanh()


def one_by_one(of: Arena, act: Any, policies: int, episodes: int, seed: int, stage: str) -> Array:
    """Returns [K, M], an episode at a time; act: (policy, observation) -> environment action."""
    returns = np.zeros((policies, episodes))
    for k in range(policies):
        for m in range(episodes):
            env = gymnasium.make(of.environment.id, **of.environment.kwargs)
            start = derive_seed(seed, f"{stage}/episode", k, m) % 2**31
            observation, _ = env.reset(seed=start)
            ended = False
            while not ended:
                action = act(k, np.asarray(observation, np.float32))
                observation, reward, terminated, truncated, _ = env.step(action)
                returns[k, m] += float(reward)
                ended = terminated or truncated
            env.close()
    return returns


# Rollouts


def hop(k: int, observation: Array) -> Array:
    """A feedback law, different for each policy; exact in whatever batch it is computed."""
    return np.sin((k + 1) * observation[..., 2:5] + observation[..., 5:8]).astype(np.float32)


def test_returns_are_those_of_a_plain_loop() -> None:
    def act(observations: Array) -> Array:
        return np.stack([hop(k, observations[k]) for k in range(3)])

    together = rollout(act, HOPPER, 3, 2, 7, "evaluate")
    assert together.shape == (3, 2)
    np.testing.assert_array_equal(together, one_by_one(HOPPER, hop, 3, 2, 7, "evaluate"))
    assert len(np.unique(together)) == 6


def swing(k: int, observation: Array) -> Array:
    """Energy control of a pendulum, [-1, 1]."""
    cosine, sine, speed = np.moveaxis(observation, -1, 0)
    torque = np.where(cosine > 0.9, -4 * sine - speed, np.sign(speed) * (k + 1))
    return np.clip(torque, -1, 1)[..., None].astype(np.float32)


def test_unit_actions_fill_the_bounds_of_the_environment() -> None:
    """Pendulum takes [-2, 2]; its episodes end by truncation, after 200 steps."""
    seen: list[Array] = []

    def policy(states: Tensor) -> Tensor:
        raw = states.numpy() * PENDULUM.units.observation_scale + PENDULUM.units.observation_mean
        actions = np.stack([swing(k, raw[k]) for k in range(2)])
        seen.append(actions)
        return torch.from_numpy(actions)

    act = PENDULUM.actor(policy, "cpu")
    together = rollout(act, PENDULUM, 2, 2, 0, "evaluate")
    alone = one_by_one(PENDULUM, lambda k, o: 2 * swing(k, o), 2, 2, 0, "evaluate")
    np.testing.assert_allclose(together, alone, rtol=0.02)
    assert len(seen) == 200
    half_the_torque = one_by_one(PENDULUM, swing, 2, 2, 0, "evaluate")
    assert not np.isclose(together, half_the_torque, rtol=0.02).any()
    assert np.abs(seen).max() == 1


class Countdown(gymnasium.Env[Array, Array]):
    """Ends after 1 to 30 steps, as its seed says; a step after the end is an error."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(np.float32([-1, 2]), np.float32([3, 4]))
    open = 0

    def __init__(self, bonus: float = 0.0) -> None:
        self.bonus, self.closed = bonus, False
        type(self).open += 1

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, 31))
        self.truncates = bool(self.np_random.integers(2))
        return np.zeros(2, np.float32), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        assert self.left > 0, "stepped after its end"
        self.left -= 1
        ended, reward = self.left == 0, float(action[0] + 10 * action[1]) + self.bonus
        state = np.zeros(2, np.float32)
        return state, reward, ended and not self.truncates, ended and self.truncates, {}

    def close(self) -> None:
        type(self).open -= 1


class Faulty(Countdown):
    """Prints what it does, and fails at its third step."""

    def reset(self, **options: Any) -> tuple[Array, dict[str, Any]]:
        print("ready")
        self.steps, (state, info) = 0, super().reset(**options)
        self.left = 30
        return state, info

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        print("moved")
        self.steps += 1
        if self.steps == 3:
            raise RuntimeError("the motor\nburnt out")
        return super().step(action)


gymnasium.register("SdwTest/Countdown-v0", entry_point=Countdown)
gymnasium.register("SdwTest/Faulty-v0", entry_point=Faulty)


def test_an_episode_that_has_ended_is_not_stepped() -> None:
    countdown = arena("SdwTest/Countdown-v0", kwargs={"bonus": 1.0})
    fractions: list[float] = []
    act = countdown.actor(lambda states: torch.ones(*states.shape[:2], 2), "cpu")
    returns = rollout(act, countdown, 4, 5, 0, "evaluate", fractions.append)
    steps = returns / (3 + 10 * 4 + 1.0)  # the upper bounds and the keyword argument's bonus
    np.testing.assert_array_equal(steps, steps.round())
    assert steps.min() >= 1
    assert steps.max() <= 30
    assert len(np.unique(steps)) > 5
    assert fractions
    assert all(0 < fraction <= 1 for fraction in fractions)


def test_environments_are_used_again_and_those_of_another_kind_closed() -> None:
    countdown = arena("SdwTest/Countdown-v0", kwargs={"bonus": 2.0})
    act = countdown.actor(lambda states: torch.ones(*states.shape[:2], 2), "cpu")
    rollout(act, countdown, 1, 1, 0, "evaluate")
    Countdown.open = 1
    first = rollout(act, countdown, 4, 5, 0, "evaluate")
    assert Countdown.open == 20
    rollout(act, countdown, 2, 3, 1, "evaluate")  # leaves its episodes at other ends
    with pytest.raises(ZeroDivisionError):  # and this one in their midst
        rollout(lambda states: 1 / 0, countdown, 2, 2, 0, "evaluate")  # type: ignore[arg-type,return-value]
    np.testing.assert_array_equal(rollout(act, countdown, 4, 5, 0, "evaluate"), first)
    rollout(act, countdown, 4, 6, 0, "evaluate")
    assert Countdown.open == 24
    other = arena("SdwTest/Countdown-v0", kwargs={"bonus": 3.0})
    rollout(act, other, 1, 1, 0, "evaluate")
    assert Countdown.open == 1


def test_normalised_returns_follow_the_formula_and_may_leave_its_range() -> None:
    returns = np.array([[-20.0, 3000.0], [1490.0, 6020.0], [-3040.0, -20.0]])
    expected = [[0, 100], [50, 200], [-100, 0]]
    np.testing.assert_allclose(HOPPER.normalized(returns), expected)


# Policies trained on rows


def test_evaluation_is_cloning_followed_by_episodes() -> None:
    x, y = rows()
    recipes = [RECIPE, Recipe(3, 16, 25, (0.1, 0.2, 0.3))]
    together = evaluate_rows(x, y, recipes, HOPPER, 2, 2, 5, "evaluate")
    network = MLP((11, 16, 16, 3))
    trained = []
    for k in range(4):
        initial = network.initial_parameters([torch_generator(5, "evaluate", k)])
        rates = torch.tensor([recipes[k // 2].learning_rates])
        at, equal = slice(k // 2, k // 2 + 1), torch.full((1, 8), 1 / 8)
        trained.append(clone(network, initial, x[at], y[at], equal, rates, 25))

    def act(k: int, observation: Array) -> Array:
        state = (observation - HOPPER.units.observation_mean) / HOPPER.units.observation_scale
        return np.asarray(network(trained[k], torch.from_numpy(state)[None, None])[0, 0])

    alone = one_by_one(HOPPER, act, 4, 2, 5, "evaluate")
    np.testing.assert_allclose(together, 100 * (alone + 20) / 3020, rtol=1e-3)


def test_an_ensemble_acts_by_the_mean_of_its_networks() -> None:
    """In units of the action range, at every step; networks by Adam, with skip connections."""
    x, y = rows()
    recipe = Recipe(3, 16, 25, (0.01, 0.02, 0.03), "residual", "adam")
    together = evaluate_rows(x, y, [recipe] * 2, HOPPER, 2, 2, 5, "evaluate", ensemble=3)
    assert together.shape == (4, 2)
    network = ResidualMLP((11, 16, 16, 3))
    rates, equal = torch.tensor([recipe.learning_rates]), torch.full((1, 8), 1 / 8)
    trained = []
    for member in range(12):
        initial = network.initial_parameters([torch_generator(5, "evaluate", member)])
        at = slice(member // 6, member // 6 + 1)
        trained.append(clone(network, initial, x[at], y[at], equal, rates, 25, "adam"))

    def act(k: int, observation: Array) -> Array:
        state = (observation - HOPPER.units.observation_mean) / HOPPER.units.observation_scale
        states = torch.from_numpy(state)[None, None]
        members = [np.asarray(network(p, states)[0, 0]) for p in trained[3 * k : 3 * k + 3]]
        return np.mean(members, axis=0)

    alone = one_by_one(HOPPER, act, 4, 2, 5, "evaluate")
    np.testing.assert_allclose(together, 100 * (alone + 20) / 3020, rtol=1e-3)


OTHERS = {
    "layers": Recipe(2, 16, 25, (0.1, 0.3)),
    "width": Recipe(3, 8, 25, (0.1, 0.2, 0.3)),
    "steps": Recipe(3, 16, 3, (0.1, 0.2, 0.3)),
    "architecture": Recipe(3, 16, 25, (0.1, 0.2, 0.3), "residual"),
    "optimizer": Recipe(3, 16, 25, (0.1, 0.2, 0.3), optimizer="adam"),
}


@pytest.mark.parametrize("ensemble", [1, 2])
@pytest.mark.parametrize("what", OTHERS)
def test_each_set_is_judged_by_its_own_recipe(what: str, ensemble: int) -> None:
    """Whatever differs, a set's policies are those of a call in which all recipes are its own."""
    x, y = rows(3)
    recipes = [RECIPE, OTHERS[what], RECIPE]
    mixed = evaluate_rows(x, y, recipes, HOPPER, 2, 2, 5, "evaluate", ensemble=ensemble)
    for index, recipe in enumerate(recipes):
        alone = evaluate_rows(x, y, [recipe] * 3, HOPPER, 2, 2, 5, "evaluate", ensemble=ensemble)
        at = slice(2 * index, 2 * index + 2)
        np.testing.assert_allclose(mixed[at], alone[at], rtol=1e-3)
    of_the_first = evaluate_rows(x, y, [RECIPE] * 3, HOPPER, 2, 2, 5, "evaluate", ensemble=ensemble)
    assert not np.isclose(mixed[2:4], of_the_first[2:4], rtol=1e-3).any()


def test_as_many_learning_rates_as_layers_are_needed() -> None:
    for rates in ((0.1, 0.2), (0.1, 0.2, 0.3, 0.4)):
        with pytest.raises(ValueError, match="3 layers need as many learning rates, not"):
            Recipe(3, 16, 25, rates)


def test_as_many_recipes_as_sets_are_needed() -> None:
    with pytest.raises(ValueError, match="2 sets of rows need as many recipes: 1"):
        evaluate_rows(*rows(2), [RECIPE], HOPPER, 1, 1, 0, "evaluate")


def test_a_return_that_is_not_finite_is_an_error_and_no_score() -> None:
    boundless = arena("SdwTest/Countdown-v0", kwargs={"bonus": float("nan")})
    x, y = torch.zeros(1, 8, 2), torch.zeros(1, 8, 2)
    recipe = Recipe(2, 4, 1, (0.1, 0.1))
    with pytest.raises(SDWError, match=r"4 of 4 episodes in .* have a return"):
        evaluate_rows(x, y, [recipe], boundless, 2, 2, 0, "evaluate")


def test_an_environment_that_fails_is_named_and_says_nothing_on_stdout(capsys: Any) -> None:
    faulty = arena("SdwTest/Faulty-v0")
    act = faulty.actor(lambda states: torch.ones(*states.shape[:2], 2), "cpu")
    capsys.readouterr()
    with pytest.raises(SDWError) as error:
        rollout(act, faulty, 2, 2, 0, "evaluate")
    assert "`SdwTest/Faulty-v0` failed" in str(error.value)
    assert "(RuntimeError: the motor)" in str(error.value)
    said = capsys.readouterr()
    assert (said.out, "moved" in said.err) == ("", True)


def test_what_is_raised_elsewhere_is_no_fault_of_the_environment() -> None:
    def act(states: Array) -> Array:
        raise MemoryError("the networks")

    with pytest.raises(MemoryError):
        rollout(act, HOPPER, 1, 1, 0, "evaluate")


def test_a_policy_that_diverges_is_an_error_and_no_score() -> None:
    x, y = rows(1)
    y[0, 0, 0] = 1e38
    with pytest.raises(
        DivergenceError, match=r"2 of 2 policies .* lower `pipeline.distill.inner_lr`"
    ):
        evaluate_rows(x, y, [RECIPE], HOPPER, 2, 2, 0, "evaluate")


def test_the_same_seed_gives_the_same_returns_and_another_or_stage_others() -> None:
    x, y = rows(1)

    def returns(seed: int, stage: str) -> Array:
        return evaluate_rows(x, y, [RECIPE], HOPPER, 2, 2, seed, stage)

    first = returns(0, "evaluate")
    np.testing.assert_array_equal(first, returns(0, "evaluate"))
    for other in (returns(1, "evaluate"), returns(0, "confirm")):
        assert not np.isin(other, first).any()


def test_more_policies_and_episodes_begin_with_the_same_ones() -> None:
    x, y = rows(1)
    few = evaluate_rows(x, y, [RECIPE], HOPPER, 2, 2, 0, "evaluate")
    many = evaluate_rows(x, y, [RECIPE], HOPPER, 3, 4, 0, "evaluate")
    np.testing.assert_allclose(many[:2, :2], few, rtol=1e-3)


@pytest.mark.parametrize("ensemble", [1, 2])
def test_some_of_the_policies_return_what_they_do_among_all(ensemble: int) -> None:
    recipes = [Recipe(2, 8, 5, (0.1, 0.1)), Recipe(3, 8, 5, (0.1,) * 3)]
    whole, some = (
        evaluate_rows(*rows(), recipes, arena(), 4, 2, 0, "s", ensemble=ensemble, chosen=chosen)
        for chosen in (None, range(1, 3))
    )
    np.testing.assert_allclose(some.reshape(2, 2, 2), whole.reshape(2, 4, 2)[:, 1:3], rtol=1e-4)


def test_different_rows_are_compared_on_common_starts() -> None:
    """Two trials' policies differ by their rows alone: untrained, they are the same."""
    untrained = Recipe(3, 16, 0, (0.1, 0.1, 0.1))
    one, two = (
        evaluate_rows(*rows(1, seed=seed), [untrained], HOPPER, 2, 2, 0, "evaluate")
        for seed in (0, 1)
    )
    np.testing.assert_array_equal(one, two)
