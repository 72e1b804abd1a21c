"""A study that is interrupted in every way, and goes on."""

import json
import os
import signal
import socket

import psutil
import pytest

from sdw_core.files import read_json
from study.folder import StudyFolder
from tests.integration.processes import (
    KEYS,
    LONG,
    Sdw,
    World,
    by_number,
    ended,
    signal_group,
    tiny_study,
    wait_until,
)

TWO_OBJECTIVES = (
    "study.objectives=[{metric: normalized_return, mode: max}, {metric: synthetic_size, mode: min}]"
)


def checkpoint_written(folder: StudyFolder) -> bool:
    return any(folder.path.glob("trials/*/checkpoint.safetensors"))


def distilling(folder: StudyFolder) -> dict[int, int]:
    """Trial -> process that distils it at this moment."""
    said = {int(p.parent.name): read_json(p) for p in folder.path.glob("trials/*/progress.json")}
    return {
        number: progress["pid"]
        for number, progress in said.items()
        if progress["stage"] == "distill" and psutil.pid_exists(progress["pid"])
    }


def test_a_killed_study_goes_on_and_has_every_number_once(world: World, sdw: Sdw) -> None:
    """Two objectives; everything that runs dies in the first distillations."""
    spec = world.path / "two.yaml"
    spec.write_text(tiny_study("name: two, trials: 3", LONG))
    folder = StudyFolder(world.path / "sdw-studies" / "two")
    driver = world.start("launch", spec, "--set", TWO_OBJECTIVES, "--json")
    wait_until(lambda: checkpoint_written(folder), driver)
    world.kill()
    ended(driver)
    assert checkpoint_written(folder)
    status, out, _ = sdw("status", "two", "--json")
    assert status == 0
    killed = by_number(json.loads(out))
    unfinished = {n: t["params"] for n, t in killed.items() if t["outcome"] == "WAITING"}
    assert unfinished

    status, out, err = world.run("resume", "two", "--json")
    assert status == 0, err
    finished = json.loads(out)
    assert finished["state"] == "finished"
    trials = by_number(finished)
    assert set(trials) == {0, 1, 2}
    assert {trial["outcome"] for trial in trials.values()} == {"COMPLETE"}
    for number, params in unfinished.items():
        assert trials[number]["params"] == params
    assert len({tuple(trial["params"].values()) for trial in trials.values()}) == 3
    assert len(folder.book().trials()) == 3

    points = {n: trial["values"] for n, trial in trials.items()}
    front = {
        n
        for n, (score, size) in points.items()
        if not any(s >= score and z <= size and (s, z) != (score, size) for s, z in points.values())
    }
    assert set(finished["best"]) == front
    status, out, _ = sdw("export", "two", "--pareto", "--to", "front", "--json")
    assert status == 0
    exported = json.loads(out)["folders"]
    assert {path.rpartition("-")[2] for path in exported} == {str(n) for n in front}

    status, out, err = sdw("status", "two", "--rebuild", "--json")
    assert status == 0, err
    rebuilt = json.loads(out)
    assert rebuilt.pop("rebuilt")["outcomes"] == {"COMPLETE": 3}
    assert rebuilt == {key: finished[key] for key in KEYS}


@pytest.mark.slow
def test_a_worker_that_dies_is_followed_by_another_and_ctrl_c_stops_in_order(
    world: World, sdw: Sdw
) -> None:
    """And nobody else drives the study meanwhile."""
    spec = world.path / "endless.yaml"
    spec.write_text(tiny_study("name: endless, trials: 4", 100 * LONG))
    folder = StudyFolder(world.path / "sdw-studies" / "endless")
    driver = world.start("launch", spec, "--json")
    wait_until(lambda: checkpoint_written(folder) and distilling(folder), driver)
    number, worker = next(iter(distilling(folder).items()))
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: distilling(folder).get(number, worker) != worker, driver)
    status, out, err = sdw("resume", "endless")
    assert (status, out) == (2, "")
    assert f"is being run by process {driver.pid}" in err
    status, out, _ = sdw("status", "endless", "--json")
    document = json.loads(out)
    assert (status, document["state"]) == (0, "running")
    assert document["driver"] == {"host": socket.gethostname(), "pid": driver.pid}
    signal_group(driver, signal.SIGINT)
    status, out, err = ended(driver)
    assert status == 0, err
    assert "sdw resume" in err
    stopped = json.loads(out)
    assert stopped["state"] == "stopped"
    waiting = {n: t for n, t in by_number(stopped).items() if t["outcome"] == "WAITING"}
    assert waiting
    assert any((folder.trial(n) / "checkpoint.safetensors").exists() for n in waiting)
