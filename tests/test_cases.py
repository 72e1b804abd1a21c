"""Inputs that people really have, through the command line: read right, or refused in a sentence.

One test a case. The data are small rollouts, or parts of the bundled dataset.
"""

import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium import wrappers
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from sdw_core.dataset import load
from study.cli import main
from study.folder import StudyFolder
from tests.study.conftest import SMALL, small_spec

BUNDLED = "sdw/hopper-replay-mini-v0"
SETS = [part for setting in SMALL if "search." not in setting for part in ("--set", setting)]
BALANCE = np.array([0.1, 3.0, 0.1, 0.6])

pytestmark = [
    pytest.mark.usefixtures("own_folder"),
    pytest.mark.filterwarnings("ignore:.*precision lowered.*:UserWarning"),
]


@pytest.fixture
def sdw(capsys, monkeypatch):
    """Run a command: what it printed on stdout; a refusal is its sentence."""

    def run(*arguments, refused=False):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["sdw", *arguments])
        status = 0
        try:
            main()
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        said = capsys.readouterr()
        assert status == (2 if refused else 0), said.err
        if not refused:
            return said.out
        assert said.out == ""
        sentence = said.err.strip().splitlines()
        assert len(sentence) == 1
        return sentence[0]

    return run


@pytest.fixture
def describe(sdw):
    return lambda *arguments: json.loads(sdw("data", "describe", *arguments, "--json"))


def episodes_of(reference, count):
    """The first episodes of a dataset, as Minari has them."""
    dataset = load(reference)
    bounds = list(zip(dataset.episode_starts, dataset.episode_ends, strict=True))[:count]
    finals = dataset.final_observations
    return [
        {
            "observations": np.append(dataset.observations[s:e], finals[i][None], axis=0),
            "actions": dataset.actions[s:e],
            "rewards": dataset.rewards[s:e],
            "terminations": dataset.terminated[s:e],
            "truncations": dataset.truncated[s:e],
        }
        for i, (s, e) in enumerate(bounds)
    ]


def rollouts(env, policy, count, seed=0):
    found = []
    for episode in range(count):
        observation, _ = env.reset(seed=seed + episode)
        observations, steps, over = [observation], [], False
        while not over:
            action = np.float32(policy(observation))
            observation, reward, terminated, truncated, _ = env.step(action)
            observations.append(observation)
            steps.append((action, reward, terminated, truncated))
            over = terminated or truncated
        actions, rewards, terminations, truncations = map(np.array, zip(*steps, strict=True))
        found.append(
            {
                "observations": np.float32(observations),
                "actions": actions,
                "rewards": rewards,
                "terminations": terminations,
                "truncations": truncations,
            }
        )
    return found


def random_policy(env):
    env.action_space.seed(0)
    return lambda observation: env.action_space.sample()


def flat(episodes):
    """D4RL's arrays."""

    def joined(part):
        return np.concatenate([part(episode) for episode in episodes])

    return {
        "observations": joined(lambda e: e["observations"][:-1]),
        "next_observations": joined(lambda e: e["observations"][1:]),
        "actions": joined(lambda e: e["actions"]),
        "rewards": joined(lambda e: e["rewards"]),
        "terminals": joined(lambda e: e["terminations"]),
        "timeouts": joined(lambda e: e["truncations"] & ~e["terminations"]),
    }


def write_d4rl(path, arrays):
    with h5py.File(path, "w") as file:
        for key, values in arrays.items():
            file[key] = values


def write_minari(name, spec, episodes, data_format="hdf5", scores=None):
    folder = Path("minari", name).absolute()
    folder.mkdir(parents=True)
    first = episodes[0]

    def space(values):
        return gymnasium.spaces.Box(-np.inf, np.inf, values.shape[1:], values.dtype)

    storage = MinariStorage.new(
        folder / "data",
        space(first["observations"]),
        space(first["actions"]),
        spec,
        data_format,
    )
    metadata = {"dataset_id": name, "minari_version": minari.__version__}
    if scores:
        metadata |= dict(zip(("ref_min_score", "ref_max_score"), scores, strict=True))
    storage.update_metadata(metadata)
    storage.update_episodes([EpisodeBuffer(**episode) for episode in episodes])
    return name


def hopper_spec(**kwargs):
    return gymnasium.make("Hopper-v5", **kwargs).spec


def test_01_a_wrapper_is_a_part_of_the_environment(sdw, describe):
    """InvertedPendulum within RescaleAction: a perfect expert is judged so, and exported so."""
    env = wrappers.RescaleAction(
        gymnasium.make("InvertedPendulum-v5", max_episode_steps=200), -1.0, 1.0
    )
    rng = np.random.default_rng(0)

    def policy(observation):
        return np.clip([BALANCE @ observation / 3 + 0.05 * rng.normal()], -1, 1)

    data = rollouts(env, policy, 8)
    assert all(len(episode["rewards"]) == 200 for episode in data)
    name = write_minari("own/pendulum-v0", env.spec, data, scores=(6.0, 200.0))
    described = describe(name)
    assert described["max_episode_steps"] == 200
    (wrapper,) = described["wrappers"]
    assert wrapper["entry_point"].endswith(":RescaleAction")
    assert wrapper["kwargs"] == {"min_action": -1, "max_action": 1}
    bare = describe(f"{name}?env=InvertedPendulum-v5&max_episode_steps=200")
    assert bare["content_hash"] != described["content_hash"]
    settings = [
        *("--set", f"pipeline.dataset={name}", *SETS),
        *("--set", "pipeline.expert.fraction=1.0", "--set", "pipeline.expert.steps=400"),
        *("--set", "pipeline.expert.width=64"),
    ]
    out = json.loads(sdw("distill", "quickstart", *settings, "--to", "rows", "--json"))
    assert out["expert"]["mean"] > 95
    manifest = json.loads(Path("rows/manifest.json").read_text())
    assert manifest["environment"]["wrappers"] == described["wrappers"]
    assert manifest["environment"]["max_episode_steps"] == 200
    judged = json.loads(sdw("evaluate", "rows", "--policies", "2", "--episodes", "1", "--json"))
    assert np.isfinite(judged["mean"])


def test_03_arrow_and_parquet_are_read(sdw, describe):
    data = episodes_of(BUNDLED, 20)
    for data_format in ("hdf5", "arrow", "parquet"):
        write_minari(f"own/hopper-{data_format}-v0", hopper_spec(), data, data_format)
    listed = {entry["id"]: entry for entry in json.loads(sdw("data", "list", "--json"))}
    expected = describe("own/hopper-hdf5-v0")
    for data_format in ("arrow", "parquet"):
        name = f"own/hopper-{data_format}-v0"
        assert (listed[name]["environment"], listed[name]["episodes"]) == ("Hopper-v5", 20)
        assert describe(name)["content_hash"] == expected["content_hash"]


def test_04_reference_scores_can_be_given_for_every_form(sdw, describe):
    env = gymnasium.make("InvertedPendulum-v5")
    folder = "minari/mujoco/pendulum-v0"
    name = write_minari("mujoco/pendulum-v0", env.spec, rollouts(env, random_policy(env), 40))
    assert describe(name)["reference_scores"] is None
    select = ("validate", "quickstart", "--set", f"pipeline.dataset={name}")
    refusal = sdw(*select, refused=True)
    assert "`pipeline.reference_scores: [LOW, HIGH]`" in refusal
    given = ("--set", "pipeline.reference_scores=[5,1000]")
    assert sdw(*select, *given)
    for index, source in enumerate((name, folder, f"{folder}/data/main_data.hdf5")):
        own = f"mine/pendulum-v{index}"
        out = sdw("data", "import", source, "--reference", "5", "1000", "--name", own)
        assert own in out
        assert describe(own)["reference_scores"] == [5, 1000]
        assert sdw("validate", "quickstart", "--set", f"pipeline.dataset={own}")
    assert "set-reference mine/bare-v0" in sdw("data", "import", name, "--name", "mine/bare-v0")
    assert "none before" in sdw("data", "set-reference", "mine/bare-v0", "-5", "1000")
    assert describe("mine/bare-v0")["reference_scores"] == [-5, 1000]
    assert sdw("validate", "quickstart", "--set", "pipeline.dataset=mine/bare-v0")


def test_06_where_episodes_end_without_timeouts(sdw, describe):
    keys = ("episodes", "transitions", "terminated", "truncated", "returns")
    swing = gymnasium.make("Pendulum-v1", max_episode_steps=30)  # never terminates
    write = write_d4rl
    short = {"Pendulum-v1&max_episode_steps=30": flat(rollouts(swing, random_policy(swing), 6))}
    hopper = episodes_of(BUNDLED, 285)
    timed_out = [e for e in hopper if e["truncations"][-1] and not e["terminations"][-1]][:3]
    short["Hopper-v5"] = flat([*hopper[:20], *timed_out, *hopper[20:30]])
    for environment, whole in short.items():
        assert whole["timeouts"].sum() >= 3
        zeros = {"timeouts": np.zeros_like(whole["timeouts"])}
        write("whole.hdf5", whole)
        expected = describe(f"whole.hdf5?env={environment}")
        unmarked = {k: v for k, v in whole.items() if k != "timeouts"}
        readable = {
            "next.hdf5": unmarked,
            "zeros-next.hdf5": unmarked | zeros,
        }
        nothing = {k: v for k, v in unmarked.items() if k != "next_observations"}
        readable["nothing.hdf5"] = nothing  # D4RL's own files of version 0
        for name, arrays in readable.items():
            write(name, arrays)
            found = describe(f"{name}?env={environment}")
            assert {k: found[k] for k in keys} == {k: expected[k] for k in keys}, name
        write("zeros.hdf5", nothing | zeros)
        refusal = sdw("data", "describe", f"zeros.hdf5?env={environment}", refused=True)
        assert "must end within" in refusal
        assert "timeouts" in refusal
        # what `np.savez(**d4rl.qlearning_dataset(env))` leaves: steps that timed out are dropped
        kept = ~(whole["timeouts"] & ~whole["terminals"])
        for extra in ({}, zeros):
            np.savez("q.npz", **{k: v[kept] for k, v in (unmarked | extra).items()})
            found = describe(f"q.npz?env={environment}")
            assert found["episodes"] == expected["episodes"]
            assert found["transitions"] == kept.sum()
            assert found["terminated"] == expected["terminated"]


def test_07_ant_as_d4rl_has_it(sdw, describe):
    env = gymnasium.make("Ant-v4", max_episode_steps=20)
    arrays = flat(rollouts(env, random_policy(env), 4))
    for key in ("observations", "next_observations"):
        arrays[key] = np.pad(arrays[key], ((0, 0), (0, 84)))  # its contact forces, all zero
    write_d4rl("ant.hdf5", arrays)
    forces = "Ant-v4&use_contact_forces=true"
    found = describe(f"ant.hdf5?env={forces}")
    assert found["observation_dimensions"] == 111
    assert found["environment_kwargs"] == {"use_contact_forces": True}
    assert found["reference_scores"] == [-325.6, 3879.7]
    for other in ("Ant-v4", "Ant-v5", "Ant-v3", "Ant-v2", "ant-medium-v2"):
        assert forces in sdw("data", "describe", f"ant.hdf5?env={other}", refused=True)
    assert "`Hopper-v4`" in sdw("data", "describe", "ant.hdf5?env=hopper-medium-v2", refused=True)
    sdw("data", "import", "ant.hdf5", "--env", forces, "--name", "d4rl/ant-v2")
    assert describe("d4rl/ant-v2")["content_hash"] == found["content_hash"]


def test_09_columns_are_read(describe):
    data = episodes_of(BUNDLED, 20)
    arrays = flat(data)
    np.savez("flat.npz", **arrays)
    for key in ("rewards", "terminals", "timeouts"):
        arrays[key] = arrays[key][:, None]
    np.savez("columns.npz", **arrays)
    for episode in data:
        for key in ("rewards", "terminations", "truncations"):
            episode[key] = episode[key][:, None]
    write_minari("own/columns-v0", hopper_spec(), data)
    expected = describe("flat.npz?env=Hopper-v5")["content_hash"]
    assert describe("columns.npz?env=Hopper-v5")["content_hash"] == expected
    assert describe("own/columns-v0")["content_hash"] == expected


def test_10_an_environment_of_ones_own(sdw, describe, tmp_path, monkeypatch):
    Path("my_robot.py").write_text(
        "import gymnasium\n"
        "from gymnasium.envs.classic_control.pendulum import PendulumEnv\n"
        "class MyArm(PendulumEnv): pass\n"
        "gymnasium.register('MyArm-v0', entry_point='my_robot:MyArm', max_episode_steps=30)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    swing = gymnasium.make("Pendulum-v1", max_episode_steps=30)
    data = rollouts(swing, random_policy(swing), 6)
    np.savez("arm.npz", **flat(data))
    spec = gymnasium.envs.registration.EnvSpec(
        "MyArm-v0", entry_point="my_robot:MyArm", max_episode_steps=30
    )
    write_minari("own/arm-v0", spec, data, scores=(-400.0, -10.0))
    with h5py.File("arm.hdf5", "w") as file:
        for key, values in flat(data).items():
            file[key] = values
        file.attrs["env_id"] = "my_robot:MyArm-v0"
    assert "my_module:MyArm-v0" in sdw("data", "describe", "arm.npz?env=MyArm-v0", refused=True)
    assert "my_module:MyArm-v0" in sdw("data", "describe", "own/arm-v0", refused=True)
    assert "?env=my_robot:MyArm-v0" in sdw("data", "describe", "arm.hdf5", refused=True)
    assert "my_robot" not in sys.modules
    try:
        found = describe("own/arm-v0?env=my_robot:MyArm-v0")
        assert (found["environment"], found["max_episode_steps"]) == ("my_robot:MyArm-v0", 30)
        for reference in ("arm.npz", "arm.hdf5"):
            again = describe(f"{reference}?env=my_robot:MyArm-v0")
            assert again["content_hash"] == found["content_hash"]
        command = [
            "data",
            "import",
            "arm.npz",
            "--env",
            "my_robot:MyArm-v0",
            "--name",
            "own/arm-v1",
        ]
        made = json.loads(sdw(*command, "--reference", "-400", "-10", "--json"))["dataset"]
        assert made == "own/arm-v1?env=my_robot:MyArm-v0"
        assert describe(made)["content_hash"] == found["content_hash"]
    finally:
        gymnasium.registry.pop("MyArm-v0", None)
        sys.modules.pop("my_robot", None)


@pytest.mark.slow
def test_14_a_mirror_of_the_hub_is_asked():
    asked = []

    class Mirror(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(404)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        environ = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
        command = ["-m", "study.cli", "data", "describe", "mujoco/hopper/medium-v0"]
        done = subprocess.run(
            [sys.executable, *command],
            env=environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 2
    assert "unknown dataset" in done.stderr
    assert "Traceback" not in done.stderr
    assert asked


def test_16_the_cores_that_may_be_used_count(sdw):
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        one = json.loads(sdw("validate", "quickstart", "--json"))
    finally:
        os.sched_setaffinity(0, before)
    assert one["estimate"]["trials_at_a_time"] == 1


def test_17_a_key_that_stands_twice(sdw):
    Path("twice.yaml").write_text(
        "study:\n  name: twice\npipeline:\n  dataset: sdw/hopper-replay-mini-v0\n"
        "  distill:\n    outer_steps: 2000\n  weighting:\n    scheme: rank\n"
        "  distill:\n    inner_steps: 100\n"
    )
    refusal = sdw("validate", "twice.yaml", refused=True)
    for word in ("distill", "line 5", "line 9", "column 3"):
        assert word in refusal


@pytest.mark.parametrize("odd", ["Müller, Jürgen/runs #3", "50% data [old]", "really?"])
def test_21_paths_as_people_have_them(sdw, odd):
    Path(odd).mkdir(parents=True)
    np.savez(f"{odd}/hopper.npz", **flat(episodes_of(BUNDLED, 30)))
    dataset = f"{odd}/hopper.npz?env=Hopper-v5"
    Path(odd, "spec.yaml").write_text(
        f"study: {{name: odd, trials: 1}}\npipeline:\n  dataset: {json.dumps(dataset)}\n"
        "search:\n  weighting.temperature: {type: float, low: 0.01, high: 1.0, log: true}\n",
        encoding="utf-8",
    )
    assert f"{odd}/hopper.npz" in sdw("validate", f"{odd}/spec.yaml")
    assert dataset in sdw("data", "describe", dataset)
    storage = Path(odd, "st")
    folders = [StudyFolder.create(small_spec(f"study.name={name}"), storage) for name in "ab"]
    for folder in folders:
        folder.book()
        assert "stopped" in sdw("status", folder.name, "--storage", str(storage))
        assert any(path.suffix == ".db" for path in folder.path.iterdir())
    assert {path.name for path in storage.iterdir()} >= {"a", "b"}
    top = Path(odd).parts[0]
    assert [path.name for path in Path().iterdir()] == [top]


@pytest.mark.parametrize("mode", ["human", "rgb_array"])
def test_22_nothing_opens_a_window(describe, mode):
    spec = gymnasium.spec("Hopper-v5")
    spec.kwargs = {"render_mode": mode}
    try:
        write_minari("own/hopper-v0", spec, episodes_of(BUNDLED, 10))
    finally:
        spec.kwargs = {}
    assert mode in Path("minari/own/hopper-v0/data/metadata.json").read_text()
    assert describe("own/hopper-v0")["environment_kwargs"] == {}


def test_25_actions_beyond_the_bounds(sdw, describe):
    data = episodes_of(BUNDLED, 30)
    rng = np.random.default_rng(0)
    clipped = []
    for episode in data:
        noise = 0.3 * rng.normal(size=episode["actions"].shape)
        episode["actions"] = (episode["actions"] + noise).astype(np.float32)
        clipped.append(episode | {"actions": np.clip(episode["actions"], -1, 1)})
    np.savez("ppo.npz", **flat(data))
    np.savez("clipped.npz", **flat(clipped))
    expected = load("clipped.npz?env=Hopper-v5")
    refusal = sdw("data", "describe", "ppo.npz?env=Hopper-v5", refused=True)
    assert "`pipeline.clip_actions: true`" in refusal
    assert "rescale" not in refusal
    found = describe("ppo.npz?env=Hopper-v5", "--clip-actions")
    assert found["content_hash"] == expected.content_hash
    dataset = ("--set", "pipeline.dataset=ppo.npz?env=Hopper-v5")
    assert "clip_actions" in sdw("validate", "quickstart", *dataset, refused=True)
    assert sdw("validate", "quickstart", *dataset, "--set", "pipeline.clip_actions=true")
    env = wrappers.ClipAction(gymnasium.make("Hopper-v5"))
    own = load(write_minari("own/ppo-v0", env.spec, data))
    np.testing.assert_array_equal(own.actions, expected.actions)
    assert describe("own/ppo-v0")["wrappers"][0]["entry_point"].endswith(":ClipAction")


def test_27_a_dataset_without_an_environment(sdw, describe):
    data = episodes_of(BUNDLED, 10)
    name = write_minari("own/buffers-v0", None, data)
    refusal = sdw("data", "describe", name, refused=True)
    assert f"`{name}?env=Hopper-v5`" in refusal
    expected = describe(f"{name}?env=Hopper-v5")["content_hash"]
    for reference in ("minari/own/buffers-v0", "minari/own/buffers-v0/data/main_data.hdf5"):
        assert describe(f"{reference}?env=Hopper-v5")["content_hash"] == expected
    arguments = describe(f"{name}?env=Hopper-v5&terminate_when_unhealthy=false")
    assert arguments["environment_kwargs"] == {"terminate_when_unhealthy": False}
    sdw("data", "import", name, "--env", "Hopper-v5", "--name", "own/hopper-v0")
    assert describe("own/hopper-v0")["content_hash"] == expected
