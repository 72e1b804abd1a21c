"""A study of two objectives that is interrupted in every way, and goes on."""

import json
import os
import signal
import socket
from typing import Any

import psutil

from sdw_core.files import read_json
from study.folder import StudyFolder
from tests.integration.processes import (
    KEYS,
    LONG,
    World,
    by_number,
    ended,
    signal_group,
    tiny_study,
    wait_until,
    wait_until_gone,
)

TWO_OBJECTIVES = (
    "study.objectives=[{metric: normalized_return, mode: max}, {metric: synthetic_size, mode: min}]"
)


def test_an_interrupted_study_goes_on_and_has_every_number_once(world: World) -> None:
    """Two objectives; its driver killed, then a worker, then stopped by Ctrl-C, then ended."""
    spec = world.path / "two.yaml"
    spec.write_text(tiny_study("name: two, trials: 4", 4 * LONG))
    folder = StudyFolder(world.path / "sdw-studies" / "two")

    def checkpoint_written() -> bool:
        return any(folder.path.glob("trials/*/checkpoint.safetensors"))

    def distilling() -> dict[int, int]:
        """Trial -> process that distils it at this moment."""
        said = {
            int(p.parent.name): read_json(p) for p in folder.path.glob("trials/*/progress.json")
        }
        return {
            number: progress["pid"]
            for number, progress in said.items()
            if progress["stage"] == "distill" and psutil.pid_exists(progress["pid"])
        }

    def trials() -> dict[int, dict[str, Any]]:
        status, out, _ = world.run("status", "two", "--json")
        assert status == 0
        return by_number(json.loads(out))

    driver = world.start("launch", spec, "--set", TWO_OBJECTIVES, "--json")
    wait_until(checkpoint_written, driver)
    signal_group(driver, signal.SIGKILL)
    ended(driver)
    wait_until_gone(distilling)
    killed = trials()
    unfinished = {n: t["params"] for n, t in killed.items() if t["outcome"] == "WAITING"}
    assert unfinished

    driver = world.start("resume", "two", "--json")
    wait_until(distilling, driver)
    number, worker = next(iter(distilling().items()))
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: distilling().get(number, worker) != worker, driver)
    status, out, err = world.run("resume", "two")
    assert (status, out) == (2, "")
    assert f"is being run by process {driver.pid}" in err
    status, out, _ = world.run("status", "two", "--json")
    document = json.loads(out)
    assert document["state"] == "running"
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

    status, out, err = world.run("resume", "two", "--json")
    assert status == 0, err
    finished = json.loads(out)
    assert finished["state"] == "finished"
    trials_at_the_end = by_number(finished)
    assert set(trials_at_the_end) == {0, 1, 2, 3}
    assert {trial["outcome"] for trial in trials_at_the_end.values()} == {"COMPLETE"}
    for number, params in unfinished.items():
        assert trials_at_the_end[number]["params"] == params
    assert len({tuple(trial["params"].values()) for trial in trials_at_the_end.values()}) == 4
    assert len(folder.book().trials()) == 4

    points = {n: trial["values"] for n, trial in trials_at_the_end.items()}
    front = {
        n
        for n, (score, size) in points.items()
        if not any(s >= score and z <= size and (s, z) != (score, size) for s, z in points.values())
    }
    assert set(finished["best"]) == front
    status, out, _ = world.run("export", "two", "--pareto", "--to", "front", "--json")
    assert status == 0
    exported = json.loads(out)["folders"]
    assert {path.rpartition("-")[2] for path in exported} == {str(n) for n in front}

    status, out, err = world.run("status", "two", "--rebuild", "--json")
    assert status == 0, err
    rebuilt = json.loads(out)
    assert rebuilt.pop("rebuilt")["outcomes"] == {"COMPLETE": 4}
    assert rebuilt == {key: finished[key] for key in KEYS}
