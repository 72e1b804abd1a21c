"""`sdw analyze`: each command end to end, and what it refuses."""

import inspect
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sdw_core.analysis import report
from study.cli import analyze as analysis
from study.cli.analyze import _rows, _verdict
from tests.study.commands import sdw, write_d4rl
from tests.study.conftest import SMALL

pytestmark = pytest.mark.usefixtures("own_folder")

SETS = [
    *("--set", "pipeline.weighting.temperature=0.1"),
    *(part for setting in SMALL if "search" not in setting for part in ("--set", setting)),
]
TINY = {
    "misalignment": "--policies 2 --steps 20 --points 3 --bins 2 --episodes 1",
    "errors": "--size 8 --size 16 --steps 2 --steps 9 --repeats 1 --episodes 1 --expert-episodes 4",
    "coverage": "--bins 6",
}


def analyze(capsys, name: str, *more: str) -> tuple[int, str, str]:
    return sdw(capsys, "analyze", name, "quickstart", *TINY[name].split(), *SETS, *more)


def findings(capsys, name: str, *more: str) -> tuple[dict, pd.DataFrame]:
    """What `--json` prints, and the table, of a run into the folder `found`."""
    status, printed, said = analyze(capsys, name, "--to", "found", "--json", *more)
    assert status == 0, said
    document = json.loads(printed)
    written = json.loads(Path(f"found/{name}.json").read_text())
    assert document == {**written, "folder": "found"}
    assert Path(f"found/{name}.png").read_bytes().startswith(b"\x89PNG")
    assert {path.suffix for path in Path("found").iterdir()} == {".csv", ".json", ".png"}
    return document, pd.read_csv(f"found/{name}.csv")


def test_misalignment(capsys):
    document, table = findings(capsys, "misalignment")
    assert document["diverse"] == "sdw/hopper-replay-mini-v0"
    assert document["narrow"] == "best 10% of sdw/hopper-replay-mini-v0"
    assert document["reverses"] is None
    assert "there are 2; raise `policies`" in document["lacking"]
    assert "far below the" in document["warnings"][-1]
    assert set(table.role) == {"diverse", "narrow"}
    assert len(table) == 2 * 2 * table.steps.nunique()
    assert table.steps.max() == 20
    means = table.groupby(["role", "steps"]).training_loss.mean()
    assert (means.groupby("role").first() > means.groupby("role").last()).all()
    for each in document["bins"]:
        for role in ("diverse", "narrow"):
            low, high = np.multiply(each["loss"], (1 - 1e-5, 1 + 1e-5))  # the table has six digits
            rows = table[(table.role == role) & table.training_loss.between(low, high)]
            if len(rows):
                assert each[role] == pytest.approx(rows.normalized_return.mean(), rel=1e-3)


def test_policies_of_exported_rows_lie_beside_those_of_their_own_set(capsys):
    own = write_d4rl(Path("own.hdf5"), rewards=np.linspace(0, 9, 40, dtype=np.float32))
    named = ("--env", "Hopper-v5", "--name", "my/hopper-v0")
    assert sdw(capsys, "data", "import", str(own), *named)[0] == 0
    sets = (*SETS, "--set", "pipeline.distill.state_noise=0.3")
    sets = (*sets, "--set", "pipeline.distill.synthetic_size=8")
    of = {"diverse": "sdw/hopper-replay-mini-v0", "narrow": "my/hopper-v0"}
    for role, dataset in of.items():
        to = ("--set", f"pipeline.dataset={dataset}", "--to", role)
        assert sdw(capsys, "distill", "quickstart", *sets, *to)[0] == 0
    both = ("diverse", "narrow", "--narrow", of["narrow"])
    document, table = findings(capsys, "misalignment", *both, *sets)
    assert document["state_noise"] == 0.3
    for role, found in zip(of, document["rows"], strict=True):
        manifest = json.loads(Path(f"{role}/manifest.json").read_text())
        assert (found["name"], found["of"], found["policies"]) == (role, role, 2)
        score = manifest["scores"]["synthetic"]["mean"]
        assert found["normalized_return"] == pytest.approx(score)
        points = table[table.role == f"rows of {role}"]
        assert points.normalized_return.mean() == pytest.approx(score, rel=1e-4)
        assert points.training_loss.mean() == pytest.approx(found["training_loss"], rel=1e-4)

    Path("found").rename("done")
    status, printed, said = analyze(capsys, "misalignment", "narrow", "--to", "found", *sets)
    assert (status, printed) == (2, "")
    assert "'narrow' is of my/hopper-v0; give rows of sdw/hopper-replay-mini-v0.\n" in said
    assert not Path("found").exists()


@pytest.mark.parametrize("name", ["misalignment", "errors"])
def test_the_whole_dataset_is_analysed_where_rows_are_of_a_teachers_part(capsys, name):
    whole, rows = findings(capsys, name)
    Path("found").rename("whole")
    part, of_part = findings(capsys, name, "--set", "pipeline.distill.states=teacher")
    assert part == whole
    pd.testing.assert_frame_equal(of_part, rows)


def findings_of(**changes: object) -> dict:
    return {"crossings": [0.1], "reverses": True, "lacking": None} | changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ["changes its sign at a loss of 0.1", "intervals do bear out"]),
        ({"crossings": [], "reverses": False}, ["never changes its sign", "do not bear out"]),
        ({"lacking": "Too few.", "reverses": None}, ["changes its sign", "no verdict: Too few."]),
        ({"crossings": None, "lacking": "Too few.", "reverses": None}, ["no verdict: Too few."]),
    ],
)
def test_a_verdict_takes_what_it_is_about(changes, said):
    lines = list(_verdict(findings_of(**changes)))
    assert len(lines) == len(said)
    assert all(words in line for words, line in zip(said, lines, strict=True))


def test_what_rows_return_is_said_beside_what_clones_do_at_their_loss() -> None:
    rows = {"name": "a", "of": "narrow", "training_loss": 0.0213, "normalized_return": 40.0}
    found = [rows | {"at_equal_loss": 20.5}, rows | {"at_equal_loss": None}]
    assert list(_rows({"rows": found})) == [
        "a: return 40.0 at a training loss of 0.021, where clones of the narrow set return 20.5",
        "a: return 40.0 at a training loss of 0.021, where clones of the narrow set return -",
    ]


def test_errors(capsys):
    document, table = findings(capsys, "errors")
    assert document["policies"] == len(table) == 3 * 2 * 2
    assert set(table.choice) == {"random", "weighted", "best"}
    assert (table.pivotal_error > 0).all()
    assert table.surrounding_share.between(0, 1).all()
    assert document["without_surrounding_states"] == (table.surrounding_share == 0).sum()
    ranks = table[["pivotal_error", "normalized_return"]].rank().corr().iloc[0, 1]
    found = document["correlations"]["all"]["pivotal_error"]["value"]
    assert found == pytest.approx(ranks, abs=1e-6)


def test_coverage_of_sets_distilled_now_and_of_an_exported_one(capsys):
    document, table = findings(capsys, "coverage")
    names = ["temperature 0", "temperature 0.1", "random rows"]
    assert [each["name"] for each in document["sets"]] == names
    assert table.groupby("set").share.sum().tolist() == pytest.approx([1.0] * 4, abs=1e-4)
    assert document["sets"][0]["normalized_return"] is not None
    assert document["sets"][2]["normalized_return"] is None
    ensembles = ("--set", "pipeline.evaluation.ensemble=3")  # single policies judge all the same
    assert analyze(capsys, "coverage", "--to", "ensembles", *ensembles)[0] == 0
    again = json.loads(Path("ensembles/coverage.json").read_text())
    assert again["sets"] == document["sets"]

    status, _, said = sdw(capsys, "distill", "quickstart", *SETS, "--to", "rows")
    assert status == 0, said
    status, printed, _ = analyze(capsys, "coverage", "rows", "--to", "again")
    assert status == 0
    assert "rows" in printed
    (exported,) = json.loads(Path("again/coverage.json").read_text())["sets"]
    same = document["sets"][1]  # distilled by the same settings and seed
    assert exported["distance"] == pytest.approx(same["distance"], rel=1e-4)
    assert exported["rare_share"] == same["rare_share"]
    manifest = json.loads(Path("rows/manifest.json").read_text())
    assert exported["normalized_return"] == manifest["scores"]["synthetic"]["mean"]


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("misalignment", ["--narrow", "sdw/hoper-replay-mini-v0"], "hoper-replay-mini"),
        ("errors", ["--quantile", "1.5"], "`quantile` must be less than 1, not 1.5"),
        ("errors", ["--size", "0"], "`size.2` must be greater than 0, not 0"),
        ("errors", ["--size", "999999"], "cannot exceed the 4976 transitions"),
        ("errors", ["--expert-episodes", "1"], "`expert_episodes` must be at least 2, not 1"),
        ("coverage", ["nowhere"], "'nowhere' is not an exported synthetic dataset"),
        ("coverage", ["--set", "pipeline.distil.seeds=2"], "unknown key"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(capsys, name, more, said):
    status, printed, error = analyze(capsys, name, "--to", "found", *more)
    assert status == 2
    assert printed == ""
    assert said in error
    assert error.count("\n") == 1
    assert not list(Path.cwd().glob("*found*"))


@pytest.mark.parametrize("command", [analysis.misalignment, analysis.errors, analysis.coverage])
def test_a_command_and_its_function_have_the_same_defaults(command):
    of_function = inspect.signature(getattr(report, command.__name__)).parameters
    for name, option in inspect.signature(command).parameters.items():
        if name in of_function and name != "cache":
            default = of_function[name].default
            assert option.default == (list(default) if isinstance(default, tuple) else default)


def test_a_folder_is_never_overwritten(capsys):
    Path("found").mkdir()
    for name in TINY:
        status, _, error = analyze(capsys, name, "--to", "found")
        assert status == 2
        assert "'found' exists" in error
    assert not list(Path("found").iterdir())


def test_datasets_of_two_environments_are_refused(capsys):
    other = write_d4rl(
        Path("walker.npz.hdf5"),
        observations=np.zeros((40, 17), np.float32) + np.arange(40, dtype=np.float32)[:, None],
        actions=np.zeros((40, 6), np.float32),
    )
    import h5py

    with h5py.File(other, "a") as file:
        file.attrs["env_id"] = "Walker2d-v5"
    own = ("data", "import", str(other), "--env", "Walker2d-v5", "--name", "my/walker-v0")
    assert sdw(capsys, *own, "--reference", "0", "5000")[0] == 0
    size = ("--set", "pipeline.distill.synthetic_size=8")
    more = ("--to", "found", "--narrow", "my/walker-v0", *size)
    status, _, error = analyze(capsys, "misalignment", *more)
    assert status == 2
    assert "one environment" in error
    assert not Path("found").exists()


@pytest.mark.parametrize(
    ("name", "option"),
    [
        *(("misalignment", each) for each in ("policies", "steps", "points", "bins", "episodes")),
        *(("errors", each) for each in ("steps", "repeats", "episodes", "expert-episodes")),
        ("coverage", "bins"),
    ],
)
def test_more_than_anyone_can_mean_is_refused(capsys, name, option):
    status, out, err = analyze(capsys, name, "--to", "found", f"--{option}", "100000000000")
    named = f"`{option.replace('-', '_')}" in err
    assert (status, out, err.count("\n"), named) == (2, "", 1, True), err
    assert not Path("found").exists()
