"""What terminals and batch systems send: a study stops in order, and goes on."""

import json
import signal
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest

from sdw_core.files import read_json
from study.folder import StudyFolder
from tests.integration.processes import (
    LONG,
    World,
    by_number,
    ended,
    signal_group,
    tiny_study,
    wait_until,
)


def distilling(folder: StudyFolder) -> bool:
    """Whether a trial of a process that lives is in its distillation."""
    said = [read_json(path) for path in folder.path.glob("trials/*/progress.json")]
    return any(p["stage"] == "distill" and psutil.pid_exists(p["pid"]) for p in said)


@pytest.mark.slow
def test_a_study_stops_in_order_whatever_asks_it_to(world: World) -> None:
    """What comes to the whole group comes to the driver's Ray as well."""
    spec = world.path / "asked.yaml"
    spec.write_text(tiny_study("name: asked, trials: 3", 100 * LONG))
    folder = StudyFolder(world.path / "sdw-studies" / "asked")
    given = ("launch", spec)
    for number, to_group in (
        (signal.SIGHUP, True),
        (signal.SIGTERM, True),
        (signal.SIGUSR1, False),
    ):
        driver = world.start(*given, "--json")
        given = ("resume", "asked")
        wait_until(partial(distilling, folder), driver)
        if to_group:
            signal_group(driver, number)
        else:
            driver.send_signal(number)
        status, out, err = ended(driver)
        assert status == 0, err
        assert "go on with `sdw resume" in err
        assert "Traceback" not in err
        document = json.loads(out)
        assert document["state"] == "stopped"
        waiting = [n for n, t in by_number(document).items() if t["outcome"] == "WAITING"]
        assert any((folder.trial(n) / "checkpoint.safetensors").exists() for n in waiting)
        assert folder.driver() == {}


@pytest.mark.slow
def test_a_stop_that_comes_as_a_trial_is_proposed_ends_in_order(world: World) -> None:
    """Tune holds a trial then that never began, and has no folder."""
    program = (sys.executable, Path(__file__).with_name("stopped_at_once.py"))
    status, _, err = ended(world.start(world.path / "at-once", program=program))
    assert status == 0, err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_signal_while_ray_starts_is_heard(world: World, number: signal.Signals) -> None:
    spec, name = world.path / "early.yaml", f"early-{number}"
    spec.write_text(tiny_study(f"name: {name}, trials: 3", LONG))
    folder = StudyFolder(world.path / "sdw-studies" / name)
    driver = world.start("launch", spec)
    wait_until(folder.driver, driver)
    driver.send_signal(number)
    status, _, err = ended(driver)
    assert status == 0, err
    assert "go on with `sdw resume" in err
    assert "Traceback" not in err
    assert not any(folder.path.glob("trials/*/progress.json"))
    assert not folder.driven()
