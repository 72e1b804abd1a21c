"""The one place that makes environments: what a spec says is made, what cannot be is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.envs.registration import EnvSpec, WrapperSpec

from sdw_core.environment import Environment, Wrapper, silence_mujoco
from sdw_core.errors import InputError
from sdw_core.evaluate import Arena, rollout
from sdw_core.units import Units

BALANCE = np.array([[0.1, 3.0, 0.1, 0.6]])  # gains that hold InvertedPendulum up, in its own units


class Reach(gymnasium.Env):
    """One dimension: the reward of a step is minus the distance to 1 after it."""

    metadata = {"render_modes": ["human", "rgb_array"]}  # noqa: RUF012

    def __init__(self, width=3, low=-1.0, dtype="float32", render_mode=None):
        assert render_mode is None, "a window"
        self.observation_space = gymnasium.spaces.Box(-9, 9, (width,), np.dtype(dtype))
        self.action_space = gymnasium.spaces.Box(low, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0.0
        return self._observed(), {}

    def step(self, action):
        self.place += float(action[0])
        return self._observed(), -abs(1 - self.place), False, False, {}

    def _observed(self):
        return np.full(self.observation_space.shape, self.place, self.observation_space.dtype)


@pytest.fixture
def register(monkeypatch):
    def add(identifier, entry_point=Reach, **options):
        spec = EnvSpec(identifier, entry_point=entry_point, **options)
        monkeypatch.setitem(gymnasium.registry, identifier, spec)
        return identifier

    return add


def stated(env, **changes):
    """What a dataset of `env` states, as Minari keeps it, read again as we read it."""
    return Environment.of_dataset(json.loads(env.spec.to_json()) | changes, "my/data-v0")


def hopper(**changes):
    return json.loads(gymnasium.spec("Hopper-v5").to_json()) | changes


def within(*specs):
    return hopper(
        additional_wrappers=[
            {"name": entry.rpartition(":")[2], "entry_point": entry, "kwargs": kwargs}
            for entry, kwargs in specs
        ]
    )


def refused(make, *words):
    with pytest.raises(InputError) as error:
        make()
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith((".", "?"))
    for word in words:
        assert word in message, message


def returns(environment, act, episodes=2):
    """Undiscounted returns of a controller that sees and acts in the environment's own units."""
    spaces = environment.spaces
    zeros, ones = np.zeros(spaces.observations, np.float32), np.ones(spaces.observations)
    units = Units(zeros, ones, spaces.action_low, spaces.action_high)
    arena = Arena(environment, units, (0, 1))
    return rollout(act, arena, 1, episodes, 0, "test")


class TestNamed:
    def test_the_registered_limit_and_bounds(self):
        environment = Environment.named("InvertedPendulum-v5")
        assert environment == Environment("InvertedPendulum-v5", max_episode_steps=1000)
        spaces = environment.spaces
        assert (spaces.observations, spaces.clips_actions) == (4, False)
        assert (spaces.action_low, spaces.action_high) == ([-3], [3])

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("width=5", 5),
            ("width=5.5", 5.5),
            ("width=true", True),
            ("width=True", True),
            ("width=None", None),
            ("width=[0.7,Infinity]", [0.7, np.inf]),
            ('width={"a":[1]}', {"a": [1]}),
            ("width=a=b", "a=b"),
            ('width="5"', "5"),
            (r'width="a\u0026b=c"', "a&b=c"),
        ],
    )
    def test_values_are_json_or_text_and_can_be_typed_again(self, register, text, value):
        register("Any-v0", lambda width: Reach())
        environment = Environment.named(f"Any-v0&{text}")
        assert environment.kwargs == {"width": value}
        assert Environment.named(environment.typed) == environment

    def test_a_limit_of_its_own(self):
        environment = Environment.named("Pendulum-v1&max_episode_steps=7")
        assert (environment.max_episode_steps, environment.kwargs) == (7, {})
        assert str(environment) == "Pendulum-v1&max_episode_steps=7"
        assert returns(environment, lambda o: np.zeros((1, 2, 1), np.float32)).shape == (1, 2)
        assert environment.canonical != Environment.named("Pendulum-v1").canonical

    def test_an_environment_without_limit_gets_one(self, register):
        environment = Environment.named(register("Endless-v0"))
        assert environment.max_episode_steps == 1000
        assert returns(environment, lambda o: np.zeros((1, 2, 1), np.float32)).tolist() == [
            [-1000, -1000]
        ]

    def test_a_module_registers_its_own(self, tmp_path, monkeypatch):
        (tmp_path / "my_arm.py").write_text(
            "import gymnasium\n"
            "from gymnasium.envs.classic_control.pendulum import PendulumEnv\n"
            "gymnasium.register('MyArm-v0', entry_point=PendulumEnv, max_episode_steps=50)\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        environment = Environment.named("my_arm:MyArm-v0&g=1.5")
        try:
            assert environment == Environment("my_arm:MyArm-v0", {"g": 1.5}, 50)
            assert environment.family == "MyArm"
            assert Environment.of_json(json.loads(json.dumps(environment.to_json()))) == environment
            assert json.loads(environment.spec_json())["entry_point"].endswith(":PendulumEnv")
        finally:
            del gymnasium.registry["MyArm-v0"]

    def test_wrappers_that_it_is_registered_with(self, register):
        rescale = WrapperSpec(
            "RescaleAction",
            "gymnasium.wrappers.transform_action:RescaleAction",
            {"min_action": -5.0, "max_action": 5.0},
        )
        statistics = WrapperSpec(
            "RecordEpisodeStatistics", "gymnasium.wrappers.common:RecordEpisodeStatistics", {}
        )
        register("Wide-v0", additional_wrappers=(rescale, statistics))
        environment = Environment.named("Wide-v0")
        assert [wrapper.name for wrapper in environment.wrappers] == ["RescaleAction"]
        assert environment.spaces.action_high == [5]
        assert (environment.typed, str(environment)) == ("Wide-v0", "Wide-v0 within RescaleAction")
        register("Lost-v0", additional_wrappers=(WrapperSpec("W", "somewhere:W", None),))
        refused(lambda: Environment.named("Lost-v0"), "`Lost-v0 within W`", "cannot be made")

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", ["unknown environment ``"]),
            ("Hopper-v5&", ["each argument once", "has ''"]),
            ("Hopper-v5&a", ["has 'a'"]),
            ("Hopper-v5&a=1&a=2", ["has 'a=2'"]),
            ("Hopper-v5&1a=1", ["has '1a=1'"]),
            ("Hopper-v5&no_such=1", ["cannot be made", "no_such"]),
            ("Hopper-v5&max_episode_steps=0", ["`max_episode_steps`", "at least 1"]),
            ("Hopper-v5&max_episode_steps=-1", ["`max_episode_steps`"]),
            ("Hopper-v5&max_episode_steps=1.5", ["`max_episode_steps`"]),
            ("Hopper-v5&max_episode_steps=true", ["`max_episode_steps`"]),
            ("Hopper-v5&frame_skip=2.5", ["cannot be run", "mj_step"]),
            ("Hopper-v5&xml_file=/gone.xml", ["cannot be made", "/gone.xml"]),
            ("hopper-v5", ["did you mean `Hopper-v5`?", "my_module:hopper-v5"]),
            (":Hopper-v5", ["unknown environment `:Hopper-v5`"]),
            ("no_such_module:X-v0", ["`no_such_module`", "PYTHONPATH"]),
            ("json:X-v0", ["unknown environment `json:X-v0`"]),
            ("Hopper-v2", ["mujoco-py", "`Hopper-v4`"]),
            ("Ant-v3", ["`Ant-v4&use_contact_forces=true`"]),
            ("InvertedDoublePendulum-v2", ["`InvertedDoublePendulum-v4`"]),
            ("HumanoidStandup-v2", ["`HumanoidStandup-v4`"]),
            ("hopper-medium-replay-v2", ["dataset of D4RL's", "`Hopper-v4`"]),
            ("ant-medium-v2", ["dataset of D4RL's", "`Ant-v4&use_contact_forces=true`"]),
            ("CartPole-v1", ["Discrete(2)", "continuous actions"]),
            ("FrozenLake-v1", ["Discrete(16)", "continuous observations"]),
        ],
    )
    def test_what_is_refused(self, text, words):
        refused(lambda: Environment.named(text), *words)

    @pytest.mark.parametrize(
        ("space", "words"),
        [
            (gymnasium.spaces.Box(-np.inf, np.inf, (2,)), ["finite bounds"]),
            (gymnasium.spaces.Box(-1, np.inf, (2,)), ["finite bounds"]),
            (gymnasium.spaces.Box(np.float32([0, 1]), np.float32([1, 1])), ["lower below"]),
            (gymnasium.spaces.Box(0, 4, (2,), np.int64), ["real numbers", "int64"]),
            (gymnasium.spaces.Box(-1, 1, (2, 2)), ["one axis"]),
            (gymnasium.spaces.Dict(a=gymnasium.spaces.Box(-1, 1, (2,))), ["Dict"]),
        ],
    )
    def test_actions_that_no_policy_gives(self, register, space, words):
        def make():
            env = Reach()
            env.action_space = space
            return env

        refused(lambda: Environment.named(register("Odd-v0", make)), *words)


class TestOfDataset:
    def test_what_can_be_made_and_not_run(self):
        function = (
            "gymnasium.wrappers.transform_reward:TransformReward",
            {"func": "lambda r: 2 * r"},
        )
        refused(lambda: Environment.of_dataset(within(function), "x"), "cannot be run")

    def test_arguments_and_limit(self):
        env = gymnasium.make("Hopper-v5", terminate_when_unhealthy=False, max_episode_steps=30)
        assert stated(env) == Environment("Hopper-v5", {"terminate_when_unhealthy": False}, 30)
        assert stated(wrappers.TimeLimit(gymnasium.make("Hopper-v5"), 7)).max_episode_steps == 7

    def test_wrappers_without_effect_are_dropped(self):
        env = gymnasium.make("Hopper-v5")
        env = wrappers.RecordEpisodeStatistics(wrappers.Autoreset(env))
        assert stated(env) == Environment("Hopper-v5")
        video = ("gymnasium.wrappers.rendering:RecordVideo", {"video_folder": "/nowhere"})
        assert Environment.of_dataset(within(video), "x").wrappers == ()

    @pytest.mark.parametrize(
        "wrapped",
        [
            lambda env: wrappers.RescaleAction(env, -2.0, 2.0),
            wrappers.ClipAction,
            lambda env: wrappers.ClipAction(wrappers.RescaleAction(env, -2.0, 2.0)),
            wrappers.TimeAwareObservation,
            lambda env: wrappers.FlattenObservation(wrappers.FrameStackObservation(env, 3)),
            lambda env: wrappers.DelayObservation(env, 2),
            lambda env: wrappers.ClipReward(env, -1, 1),
            lambda env: wrappers.RepeatAction(env, 4),
            lambda env: wrappers.StickyAction(env, 0.3),
        ],
    )
    def test_other_wrappers_are_made_again(self, wrapped):
        """As Minari's reader of the same spec makes them: equal spaces, equal episodes."""
        env = wrapped(gymnasium.make("Hopper-v5", max_episode_steps=40))
        environment = stated(env)
        again = Environment.of_json(json.loads(json.dumps(environment.to_json())))
        assert again == environment
        assert str(environment).count(" within ") == len(env.spec.additional_wrappers) > 0
        made = again.make()
        assert (made.observation_space, made.action_space) == (
            env.observation_space,
            env.action_space,
        )
        action = np.full(3, 0.7, np.float32)
        ours, theirs = ([e.reset(seed=5)[0]] for e in (made, env))
        for e, seen in ((made, ours), (env, theirs)):
            ended = False
            while not ended:
                observation, reward, terminated, truncated, _ = e.step(action)
                seen.append(np.append(observation, reward))
                ended = terminated or truncated
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)
        assert len(ours) - 1 <= environment.longest_episode

    def test_wrappers_where_older_gymnasiums_had_them(self):
        old = "gymnasium.wrappers.rescale_action:RescaleAction"
        spec = within((old, {"min_action": -2.0, "max_action": 2.0}))
        assert Environment.of_dataset(spec, "x").spaces.action_low.tolist() == [-2] * 3

    def test_the_longest_episode(self):
        base = Environment("Hopper-v5", max_episode_steps=10)
        own = "gymnasium.wrappers.x:"

        def longest(*wrapped):
            made = tuple(Wrapper(own + name, kwargs) for name, kwargs in wrapped)
            return Environment("Hopper-v5", {}, 10, made).longest_episode

        assert base.longest_episode == 10
        repeat = ("RepeatAction", {"num_repeats": 4})
        assert longest(repeat) == 3
        assert longest(("TimeLimit", {"max_episode_steps": 6}), repeat) == 2
        assert longest(repeat, ("TimeLimit", {"max_episode_steps": 2})) == 2

    @pytest.mark.parametrize(
        ("document", "words"),
        [
            (None, ["damaged", "x?env=Hopper-v5"]),
            ([], ["damaged"]),
            ({"kwargs": {}}, ["damaged"]),
            ({"id": ["Hopper-v5"]}, ["does not know"]),
            ({"id": "Hopper-v5", "kwargs": [1]}, ["damaged"]),
            (hopper(additional_wrappers=5), ["damaged"]),
            (within(("gymnasium.wrappers.common:TimeLimit", [3])), ["damaged"]),
            (hopper(max_episode_steps=0), ["`max_episode_steps`"]),
            (hopper(max_episode_steps="7"), ["`max_episode_steps`"]),
            ({"id": "Hopper-v2"}, ["mujoco-py", "`x?env=Hopper-v4`"]),
            ({"id": "Ant-v2"}, ["`x?env=Ant-v4&use_contact_forces=true`"]),
            ({"id": "MyArm-v0"}, ["does not know", "`x?env=my_module:MyArm-v0`"]),
            ({"id": "os:X-v0"}, ["does not know"]),
            (hopper(entry_point="other.hopper:Hopper"), ["of other.hopper:Hopper", "?env="]),
            (hopper(kwargs={"xml_file": "/etc/passwd"}), ["which files are opened", "xml_file"]),
            (hopper(kwargs={"xml_file": "../hopper.xml"}), ["which files are opened"]),
            (hopper(kwargs={"a": {"b": ["~/x"]}}), ["which files are opened"]),
            (hopper(kwargs={"xml_file": "gone.xml"}), ["cannot be made", "gone.xml"]),
            (
                within(("gymnasium.wrappers.stateful_observation:NormalizeObservation", {})),
                ["`NormalizeObservation`", "running statistics"],
            ),
            (
                within(("gymnasium.wrappers.stateful_reward:NormalizeReward", {"gamma": 0.9})),
                ["`NormalizeReward`", "running statistics"],
            ),
            (within(("mine.wrappers:Scale", {})), ["`Scale`", "not Gymnasium's own"]),
            (within(("gymnasium.wrappers_of_mine:Scale", {})), ["not Gymnasium's own"]),
            (
                within(("gymnasium.wrappers.transform_reward:TransformReward", None)),
                ["`TransformReward`", "does not say how it was made"],
            ),
            (within(("gymnasium.wrappers.common:time", {})), ["`time`", "none of that name"]),
            (within(("gymnasium.wrappers.frame_stack:FrameStack", {})), ["none of that name"]),
            (
                within(
                    (
                        "gymnasium.wrappers.stateful_observation:FrameStackObservation",
                        {"stack_size": 3},
                    )
                ),
                ["one axis", "(3, 11)"],
            ),
        ],
    )
    def test_what_is_refused(self, document, words):
        refused(lambda: Environment.of_dataset(document, "x"), *words)

    def test_an_own_id_that_is_gymnasiums_here_is_not_taken_for_it(self, register):
        register("MyHopper-v0", "gymnasium.envs.mujoco.hopper_v5:HopperEnv")
        document = hopper(id="MyHopper-v0", entry_point="my_robot:Hopper")
        refused(lambda: Environment.of_dataset(document, "x"), "my_robot:Hopper", "is gymnasium.")

    def test_what_is_written_is_read(self):
        env = wrappers.RescaleAction(
            gymnasium.make("Hopper-v5", healthy_z_range=(0.7, np.inf)), -1.0, 1.0
        )
        environment = stated(env)
        again = Environment.of_dataset(json.loads(environment.spec_json()), "x")
        assert again == environment
        assert again.canonical == environment.canonical
        text = json.dumps(environment.to_json(), allow_nan=False)  # which a manifest must be
        assert Environment.of_json(json.loads(text)) == environment


class TestRendering:
    @pytest.mark.parametrize("mode", ["human", "rgb_array"])
    def test_no_window_wherever_the_mode_comes_from(self, register, mode):
        plain = Environment("Reach-v0")
        register("Reach-v0", max_episode_steps=1000)
        spec = EnvSpec("Reach-v0", max_episode_steps=1000, kwargs={"render_mode": mode}).to_json()
        assert Environment.of_dataset(json.loads(spec), "x") == plain
        assert Environment.named(f"Reach-v0&render_mode={mode}") == plain
        Environment.of_json({"id": "Reach-v0", "kwargs": {"render_mode": mode}}).make()
        register("Shown-v0", kwargs={"render_mode": mode})
        Environment.named("Shown-v0").make()


class TestJudged:
    """A controller that is perfect in the environment, as its wrappers show it, gets its return."""

    def test_rescaled_actions(self):
        bare = gymnasium.make("InvertedPendulum-v5", max_episode_steps=300)
        rescaled = stated(wrappers.RescaleAction(bare, -1.0, 1.0))
        assert rescaled.spaces.action_high == [1]
        assert returns(rescaled, lambda o: np.clip(o @ BALANCE.T / 3, -1, 1)).tolist() == [
            [300] * 2
        ]
        assert returns(stated(bare), lambda o: np.clip(o @ BALANCE.T / 3, -1, 1)).mean() < 300

    def test_clipped_actions(self):
        """Bounds are those of what is carried out; the environment clips what lies beyond."""
        clipped = stated(wrappers.ClipAction(gymnasium.make("Pendulum-v1")))
        spaces = clipped.spaces
        assert (spaces.clips_actions, spaces.action_low, spaces.action_high) == (True, [-2], [2])
        far, bound = (np.full((1, 2, 1), value, np.float32) for value in (9, 2))
        assert (returns(clipped, lambda o: far) == returns(clipped, lambda o: bound)).all()

    @pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
    def test_observations_of_any_type(self, register, dtype):
        register("Reach-v0", max_episode_steps=5)
        environment = Environment.named(f"Reach-v0&dtype={dtype}&width=2")
        assert returns(environment, lambda o: np.clip(1 - o[..., :1], -1, 1)).tolist() == [[0, 0]]

    def test_a_flattened_dictionary(self, register):
        def make():
            env = Reach()
            env.observation_space = gymnasium.spaces.Dict(place=env.observation_space)
            env._observed = lambda: {"place": np.full(3, env.place, np.float32)}
            return env

        flat = WrapperSpec(
            "FlattenObservation",
            "gymnasium.wrappers.transform_observation:FlattenObservation",
            {},
        )
        register("Dict-v0", make, max_episode_steps=5)
        refused(lambda: Environment.named("Dict-v0"), "Dict", "continuous observations")
        register("Dict-v0", make, max_episode_steps=5, additional_wrappers=(flat,))
        environment = Environment.named("Dict-v0")
        assert environment.spaces.observations == 3
        assert returns(environment, lambda o: 1 - o[..., :1]).tolist() == [[0, 0]]

    def test_a_shorter_limit(self):
        environment = stated(gymnasium.make("InvertedPendulum-v5", max_episode_steps=20))
        assert returns(environment, lambda o: np.clip(o @ BALANCE.T, -3, 3)).tolist() == [[20, 20]]

    def test_time_in_the_observation(self):
        env = wrappers.TimeAwareObservation(gymnasium.make("Pendulum-v1"))
        seen = []

        def act(observations):
            seen.append(observations[0, 0, -1])
            return np.zeros((1, 2, 1), np.float32)

        returns(stated(env), act)
        assert seen == list(range(200))


DRIVEN_APART = """
import sys
import numpy as np
from sdw_core.environment import Environment
env = Environment.named("HalfCheetah-v5").make()
env.reset(seed=0)
state = env.unwrapped
state.set_state(state.init_qpos, np.full(9, 1e9))
for _ in range(200):
    env.step(np.full(6, 1e6))
print("ran")
"""


class TestMujoco:
    @pytest.mark.parametrize("backend", ["foo", "egl", None])
    def test_says_and_writes_nothing(self, tmp_path, backend):
        environ = {k: v for k, v in os.environ.items() if k != "MUJOCO_GL"}
        environ |= {"PYTHONPATH": str(Path(__file__).parents[2])}
        environ |= {"MUJOCO_GL": backend} if backend else {}
        done = subprocess.run(
            [sys.executable, "-c", DRIVEN_APART],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n", "")
        assert list(tmp_path.iterdir()) == []

    def test_a_callers_own_handler_stays(self):
        import mujoco

        silence_mujoco()
        ours = mujoco.get_mju_user_warning()
        try:
            mujoco.set_mju_user_warning(print)
            silence_mujoco()
            assert mujoco.get_mju_user_warning() is print
        finally:
            mujoco.set_mju_user_warning(ours)
