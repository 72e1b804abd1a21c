"""What the first version made is read, exported and gone on with; see tests/legacy/README.md."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sdw_core import identity
from sdw_core.artifact import read_artifact
from sdw_core.config import PipelineConfig
from sdw_core.dataset import load_datasets
from sdw_core.files import read_json, write_json
from sdw_core.identity import METHOD, Inventory
from search_spaces import load_comparison
from study.comparison import ComparisonFolder, check_comparison, run_cell
from study.folder import StudyFolder
from study.outcomes import config_hash
from tests.study.commands import sdw
from tests.study.conftest import by_another_method
from tests.study.reports import run_trials

LEGACY = Path(__file__).parents[1] / "legacy"
CELLS = {
    "rows-0ffda98c5e8547e0",
    "rows-30911e666b46a5b2",
    "rows-942c697526d99ca8",
    "expert-5251b180a3091841",
}


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    return Path(shutil.copytree(LEGACY / "finished", tmp_path / "finished"))


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    return Path(shutil.copytree(LEGACY / "stopped", tmp_path / "stopped"))


@pytest.fixture
def compared(tmp_path: Path) -> ComparisonFolder:
    return ComparisonFolder(Path(shutil.copytree(LEGACY / "compared", tmp_path / "compared")))


def test_its_studies_are_looked_at(capsys, finished: Path, stopped: Path) -> None:
    for path, state, outcomes in (
        (finished, "finished", ["COMPLETE"] * 3),
        (stopped, "stopped", ["COMPLETE", "WAITING"]),
    ):
        status, out, err = sdw(capsys, "status", str(path), "--json")
        assert status == 0, err
        document = json.loads(out)
        assert document["state"] == state
        assert [trial["outcome"] for trial in document["trials"]] == outcomes


def test_its_database_is_made_anew(capsys, finished: Path) -> None:
    before = StudyFolder(finished).book().rows()
    status, _, err = sdw(capsys, "status", str(finished), "--rebuild")
    assert status == 0, err
    assert StudyFolder(finished).book().rows() == before


def test_its_trials_are_exported_and_its_exports_evaluated(
    capsys, finished: Path, tmp_path: Path
) -> None:
    status, out, err = sdw(capsys, "export", str(finished), "--to", str(tmp_path / "to"), "--json")
    assert status == 0, err
    (again,) = (Path(folder) for folder in json.loads(out)["folders"])
    first = finished / "exports" / "trial-0"
    assert again.name == "trial-0"
    made, there = read_artifact(again), read_artifact(first)
    assert np.array_equal(made.observations, there.observations)
    assert np.array_equal(made.actions, there.actions)
    status, out, err = sdw(capsys, "evaluate", str(first), "--json")
    assert status == 0, err
    assert json.loads(out)["mean"] == pytest.approx(there.evidence["scores"]["synthetic"]["mean"])
    status, out, err = sdw(capsys, "export", str(finished), "--json")  # it is there
    assert status == 0, err
    assert json.loads(out)["folders"] == [str(first)]


def test_its_trials_go_on(stopped: Path) -> None:
    folder = StudyFolder(stopped)
    now = Inventory.of(folder.spec().reaching(), load_datasets(folder.spec().reaching()))
    folder.require_same_sources(now)
    assert run_trials(folder).changed is None
    assert [row.outcome for row in folder.book().rows()] == ["COMPLETE"] * 2
    before, after = (read_json(folder.trial(number) / "result.json") for number in (0, 1))
    assert after["sources"]["dataset"] == before["dataset"]["content_hash"]


@pytest.mark.parametrize("command", ["resume", "extend"])
def test_it_is_not_gone_on_with_by_another_method(
    capsys, monkeypatch: pytest.MonkeyPatch, stopped: Path, command: str
) -> None:
    monkeypatch.setattr(identity, "METHOD", {**METHOD, "weights": 99})
    given = ["--trials", "1"] if command == "extend" else []
    status, out, err = sdw(capsys, command, str(stopped), *given)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert "its stage `weights` is of version 99 and was of 1" in err
    assert "begin anew under another name" in err


EARLIER = [
    f"pipeline.distill.{setting}"
    for setting in (
        "objective=av_pbc",
        "outer_schedule=constant",
        "state_noise=0",
        "max_gradient_ratio=null",
    )
]
"""What its comparison left to the defaults."""


def test_its_cells_are_taken_if_they_say_that_their_data_were_these(
    compared: ComparisonFolder,
) -> None:
    spec = load_comparison(str(LEGACY / "compare.yaml"), EARLIER)
    inventory = check_comparison(spec)[0]
    found = compared.results(spec, inventory)
    assert {cell.method for cell in found} == {"Av-PBC", "SDW"}
    assert compared.unused(spec, inventory) == 1  # the expert's does not say
    expert = spec.cell("expert", "sdw/hopper-replay-mini-v0")
    result = run_cell(compared, expert, inventory.sources(expert.config), 1, 0)
    stated = read_json(compared.path / "cells/expert-5251b180a3091841/result.json")
    mean = stated["normalized_return"]["mean"]
    assert result.normalized_return.mean == pytest.approx(mean)
    assert {path.name for path in compared.path.glob("cells/*")} > CELLS


def test_its_cells_of_other_data_or_by_another_method_are_left_alone(
    compared: ComparisonFolder,
) -> None:
    spec = load_comparison(str(LEGACY / "compare.yaml"), EARLIER)
    now = check_comparison(spec)[0]
    later = by_another_method(now, "weights")
    assert compared.results(spec, later) == {}
    assert compared.unused(spec, later) == 4
    for path in compared.path.glob("cells/rows-*/result.json"):
        document = read_json(path)
        document["dataset"]["content_hash"] = "of other content"
        write_json(path, document)
    assert compared.results(spec, now) == {}
    assert {path.name for path in compared.path.glob("cells/*")} == CELLS


def test_settings_that_came_later_leave_its_hashes_true() -> None:
    for folder in (LEGACY / "finished", LEGACY / "stopped"):
        study = StudyFolder(folder)
        for record in folder.glob("trials/*/record.json"):
            document = read_json(record)
            assert study.spec().identity == document["identity"]
            if stated := document.get("config_hash"):
                assert config_hash(study.spec().pipeline_with(document["params"])) == stated


def test_settings_that_came_later_are_as_they_were_then() -> None:
    for folder in (LEGACY / "finished", LEGACY / "stopped"):
        for setting in ("outer_schedule", "state_noise", "max_gradient_ratio"):
            assert setting not in (folder / "study.yaml").read_text()
        found = StudyFolder(folder).spec().pipeline.distill
        assert (found.outer_schedule, found.state_noise, found.max_gradient_ratio) == (
            *("constant", 0),
            None,
        )
    config = PipelineConfig(
        dataset="d",
        weighting={"temperature": 0.1},
        distill={
            "objective": "av_pbc",
            "layers": 4,
            "width": 128,
            "outer_steps": 500,
            "outer_schedule": "constant",
            "state_noise": 0,
            "max_gradient_ratio": None,
        },
    )
    # What was made of `PipelineConfig(dataset="d")` when these were the defaults.
    assert config_hash(config) == "efccc440eca9e8ff514d21e86bc6e49ecd89697c8ffc7e4b4217703f5aa1adb1"
