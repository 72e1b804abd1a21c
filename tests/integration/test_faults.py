"""Full disks, read-only folders, torn files, a dead node: said clearly, and mended."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from safetensors.torch import load_file

from study.folder import StudyFolder
from tests.integration.processes import LONG, Sdw, World, ended, tiny_study, wait_until

COMPARED = """
comparison: {name: compared, ours: wide, over: plain, resources: {cpu: 2}}
datasets: {sdw/hopper-replay-mini-v0: }
pipeline:
  density: {model: gaussian}
  weighting: {temperature: 0}
  expert: {layers: 2, width: 16, steps: 20, value_steps: 20}
  distill: {layers: 2, width: 8, synthetic_size: 8, inner_steps: 4, outer_steps: 10000}
  evaluation: {policies: 2, episodes: 1}
methods:
  random: {pipeline: {distill: {outer_steps: 0, initial_actions: dataset}}}
  plain: {}
  wide: {pipeline: {distill: {synthetic_size: 16}}}
  expert: {judged: expert, pipeline: {distill: {seeds: 1}}}
"""


@contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own at `path`; skips where mounting is not allowed."""
    path.mkdir()
    size = f"size={megabytes}m"
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", path], capture_output=True)
    if made.returncode:
        pytest.skip("needs the right to mount")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def remount(path: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", path], check=True)


def fill(path: Path) -> None:
    """Leave no room on a disk."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(1 << 12)):
            pass


def spec_in(world: World) -> Path:
    path = world.path / "faulty.yaml"
    path.write_text(tiny_study("name: faulty, trials: 4", LONG))
    return path


def one_sentence(err: str, about: str) -> None:
    """The last line is the program's own; nothing before it is a traceback."""
    assert "Traceback" not in err, err
    (line,) = [line for line in err.splitlines() if line.startswith("sdw: ")]
    assert about in line


def complete(out: str) -> dict[int, list[float]]:
    """Number -> values of the trials that are COMPLETE."""
    trials = json.loads(out)["trials"]
    return {t["number"]: t["values"] for t in trials if t["outcome"] == "COMPLETE"}


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    world: World, sdw: Sdw
) -> None:
    with small_disk(world.path / "tiny", 1) as disk:
        status, out, err = sdw("launch", spec_in(world), "--storage", disk, "--json")
        assert (status, out) == (2, "")
        one_sentence(err, "The study needs about")
        assert list(disk.iterdir()) == []


@pytest.mark.slow
def test_a_disk_that_fills_stops_the_study_which_goes_on_when_there_is_room(world: World) -> None:
    with small_disk(world.path / "filling", 60) as disk:
        driver = world.start("launch", spec_in(world), "--storage", disk, "--json")
        wait_until(lambda: any(disk.glob("faulty/trials/*/result.json")), driver)
        fill(disk / "ballast")
        status, out, err = ended(driver)
        assert (status, out) == (1, "")
        one_sentence(err, "No space left on device")
        done = {path.parent: path.read_bytes() for path in disk.glob("faulty/trials/*/result.json")}
        assert done
        status, _, err = world.run("resume", "faulty", "--storage", disk)
        assert status == 2
        one_sentence(err, "cannot be written (No space left on device)")
        (disk / "ballast").unlink()
        status, out, err = world.run("resume", "faulty", "--storage", disk, "--json")
        assert status == 0, err
        assert set(complete(out)) == {0, 1, 2, 3}
        for folder, result in done.items():
            assert (folder / "result.json").read_bytes() == result


@pytest.mark.slow
def test_a_folder_that_becomes_read_only_is_said_so_and_resume_works_after(world: World) -> None:
    with small_disk(world.path / "frozen", 60) as disk:
        driver = world.start("launch", spec_in(world), "--storage", disk, "--json")
        wait_until(lambda: any(disk.glob("faulty/trials/*/result.json")), driver)
        driver.send_signal(2)
        status, out, err = ended(driver)
        assert status == 0, err
        before = complete(out)
        remount(disk, "ro")
        status, out, err = world.run("resume", "faulty", "--storage", disk, "--json")
        assert (status, out) == (2, "")
        one_sentence(err, "cannot be written (Read-only file system)")
        remount(disk, "rw")
        status, out, err = world.run("resume", "faulty", "--storage", disk, "--json")
        assert status == 0, err
        assert set(complete(out)) == {0, 1, 2, 3}
        assert before.items() <= complete(out).items()


@pytest.mark.slow
def test_torn_files_are_computed_again(world: World) -> None:
    """A truncated checkpoint, a corrupt cache entry, and what a killed export left half-written."""
    folder = StudyFolder(world.path / "sdw-studies" / "faulty")
    two = ("--trials", 2)
    driver = world.start("launch", spec_in(world), *two)
    checkpoints = folder.path / "trials"
    wait_until(lambda: any(checkpoints.glob("*/checkpoint.safetensors")), driver)
    world.kill()
    ended(driver)
    torn = list(checkpoints.glob("*/checkpoint.safetensors"))
    assert torn
    for path in (*torn, *folder.cache.glob("*.safetensors")):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    half = folder.exports / ".trial-0.half"
    half.mkdir(parents=True)
    (half / "synthetic.safetensors").write_bytes(b"half")
    status, out, err = world.run("resume", "faulty", "--json")
    assert status == 0, err
    document = json.loads(out)
    assert set(complete(out)) == {0, 1}
    (exported,) = document["exports"]
    status, _, err = world.run("evaluate", exported)
    assert status == 0, err

    whole = StudyFolder(world.path / "sdw-studies" / "whole")
    status, again, err = world.run("launch", spec_in(world), *two, "--name", "whole", "--json")
    assert status == 0, err
    assert complete(again)[0] == complete(out)[0]
    rows = [load_file(each.trial(0) / "rows.safetensors") for each in (folder, whole)]
    assert all(rows[0][key].equal(rows[1][key]) for key in rows[0])


@pytest.mark.slow
@pytest.mark.parametrize("command", ["study", "comparison"])
def test_a_driver_whose_node_died_says_so_and_what_is_done_is_kept(
    world: World, command: str
) -> None:
    """Ray would wait for ever for another, or fail at once what waits to be run."""
    dies: tuple[str, ...]
    if command == "study":
        dies = ("raylet", "ray::")
        path, again = spec_in(world), ("resume", "nodeless", "--json")
        folder, results = world.path / "sdw-studies" / "nodeless", "trials/*/result.json"
        begin = ("launch", path, "--name", "nodeless")
    else:
        dies = ("raylet",)
        path = world.path / "compared.yaml"
        path.write_text(COMPARED)
        folder, results = world.path / "sdw-studies" / "compared", "cells/*/result.json"
        begin, again = ("compare", path), ("compare", path, "--json")
    driver = world.start(*begin)
    wait_until(lambda: any(folder.glob(results)), driver)
    for process in [p for p in world.processes() if p.name().startswith(dies)]:
        process.kill()
    status, out, err = ended(driver)
    assert (status, out) == (1, "")
    one_sentence(err, "Ray's node here died")
    assert "FAILED" not in err
    done = {result: result.read_bytes() for result in folder.glob(results)}
    status, out, err = world.run(*again)
    assert status == 0, err
    assert len(list(folder.glob(results))) > len(done)
    assert done
    assert all(result.read_bytes() == content for result, content in done.items())
