"""The command line: one sentence, exit status 2 and nothing on disk for what is wrong."""

import json
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest
from safetensors.torch import save_file

from sdw_core.artifact import read_artifact
from sdw_core.files import sha256_of_json, write_json
from search_spaces import load_spec, with_absolute_paths
from study.book import TrialBook
from study.console import quiet
from study.display import Display
from study.folder import StudyFolder
from study.runner import drive
from study.search import StudySearch
from tests.sdw_core.checkpoints import networks_of
from tests.study.commands import sdw, write_d4rl
from tests.study.conftest import SMALL, small_spec
from tests.study.reports import report

pytestmark = pytest.mark.usefixtures("own_folder")
SETS = [part for setting in SMALL for part in ("--set", setting)]


IMPORT = ["data", "import", "data.hdf5"]
BEST = ["distill", "quickstart", "--set", "pipeline.distill.initial_states=best"]
RESIDUAL = ["launch", "quickstart", "--set", "pipeline.evaluation.architecture=residual"]
OF_NO_TEACHER = [
    *("--set", "pipeline.expert={method: cal_ql}"),
    *("--set", "pipeline.distill.states=teacher"),
]
SEARCHED_RANGES = "search.expert.episodes.choices"
NO_RANGES = ["--set", "search={distill.states: {type: categorical, choices: [all, teacher]}}"]
REFUSED = {
    "unknown spec": (["launch", "quikstart"], "`quickstart`"),
    "unknown key": (["launch", "quickstart", "--set", "study.trails=2"], "`trials`"),
    "searched key": (
        ["launch", "quickstart", "--set", "pipeline.weighting.temperature=1"],
        "search",
    ),
    "low above high": (
        ["launch", "quickstart", "--set", "search.distill.synthetic_size.low=300"],
        "low",
    ),
    "unknown dataset": (
        ["launch", "quickstart", "--set", "pipeline.dataset=sdw/hopper-replay-mimi-v0"],
        "sdw/hopper-replay-mini-v0",
    ),
    "nothing to search": (["launch", "quickstart", "--set", "search={}"], "sdw distill"),
    "too many rows": (
        ["launch", "quickstart", "--set", "search.distill.synthetic_size.high=99999"],
        "49756",
    ),
    "no gpu": (["launch", "quickstart", "--set", "pipeline.device=cuda"], "GPU"),
    "bad name": (["launch", "quickstart", "--name", "../up"], "study.name"),
    "no trials": (["launch", "quickstart", "--trials", "0"], "study.trials"),
    "storage is a file": (["launch", "quickstart", "--storage", "afile"], "`storage`"),
    "storage under a file": (["launch", "quickstart", "--storage", "afile/below"], "`storage`"),
    "validate": (["validate", "quickstart", "--set", "pipeline.seed=-1"], "pipeline.seed"),
    "cluster file": (["validate", "quickstart", "--cluster", "none.yaml"], "none.yaml"),
    "empty cluster file": (
        ["validate", "quickstart", "--cluster", "/dev/null"],
        "is empty",
    ),
    "no port": (["launch", "quickstart", "--address", "nonsense"], "(it names no port)"),
    "reference scores that are one": (
        ["data", "describe", "sdw/hopper-replay-mini-v0", "--reference", "0", "5e-324", "--json"],
        "not 0.0 and 5e-324",
    ),
    "database of this folder": (
        ["validate", "quickstart", "--set", "study.database=sqlite:///a?b"],
        "whole path",
    ),
    "no study": (["status", "nothing"], "nothing"),
    "no study to export": (["export", "nothing"], "nothing"),
    "no study to resume": (["resume", "nothing"], "nothing"),
    "no study to stop": (["stop", "nothing"], "nothing"),
    "no study to extend": (["extend", "nothing", "--trials", "2"], "nothing"),
    "no more trials": (["extend", "nothing", "--trials", "0"], "--trials"),
    "no study to retry": (["retry-failed", "nothing"], "nothing"),
    "no study to watch": (["dashboard", "nothing"], "nothing"),
    "no export to evaluate": (["evaluate", "nothing"], "nothing"),
    "distil unknown": (["distill", "quickstart", "--set", "pipeline.distill.width=0"], "width"),
    **{
        f"distil {setting}": (["distill", "quickstart", "--set", f"pipeline.{setting}"], word)
        for setting, word in {
            "distill.state_noise=-0.1": "at least 0, not -0.1",
            "distill.state_noise=.nan": "a finite number, not nan",
            "distill.outer_schedule=linear": "`constant`, `cosine`",
            "distill.max_gradient_ratio=0.5": "greater than 1, not 0.5",
            "expert.episodes=[0.9, 0.9]": "the lower one first",
            "expert.episodes=[]": "a list of 2, not []",
            "evaluation.ensemble=0": "greater than 0, not 0",
        }.items()
    },
    "states of no teacher": (["distill", "quickstart", *OF_NO_TEACHER], "choose `all`"),
    "states of no teacher among the choices": (
        [*("launch", "teachers", "--set", "pipeline.expert={method: cal_ql}"), *NO_RANGES],
        "choose `all`",
    ),
    "a list that is no range": (
        [*("launch", "teachers", "--set"), f"{SEARCHED_RANGES}=[[0.9, 1], [1, 0.5]]"],
        "the lower one first, such as [0.9, 1], not (1, 0.5)",
    ),
    "too many of the best": (
        [*BEST, "--set", "pipeline.distill.synthetic_size=5000"],
        "4976",
    ),
    "residual of two layers": (
        [*RESIDUAL, "--set", "pipeline.distill.layers=2"],
        "at least 3 layers",
    ),
    "cache is a file": (["distill", "quickstart", "--cache", "afile"], "afile"),
    "describe unknown": (["data", "describe", "sdw/hoper-replay-mini-v0"], "mini"),
    "import missing": (
        ["data", "import", "none.hdf5", "--env", "Hopper-v5", "--name", "my/a-v0"],
        "none.hdf5",
    ),
    "import no hdf5": (
        ["data", "import", "afile", "--env", "Hopper-v5", "--name", "my/a-v0"],
        "afile",
    ),
    "import unknown environment": (
        ["data", "import", "data.hdf5", "--env", "Hoper-v5", "--name", "my/a-v0"],
        "Hopper-v5",
    ),
    "import wrong shapes": (
        ["data", "import", "data.hdf5", "--env", "HalfCheetah-v5", "--name", "my/a-v0"],
        "17",
    ),
    "import discrete": (
        ["data", "import", "data.hdf5", "--env", "CartPole-v1", "--name", "my/a-v0"],
        "iscrete",
    ),
    "import bad name": (
        ["data", "import", "data.hdf5", "--env", "Hopper-v5", "--name", "my a"],
        "my a",
    ),
    "import reversed reference": (
        [*IMPORT, "--env", "Hopper-v5", "--name", "my/a-v0", "--reference", "5", "1"],
        "5",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_sentence_and_leaves_nothing(case, capsys, tmp_path):
    arguments, word = REFUSED[case]
    (tmp_path / "afile").write_text("text")
    write_d4rl(tmp_path / "data.hdf5")
    before = sorted(tmp_path.rglob("*"))
    status, out, err = sdw(capsys, *arguments)
    assert status == 2
    assert out == ""
    assert err.startswith("sdw: ")
    assert err.count("\n") == 1, err
    assert word in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("arguments", [["launch", "\udcff.yaml"], ["data", "list"]])
def test_a_name_that_is_no_utf8_is_refused(capsys, tmp_path, monkeypatch, arguments):
    if arguments[0] == "data":
        here = tmp_path / "\udcff"
        here.mkdir()
        monkeypatch.chdir(here)
    status, out, err = sdw(capsys, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "must be UTF-8, and '" in err


TAKEN = {
    "a file of the user's": lambda path: (path / "thesis.txt").write_text("precious"),
    "nothing": lambda path: None,
    "a study": lambda path: (path / "study.yaml").write_text("precious"),
    "files of our names": lambda path: [
        (path / name).write_text("precious")
        for name in ("driver.json", "driver.lock", "stop", "table.md", "results.csv")
    ],
}


@pytest.mark.parametrize("taken", TAKEN)
@pytest.mark.parametrize("address", [[], ["--address", "127.0.0.1:1"]])
def test_a_comparison_leaves_a_folder_that_is_none_as_it_is(capsys, tmp_path, taken, address):
    folder = tmp_path / "sdw-studies" / "precious"
    folder.mkdir(parents=True)
    TAKEN[taken](folder)
    before = {path: path.read_text() for path in folder.iterdir()}
    command = ["compare", "compare-quick", "--name", "precious", *address]
    status, out, err = sdw(capsys, *command)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert "is no comparison" in err
    assert {path: path.read_text() for path in folder.iterdir()} == before


@pytest.mark.parametrize("command", ["launch", "validate"])
def test_a_study_leaves_a_comparison_as_it_is(capsys, tmp_path, command):
    folder = tmp_path / "sdw-studies" / "precious"
    folder.mkdir(parents=True)
    (folder / "comparison.yaml").write_text("precious")
    status, out, err = sdw(capsys, command, "quickstart", "--name", "precious")
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert "is no study" in err
    assert [path.read_text() for path in folder.iterdir()] == ["precious"]


def test_a_comparison_that_was_there_stays_when_its_run_is_refused(capsys, tmp_path):
    """Also one without a cell, as the first version left it where Ray did not start."""
    command = ["compare", "compare-quick", "--name", "mine", "--address", "127.0.0.1:1"]
    status, _, err = sdw(capsys, *command)
    assert (status, "no Ray cluster" in err) == (2, True), err
    assert list(tmp_path.iterdir()) == []
    folder = tmp_path / "sdw-studies" / "mine"
    folder.mkdir(parents=True)
    (folder / "comparison.yaml").write_text("precious")
    status, _, err = sdw(capsys, *command)
    assert (status, "no Ray cluster" in err) == (2, True), err
    assert (folder / "comparison.yaml").read_text() == "precious"


def test_a_launch_whose_cluster_is_not_there_leaves_nothing(capsys, tmp_path):
    status, _, err = sdw(capsys, "launch", "quickstart", *SETS, "--address", "127.0.0.1:1")
    assert (status, "no Ray cluster" in err) == (2, True), err
    assert list(tmp_path.iterdir()) == []


UNFIT = {
    "a password": ["study.database=postgresql://me:hunter2@127.0.0.1:1/x"],
    "a database that is not there": ["study.database=postgresql://me@127.0.0.1:1/x"],
    "a study of that name": ["study.name=there"],
    "no search": ["search={}"],
    "room": ["study.trials=100000000"],
    "memory": ["pipeline.distill.meta_batch_size=100000000", "pipeline.distill.width=4096"],
    "cores": ["study.resources={cpu: 100000, gpu: 0}"],
    "GPUs": ["study.resources={cpu: 1, gpu: 99}", "study.concurrency=1"],
}


@pytest.mark.parametrize("case", UNFIT)
def test_validate_refuses_what_launch_refuses(capsys, tmp_path, case):
    StudyFolder.create(small_spec("study.name=there"), tmp_path / "sdw-studies")
    before = sorted(tmp_path.rglob("*"))
    sets = [part for setting in UNFIT[case] for part in ("--set", setting)]
    said = [
        sdw(capsys, *command, "quickstart", *sets)
        for command in (["validate"], ["validate", "--json"], ["launch"])
    ]
    first, *others = [(s, o, re.sub(r"[\d.e+]+ GB", "GB", e)) for s, o, e in said]  # what is free
    assert others == [first, first]
    status, out, err = first
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "hunter2" not in err
    assert sorted(tmp_path.rglob("*")) == before


def test_validate_takes_what_launch_takes(capsys, tmp_path):
    StudyFolder.create(small_spec("study.name=there"), tmp_path / "elsewhere")
    options = ["--name", "there", "--trials", "3", "--address", "127.0.0.1:1"]
    status, out, _ = sdw(capsys, "validate", "quickstart", *options, "--json")
    assert (status, json.loads(out)["study"]["trials"]) == (0, 3)
    there = ["--storage", "elsewhere"]
    status, _, err = sdw(capsys, "validate", "quickstart", *options, *there)
    assert (status, "'there' exists" in err) == (2, True)


def test_a_refused_distillation_or_analysis_leaves_no_folder(capsys, tmp_path):
    (tmp_path / "afile").touch()
    for command in (
        ["distill", "quickstart", "--to", "afile/rows"],
        ["analyze", "coverage", "quickstart", "--to", "afile/rows"],
    ):
        status, _, err = sdw(capsys, *command)
        assert (status, "`to`" in err) == (2, True), err
        assert list(tmp_path.iterdir()) == [tmp_path / "afile"]


BROKEN_DATA = {
    "observation": ({"observations": np.full((40, 11), np.nan, np.float32)}, "observation"),
    "reward": ({"rewards": np.full(40, np.inf, np.float32)}, "reward"),
    "action": ({"actions": np.full((40, 3), np.nan, np.float32)}, "action"),
    "out of bounds": ({"actions": np.full((40, 3), 2.0, np.float32)}, "bounds"),
    "lengths": ({"rewards": np.ones(39, np.float32)}, "39"),
    "one episode": ({"terminals": np.arange(40) == 39}, "episode"),
    "empty": (
        {
            "observations": np.zeros((0, 11), np.float32),
            "actions": np.zeros((0, 3), np.float32),
            "rewards": np.zeros(0, np.float32),
            "terminals": np.zeros(0, bool),
            "timeouts": np.zeros(0, bool),
        },
        "two episodes",
    ),
}


@pytest.mark.parametrize("case", BROKEN_DATA)
def test_a_broken_dataset_is_refused_before_a_study_is_made(case, capsys, tmp_path):
    changes, word = BROKEN_DATA[case]
    path = write_d4rl(tmp_path / "data.hdf5", **changes)
    setting = f"pipeline.dataset={path}"
    status, out, err = sdw(capsys, "launch", "quickstart", "--set", setting)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert word in err
    assert not (tmp_path / "sdw-studies").exists()


def test_without_reference_scores_the_way_to_give_them_is_named(capsys, tmp_path):
    path = tmp_path / "data.hdf5"
    generator = np.random.default_rng(0)
    write_d4rl(
        path,
        observations=generator.normal(size=(40, 3)).astype(np.float32),
        actions=generator.uniform(-2, 2, size=(40, 1)).astype(np.float32),
    )
    with h5py.File(path, "a") as file:
        file.attrs["env_id"] = "Pendulum-v1"
    setting = f"pipeline.dataset={path}"
    sizes = "search.distill.synthetic_size.high=20"
    status, _, err = sdw(capsys, "launch", "quickstart", "--set", setting, "--set", sizes)
    assert status == 2
    assert "pipeline.reference_scores" in err


THREADS = ["distill", "quickstart", "--threads", "100000000"]


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["launch"], ["status", "a", "--nonsense"], THREADS]
)
def test_wrong_usage_exits_with_2(arguments):
    done = subprocess.run(
        [sys.executable, "-m", "study.cli", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "light"),
    [
        (["--help"], {"ray", "torch", "optuna", "minari", "pandas"}),
        (["status", "STUDY"], {"ray", "torch", "minari", "pandas"}),
    ],
    ids=["help", "status"],
)
def test_looking_loads_nothing_that_only_work_needs(tmp_path, arguments, light):
    path = str(StudyFolder.create(small_spec(), tmp_path / "sdw-studies").path)
    words = [path if each == "STUDY" else each for each in arguments]
    code = (
        f"import sys; sys.argv = ['sdw', *{words}]\n"
        "from study.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        f"print(sorted({light} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) > 1
    assert done.stdout.splitlines()[-1] == "[]"


def test_data_can_be_imported_listed_and_described(capsys, tmp_path):
    path = write_d4rl(tmp_path / "data.hdf5")
    command = ["data", "import", str(path), "--env", "Hopper-v5", "--name", "my/hopper-v0"]
    status, out, _ = sdw(capsys, *command, "--json")
    scores = [-20.272305, 3234.3]
    assert json.loads(out) == {"dataset": "my/hopper-v0", "reference_scores": scores}
    status, out, _ = sdw(capsys, "data", "list", "--json")
    assert status == 0
    assert {d["id"]: d["where"] for d in json.loads(out)}["my/hopper-v0"] == "local"
    status, out, _ = sdw(capsys, "data", "describe", "my/hopper-v0", "--json")
    described = json.loads(out)
    assert (described["transitions"], described["episodes"]) == (40, 2)
    assert sdw(capsys, *command)[0] == 2


def test_distill_exports_and_evaluate_finds_the_same_score(capsys, tmp_path):
    command = ["distill", "quickstart", *SETS, "--to", "rows", "--threads", "1", "--json"]
    status, out, err = sdw(capsys, *command)
    assert status == 0
    document = json.loads(out)
    said = f"expert (percent_bc): normalised return {document['expert']['mean']:.1f}, 95 % interval"
    assert said in err
    assert set(document) == {
        "normalized_return", "random_subset", "expert", "effective_sample_size_percent",
        "density_effective_sample_size_percent", "log_likelihood", "seconds", "outer_steps",
        "seconds_per_outer_step", "artifact", "confirmed", "warnings",
    }  # fmt: skip
    assert [line for line in err.splitlines() if line.startswith("warning: ")] == [
        f"warning: {sentence}" for sentence in document["warnings"]
    ]
    assert "far below the" in document["warnings"][-1]
    for scores in ("normalized_return", "random_subset", "expert"):
        assert set(document[scores]) == {"mean", "iqm", "low", "high", "per_policy"}
    assert (document["outer_steps"], document["artifact"]) == (6, "rows")
    status, out, _ = sdw(capsys, "evaluate", "rows", "--json")
    assert status == 0
    manifest = json.loads((tmp_path / "rows" / "manifest.json").read_text())
    assert json.loads(out) == manifest["scores"]["synthetic"]
    status, _, err = sdw(capsys, *command)
    assert (status, err.count("\n")) == (2, 1)
    assert "never overwrites" in err


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    """An export of no outer steps, rows of the best episodes, whose run evaluated by Adam."""
    to = tmp_path_factory.mktemp("exports") / "baseline"
    command = [sys.executable, "-m", "study.cli", *BEST, *SETS]
    command += ["--set", "pipeline.distill.outer_steps=0"]
    command += ["--set", "pipeline.evaluation.optimizer=adam"]
    command += ["--to", str(to), "--cache", str(to.parent / "cache"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    document = json.loads(done.stdout)
    assert (document["outer_steps"], document["seconds_per_outer_step"]) == (0, None)
    return to


def test_ensembles_are_named_with_the_single_policy_beside_them(capsys, tmp_path):
    """From `distill` through the manifest to `evaluate` and `train`."""
    sets = [*SETS, "--set", "pipeline.distill.outer_steps=0"]
    sets += ["--set", "pipeline.evaluation.ensemble=3"]
    status, out, _ = sdw(capsys, "distill", "quickstart", *sets, "--to", "rows", "--json")
    assert status == 0
    document = json.loads(out)
    scores = json.loads((tmp_path / "rows" / "manifest.json").read_text())["scores"]
    for name in ("normalized_return", "random_subset", "confirmed_ensemble"):
        assert document[name]["ensemble"] == 3
    assert document["confirmed"] == scores["synthetic"]
    assert document["confirmed_ensemble"] == scores["synthetic_ensemble"]
    status, out, _ = sdw(capsys, "evaluate", "rows", "--json")
    assert (status, json.loads(out)) == (0, scores["synthetic_ensemble"])
    status, out, _ = sdw(capsys, "evaluate", "rows", "--ensemble", "1", "--json")
    assert (status, json.loads(out)) == (0, scores["synthetic"])
    status, out, _ = sdw(capsys, "evaluate", "rows")
    lines = [line.strip() for line in out.splitlines()]
    for name in ("evaluated now, ensembles of 3", "in the manifest, ensembles of 3"):
        (line,) = [line for line in lines if line.startswith(name)]
        assert f"{scores['synthetic_ensemble']['mean']:.1f}" in line
    (line,) = [line for line in lines if re.match("in the manifest +-?[0-9]", line)]
    assert f"{scores['synthetic']['mean']:.1f}" in line
    for options, networks in (([], 3), (["--ensemble", "1"], 1)):
        to = f"{networks}.pt2"
        status, out, _ = sdw(capsys, "train", "rows", "--to", to, *options, "--json")
        assert (status, json.loads(out)["ensemble"]) == (0, networks)
    status, out, err = sdw(capsys, "train", "rows", "--to", "none.pt2", "--ensemble", "0")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "`ensemble` must be greater than 0, not 0" in err
    assert not (tmp_path / "none.pt2").exists()


@pytest.mark.parametrize(
    "setting",
    [
        "pipeline.evaluation.ensemble=0",
        "search.evaluation.ensemble={type: categorical, choices: [1, 0]}",
        "search.evaluation.ensemble={type: int, low: 0, high: 10}",
    ],
)
def test_an_ensemble_of_none_is_refused_before_any_work(capsys, tmp_path, setting):
    status, out, err = sdw(capsys, "launch", "quickstart", "--set", setting)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert "`pipeline.evaluation.ensemble` must be greater than 0, not 0" in err
    assert list(tmp_path.iterdir()) == []


WITHOUT_THE_PACKAGE = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("sdw_core", "search_spaces", "study"):
            raise ImportError(name)

sys.meta_path.insert(0, Absent())
import gymnasium, torch
torch.set_num_threads(1)
policy = torch.export.load(sys.argv[1]).module()
env = gymnasium.make("Hopper-v5")
observation, _ = env.reset(seed=0)
total, done = 0.0, False
while not done:
    action = policy(torch.as_tensor(observation[None], dtype=torch.float32))[0]
    observation, reward, terminated, truncated, _ = env.step(action.detach().numpy())
    total, done = total + reward, terminated or truncated
print(total)
"""
"""Runs a saved policy for an episode where this package cannot be imported; prints its return."""


@pytest.mark.slow
def test_a_trained_policy_runs_without_the_package(capsys, tmp_path, baseline):
    command = ["train", str(baseline), "--to", "policy.pt2", "--seed", "3", "--json"]
    status, out, _ = sdw(capsys, *command)
    document = json.loads(out)
    manifest = json.loads((baseline / "manifest.json").read_text())
    assert (status, document["policy"], document["seed"]) == (0, "policy.pt2", 3)
    assert (document["observation_dimensions"], document["action_dimensions"]) == (11, 3)
    assert document["recipe"] == manifest["recipe"]
    assert document["environment"]["id"] == "Hopper-v5"
    isolated = [sys.executable, "-I", "-c", WITHOUT_THE_PACKAGE, "policy.pt2"]
    done = subprocess.run(isolated, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    env = gymnasium.make("Hopper-v5")
    observation, _ = env.reset(seed=0)
    policy, total, ended = read_artifact(baseline).train(seed=3), 0.0, False
    while not ended:
        observation, reward, terminated, truncated, _ = env.step(policy.act(observation))
        total, ended = total + reward, terminated or truncated
    env.close()
    assert float(done.stdout) == pytest.approx(total, rel=1e-3)
    status, _, err = sdw(capsys, *command)
    assert (status, "never overwrites" in err, err.count("\n")) == (2, True, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["policy.pt2"]


def test_a_baseline_is_an_export_like_any_other(capsys, baseline):
    """Its score is that of its own recipe, whatever the run evaluated by."""
    manifest = json.loads((baseline / "manifest.json").read_text())
    assert manifest["recipe"]["learning_rates"] == pytest.approx([0.1] * 4)
    status, out, _ = sdw(capsys, "evaluate", str(baseline), "--json")
    assert (status, json.loads(out)) == (0, manifest["scores"]["synthetic"])
    assert manifest["recipe"]["optimizer"] == "sgd"
    assert set(manifest["evaluation"]) == {"policies", "episodes", "seed", "stage"}


def test_an_evaluation_by_another_protocol_is_another_score(capsys, baseline):
    scores = []
    for options in (
        [], ["--layers", "3"], ["--architecture", "residual"], ["--optimizer", "adam"],
        ["--steps", "11"], ["--ensemble", "3"], ["--learning-rate", "0.3"],
        ["--optimizer", "adam", "--learning-rate", "0.3"],
        ["--optimizer", "adamw", "--layers", "2"],
    ):  # fmt: skip
        status, out, _ = sdw(capsys, "evaluate", str(baseline), *options, "--json")
        assert status == 0
        scores.append(json.loads(out)["mean"])
    assert len(set(scores)) == len(scores)


def test_protocols_are_judged_side_by_side(capsys, baseline):
    command = ["evaluate", str(baseline), "--protocols", "--policies", "1", "--episodes", "1"]
    status, out, _ = sdw(capsys, *command, "--json")
    assert status == 0
    document = json.loads(out)
    assert list(document) == [
        "the rows' own recipe", "2 layers", "3 layers", "5 layers", "6 layers",
        "residual, 4 layers", "momentum", "adam", "adamw", "ensembles of 10", "2 steps",
        "10 steps",
    ]  # fmt: skip
    one = [*command[:2], "--policies", "1", "--episodes", "1", "--json"]
    for name, options in (
        ("the rows' own recipe", []),
        ("5 layers", ["--layers", "5"]),
        ("adamw", ["--optimizer", "adamw"]),
        ("ensembles of 10", ["--ensemble", "10"]),
        ("10 steps", ["--steps", "10"]),
    ):
        judged = document[name]["normalized_return"]
        assert json.loads(sdw(capsys, *one, *options)[1]) == judged
    assert document["adamw"]["recipe"]["optimizer"] == "adamw"
    assert document["adamw"]["recipe"]["learning_rates"] == [0.001] * 4
    status, out, _ = sdw(capsys, *command)
    assert status == 0
    assert all(name in out for name in document)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--optimizer", "adm"], "`adam`"),
        (["--architecture", "resnet"], "`residual`"),
        (["--layers", "0"], "`layers`"),
        (["--steps", "0"], "`steps`"),
        (["--learning-rate", "-1"], "`learning_rate`"),
        (["--learning-rate", "nan"], "`learning_rate`"),
        (["--ensemble", "0"], "`ensemble`"),
        (["--policies", "0"], "--policies"),
        (["--architecture", "residual", "--layers", "2"], "at least 3 layers"),
        (["--protocols", "--learning-rate", "0.1"], "`--learning-rate`"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused(capsys, baseline, options, word):
    status, out, err = sdw(capsys, "evaluate", str(baseline), *options)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert word in err


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["--policies", "1000000000"], "`policies` must be at most 10000, not 1000000000"),
        (["--layers", "1000000"], "`layers` must be at most 100"),
        (["--policies", "10000", "--episodes", "10000"], "GB of memory, and"),
        (["--steps", "1000000000000"], "`steps` must be at most 1000000"),
    ],
)
def test_an_evaluation_that_no_machine_holds_is_refused_at_once(capsys, baseline, options, rule):
    status, _, log = sdw(capsys, "evaluate", str(baseline), *options)
    assert status == 2
    assert rule in log
    assert log.count("\n") == 1


def test_an_export_that_names_a_module_is_evaluated_by_who_trusts_it(capsys, baseline, tmp_path):
    folder = Path(shutil.copytree(baseline, tmp_path / "copy"))
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["checksum"]
    manifest["environment"]["id"] = "gymnasium.envs.mujoco:" + manifest["environment"]["id"]
    manifest["checksum"] = sha256_of_json(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    status, _, log = sdw(capsys, "evaluate", str(folder))
    assert (status, log.count("\n")) == (2, 1)
    assert "import a module" in log
    status, out, _ = sdw(capsys, "evaluate", str(folder), "--trust", "--json")
    assert status == 0
    assert json.loads(out) == manifest["scores"]["synthetic"]


def test_a_cloning_that_diverges_is_a_failure_of_the_work(capsys, baseline):
    status, out, err = sdw(capsys, "evaluate", str(baseline), "--learning-rate", "1e30")
    assert (status, out, err.count("\n")) == (1, "", 1), err
    assert "`learning_rate`" in err


@pytest.mark.parametrize("command", ["validate", "launch", "distill"])
@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("nowhere.safetensors", "does not exist"),
        (".", "is a folder"),
        ("pickle.pt", "is a damaged pickle, or one of more than weights"),
        ("cheetah.safetensors", "is for states and actions of 17 and 6 dimensions"),
    ],
)
def test_an_experts_checkpoint_is_checked_before_anything_else(
    capsys, tmp_path, command, path, word
):
    (tmp_path / "pickle.pt").write_bytes(b"nonsense")
    save_file(networks_of(17, 6), tmp_path / "cheetah.safetensors")
    here = set(tmp_path.iterdir())
    given = ["--set", f"pipeline.expert={{method: checkpoint, path: {path}}}"]
    status, out, err = sdw(capsys, command, "quickstart", *given)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert word in err
    assert set(tmp_path.iterdir()) == here


def test_trials_find_a_checkpoint_wherever_they_run(tmp_path):
    save_file(networks_of(11, 3), tmp_path / "e.safetensors")
    given = "pipeline.expert={method: checkpoint, path: e.safetensors}"
    spec = with_absolute_paths(load_spec("quickstart", [given]))
    assert spec.pipeline.expert.path == str(tmp_path / "e.safetensors")
    assert with_absolute_paths(spec) == spec


def test_validate_says_what_would_run(capsys):
    root = Path(__file__).parents[2]
    cluster = str(root / "cluster.yaml")
    status, out, _ = sdw(capsys, "validate", "quickstart", "--cluster", cluster, "--json")
    assert status == 0
    document = json.loads(out)
    assert document["dataset"]["transitions"] == 49756
    assert set(document["search"]) == {"weighting.temperature", "distill.synthetic_size"}
    assert document["cluster"] == cluster
    _, out, _ = sdw(capsys, "validate", "quickstart", "--cluster", cluster)
    lines = [" ".join(line.split()) for line in out.splitlines()]
    sizes = "search distill.synthetic_size: whole numbers from 16 to 128, evenly in the logarithm"
    assert sizes in lines
    assert "objective normalized_return, the higher the better" in lines
    assert f"cluster {cluster} is valid for the Ray cluster launcher" in lines


@pytest.mark.parametrize(
    ("text", "word"), [("a: [", "YAML"), ("available_node_types: {}", "key"), ("[]", "a mapping")]
)
def test_a_cluster_file_that_the_launcher_would_refuse_is_refused(capsys, tmp_path, text, word):
    (tmp_path / "cluster.yaml").write_text(text)
    status, _, err = sdw(capsys, "validate", "quickstart", "--cluster", "cluster.yaml")
    assert (status, err.count("\n")) == (2, 1), err
    assert word in err or "cannot be read" in err


def test_a_study_whose_driver_lives_is_extended_without_running_it_here(capsys, tmp_path):
    folder = StudyFolder.create(small_spec(), tmp_path / "sdw-studies")
    search = StudySearch(folder.book())
    search.suggest("a")
    search.on_trial_complete("a", report("FAILED"))
    write_json(folder.seat.note, {"host": "elsewhere", "pid": 42})
    status, out, err = sdw(capsys, "extend", folder.name, "--trials", "2", "--json")
    assert status == 0
    assert "process 42 on elsewhere takes them up" in err
    assert json.loads(out)["driver"] == {"host": "elsewhere", "pid": 42}
    assert folder.spec().study.trials == small_spec().study.trials + 2
    status, out, err = sdw(capsys, "retry-failed", folder.name, "--json")
    assert (status, [t["retry_of"] for t in json.loads(out)["trials"]]) == (0, [None, 0])
    folder.stop_flag.touch()
    _, _, err = sdw(capsys, "extend", folder.name, "--trials", "1")
    assert f"is stopping; go on with `sdw resume {folder.called}`" in err
    for command in (["retry-failed"], ["status", "--rebuild"]):
        status, out, err = sdw(capsys, command[0], folder.name, *command[1:])
        assert (status, out, err.count("\n")) == (2, "", 1), err


def edited(folder: StudyFolder) -> None:
    spec = folder.path / "study.yaml"
    spec.write_text(spec.read_text().replace("outer_steps: 6", "outer_steps: 7"))


@pytest.mark.parametrize(
    ("options", "before", "word"),
    [
        (["extend", "--trials", "100000000"], None, "GB"),
        (["extend", "--trials", "2", "--address", "127.0.0.1:1"], None, "no Ray cluster"),
        (["retry-failed", "--address", "127.0.0.1:1"], None, "no Ray cluster"),
        (["extend", "--trials", "2"], edited, "another spec"),
        (["retry-failed"], edited, "another spec"),
    ],
)
def test_more_trials_that_cannot_run_are_refused_and_not_kept(
    capsys, tmp_path, options, before, word
):
    folder = StudyFolder.create(small_spec(), tmp_path / "sdw-studies")
    search = StudySearch(folder.book())
    search.suggest("a")
    search.on_trial_complete("a", report("FAILED"))
    count = len(folder.book().rows())
    whole = (folder.path / "study.yaml").read_bytes()
    if before:
        before(folder)
    spec = (folder.path / "study.yaml").read_bytes()
    status, out, err = sdw(capsys, options[0], folder.name, *options[1:])
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert word in err
    assert (folder.path / "study.yaml").read_bytes() == spec
    (folder.path / "study.yaml").write_bytes(whole)
    assert len(folder.book().rows()) == count


def test_trials_that_were_added_while_a_driver_came_are_that_ones(capsys, tmp_path, monkeypatch):
    """Nobody drove the study when it was looked at, and somebody does when it is to be run."""
    folder = StudyFolder.create(small_spec(), tmp_path / "sdw-studies")
    write_json(folder.seat.note, {"host": "elsewhere", "pid": 42})
    monkeypatch.setattr(StudyFolder, "driven", lambda self: False)
    status, _, err = sdw(capsys, "extend", folder.name, "--trials", "2", "--json")
    assert (status, "process 42 on elsewhere takes them up" in err) == (0, True), err


def test_a_trial_whose_process_is_gone_waits_in_the_table_too(capsys, tmp_path):
    folder = StudyFolder.create(small_spec(), tmp_path / "sdw-studies")
    StudySearch(folder.book()).suggest("a")
    _, out, _ = sdw(capsys, "status", folder.name, "--json")
    assert [trial["outcome"] for trial in json.loads(out)["trials"]] == ["WAITING"]
    _, out, _ = sdw(capsys, "status", folder.name)
    assert ("WAITING" in out, "RUNNING" in out) == (True, False)


@pytest.mark.parametrize("text", ["", '{"host": '])
def test_a_driver_that_left_half_a_sentence_is_no_driver(capsys, tmp_path, text):
    folder = StudyFolder.create(small_spec(), tmp_path / "sdw-studies")
    (folder.path / "driver.json").write_text(text)
    status, out, _ = sdw(capsys, "status", folder.name, "--json")
    assert (status, json.loads(out)["state"]) == (0, "stopped")


def test_a_stop_is_not_lost_on_a_driver_that_is_just_coming(tmp_path, monkeypatch):
    """It is asked for once the driver has its lock; either it holds, or nobody was told it does."""
    folder = StudyFolder.create(small_spec(), tmp_path / "sdw-studies")
    real, stops = StudyFolder.driving, []

    @contextmanager
    def driving(self):
        with real(self) as heartbeat:
            command = [sys.executable, "-m", "study.cli", "stop", str(folder.path)]
            stops.append(subprocess.Popen(command, stderr=subprocess.PIPE))
            with suppress(subprocess.TimeoutExpired):
                stops[0].wait(5)  # it ends not before this driver has left, or never began
            yield heartbeat

    monkeypatch.setattr(StudyFolder, "driving", driving)
    monkeypatch.setattr(TrialBook, "remaining", lambda self: 0)
    drive(folder, None, Display(folder, quiet))
    stops[0].communicate()
    assert folder.stop_flag.exists() == (stops[0].returncode == 0)


def test_status_says_once_what_trials_were_warned_of(capsys, tmp_path):
    """Whatever the numbers in it; and a database that is made anew still says so."""
    folder = StudyFolder.create(small_spec(), tmp_path / "sdw-studies")
    search = StudySearch(folder.book(), folder_of=folder.trial)
    for name, warnings in (("a", ["The return is -1.5."]), ("b", []), ("c", ["The return is 2."])):
        search.suggest(name)
        document = json.loads(report(normalized_return=1.0)["document"])
        search.on_trial_complete(name, {"document": json.dumps(document | {"warnings": warnings})})
    for more in ([], ["--rebuild"]):
        status, out, err = sdw(capsys, "status", folder.name, *more, "--json")
        assert status == 0
        document = json.loads(out)
        assert document["warnings"] == [{"warning": "The return is -1.5.", "trials": 2}]
        assert [trial["warnings"] for trial in document["trials"]] == [
            ["The return is -1.5."], [], ["The return is 2."],
        ]  # fmt: skip
    _, _, err = sdw(capsys, "status", folder.name)
    assert err == "warning, 2 trials: The return is -1.5.\n"


def test_a_rebuild_says_what_it_did(capsys, tmp_path):
    folder = StudyFolder.create(small_spec(), tmp_path / "sdw-studies")
    search = StudySearch(folder.book())
    search.suggest("a")
    search.on_trial_complete("a", report(normalized_return=3.0))
    search.suggest("b")
    (folder.path / "study.db").write_bytes(b"\x00" * 10_000)
    for companion in folder.path.glob("study.db-*"):
        companion.unlink()
    status, out, err = sdw(capsys, "status", folder.name)
    assert (status, out, err.count("\n")) == (1, "", 1), err
    assert "--rebuild" in err
    status, out, err = sdw(capsys, "status", folder.name, "--rebuild", "--json")
    document = json.loads(out)
    assert (status, document["best"]) == (0, [0])
    assert document["rebuilt"]["outcomes"] == {"COMPLETE": 1, "WAITING": 1}
    assert Path(document["rebuilt"]["kept"]).read_bytes() == b"\x00" * 10_000
    assert "1 COMPLETE, 1 WAITING" in err
    assert document["rebuilt"]["kept"] in err


ODD = "[old] \x1b[31m\n:smile: [/]"
SHOWN = r"[old] \x1b[31m\n:smile: [/]"


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", ODD],
        ["data", "describe", ODD],
        ["validate", f"{ODD}.yaml"],
        ["validate", "quickstart", "--set", f"study.name='{ODD}'"],
        ["validate", "quickstart", "--set", ODD],
        ["evaluate", ODD],
        [ODD],
        ["status", f"--{ODD}"],
        ["status", "a", ODD],
    ],
)
def test_what_was_typed_is_told_as_it_is_and_in_one_line(capsys, arguments):
    status, out, err = sdw(capsys, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert "\x1b" not in err
    assert "[old] " in err
    assert "31m" in err


def test_a_dataset_and_a_study_of_any_name_are_printed_as_they_are(capsys, tmp_path):
    path = tmp_path / "[old] :smile: x.hdf5"
    status, out, _ = sdw(capsys, "data", "describe", str(write_d4rl(path)))
    assert (status, str(path) in out) == (0, True)
    storage = tmp_path / "[red]" / f"{'long-' * 20}"
    folder = StudyFolder.create(small_spec(), storage)
    search = StudySearch(folder.book())
    search.suggest("a")
    search.on_trial_complete("a", report("FAILED") | {"document": json.dumps(reasoned(ODD))})
    for command in (["status", str(folder.path)], ["status", str(folder.path), "--rebuild"]):
        status, out, err = sdw(capsys, *command)
        assert (status, SHOWN in out) == (0, True), out
    assert f"kept as {folder.path}" in err


def reasoned(reason: str) -> dict[str, object]:
    return {"outcome": "FAILED", "reason": reason, "seconds": 1.0}


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (TypeError("bad [x]\nmore"), "internal error: TypeError: bad [x]; run the command again"),
        (KeyError(), "internal error: KeyError: "),
        (OSError(28, "No space left on device", "/a/[b]"), "No space left on device: /a/[b]."),
    ],
)
def test_whatever_goes_wrong_is_one_sentence_and_its_traceback_on_demand(
    capsys, monkeypatch, error, word
):
    def fails(*arguments):
        raise error

    monkeypatch.setattr("sdw_core.dataset.available", fails)
    status, out, err = sdw(capsys, "data", "list")
    assert (status, out, err.count("\n")) == (1, "", 1), err
    assert word in err
    monkeypatch.setenv("SDW_DEBUG", "1")
    status, out, err = sdw(capsys, "data", "list")
    assert (status, "Traceback" in err, word in err.splitlines()[-1]) == (1, True, True)


def test_ctrl_c_is_no_error_of_ours(capsys, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    for place in ("sdw_core.dataset.available", "study.cli.app.make_ready"):
        monkeypatch.setattr(place, interrupted)
        assert sdw(capsys, "data", "list") == (130, "", "")
