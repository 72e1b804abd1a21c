"""kill -9 of workers, drivers and Ray's node, at random moments: nothing is lost or doubled."""

import json
import random
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from time import sleep

import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sdw_core.cache import StageCache
from sdw_core.files import read_json
from sdw_core.progress import points_between
from study.curves import read_curves
from study.folder import StudyFolder
from study.outcomes import config_hash
from tests.integration.processes import LONG, World, ended, steps_done, tiny_study, wait_until

KILLS = 5
"""A study; four studies make 20."""
KINDS = ["worker", "pool", "driver", "worker", "driver", "node"]
NODE = ("raylet", "ray::RuntimeEnvAgent", "ray::DashboardAgent")
"""What makes a node of Ray: it dies with the first of them."""
WORKERS = ("ray::IDLE", "ray::ImplicitFunc")


SIZE = "distill.synthetic_size"


def text_of(name: str, early_stopping: str, more: str = "") -> str:
    return tiny_study(f"name: {name}, trials: 5, early_stopping: {early_stopping}{more}", LONG)


class Driven:
    """A study and the process that drives it, launched or resumed whenever there is none."""

    def __init__(self, world: World, name: str, early_stopping: str) -> None:
        self.world = world
        self.folder = StudyFolder(world.path / "sdw-studies" / name)
        self.spec = world.path / f"{name}.yaml"
        self.spec.write_text(text_of(name, early_stopping, f", enqueue: [{{{SIZE}: 10}}]"))
        self.go_on()

    def go_on(self) -> None:
        begun = (self.folder.path / "study.yaml").exists()
        command = ("resume", self.folder.name) if begun else ("launch", self.spec)
        self.process: subprocess.Popen[str] = self.world.start(*command, "--json")

    def targets(self, kind: str) -> list[psutil.Process]:
        """The processes below the driver that a kill of this kind may hit."""
        found = []
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    name = process.name()
                    if name in NODE if kind == "node" else name.startswith(WORKERS):
                        found.append(process)
        return found

    def kill(self, kind: str, dice: random.Random) -> None:
        """Kill something of this study; a driver that dies is followed by another."""
        while kind != "driver" and not self.targets(kind) and self.process.poll() is None:
            sleep(0.05)
        sleep(dice.uniform(0, 12 if kind == "driver" else 6))
        targets = self.targets(kind) if kind != "driver" else []
        for target in targets if kind == "pool" else targets and [dice.choice(targets)]:
            with suppress(psutil.NoSuchProcess):
                target.send_signal(signal.SIGKILL)
        if not targets:
            self.process.kill()
        if not targets or kind == "node":
            ended(self.process)
            self.go_on()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(4))
def test_after_any_kill_every_trial_has_one_result_under_its_number(
    world: World, seed: int
) -> None:
    dice = random.Random(seed)
    stopping = "{reduction_factor: 2, policies: 1, episodes: 1}" if seed % 2 else "null"
    driven = Driven(world, f"killed-{seed}", stopping)
    kinds = dice.sample(KINDS, KILLS)
    for index, kind in enumerate(kinds):
        driven.kill(kind, dice)
        if index == 1:  # whether a driver lives or not at this moment
            queued = world.run("enqueue", driven.folder.name, f"{SIZE}=12", "--extend", "--json")
            assert queued[0] == 0, queued[2]
    ended(driven.process)
    status, out, err = world.run("resume", driven.folder.name, "--json")
    assert status == 0, err
    assert json.loads(out)["state"] == "finished"
    check(driven.folder)
    asked = [row.params[SIZE] for row in driven.folder.book().rows() if row.asked]
    assert asked == [10, 12]


@pytest.mark.slow
def test_a_study_killed_in_a_distillation_ends_as_if_it_had_not_been(world: World) -> None:
    """With early stopping, one trial at a time: every trial's rows, to the bit, and every rung."""
    stopping = "{grace: 0.1, reduction_factor: 2, policies: 1, episodes: 1}"
    settings = ("--set", "study.trials=2", "--set", "study.concurrency=1", "--json")
    folders = []
    for name in ("killed", "straight"):
        spec = world.path / f"{name}.yaml"
        spec.write_text(text_of(name, stopping))
        folders.append(StudyFolder(world.path / "sdw-studies" / name))
    killed, straight = folders
    checkpoint = killed.trial(0) / "checkpoint.safetensors"

    driver = world.start("launch", world.path / "killed.yaml", *settings)
    wait_until(lambda: checkpoint.exists() and steps_done(checkpoint) > 0.2 * LONG, driver)
    world.kill()
    ended(driver)
    assert 0.2 * LONG < steps_done(checkpoint) < LONG
    status, out, err = world.run("resume", "killed", "--json")
    assert status == 0, err
    status, expected, err = world.run("launch", world.path / "straight.yaml", *settings)
    assert status == 0, err

    found, wanted = (json.loads(document) for document in (out, expected))
    assert found["early_stopping"] == wanted["early_stopping"]
    for one, other in zip(found["trials"], wanted["trials"], strict=True):
        for key in ("number", "outcome", "reason", "params", "values", "interval"):
            assert one[key] == other[key]
    for one, other in zip(killed.book().trials(), straight.book().trials(), strict=True):
        assert one.intermediate_values == other.intermediate_values != {}
    rows = [folder.trial(0) / "rows.safetensors" for folder in folders]
    assert rows[0].read_bytes() == rows[1].read_bytes()
    for number in range(2):
        one, other = (read_curves(folder.trial(number)) for folder in folders)
        assert {n: c for n, c in one.items() if "second" not in n} == {
            n: c for n, c in other.items() if "second" not in n
        }
        assert one["return/rung"].steps
        check_event_files(killed.trial(number))


def check_event_files(trial: Path) -> None:
    """TensorBoard shows each point of each curve, once."""
    seen = EventAccumulator(str(trial)).Reload()
    for name, curve in read_curves(trial).items():
        assert [event.step for event in seen.Scalars(name)] == curve.steps


def check(folder: StudyFolder) -> None:
    """Every asked trial is final, has its own result and no other, and the cache is sound."""
    spec, rows = folder.spec(), folder.book().rows()
    assert [row.number for row in rows] == list(range(spec.study.trials))
    assert sorted(path.name for path in (folder.path / "trials").iterdir()) == [
        str(row.number) for row in rows
    ]
    assert len({tuple(row.params.values()) for row in rows}) == len(rows)
    for row in rows:
        result = read_json(folder.trial(row.number) / "result.json")
        assert row.outcome == result["outcome"]
        assert row.outcome in ("COMPLETE", "PRUNED"), row.reason
        assert result["number"] == row.number
        assert result["config_hash"] == config_hash(spec.pipeline_with(row.params))
        if row.outcome == "COMPLETE":
            assert row.values == [result["metrics"]["normalized_return"]]
            assert (folder.trial(row.number) / "rows.safetensors").exists()
            losses = read_curves(folder.trial(row.number))["distill/meta_loss"]
            assert losses.steps == list(points_between(0, LONG, LONG))
        check_event_files(folder.trial(row.number))
        assert not (folder.trial(row.number) / "checkpoint.safetensors").exists()
    entries = StageCache(folder.cache).entries()
    stages = sorted(entry.stage for entry in entries)
    assert stages == ["dataset", "density", "expert", "expert", "judged"]
    assert all(entry.sound() for entry in entries)
