"""The dataset stage on real files: every form of reference, every way a file can be wrong."""

import json
import os
import shutil
import socket
import tempfile
import warnings
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium.envs.classic_control import PendulumEnv
from gymnasium.envs.registration import EnvSpec
from hypothesis import given, settings
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from sdw_core.dataset import (
    available,
    describe,
    import_dataset,
    load,
    local,
    reference_scores_of,
    remove,
    set_reference,
)
from sdw_core.environment import Environment
from sdw_core.errors import InputError, SDWError
from sdw_core.offline_dataset import OfflineDataset

ROOT = Path(__file__).parents[2]
BUNDLED = "sdw/hopper-replay-mini-v0"
BUNDLED_FOLDER = ROOT / "sdw_core/data" / BUNDLED
SHARED = Path(os.environ.get("MINARI_DATASETS_PATH") or ROOT.parent / "shared/data/minari")
HOPPER = (11, 3)  # dimensions of observations and actions
PENDULUM = (3, 1)  # action bounds -2 and 2
SENSELESS = [(5.0, 1.0), (1.0, 1.0), (np.nan, 1.0), (0.0, np.inf), (-1e308, 1e308), (0.0, 1e-320)]
SENSELESS += [(0.0, 5e-324), (-1e308, 1e308), (1.0, 1 + 1e-15)]

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    """No test sees the user's datasets, home or network, or writes beside the code."""

    def no_network(dataset_id):
        raise ConnectionError("Network is unreachable.\nmore detail")

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address: [])
    monkeypatch.setattr(minari, "download_dataset", no_network)


@pytest.fixture(scope="module")
def bundled():
    return load(BUNDLED)


def transitions(lengths=(3, 2, 4), dimensions=HOPPER, seed=0):
    """D4RL-layout arrays: episodes of `lengths`; the odd ones terminate, the even ones time out."""
    rng = np.random.default_rng(seed)
    width, actions = dimensions
    steps = sum(lengths)
    ends = np.cumsum(lengths) - 1
    terminals, timeouts = np.zeros(steps, bool), np.zeros(steps, bool)
    terminals[ends[1::2]] = True
    timeouts[ends[::2]] = True
    observations = rng.standard_normal((steps, width)).astype(np.float32)
    following = np.roll(observations, -1, axis=0)
    following[ends] = rng.standard_normal((len(lengths), width))
    return {
        "observations": observations,
        "actions": rng.uniform(-1, 1, (steps, actions)).astype(np.float32),
        "rewards": rng.standard_normal(steps).astype(np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
        "next_observations": following,
    }


def write_d4rl(arrays, path="data.hdf5", env_id=None):
    if str(path).endswith(".npz"):
        np.savez(path, **arrays)
        return path
    with h5py.File(path, "w") as file:
        for key, values in arrays.items():
            file[key] = values
        if env_id is not None:
            file.attrs["env_id"] = env_id
    return path


def write_minari(folder, environment="Hopper-v5", lengths=(3, 2), data_format="hdf5", **metadata):
    """A Minari dataset by Minari's own writer, with random numbers."""
    rng = np.random.default_rng(0)
    width, actions = HOPPER
    box = gymnasium.spaces.Box
    storage = MinariStorage.new(
        folder_with_parents(folder) / "data",
        observation_space=box(-np.inf, np.inf, (width,)),
        action_space=box(-1, 1, (actions,)),
        env_spec=gymnasium.spec(environment) if environment else None,
        data_format=data_format,
    )
    identity = {"dataset_id": "my/made-v0", "minari_version": minari.__version__}
    storage.update_metadata(identity | metadata)
    storage.update_episodes(
        EpisodeBuffer(
            observations=np.float32(rng.standard_normal((steps + 1, width))),
            actions=np.float32(rng.uniform(-1, 1, (steps, actions))),
            rewards=rng.standard_normal(steps),
            terminations=np.zeros(steps, bool),
            truncations=np.zeros(steps, bool),
        )
        for steps in lengths
    )
    return folder


def folder_with_parents(folder):
    folder.mkdir(parents=True)
    return folder


def assert_one_sentence(error, *words):
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith((".", "?"))
    for word in words:
        assert word in message, message


def assert_refused(reference, *words):
    with pytest.raises(InputError) as error:
        load(str(reference))
    assert_one_sentence(error, *words)


def assert_equal(one, other):
    assert one.content_hash == other.content_hash
    np.testing.assert_array_equal(one.next_observations, other.next_observations)


class TestBundled:
    def test_is_what_minari_reads(self, bundled, monkeypatch):
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(ROOT / "sdw_core/data"))
        episodes = list(minari.load_dataset(BUNDLED).iterate_episodes())
        starts, ends = bundled.episode_starts, bundled.episode_ends
        assert len(episodes) == len(ends) == 285
        for index in (0, 100, 284):
            rows, episode = slice(starts[index], ends[index]), episodes[index]
            np.testing.assert_array_equal(bundled.observations[rows], episode.observations[:-1])
            np.testing.assert_array_equal(bundled.next_observations[rows], episode.observations[1:])
            np.testing.assert_array_equal(bundled.actions[rows], episode.actions)
            np.testing.assert_array_equal(bundled.rewards[rows], np.float32(episode.rewards))
            np.testing.assert_array_equal(bundled.terminated[rows], episode.terminations)
            np.testing.assert_array_equal(bundled.truncated[rows], episode.truncations)

    def test_types_shapes_and_meaning(self, bundled):
        assert len(bundled) == 49756 == bundled.episode_ends[-1]
        assert bundled.environment == Environment("Hopper-v5")
        assert bundled.observations.shape == bundled.next_observations.shape == (49756, 11)
        assert bundled.actions.shape == (49756, 3)
        for values in (bundled.observations, bundled.actions, bundled.rewards, bundled.action_low):
            assert values.dtype == np.float32
            assert values.flags.c_contiguous
        assert bundled.episode_ends.dtype == bundled.episode_starts.dtype == np.int64
        assert bundled.reference_scores == (-20.272305, 3234.3)
        last = bundled.episode_ends - 1
        assert (bundled.terminated | bundled.truncated)[last].all()
        assert (bundled.terminated | bundled.truncated).sum() == len(last)

    def test_it_says_in_a_line_what_it_is(self, bundled):
        said = f"OfflineDataset({BUNDLED!r}, Hopper-v5, 285 episodes, 49756 transitions)"
        assert repr(bundled) == said
        assert "<td>transitions</td><td>49756</td>" in bundled._repr_html_()

    def test_loads_by_folder_too(self, bundled):
        dataset = load(str(BUNDLED_FOLDER))
        assert dataset.name == BUNDLED
        assert_equal(dataset, bundled)

    def test_unit_actions_are_the_actions(self, bundled):
        assert bundled.unit_actions is bundled.actions
        back = bundled.units.environment_actions(bundled.actions)
        np.testing.assert_array_equal(back, bundled.actions)

    def test_returns_and_normalisation(self, bundled):
        returns = bundled.episode_returns()
        assert returns.dtype == np.float64
        np.testing.assert_allclose(returns.sum(), bundled.rewards.sum(dtype=np.float64))
        np.testing.assert_allclose(bundled.normalized([-20.272305, 3234.3]), [0, 100])
        assert bundled.normalized(returns).mean() == pytest.approx(15.8, abs=0.1)

    def test_describe_is_json(self, bundled):
        text = describe(bundled)
        assert json.loads(json.dumps(text, allow_nan=False)) == text
        assert (text["episodes"], text["transitions"]) == (285, 49756)
        assert text["terminated"] + text["truncated"] == 285
        assert text["normalized_returns"]["max"] == pytest.approx(101.54, abs=0.01)
        assert text["constant_observation_dimensions"] == []

    def test_the_hash_is_of_the_content(self, bundled):
        again = load(BUNDLED)
        assert again.content_hash == bundled.content_hash
        rewards = np.nextafter(again.rewards[7], np.float32(9))
        again.rewards[7] = rewards
        changed = load(BUNDLED)
        changed.rewards[7] = rewards
        assert changed.content_hash != bundled.content_hash


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared datasets")
def test_shared_datasets(monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(SHARED))
    local = {entry.id: entry for entry in available() if entry.where == "local"}
    identifier = "sdw/halfcheetah-medium-v0"
    dataset = load(identifier)
    assert len(dataset) == local[identifier].transitions
    assert describe(dataset)["normalized_returns"]["mean"] == pytest.approx(39.7, abs=0.1)
    assert not Path("MUJOCO_LOG.TXT").exists()


@st.composite
def d4rl_files(draw):
    """Steps with arbitrary ends (at least two episodes), stored as a tool might store them."""
    steps = draw(st.integers(2, 30))
    flags = st.lists(st.booleans(), min_size=steps, max_size=steps)
    terminals, timeouts = np.array(draw(flags)), np.array(draw(flags))
    timeouts[draw(st.integers(0, steps - 2))] = True
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    arrays = {
        "observations": rng.standard_normal((steps, 3)).astype(dtype),
        "actions": rng.uniform(-2, 2, (steps, 1)).astype(dtype),
        "rewards": rng.standard_normal(steps).astype(dtype),
        "terminals": terminals.astype(draw(st.sampled_from([bool, np.float32, np.int64]))),
        "timeouts": timeouts,
    }
    return arrays, draw(st.sampled_from([".hdf5", ".h5", ".npz"]))


@settings(max_examples=60)
@given(d4rl_files(), st.floats(0, 1))
def test_d4rl_files_against_a_loop(drawn, discount):
    arrays, suffix = drawn
    with tempfile.TemporaryDirectory() as folder:
        path = write_d4rl(arrays, f"{folder}/data{suffix}")
        dataset = load(f"{path}?env=Pendulum-v1")

    starts, ends, returns, start = [], [], [], 0
    steps = len(arrays["rewards"])
    to_go = np.zeros(steps)
    for row in range(steps):
        if arrays["terminals"][row] or arrays["timeouts"][row] or row == steps - 1:
            starts, ends = [*starts, start], [*ends, row + 1]
            rewards = np.float32(arrays["rewards"][start : row + 1]).astype(np.float64)
            returns.append(rewards.sum())
            for step in range(len(rewards)):
                to_go[start + step] = rewards[step:] @ discount ** np.arange(len(rewards) - step)
            start = row + 1

    assert dataset.episode_starts.tolist() == starts
    assert dataset.episode_ends.tolist() == ends
    np.testing.assert_allclose(dataset.episode_returns(), returns, atol=1e-12)
    np.testing.assert_allclose(dataset.returns_to_go(discount), to_go, atol=1e-12)
    np.testing.assert_array_equal(dataset.observations, np.float32(arrays["observations"]))
    np.testing.assert_array_equal(dataset.actions, np.float32(arrays["actions"]))
    np.testing.assert_array_equal(dataset.terminated, arrays["terminals"].astype(bool))
    unfinished = np.arange(steps) == steps - 1
    truncated = arrays["timeouts"] | (unfinished & ~arrays["terminals"].astype(bool))
    np.testing.assert_array_equal(dataset.truncated, truncated)
    np.testing.assert_allclose(dataset.unit_actions, dataset.actions / 2, atol=1e-7)
    back = dataset.units.environment_actions(dataset.unit_actions)
    np.testing.assert_allclose(back, dataset.actions, atol=1e-6)
    assert dataset.unit_actions.dtype == np.float32


@settings(max_examples=15)
@given(d4rl_files())
def test_an_imported_file_loads_as_the_file_does(drawn):
    arrays, suffix = drawn
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", folder)
        path = write_d4rl(arrays, f"{folder}/data{suffix}")
        name = import_dataset(path, "my/swing-v0", "Pendulum-v1", (-1500.0, -150.0))
        dataset = load(name)
        assert_equal(dataset, load(f"{path}?env=Pendulum-v1"))
        assert dataset.reference_scores == (-1500.0, -150.0)


class TestD4RL:
    def test_what_follows_the_last_step(self):
        arrays = transitions()
        with_next = load(f"{write_d4rl(arrays)}?env=Hopper-v5")
        np.testing.assert_array_equal(with_next.next_observations, arrays["next_observations"])
        following = arrays.pop("next_observations")
        following[[2, 4, 8]] = arrays["observations"][[2, 4, 8]]
        without = load(f"{write_d4rl(arrays)}?env=Hopper-v5")
        np.testing.assert_array_equal(without.next_observations, following)

    @pytest.mark.parametrize("env_id", ["Hopper-v5", np.bytes_(b"Hopper-v5")])
    def test_the_file_may_name_its_environment(self, env_id):
        path = write_d4rl(transitions(), env_id=env_id)
        assert load(path).environment.id == "Hopper-v5"
        assert load(f"{path}?env=Hopper-v4").environment.id == "Hopper-v4"

    def test_published_scores_serve_their_family(self):
        path = write_d4rl(transitions(dimensions=(17, 6)))
        dataset = load(f"{path}?env=Walker2d-v5")
        assert dataset.reference_scores == (1.629008, 4592.3)
        assert "Walker2d" in dataset.reference_source

    @pytest.mark.parametrize(
        ("environment", "scored"),
        [
            ("Hopper-v4", True),
            ("Hopper-v5&exclude_current_positions_from_observation=true", True),
            ("Hopper-v5&forward_reward_weight=2.0", False),
            ("Hopper-v5&terminate_when_unhealthy=false", False),
            ("Hopper-v5&max_episode_steps=500", False),
        ],
    )
    def test_published_scores_are_of_published_environments(self, environment, scored):
        dataset = load(f"{write_d4rl(transitions())}?env={environment}")
        assert dataset.reference_scores == ((-20.272305, 3234.3) if scored else None)

    def test_published_scores_are_of_no_other_environment_of_that_name(self, monkeypatch):
        spec = EnvSpec("mine/Hopper-v0", PendulumEnv)
        monkeypatch.setitem(gymnasium.registry, "mine/Hopper-v0", spec)
        path = write_d4rl(transitions(dimensions=PENDULUM))
        assert load(f"{path}?env=mine/Hopper-v0").reference_scores is None

    @pytest.mark.parametrize("key", ["truncations", "truncateds", "timeout"])
    def test_marks_of_another_name_are_not_passed_over(self, key):
        arrays = transitions()
        marks = arrays.pop("timeouts")
        path = write_d4rl(arrays | {key: marks})
        assert_refused(f"{path}?env=Hopper-v5", "`timeouts`", f"`{key}`: rename")
        assert len(load(f"{write_d4rl(arrays | {key: marks, 'timeouts': marks})}?env=Hopper-v5"))

    def test_no_scores_no_normalisation(self):
        dataset = load(f"{write_d4rl(transitions(dimensions=PENDULUM))}?env=Pendulum-v1")
        assert dataset.reference_scores is dataset.reference_source is None
        assert describe(dataset)["normalized_returns"] is None
        with pytest.raises(InputError) as error:
            dataset.normalized(dataset.episode_returns())
        assert_one_sentence(
            error, "no reference scores", "`pipeline.reference_scores: [LOW, HIGH]`"
        )

    def test_constant_dimensions_are_described(self):
        arrays = transitions()
        arrays["observations"][:, 4] = 1
        arrays.pop("next_observations")
        dataset = load(f"{write_d4rl(arrays)}?env=Hopper-v5")
        assert describe(dataset)["constant_observation_dimensions"] == [4]

    def test_rounding_beyond_the_bounds_passes(self):
        arrays = transitions()
        arrays["actions"][0] = np.nextafter(np.float32(1), np.float32(2))
        assert load(f"{write_d4rl(arrays)}?env=Hopper-v5").actions[0, 0] > 1


class TestMinari:
    def test_an_unfinished_episode_counts_as_truncated(self, tmp_path):
        dataset = load(str(write_minari(tmp_path / "minari/my/made-v0")))
        assert dataset.truncated.tolist() == [False, False, True, False, True]
        assert dataset.name == "my/made-v0"

    def test_by_id(self, tmp_path):
        write_minari(tmp_path / "minari/my/made-v0", ref_min_score=1, ref_max_score=2.5)
        assert load("my/made-v0").reference_scores == (1.0, 2.5)

    def test_a_copy_is_called_by_the_id_that_it_lies_under(self, tmp_path):
        write_minari(tmp_path / "minari/my/made-v0")
        shutil.copytree(tmp_path / "minari/my/made-v0", tmp_path / "minari/my/copied-v0")
        copied = load("my/copied-v0")
        assert copied.name == "my/copied-v0"
        assert_equal(copied, load("my/made-v0"))

    def test_downloads_what_is_nowhere(self, tmp_path, monkeypatch, capsys):
        def download(dataset_id):
            print("Downloading")
            warnings.warn("a newer version exists", stacklevel=1)
            write_minari(tmp_path / "minari" / dataset_id)

        monkeypatch.setattr(minari, "download_dataset", download)
        assert len(load("my/made-v0")) == 5
        assert capsys.readouterr().out == ""

    def test_environment_arguments_are_kept(self, tmp_path):
        folder = write_minari(tmp_path / "minari/my/made-v0")
        metadata = json.loads((folder / "data/metadata.json").read_text())
        spec = json.loads(metadata["env_spec"])
        spec["kwargs"] = {"terminate_when_unhealthy": False}
        metadata["env_spec"] = json.dumps(spec)
        plain = load("my/made-v0")
        (folder / "data/metadata.json").write_text(json.dumps(metadata))
        dataset = load("my/made-v0")
        assert dataset.environment.kwargs == {"terminate_when_unhealthy": False}
        assert dataset.content_hash != plain.content_hash

    @pytest.mark.parametrize(
        ("made", "words"),
        [
            ({"environment": None}, ["names none", "?env=Hopper-v5"]),
            ({"lengths": ()}, ["at least two episodes", "holds 0"]),
            ({"lengths": (5,)}, ["at least two episodes", "holds 1"]),
            ({"lengths": (5, 0, 3)}, ["episode 1 of my/made-v0", "has none"]),
            ({"environment": "HalfCheetah-v5"}, ["`observations`", "(4, 17)", "(4, 11)"]),
            ({"environment": "CartPole-v1"}, ["actions", "Discrete(2)", "continuous"]),
            ({"environment": "FrozenLake-v1"}, ["observations", "Discrete(16)", "continuous"]),
            ({"ref_min_score": 5.0, "ref_max_score": 1.0}, ["reference scores", "5.0 and 1.0"]),
            ({"ref_min_score": "low", "ref_max_score": 1.0}, ["two numbers", "'low'"]),
            ({"minari_version": "0.1.0"}, ["Minari 0.1.0", "does not read"]),
        ],
    )
    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_bad_datasets(self, tmp_path, made, words):
        assert_refused(write_minari_with_empty(tmp_path / "made", **made), *words)

    def test_a_number_out_of_place_is_located(self, tmp_path):
        folder = write_minari(tmp_path / "made")
        with h5py.File(folder / "data/main_data.hdf5", "a") as file:
            file["episode_1/observations"][1, 3] = np.nan
        assert_refused(folder, "observation 4 (step 1 of episode 1), dimension 3 is nan")
        with h5py.File(folder / "data/main_data.hdf5", "a") as file:
            file["episode_1/observations"][1, 3] = 0
            file["episode_1/observations"][2, 3] = np.inf
        assert_refused(folder, "final observation episode 1, dimension 3 is inf")

    def test_damaged_folders(self, tmp_path):
        folder = write_minari(tmp_path / "made")
        main, metadata = folder / "data/main_data.hdf5", folder / "data/metadata.json"
        with h5py.File(main, "a") as file:
            del file["episode_1/rewards"]
        assert_refused(folder, "not a readable Minari dataset", "rewards")
        main.write_bytes(main.read_bytes()[:2000])
        assert_refused(folder, "not a readable Minari dataset", "made")
        main.unlink()
        assert_refused(folder, "not a readable Minari dataset", "No data found")
        metadata.write_text("{")
        assert_refused(folder, "not a readable Minari dataset")
        metadata.unlink()
        assert_refused(folder, "not a readable Minari dataset")

    @pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
    def test_counts_that_are_wrong(self, tmp_path, data_format):
        folder = write_minari(tmp_path / "made", data_format=data_format, lengths=(3, 2, 4))
        assert len(load(str(folder))) == 9
        file = folder / "data/metadata.json"
        right = json.loads(file.read_text())
        for wrong, words in (
            ({"total_episodes": 4}, ["not a readable"]),
            ({"total_episodes": 2}, ["states 2 episodes of 9 steps", "2 of 5"]),
            ({"total_steps": 10}, ["states 3 episodes of 10 steps", "3 of 9"]),
            ({"total_steps": None}, ["not a readable"]),
            ({"total_steps": float("inf")}, ["not a readable"]),
        ):
            file.write_text(json.dumps(right | wrong))
            assert_refused(folder, *words)

    @pytest.mark.parametrize("data_format", ["arrow", "parquet"])
    def test_an_episode_that_minari_reads_in_parts_is_refused(self, tmp_path, data_format):
        folder = write_minari(tmp_path / "made", data_format=data_format, lengths=(140_000, 3, 5))
        reference = f"{folder}?env=Hopper-v5&max_episode_steps=200000"
        assert_refused(reference, "3 episodes of 140008 steps", "HDF5 format")

    @pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
    def test_infos_are_no_part_of_it(self, tmp_path, data_format):
        folder = write_minari(tmp_path / "made", data_format=data_format)
        plain = load(str(folder))
        for file in (folder / "data").rglob("*"):
            if file.is_file():
                file.unlink()
        storage = MinariStorage.new(
            folder / "data",
            gymnasium.spaces.Box(-np.inf, np.inf, (11,)),
            gymnasium.spaces.Box(-1, 1, (3,)),
            gymnasium.spec("Hopper-v5"),
            data_format,
        )
        storage.update_metadata({"dataset_id": "a-v0", "minari_version": minari.__version__})
        starts, ends = plain.episode_starts, plain.episode_ends
        infos = {"image": np.zeros((4, 8, 8, 3)), "deep": {"x": np.arange(4)}}
        for start, end, final in zip(starts, ends, plain.final_observations, strict=True):
            cut = {
                "image": infos["image"][: end - start + 1],
                "deep": {"x": np.arange(end - start + 1)},
            }
            storage.update_episodes(
                [
                    EpisodeBuffer(
                        observations=np.append(plain.observations[start:end], [final], axis=0),
                        actions=plain.actions[start:end],
                        rewards=plain.rewards[start:end],
                        terminations=plain.terminated[start:end],
                        truncations=plain.truncated[start:end],
                        infos=cut,
                    )
                ]
            )
        assert_equal(load(str(folder)), plain)

    def test_combined_datasets(self, tmp_path, monkeypatch):
        for name in ("a-v0", "b-v0"):
            write_minari(tmp_path / "minari" / name, dataset_id=name)
        parts = [minari.load_dataset(name) for name in ("a-v0", "b-v0")]
        minari.combine_datasets(parts, "both-v0")
        assert np.diff(load("both-v0").episode_ends, prepend=0).tolist() == [3, 2, 3, 2]

    @pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
    def test_the_evaluations_environment_is_the_one(self, tmp_path, data_format):
        folder = write_minari(
            tmp_path / "minari/my/made-v0",
            data_format=data_format,
            eval_env_spec=gymnasium.make("Hopper-v5", max_episode_steps=77).spec.to_json(),
        )
        assert load(str(folder)).environment == Environment("Hopper-v5", {}, 77)
        (entry,) = (entry for entry in available() if entry.where == "local")
        assert (entry.id, entry.environment, entry.transitions) == ("my/made-v0", "Hopper-v5", 5)

    @pytest.mark.parametrize("flag", ["terminations", "truncations"])
    def test_an_episode_does_not_go_on_after_its_end(self, tmp_path, flag):
        folder = write_minari(tmp_path / "made", lengths=(3, 4))
        with h5py.File(folder / "data/main_data.hdf5", "a") as file:
            file[f"episode_1/{flag}"][3] = True
        assert len(load(str(folder))) == 7
        with h5py.File(folder / "data/main_data.hdf5", "a") as file:
            file[f"episode_1/{flag}"][2] = True
        assert_refused(folder, "episode 1 of my/made-v0", "after step 2")

    def test_an_unregistered_environment(self, tmp_path):
        folder = write_minari(tmp_path / "made")
        file = folder / "data/metadata.json"
        file.write_text(file.read_text().replace("Hopper-v5", "Hoper-v5"))
        assert_refused(folder, "`Hoper-v5`", "does not know", "?env=my_module:Hoper-v5`")


def write_minari_with_empty(folder, lengths=(3, 2), **made):
    """`write_minari`, which cannot write an episode of no step, with such episodes emptied."""
    write_minari(folder, lengths=[steps or 1 for steps in lengths], **made)
    with h5py.File(folder / "data/main_data.hdf5", "a") as file:
        for index, steps in enumerate(lengths):
            for key in ("actions", "rewards", "terminations", "truncations"):
                file[f"episode_{index}/{key}"].resize(steps, axis=0)
    return folder


def without(key):
    return lambda arrays: arrays.pop(key)


def put(key, where, value):
    def change(arrays):
        arrays[key][where] = value

    return change


def become(key, change):
    return lambda arrays: arrays.update({key: change(arrays[key])})


BAD_ARRAYS = {
    "missing keys": (without("terminals"), ["lacks terminals"]),
    "nan observation": (
        put("observations", (5, 3), np.nan),
        ["observation 5 (step 0 of episode 2), dimension 3 is nan", "finite"],
    ),
    "infinite action": (put("actions", (1, 2), np.inf), ["action 1", "dimension 2 is inf"]),
    "nan reward": (put("rewards", 8, np.nan), ["reward 8 (step 3 of episode 2) is nan"]),
    "beyond float32": (
        become("rewards", lambda rewards: rewards * 1e300),
        ["reward 0", "inf", "float32"],
    ),
    "action out of bounds": (
        put("actions", (4, 1), 1.5),
        ["action 4 (step 1 of episode 1), dimension 1 is 1.5", "[-1.0, 1.0]", "Hopper-v5"],
    ),
    "narrow observations": (
        become("observations", lambda values: values[:, :10]),
        ["`observations`", "(9, 11)", "(9, 10)"],
    ),
    "wide actions": (
        become("actions", lambda values: np.tile(values, 2)),
        ["`actions`", "(9, 3)", "(9, 6)"],
    ),
    "fewer actions": (become("actions", lambda values: values[:-1]), ["`actions`", "(8, 3)"]),
    "rewards of two": (become("rewards", lambda v: np.stack([v, v], 1)), ["(9, 2)"]),
    "fewer timeouts": (become("timeouts", lambda values: values[:-1]), ["`timeouts`", "(8,)"]),
    "no number": (
        become("observations", lambda values: values.astype("S3")),
        ["`observations`", "real numbers", "|S3"],
    ),
    "half terminal": (
        become("terminals", lambda values: values * 0.5),
        ["`terminals`", "row 4", "0.5"],
    ),
    "empty": (
        lambda arrays: arrays.update({key: values[:0] for key, values in arrays.items()}),
        ["at least two episodes", "holds 0"],
    ),
    "one episode": (
        lambda arrays: arrays.update({key: values[:3] for key, values in arrays.items()}),
        ["at least two episodes", "holds 1"],
    ),
    "shuffled": (
        lambda arrays: arrays.update(
            {key: arrays[key][::-1] for key in ("observations", "next_observations")}
        ),
        ["consecutive", "row 0", "row 1"],
    ),
}


@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays(case, suffix):
    change, words = BAD_ARRAYS[case]
    arrays = transitions()
    if case == "beyond float32":
        arrays["rewards"] = np.float64(arrays["rewards"])
    change(arrays)
    path = write_d4rl(arrays, f"data{suffix}")
    assert_refused(f"{path}?env=Hopper-v5", *words)
    with pytest.raises(InputError):
        import_dataset(path, "my/bad-v0", "Hopper-v5")
    assert not Path("minari").exists()


class TestBadReferences:
    def test_unknown_ids(self):
        assert_refused(
            "sdw/hopper-replay-min-v0",
            "unknown dataset `sdw/hopper-replay-min-v0`",
            "Network is unreachable",
            f"did you mean `{BUNDLED}`?",
        )
        assert_refused("no such thing", "unknown dataset", "not an id")

    def test_paths_that_hold_nothing(self, tmp_path):
        assert_refused("gone.hdf5?env=Hopper-v5", "no file gone.hdf5")
        assert_refused(tmp_path, "data/metadata.json")

    @pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
    def test_files_that_are_something_else(self, suffix):
        path = Path(f"data{suffix}")
        write_d4rl(transitions((400, 400)), str(path))
        whole = path.read_bytes()
        for content in (b"", b"hello", whole[: len(whole) // 2], whole[:-1000]):
            path.write_bytes(content)
            assert_refused(f"{path}?env=Hopper-v5", "not a readable", str(path))

    def test_a_file_of_pickles_is_not_unpickled(self):
        arrays = transitions() | {"rewards": np.array([{}] * 9, dtype=object)}
        path = write_d4rl(arrays, "data.npz")
        assert_refused(f"{path}?env=Hopper-v5", "not a readable", "data.npz")

    def test_groups_instead_of_arrays(self):
        with h5py.File("data.hdf5", "w") as file:
            for key in transitions():
                file.create_group(key)
        assert_refused("data.hdf5?env=Hopper-v5", "not a readable")

    @pytest.mark.parametrize(
        ("environment", "words"),
        [
            ("", ["does not", "data.hdf5?env=Hopper-v5"]),
            (
                "Hoper-v5",
                ["unknown environment `Hoper-v5`", "did you mean `Hopper-v5`?", "my_module:"],
            ),
            ("Hopper", ["unknown environment", "`Hopper-v5`"]),
            ("Hopper-v2", ["mujoco-py", "`Hopper-v4`"]),
            ("CartPole-v1", ["actions", "Discrete(2)"]),
            ("FrozenLake-v1", ["observations", "Discrete(16)"]),
            ("Pendulum-v1", ["`observations`", "(9, 3)", "(9, 11)"]),
        ],
    )
    def test_environments(self, environment, words):
        path = write_d4rl(transitions())
        assert_refused(f"{path}?env={environment}" if environment else path, *words)

    def test_unbounded_actions(self, monkeypatch):
        class Unbounded(gymnasium.Env):
            observation_space = gymnasium.spaces.Box(-1, 1, (11,))
            action_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,))

        spec = gymnasium.envs.registration.EnvSpec("Unbounded-v0", entry_point=Unbounded)
        monkeypatch.setitem(gymnasium.registry, "Unbounded-v0", spec)
        path = write_d4rl(transitions())
        assert_refused(f"{path}?env=Unbounded-v0", "finite bounds", "Unbounded-v0")


class TestPlaces:
    """Where a reference leads."""

    def test_a_dataset_by_any_of_its_paths(self, tmp_path):
        folder = write_minari(tmp_path / "minari/my/made-v0")
        dataset = load("my/made-v0")
        for path in ("", "/", "/data", "/data/", "/data/main_data.hdf5", "/data/metadata.json"):
            assert_equal(load(f"{folder}{path}"), dataset)
            assert_equal(load(f"{folder}{path}?env=Hopper-v5"), dataset)
        Path("linked").symlink_to(folder)
        Path("data-alone").symlink_to(folder / "data")
        for path in ("linked", "data-alone", "./linked/"):
            assert_equal(load(path), dataset)
        assert_refused("my/made-v0/", "did you mean `my/made-v0`?")

    def test_an_id_comes_before_a_folder_of_its_name(self, tmp_path):
        write_minari(tmp_path / "minari/made-v0")
        write_minari(tmp_path / "made-v0", lengths=(7, 7))
        assert len(load("made-v0")) == 5
        assert len(load("./made-v0")) == 14

    def test_a_file_beside_a_minari_dataset_is_read_itself(self, tmp_path):
        write_minari(tmp_path / "data")  # its metadata lie in data/data
        (tmp_path / "metadata.json").write_text("{}")
        assert len(load(f"{write_d4rl(transitions())}?env=Hopper-v5")) == 9

    @pytest.mark.parametrize(
        "name", ["d.HDF5", "d.H5", "d.Npz", "d", "really?", "a&b=c.hdf5", "?env="]
    )
    def test_the_content_says_what_a_file_is(self, name):
        plain = "plain.npz" if "z" in name.lower() else "plain.hdf5"
        Path(write_d4rl(transitions(), plain)).rename(name)
        Path("link").symlink_to(name)
        for reference in (f"{name}?env=Hopper-v5", "link?env=Hopper-v5"):
            assert len(load(reference)) == 9

    @pytest.mark.parametrize(
        "reference", ["", ".", "/", "..", "a\0b", "x" * 5000, "?env=Hopper-v5"]
    )
    def test_what_is_no_dataset(self, reference):
        with pytest.raises(InputError) as error:
            load(reference)
        assert "\n" not in str(error.value)

    def test_arrays_that_lie_in_other_files(self, tmp_path):
        secret = write_d4rl(transitions(), "secret.hdf5")
        path = tmp_path / "data.hdf5"
        for key in ("rewards", "unused"):
            write_d4rl({k: v for k, v in transitions().items() if k != key}, path)
            with h5py.File(path, "a") as file:
                file[key] = h5py.ExternalLink(secret, "rewards")
            assert_refused(f"{path}?env=Hopper-v5", "hold its data itself", f"`{key}`")
        write_d4rl({k: v for k, v in transitions().items() if k != "rewards"}, path)
        with h5py.File(path, "a") as file:
            layout = h5py.VirtualLayout((9,), np.float32)
            layout[:] = h5py.VirtualSource(secret, "rewards", (9,))
            file.create_virtual_dataset("rewards", layout)
        assert_refused(f"{path}?env=Hopper-v5", "hold its data itself", "`rewards`")
        (tmp_path / "raw").write_bytes(bytes(36))
        write_d4rl({k: v for k, v in transitions().items() if k != "rewards"}, path)
        with h5py.File(path, "a") as file:
            file.create_dataset("rewards", (9,), np.float32, external=[("raw", 0, 36)])
        assert_refused(f"{path}?env=Hopper-v5", "hold its data itself", "`rewards`")

    def test_minari_data_that_lie_in_other_files(self, tmp_path):
        folder, other = write_minari(tmp_path / "made"), write_minari(tmp_path / "other")
        with h5py.File(folder / "data/main_data.hdf5", "a") as file:
            del file["episode_1"]
            file["episode_1"] = h5py.ExternalLink(other / "data/main_data.hdf5", "episode_1")
        assert_refused(folder, "hold its data itself", "`episode_1`")

    def test_links_within_a_file_and_filters(self):
        arrays = transitions()
        with h5py.File("data.hdf5", "w") as file:
            for key, values in arrays.items():
                file.create_dataset(
                    f"kept/{key}", data=values, compression="gzip", fletcher32=True, shuffle=True
                )
                file[key] = h5py.SoftLink(f"/kept/{key}")
        assert_equal(
            load("data.hdf5?env=Hopper-v5"), load(f"{write_d4rl(arrays, 'd.h5')}?env=Hopper-v5")
        )
        with h5py.File("data.hdf5", "a") as file:
            del file["kept/rewards"]
        assert_refused("data.hdf5?env=Hopper-v5", "not a readable", "not found")

    @pytest.mark.parametrize("dtype", [">f4", ">f8", np.float16, np.int64, np.uint8, np.longdouble])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_numbers_of_any_type_and_order(self, dtype, order):
        arrays = transitions()
        whole = np.round(20 * np.abs(arrays["observations"]))
        arrays = {key: arrays[key] for key in ("actions", "rewards", "terminals", "timeouts")}
        arrays["observations"] = np.array(whole, dtype, order=order)
        np.savez_compressed("data.npz", **arrays)
        dataset = load("data.npz?env=Hopper-v5")
        assert (dataset.observations == whole).all()
        assert dataset.observations.dtype == np.float32
        assert dataset.observations.flags.c_contiguous

    @pytest.mark.parametrize("dtype", [np.complex64, object, "datetime64[s]", "U4"])
    def test_what_is_no_number(self, dtype):
        arrays = transitions() | {"rewards": np.zeros(9).astype(dtype)}
        arrays.pop("next_observations")
        np.savez("data.npz", **arrays)
        with pytest.raises(InputError) as error:
            load("data.npz?env=Hopper-v5")
        assert_one_sentence(error)


class TestOwn:
    """Reference scores of a local dataset, and its end."""

    @pytest.fixture
    def made(self, tmp_path):
        return import_dataset(
            write_d4rl(transitions()), "me/deep/hopper-v0", "Hopper-v5", (1.0, 2.0)
        )

    def test_scores_are_stated_anew(self, made, tmp_path):
        before = load(made)
        assert set_reference(made, (-5.5, 10.0)) == [1.0, 2.0]
        assert reference_scores_of(made) == load(made).reference_scores == (-5.5, 10.0)
        assert load(made).reference_source == "given with `sdw data set-reference`"
        assert_equal(load(made), before)

    def test_scores_where_there_were_none_or_none_that_make_sense(self, tmp_path):
        folder = write_minari(tmp_path / "minari/my/made-v0", environment="Pendulum-v1")
        assert set_reference("my/made-v0", (0.0, 1.0)) is None
        file = folder / "data/metadata.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"ref_min_score": "x"}))
        assert set_reference("my/made-v0", (0.0, 1.0)) == ["x", 1.0]
        assert reference_scores_of("my/made-v0") == (0, 1)

    @pytest.mark.parametrize("scores", SENSELESS)
    def test_scores_that_normalise_nothing(self, made, scores):
        with pytest.raises(InputError, match="reference scores"):
            set_reference(made, scores)
        assert reference_scores_of(made) == (1, 2)

    def test_it_goes_with_the_namespaces_that_it_made(self, made, tmp_path):
        beside = import_dataset(made, "me/other-v0")
        assert remove(made) == tmp_path / "minari/me/deep/hopper-v0"
        assert sorted(path.name for path in (tmp_path / "minari/me").iterdir()) == [
            "namespace_metadata.json",
            "other-v0",
        ]
        remove(beside)
        assert list((tmp_path / "minari").iterdir()) == []

    def test_a_namespace_of_anothers_stays(self, tmp_path):
        minari.namespace.create_namespace("theirs", description="kept")
        remove(import_dataset(write_d4rl(transitions()), "theirs/hopper-v0", "Hopper-v5"))
        assert [path.name for path in (tmp_path / "minari/theirs").iterdir()] == [
            "namespace_metadata.json"
        ]

    def test_a_namespace_that_is_a_link_stays(self, tmp_path):
        (tmp_path / "disk").mkdir()
        (tmp_path / "minari").mkdir(exist_ok=True)
        (tmp_path / "minari/theirs").symlink_to(tmp_path / "disk")
        name = import_dataset(write_d4rl(transitions()), "theirs/hopper-v0", "Hopper-v5")
        assert remove(name) == tmp_path / "minari" / name
        assert (tmp_path / "minari/theirs").is_dir()
        assert not (tmp_path / "minari" / name).exists()

    @pytest.mark.parametrize("action", [remove, lambda name: set_reference(name, (0.0, 1.0))])
    @pytest.mark.parametrize(
        "name", [BUNDLED, "me/gone-v0", "../minari/me/deep/hopper-v0", "me", "", "/", "me/deep"]
    )
    def test_only_local_datasets_by_name(self, made, action, name):
        with pytest.raises(InputError) as error:
            action(name)
        assert_one_sentence(error, f"`{name}`")
        assert BUNDLED_FOLDER.is_dir()
        assert len(load(made)) == 9

    def test_what_the_import_did_not_make_stays(self, made, tmp_path):
        write_minari(tmp_path / "minari/my/made-v0")
        with pytest.raises(InputError, match="did not make"):
            remove("my/made-v0")
        folder = tmp_path / "minari" / made
        (folder / "data/notes.txt").write_text("mine")
        with pytest.raises(InputError, match=r"notes\.txt"):
            remove(made)
        (folder / "data/notes.txt").unlink()
        (folder / "more").mkdir()
        with pytest.raises(InputError, match="more"):
            remove(made)
        (folder / "more").rmdir()
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(InputError, match="did not make"):
            remove(made)
        assert len(load(made)) == 9
        folder.unlink()
        folder.mkdir()
        (folder / "data").symlink_to(tmp_path / "elsewhere/data")
        with pytest.raises(InputError, match="did not make"):
            remove(made)
        assert (tmp_path / "elsewhere/data/main_data.hdf5").is_file()

    def test_a_dataset_never_lies_within_another(self, made):
        with pytest.raises(InputError, match="within another"):
            import_dataset(made, f"{made}/inner-v0")


class TestImport:
    def test_an_environment_that_opens_a_file(self, tmp_path):
        from gymnasium.envs.mujoco import hopper_v5

        model = Path(hopper_v5.__file__).parent / "assets/hopper.xml"
        (tmp_path / "m&m.xml").write_bytes(model.read_bytes())
        env = f"Hopper-v5&xml_file={tmp_path}/m&m.xml".replace("m&m", r"m\u0026m")
        env = env.replace("=/", '="/') + '"'
        made = import_dataset(write_d4rl(transitions()), "my/hopper-v0", env)
        assert made == f"my/hopper-v0?env={env}"
        assert load(made).environment.kwargs == {"xml_file": f"{tmp_path}/m&m.xml"}
        assert_refused("my/hopper-v0", "which files are opened", "?env=Hopper-v5&xml_file=")

    def test_an_environment_that_its_module_registers_by_class(self, tmp_path, monkeypatch, capsys):
        (tmp_path / "my_swing.py").write_text(
            "import gymnasium\n"
            "print('my robot greets you')\n"
            "from gymnasium.envs.classic_control.pendulum import PendulumEnv\n"
            "from gymnasium.envs.registration import WrapperSpec\n"
            "class Swing(PendulumEnv):\n"
            "    def __init__(self, g=10.0, shape=None, label=''): super().__init__(g=g)\n"
            "clip = WrapperSpec('ClipReward', 'gymnasium.wrappers.transform_reward:ClipReward',\n"
            "                   {'min_reward': -5.0})\n"
            "gymnasium.register('Swing-v0', entry_point=Swing, max_episode_steps=50,\n"
            "                   kwargs={'shape': len}, additional_wrappers=(clip,))\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        path = write_d4rl(transitions(dimensions=PENDULUM))
        env = r'my_swing:Swing-v0&g=5.0&label="a\u0026b"&max_episode_steps=40'
        try:
            made = import_dataset(path, "my/swing-v0", env, (0.0, 1.0))
            assert made == f"my/swing-v0?env={env}"
            dataset = load(made)
            assert_equal(dataset, load(f"{path}?env={env}"))
            assert dataset.environment.kwargs == {"g": 5, "label": "a&b"}
            assert [wrapper.name for wrapper in dataset.environment.wrappers] == ["ClipReward"]
            assert capsys.readouterr().out == ""
            assert load("my/swing-v0").environment.max_episode_steps == 40
        finally:
            del gymnasium.registry["Swing-v0"]
        assert_refused("my/swing-v0", "`Swing-v0`", "?env=my_module:Swing-v0")

    def test_gives_a_dataset_that_minari_knows(self, tmp_path):
        path = write_d4rl(transitions())
        name = "my/own/hopper-v0"
        assert import_dataset(path, name, "Hopper-v5", (0.0, 10.0)) == name
        listed = minari.list_local_datasets()["my/own/hopper-v0"]
        assert (listed["total_episodes"], listed["total_steps"]) == (3, 9)
        assert minari.namespace.list_local_namespaces() == ["my", "my/own"]
        stored = minari.load_dataset("my/own/hopper-v0")
        assert stored.env_spec.id == "Hopper-v5"
        assert minari.get_normalized_score(stored, np.array([5.0])) == 0.5
        assert_equal(load("my/own/hopper-v0"), load(f"{path}?env=Hopper-v5"))

    def test_never_overwrites_a_link_or_what_another_import_made_meanwhile(
        self, tmp_path, monkeypatch
    ):
        path = write_d4rl(transitions())
        (tmp_path / "minari/my").mkdir(parents=True, exist_ok=True)
        (tmp_path / "minari/my/link-v0").symlink_to(tmp_path / "nowhere")
        with pytest.raises(InputError) as error:
            import_dataset(path, "my/link-v0", "Hopper-v5")
        assert_one_sentence(error, "`my/link-v0` exists already")

        original = local.write_minari

        def taken_meanwhile(*arguments, **more):
            monkeypatch.setattr(local, "write_minari", original)
            original(*arguments, **more)
            import_dataset(path, "my/taken-v0", "Hopper-v5")

        monkeypatch.setattr(local, "write_minari", taken_meanwhile)
        with pytest.raises(InputError) as error:
            import_dataset(path, "my/taken-v0", "Hopper-v5")
        assert_one_sentence(error, "`my/taken-v0` exists already")
        assert len(load("my/taken-v0")) == 9

    def test_is_listed(self):
        import_dataset(write_d4rl(transitions()), "hopper-v0", "Hopper-v5")
        entries = {entry.id: entry for entry in available()}
        assert entries[BUNDLED].where == "bundled"
        mine = entries["hopper-v0"]
        assert (mine.where, mine.episodes, mine.transitions) == ("local", 3, 9)
        assert mine.environment == "Hopper-v5"
        assert_refused("hoper-v0", "did you mean `hopper-v0`?")

    def test_refuses_to_overwrite(self):
        path = write_d4rl(transitions())
        import_dataset(path, "my/hopper-v0", "Hopper-v5")
        for name in ("my/hopper-v0", BUNDLED):
            with pytest.raises(InputError) as error:
                import_dataset(path, name, "Hopper-v5")
            assert_one_sentence(error, "never overwritten", name)

    @pytest.mark.parametrize("name", ["hopper", "../hopper-v0", "/hopper-v0", "a//b-v0", "", "-v"])
    def test_names(self, name):
        with pytest.raises(InputError) as error:
            import_dataset(write_d4rl(transitions()), name, "Hopper-v5")
        assert_one_sentence(error, "end in a version", "my/hopper-v0")

    @pytest.mark.parametrize("source", ["x" * 5000, "a\0b", "?env=Hopper-v5"])
    def test_what_is_no_source(self, source):
        with pytest.raises(InputError):
            import_dataset(source, "my/hopper-v0")

    @pytest.mark.parametrize("name", ["a/hopper-v0", "a/b/hopper-v0"])
    def test_a_namespace_of_one_character_which_minari_refuses(self, name, tmp_path):
        path = write_d4rl(transitions())
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(InputError) as error:
            import_dataset(path, name, "Hopper-v5")
        assert_one_sentence(error, "two characters or more", "`a`", "my/hopper-v0")
        assert sorted(tmp_path.rglob("*")) == before

    @pytest.mark.parametrize("scores", SENSELESS)
    def test_reference_scores(self, scores):
        with pytest.raises(InputError) as error:
            import_dataset(write_d4rl(transitions()), "my/hopper-v0", "Hopper-v5", scores)
        assert_one_sentence(error, "reference scores", f"{scores[0]} and {scores[1]}")

    def test_leaves_nothing_half_written(self, tmp_path, monkeypatch):
        def disk_full(self, episodes):
            list(episodes)
            raise OSError(28, "No space left on device")

        path = write_d4rl(transitions())
        with monkeypatch.context() as patch:
            patch.setattr(
                "minari.dataset._storages.hdf5_storage.HDF5Storage.update_episodes", disk_full
            )
            with pytest.raises(SDWError, match=r"could not be written.*No space left") as error:
                import_dataset(path, "my/hopper-v0", "Hopper-v5")
        assert error.value.exit_code == 1
        assert not (tmp_path / "minari").exists()
        import_dataset(path, "my/hopper-v0", "Hopper-v5")


def test_broken_metadata_are_not_listed(tmp_path):
    for name, text in (("a-v0", "{"), ("b-v0", "{}"), ("c-v0", "[]"), (".d-v0", "{}")):
        folder = folder_with_parents(tmp_path / "minari" / name / "data")
        (folder / "metadata.json").write_text(text)
    assert [entry.id for entry in available()] == [BUNDLED]


def test_a_dataset_can_be_made_by_hand():
    rows = np.zeros((4, 2), np.float32)
    flags = np.array([False, True, False, True])
    dataset = OfflineDataset(
        name="toy",
        environment=Environment("Toy-v0"),
        observations=rows,
        final_observations=rows[:2],
        actions=rows[:, :1],
        rewards=np.array([1, 2, 3, 4], np.float32),
        terminated=flags,
        truncated=~flags,
        episode_ends=np.array([2, 4]),
        action_low=np.array([-1], np.float32),
        action_high=np.array([3], np.float32),
    )
    assert dataset.episode_returns().tolist() == [3, 7]
    assert dataset.returns_to_go(0.5).tolist() == [2, 2, 5, 4]
    assert dataset.unit_actions.tolist() == [[-0.5]] * 4


def test_the_licence_that_a_dataset_states_goes_where_its_data_go(monkeypatch, tmp_path):
    """From metadata or an attribute, through an import; the bundled dataset is this project's."""
    assert load("sdw/hopper-replay-mini-v0").license == "apache-2.0"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    file = tmp_path / "a.hdf5"
    with h5py.File(file, "w") as stored:
        for key, shape in (("observations", (4, 3)), ("actions", (4, 1)), ("rewards", (4,))):
            stored[key] = np.zeros(shape, np.float32)
        stored["terminals"] = np.array([0, 1, 0, 1], np.bool_)
        stored.attrs["license"] = "cc-by-4.0"
    import_dataset(f"{file}?env=Pendulum-v1", "own/licensed-v0", reference_scores=(0, 1))
    assert load("own/licensed-v0").license == "cc-by-4.0"
