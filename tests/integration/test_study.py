"""Studies from end to end: real Ray, real Optuna, real files, and processes that die."""

import json
import os
import re
import socket
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from filelock import FileLock

from sdw_core.files import read_json
from study.folder import StudyFolder
from tests.integration.processes import (
    KEYS,
    LONG,
    Sdw,
    World,
    by_number,
    created,
    ended,
    wait_until,
)

TRIAL_KEYS = {
    *("number", "outcome", "reason", "params", "values", "interval", "seconds", "stages"),
    *("retry_of", "warnings", "ensemble", "node", "ended", "standard_error", "judged"),
    *("asked", "violates"),
}
SEARCHED = {"weighting.temperature", "distill.synthetic_size"}
SCORE_KEYS = {"mean", "iqm", "low", "high", "per_policy"}


# A study that runs to its end


@pytest.fixture(scope="module")
def launched(world: World, spec: str) -> dict[str, Any]:
    status, out, err = world.run("launch", spec, "--json")
    assert status == 0, err
    assert [line for line in err.splitlines() if line.startswith("trial ")], err
    assert "Traceback" not in err
    assert "Warning" not in err
    document: dict[str, Any] = json.loads(out)
    return document


@pytest.fixture(scope="module")
def folder(world: World, launched: dict[str, Any]) -> StudyFolder:
    return StudyFolder(world.path / "sdw-studies" / "one")


def test_stdout_is_one_document_of_complete_trials(launched: dict[str, Any]) -> None:
    assert set(launched) == KEYS
    assert (launched["study"], launched["state"]) == ("one", "finished")
    trials = by_number(launched)
    assert set(trials) == {0, 1, 2}
    for trial in trials.values():
        assert set(trial) == TRIAL_KEYS
        assert (trial["outcome"], trial["reason"]) == ("COMPLETE", None)
        assert set(trial["params"]) == SEARCHED
        assert trial["interval"][0] <= trial["values"][0] <= trial["interval"][1]
        assert trial["seconds"] >= sum(trial["stages"].values()) * 0.99
    ranked = sorted(trials, key=lambda number: -trials[number]["values"][0])
    if race := launched["race"]:  # where a tenth of the trials' time pays for one
        assert race["contenders"] == ranked[: len(race["contenders"])]
    assert launched["best"] == ([race["winner"]] if race else ranked[:1])


def test_trials_share_their_dataset_one_density_and_one_expert(folder: StudyFolder) -> None:
    """Beside another expert, which the study's end made of all the data and judged."""
    stages = sorted(path.name.split("-")[0] for path in folder.cache.glob("*.safetensors"))
    assert stages == ["dataset", "density", "expert", "expert", "judged"]


def test_what_each_trial_was_is_on_its_record(folder: StudyFolder) -> None:
    for trial in folder.book().trials():
        record = json.loads(trial.user_attrs["trial"])
        assert record["ray_trial_id"]
        assert record["config_hash"] == read_json(
            folder.trial(trial.number) / "result.json"
        )["config_hash"]  # fmt: skip


def test_status_is_the_same_document(sdw: Sdw, launched: dict[str, Any]) -> None:
    status, out, err = sdw("status", "one", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out) == {key: launched[key] for key in KEYS}


def test_resume_of_a_finished_study_changes_nothing(sdw: Sdw, launched: dict[str, Any]) -> None:
    status, out, _ = sdw("resume", "one", "--json")
    assert (status, json.loads(out)) == (0, launched)


def test_the_winner_is_exported_and_evaluates_to_what_its_manifest_says(
    world: World, sdw: Sdw, launched: dict[str, Any]
) -> None:
    (exported,) = launched["exports"]
    status, out, _ = sdw("evaluate", exported, "--json")
    assert (status, set(json.loads(out))) == (0, SCORE_KEYS)
    manifest = json.loads((world.path / exported / "manifest.json").read_text())
    assert json.loads(out) == manifest["scores"]["synthetic"]
    assert manifest["scores"]["search"]["mean"] == pytest.approx(
        by_number(launched)[launched["best"][0]]["values"][0]
    )


def test_its_page_says_what_the_document_says(world: World, launched: dict[str, Any]) -> None:
    page = (world.path / launched["report"]).read_text()
    assert f"finished: {launched['settled']} of {launched['asked']} trials" in page
    assert f"trial {launched['best'][0]}: normalised return on fresh seeds" in page


def test_export_writes_the_best_and_never_overwrites(
    world: World, sdw: Sdw, launched: dict[str, Any]
) -> None:
    status, out, _ = sdw("export", "one", "--top", 2, "--to", "best", "--json")
    assert status == 0
    document = json.loads(out)
    assert set(document) == {"study", "folders"}
    assert [path.split("/")[0] for path in document["folders"]] == ["best", "best"]
    assert document["folders"][0].endswith(f"trial-{launched['best'][0]}")
    status, out, err = sdw("export", "one", "--to", "best", "--json")
    assert (status, out) == (2, "")
    assert err.startswith("sdw: An export never overwrites")


def test_a_front_is_not_exported_where_there_is_one_objective(
    world: World, sdw: Sdw, launched: dict[str, Any]
) -> None:
    status, _, err = sdw("export", "one", "--pareto", "--to", "front")
    assert (status, len(err.splitlines())) == (2, 1)
    assert not (world.path / "front").exists()


@pytest.mark.parametrize(
    ("override", "which"),
    [("study.trials=4", "with this very spec"), ("study.seed=1", "with another spec")],
)
def test_launching_it_again_is_refused(
    sdw: Sdw, spec: str, folder: StudyFolder, override: str, which: str
) -> None:
    def files() -> list[Path]:
        """All but what SQLite puts beside a database for as long as this process has it open."""
        return sorted(each for each in folder.path.rglob("*") if "study.db-" not in each.name)

    before = files()
    status, out, err = sdw("launch", spec, "--set", override, "--json")
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("sdw: ")
    assert which in line
    assert re.search("`sdw resume /.*/one`", line)
    assert files() == before


def test_a_cluster_that_is_not_there_is_refused_and_leaves_no_study(
    world: World, sdw: Sdw, spec: str
) -> None:
    command = ("launch", spec, "--name", "far", "--address", "127.0.0.1:1")
    status, out, err = sdw(*command)
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert "127.0.0.1:1" in line
    assert not (world.path / "sdw-studies" / "far").exists()


@pytest.mark.slow
def test_an_ensemble_is_searched_like_any_setting_and_named_to_the_end(
    world: World, sdw: Sdw, spec: str
) -> None:
    """From the table of trials to a policy in a file; the random draws of 5 trials hold both."""
    ensembles = "search.evaluation.ensemble={type: categorical, choices: [1, 10]}"
    sets = ("--set", ensembles, "--set", "study.startup_trials=5")
    status, out, err = world.run("launch", spec, "--name", "many", "--trials", 5, *sets)
    assert status == 0, err
    document = json.loads(sdw("status", "many", "--json")[1])
    trials = by_number(document)
    kinds = {number: trial["params"]["evaluation.ensemble"] for number, trial in trials.items()}
    assert {number: trial["ensemble"] for number, trial in trials.items()} == kinds
    assert set(kinds.values()) == {1, 10}
    lines = out.splitlines()
    headings = next(line for line in lines if "temperature" in line).split()
    for number, kind in kinds.items():
        (line,) = [line for line in lines if re.match(rf" +{number} +0\.", line)]
        assert line.split()[headings.index("ensemble")] == str(kind)
    (best,) = document["best"]
    for name in ("synthetic rows", "random rows, as many"):
        assert (f"{name}, ensembles of 10" in out) == (kinds[best] == 10)
    status, out, _ = sdw("export", "many", "--top", 5, "--to", "all", "--json")
    assert status == 0
    for folder in json.loads(out)["folders"]:
        kind = kinds[int(folder.rpartition("-")[2])]
        manifest = read_json(world.path / folder / "manifest.json")
        scores = manifest["scores"]
        assert manifest["evaluation"].get("ensemble", 1) == kind
        assert "ensemble" not in scores["synthetic"]
        score = scores["synthetic" if kind == 1 else "synthetic_ensemble"]
        assert json.loads(sdw("evaluate", folder, "--json")[1]) == score
        card = (world.path / folder / "README.md").read_text()
        assert ("these rows, ensembles of 10" in card) == (kind == 10)
    _, out, _ = sdw("train", folder, "--to", "policy.pt2", "--json")
    assert json.loads(out)["ensemble"] == kind


# A study whose trials fail, wait, or are ended


@pytest.mark.slow
def test_a_hung_trial_is_ended_while_the_study_is_extended_and_goes_on(
    world: World, spec: str
) -> None:
    """The trial reads for ever a checkpoint that nobody writes."""
    settings = ("study.trials=1", "study.concurrency=1", "study.trial_timeout=30")
    hung = created(world, spec, "hung", *settings)
    hung.trial(0).mkdir(parents=True)
    os.mkfifo(hung.trial(0) / "checkpoint.safetensors")
    driver = world.start("resume", "hung", "--json")
    wait_until((hung.trial(0) / "progress.json").exists, driver)
    status, out, err = world.run("extend", "hung", "--trials", 1, "--json")
    assert (status, json.loads(out)["state"]) == (0, "running")
    assert f"process {driver.pid} on {socket.gethostname()} takes them up" in err
    status, out, err = ended(driver)
    assert status == 0, err
    first, second = json.loads(out)["trials"]
    assert first["outcome"] == "FAILED"
    assert first["reason"].startswith("timeout: the trial ran for more than 30 s")
    assert "checkpoint.py" in (hung.trial(0) / "hung.txt").read_text()
    assert second["outcome"] == "COMPLETE"


@pytest.mark.slow
def test_a_trial_that_waits_for_another_ones_stage_longer_than_it_may_run_completes(
    world: World, spec: str, folder: StudyFolder
) -> None:
    settings = ("study.trials=1", "study.concurrency=1", "study.trial_timeout=20")
    waits = created(world, spec, "waits", *settings)
    (computed,) = folder.cache.glob("density-*.lock")
    (waits.path / "cache").unlink()  # else the other study's stages are at hand
    waits.cache.mkdir()
    progress = waits.trial(0) / "progress.json"
    with FileLock(waits.cache / computed.name):
        driver = world.start("resume", "waits", "--json")
        wait_until(lambda: progress.exists() and read_json(progress)["waiting"], driver)
        sleep(20 + 12)  # the grace too
    status, out, err = ended(driver)
    assert status == 0, err
    (trial,) = json.loads(out)["trials"]
    assert trial["outcome"] == "COMPLETE"
    assert trial["seconds"] < 20


@pytest.mark.slow
def test_a_worker_that_ray_ends_for_memory_is_out_of_memory(spec: str) -> None:
    crowded = World()
    crowded.env |= {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "100"}
    try:
        settings = (f"pipeline.distill.outer_steps={100 * LONG}", "study.concurrency=1")
        sets = [part for setting in settings for part in ("--set", setting)]
        status, out, err = crowded.run("launch", spec, "--trials", 1, *sets, "--json")
    finally:
        crowded.end()
    assert status == 1
    (trial,) = json.loads(out)["trials"]
    assert (trial["outcome"], trial["reason"].partition(":")[0]) == ("FAILED", "out of memory")
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_time_budget_ends_a_study_in_order(world: World, spec: str) -> None:
    settings = ("study.time_budget=20", f"pipeline.distill.outer_steps={100 * LONG}")
    budget = created(world, spec, "budget", *settings)
    status, out, err = world.run("resume", "budget", "--json")
    assert status == 0, err
    assert "stopped with 3 trials to go, as the time budget of 20 s is over; go on with" in err
    document = json.loads(out)
    assert (document["state"], document["driver"]) == ("stopped", None)
    assert {trial["outcome"] for trial in document["trials"]} == {"WAITING"}
    assert budget.driver() == {}
