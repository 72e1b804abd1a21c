"""Do data come from their environment? Real rollouts, judged where they were made and elsewhere."""

import dataclasses
import json
import os
import random
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

from sdw_core.dataset import check, load
from sdw_core.environment import Environment
from sdw_core.offline_dataset import OfflineDataset

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("MINARI_DATASETS_PATH") or ROOT.parent / "shared/data/minari")


def collected(environment, episodes=6, steps=60, seed=0, hold=0.5):
    """Episodes of a policy that holds a part of an action, with noise."""
    env, spaces, rng = environment.make(), environment.spaces, np.random.default_rng(seed)
    low, high = spaces.action_low, spaces.action_high
    rows, finals, ends = [], [], []
    for episode in range(episodes):
        observation, _ = env.reset(seed=seed + episode)
        held = rng.uniform(low, high)
        for step in range(steps):
            noise = (1 - hold) * rng.uniform(low, high)
            action = np.clip(hold * held + noise, low, high).astype(np.float32)
            following, reward, terminated, truncated, _ = env.step(action)
            over = terminated or truncated or step == steps - 1
            rows.append((observation, action, reward, terminated, over and not terminated))
            observation = following
            if over:
                break
        finals.append(observation)
        ends.append(len(rows))
    env.close()
    observations, actions, rewards, terminated, truncated = map(np.array, zip(*rows, strict=True))
    return OfflineDataset(
        name="my/data-v0",
        environment=environment,
        observations=np.float32(observations),
        final_observations=np.float32(finals),
        actions=actions,
        rewards=np.float32(rewards),
        terminated=terminated,
        truncated=truncated,
        episode_ends=np.array(ends),
        action_low=low,
        action_high=high,
    )


def within(environment, name, module, **kwargs):
    wrapper = {"name": name, "entry_point": f"gymnasium.wrappers.{module}:{name}", "kwargs": kwargs}
    document = json.loads(Environment.named(environment).spec_json())
    return Environment.of_dataset(document | {"additional_wrappers": [wrapper]}, "x")


def elsewhere(dataset, environment, **changes):
    return dataclasses.replace(dataset, environment=environment, **changes)


@pytest.mark.parametrize(
    "environment",
    [
        "Hopper-v5",
        "HalfCheetah-v5",
        "Walker2d-v5",
        "Swimmer-v5",
        "Ant-v5",
        "Humanoid-v5",
        "HumanoidStandup-v5",
        "InvertedPendulum-v5",
        "Hopper-v5&exclude_current_positions_from_observation=false",
        "Ant-v4&use_contact_forces=true",
    ],
)
def test_own_data_agree(environment):
    found = check(collected(Environment.named(environment)))
    assert (found.verdict, found.method, found.warning) == ("agrees", "stepped", None)
    assert found.numbers["observation_error_median"] < 1e-6
    assert found.numbers["reward_error_three_quarters"] < 0.1
    assert json.loads(json.dumps(found.to_json(), allow_nan=False)) == found.to_json()


def test_velocities_that_are_clipped_in_observations_are_no_disagreement():
    dataset = collected(Environment.named("Walker2d-v5"), hold=0)
    assert (np.abs(dataset.observations) == 10).any(axis=1).mean() > 0.5
    assert check(dataset).verdict == "agrees"


@pytest.mark.parametrize(
    ("wrapped", "method"),
    [
        (("RescaleAction", "transform_action", {"min_action": -1.0, "max_action": 1.0}), "stepped"),
        (("ClipAction", "transform_action", {}), "stepped"),
        (("ClipReward", "transform_reward", {"min_reward": -1, "max_reward": 0.5}), "stepped"),
        (("RepeatAction", "stateful_action", {"num_repeats": 2}), "stepped"),
        (("TimeAwareObservation", "stateful_observation", {}), "random episodes"),
        (("DelayObservation", "stateful_observation", {"delay": 2}), "random episodes"),
    ],
)
def test_data_of_a_wrapped_environment(wrapped, method):
    name, module, kwargs = wrapped
    found = check(collected(within("InvertedPendulum-v5", name, module, **kwargs), episodes=20))
    assert found.method == method
    assert found.verdict == {"stepped": "agrees", "random episodes": "cannot tell"}[method]
    assert found.warning is None


@pytest.mark.parametrize(
    "environment",
    [
        "Pendulum-v1",
        "MountainCarContinuous-v0",
        "InvertedDoublePendulum-v5",
        "Reacher-v5",
        "Pusher-v5",
    ],
)
def test_own_data_where_no_state_can_be_set_are_not_suspected(environment):
    found = check(collected(Environment.named(environment), seed=100))
    assert (found.verdict, found.method) == ("cannot tell", "random episodes")
    assert "cannot be told" in found.sentence


HOPPER, PENDULUM = Environment.named("Hopper-v5"), Environment.named("Pendulum-v1")


@pytest.fixture(scope="module")
def hopper():
    return collected(HOPPER)


@pytest.fixture(scope="module")
def pendulum():
    return collected(PENDULUM, episodes=12)


class TestDisagreement:
    @pytest.mark.parametrize(
        "other",
        [
            "Hopper-v5&frame_skip=5",
            "Hopper-v5&frame_skip=2",
            "Hopper-v5&forward_reward_weight=2.0",
            "Hopper-v5&healthy_reward=0.0",
        ],
    )
    def test_another_environment(self, hopper, other):
        found = check(elsewhere(hopper, Environment.named(other)))
        assert found.verdict == "disagrees"
        assert found.warning == found.sentence
        assert other in found.warning
        assert found.warning.endswith(".")
        assert "?env=" in found.warning

    def test_another_range_of_actions(self):
        rescaled = within(
            "InvertedPendulum-v5",
            "RescaleAction",
            "transform_action",
            min_action=-1.0,
            max_action=1.0,
        )
        bare = Environment.named("InvertedPendulum-v5")
        found = check(elsewhere(collected(rescaled, episodes=20), bare))
        assert (found.verdict, found.method) == ("disagrees", "stepped")

    def test_another_model(self, hopper):
        noisy = hopper.observations + np.float32(0.1) * np.random.default_rng(0).normal(
            size=hopper.observations.shape
        ).astype(np.float32)
        assert check(dataclasses.replace(hopper, observations=noisy)).verdict == "disagrees"

    @pytest.mark.parametrize("data", ["hopper", "pendulum"])
    def test_normalised_observations(self, data, request):
        dataset = request.getfixturevalue(data)
        mean, scale = dataset.observations.mean(0), dataset.observations.std(0) + 1e-3
        found = check(
            dataclasses.replace(dataset, observations=(dataset.observations - mean) / scale)
        )
        assert found.verdict == "disagrees"
        assert "observations" in found.warning

    @pytest.mark.parametrize("data", ["hopper", "pendulum"])
    @pytest.mark.parametrize("change", [lambda r: 0.01 * r, lambda r: 10 * r, lambda r: r + 30])
    def test_other_rewards(self, data, change, request):
        dataset = request.getfixturevalue(data)
        found = check(dataclasses.replace(dataset, rewards=np.float32(change(dataset.rewards))))
        assert found.verdict == "disagrees"
        assert "rewards" in found.warning

    def test_observations_outside_of_what_the_environment_states(self, pendulum):
        states = pendulum.observations.copy()
        states[::7, 0] = 1.5  # a cosine
        found = check(dataclasses.replace(pendulum, observations=states))
        assert found.verdict == "disagrees"
        assert "outside" in found.warning


def test_draws_are_seeded_and_its_own(hopper, pendulum):
    for dataset in (hopper, pendulum):
        np.random.seed(1)  # noqa: NPY002
        random.seed(1)
        states = np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
        first = check(dataset, seed=3)
        assert (np.random.get_state()[1].tolist(), random.getstate()) == states  # noqa: NPY002
        assert check(dataset, seed=3) == first
        assert check(dataset, seed=4).numbers != first.numbers or dataset is pendulum


class Failing(gymnasium.Env):
    closed = 0

    def __init__(self):
        self.observation_space = gymnasium.spaces.Box(-1, 1, (3,))
        self.action_space = gymnasium.spaces.Box(-2, 2, (1,))

    def reset(self, *, seed=None, options=None):
        raise OSError("the licence has\nexpired")

    def close(self):
        Failing.closed += 1


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_what_depends_on_the_action_before_is_not_stepped_again(probability):
    kwargs = {"repeat_action_probability": probability}
    sticky = within("Hopper-v5", "StickyAction", "stateful_action", **kwargs)
    found = check(collected(sticky))
    assert (found.verdict, found.method) == ("cannot tell", "random episodes")


def test_an_environment_that_fails_is_no_disagreement_and_is_closed(pendulum, monkeypatch):
    spec = EnvSpec("Failing-v0", entry_point=Failing)
    monkeypatch.setitem(gymnasium.registry, "Failing-v0", spec)
    found = check(elsewhere(pendulum, Environment("Failing-v0")))
    assert (found.verdict, found.warning) == ("cannot tell", None)
    assert "the licence has" in found.sentence
    assert "\n" not in found.sentence
    assert Failing.closed == 1


def test_the_bundled_dataset_agrees():
    assert check(load("sdw/hopper-replay-mini-v0")).verdict == "agrees"


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared datasets")
def test_shared_datasets_agree(monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(SHARED))
    for family in ("hopper", "halfcheetah"):
        for kind in ("medium", "medium-replay", "medium-expert"):
            found = check(load(f"sdw/{family}-{kind}-v0"))
            assert found.verdict == "agrees", found
            assert found.numbers["observation_error_median"] < 1e-6
            assert found.numbers["reward_error_median"] < 1e-6
