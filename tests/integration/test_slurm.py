"""`sdw slurm` on a real SLURM of two nodes; see `tests/integration/slurm.py`."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sdw_core.files import read_json
from study.folder import StudyFolder
from study.job import NOTE
from tests.integration.processes import LONG, Sdw, World, steps_done, tiny_study
from tests.integration.slurm import Slurm, missing, slurm_of, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def slurm(world: World) -> Iterator[Slurm]:
    if lacks := missing():
        pytest.skip(lacks)
    world.env["RAY_worker_niceness"] = "0"  # a nice worker starves on a machine that is busy
    with slurm_of(world) as slurm:
        yield slurm


@pytest.fixture
def on_login_node(slurm: Slurm, sdw: Sdw, monkeypatch: pytest.MonkeyPatch) -> Sdw:
    """`sdw ARGUMENTS` in this process, on a machine with this SLURM's commands."""
    monkeypatch.setenv("SLURM_CONF", slurm.world.env["SLURM_CONF"])
    return sdw


def spec_of(world: World, name: str, trials: int, outer_steps: int, **study: object) -> Path:
    more = "".join(f", {key}: {value}" for key, value in study.items())
    path = world.path / f"{name}.yaml"
    path.write_text(tiny_study(f"name: {name}, trials: {trials}{more}", outer_steps))
    return path


def submitted(world: World, *arguments: object) -> tuple[StudyFolder, int]:
    """The study and the job of `sdw slurm ARGUMENTS`."""
    status, out, err = world.run("slurm", *arguments, "--json")
    assert status == 0, err
    document = json.loads(out)
    assert document["state"] in ("queued", "running")
    folder = StudyFolder(world.path / "sdw-studies" / document["study"])
    return folder, read_json(folder.path / NOTE)["job"]


def status_of(world: World, folder: StudyFolder) -> dict[str, Any]:
    status, out, err = world.run("status", folder.name, "--json")
    assert status == 0, err
    document: dict[str, Any] = json.loads(out)
    return document


def said(folder: StudyFolder) -> str:
    """What a study's jobs and their Rays said: why a test failed."""
    return "\n".join(path.read_text() for path in folder.path.glob("slurm-*.log"))


def test_a_job_queues_again_when_its_time_ends_is_stopped_and_ends_as_if_uninterrupted(
    slurm: Slurm, world: World
) -> None:
    """The signal that SLURM sends before a time limit comes in the middle of a distillation."""
    steps = 2 * LONG
    spec = spec_of(world, "again", 1, steps)
    folder, job = submitted(world, spec, "--nodes", 2)
    checkpoint = folder.trial(0) / "checkpoint.safetensors"
    wait_for(lambda: checkpoint.exists(), partial(said, folder))
    slurm.ask("scancel", "--batch", "--signal=USR1", str(job))
    wait_for(lambda: slurm.state(job) == "PENDING", partial(said, folder))
    assert 0 < steps_done(checkpoint) < steps
    assert status_of(world, folder)["state"] == "queued"
    slurm.ask("scontrol", "update", f"JobId={job}", "StartTime=now")
    wait_for(folder.driven, partial(said, folder))
    status, _, err = world.run("stop", folder.name)
    assert status == 0, err
    assert slurm.state(job) == "COMPLETED"
    assert status_of(world, folder)["state"] == "stopped"
    status, _, err = world.run("slurm", folder.name, "--resume", "--time", "30")
    assert status == 0, err
    job = read_json(folder.path / NOTE)["job"]
    wait_for(lambda: slurm.state(job) == "COMPLETED", partial(said, folder))
    found = status_of(world, folder)
    assert found["state"] == "finished", said(folder)
    assert len(found["exports"]) == 1

    status, out, err = world.run("launch", spec, "--name", "straight", "--json")
    assert status == 0, err
    wanted = json.loads(out)
    straight = StudyFolder(world.path / "sdw-studies" / "straight")
    for one, other in zip(found["trials"], wanted["trials"], strict=True):
        for key in ("number", "outcome", "reason", "params", "values", "interval"):
            assert one[key] == other[key]
        rows = [each.trial(one["number"]) / "rows.safetensors" for each in (folder, straight)]
        assert rows[0].read_bytes() == rows[1].read_bytes()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--partition", "debgu"], "There is no partition 'debgu': did you mean `debug`?"),
        (["--nodes", "3"], "3 nodes of that are asked for, and of the 2 nodes of the default"),
        (["--set", "study.resources.cpu=3"], "A trial needs 3 CPU and "),
        (["--time", "2-00"], "A job in the default partition may take 24 hours at most"),
        (
            ["--set", "study.resources.gpu=1", "--gpus-per-node", "1"],
            "(the largest: 2 CPU, 0 GPU, 8.39 GB) 0 hold one",
        ),
        (
            ["--", "--constraint=fast"],
            "SLURM refuses the job (Batch job submission failed: ",
        ),
    ],
)
def test_what_this_slurm_cannot_run_is_refused_and_leaves_nothing(
    on_login_node: Sdw, world: World, given: list[str], sentence: str
) -> None:
    status, out, err = on_login_node("slurm", "quickstart", "--name", "refused", *given)
    assert (status, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1
    assert not (world.path / "sdw-studies" / "refused").exists()


def test_two_jobs_run_at_once_on_the_same_two_nodes_and_a_third_waits_or_is_cancelled(
    slurm: Slurm, world: World
) -> None:
    """A job has a CPU of each node: two trials at a time are a trial on each of its nodes."""
    long = 100 * LONG
    jobs = [
        submitted(world, spec_of(world, name, 4, long), "--nodes", 2, "--time", "1:00:00")
        for name in ("one", "other")
    ]
    for folder, _ in jobs:
        tell = partial(said, folder)
        wait_for(partial(lambda at: at.driver().get("trials_at_a_time") == 2, folder), tell)
        wait_for(partial(lambda at: len(at.left("progress.json")) == 2, folder), tell)
    assert [slurm.state(job) for _, job in jobs] == ["RUNNING", "RUNNING"]
    lines = [line for folder, _ in jobs for line in said(folder).splitlines()]
    assert len({line.split()[-1] for line in lines if line.startswith("sdw: job")}) == 2
    for folder, job in jobs:
        seen = status_of(world, folder)
        assert seen["state"] == "running"
        assert seen["job"]["id"] == job

    waits, job = submitted(world, spec_of(world, "waits", 1, 6), "--nodes", 2)
    seen = status_of(world, waits)
    assert seen["state"] == "queued"
    assert seen["job"]["id"] == job
    assert (seen["job"]["state"], seen["job"]["reason"]) == ("PENDING", "Resources")
    _, out, _ = world.run("status", waits.name)
    assert out.startswith(f"waits: queued (job {job} waits (Resources)")
    status, _, err = world.run("resume", waits.name)
    assert status == 2
    assert f"is left to SLURM, whose job {job} waits (Resources)" in err
    status, _, err = world.run("extend", waits.name, "--trials", 1)
    assert status == 0, err
    assert f"job {job} takes them up" in err
    assert waits.spec().study.trials == 2
    status, _, err = world.run("stop", waits.name)
    assert status == 0, err
    assert f"`sdw slurm {waits.path} --resume`" in err
    assert slurm.state(job) == "CANCELLED"
    assert status_of(world, waits)["state"] == "stopped"

    for folder, job in jobs:
        status, _, err = world.run("stop", folder.name)
        assert status == 0, err
        assert slurm.state(job) == "COMPLETED"
        assert status_of(world, folder)["state"] == "stopped"
    assert not list(Path("/tmp").glob(f"sdw-{jobs[0][1]}-*"))
