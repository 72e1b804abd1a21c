"""Studies on a cluster of several hosts: stops, lost nodes, nodes that leave."""

import json
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import monotonic, time
from typing import Any

import pytest

from sdw_core.files import read_whole
from study.comparison import ComparisonFolder
from study.folder import StudyFolder
from tests.integration.hosts import Hosts
from tests.integration.processes import LONG, SPEC, World, ended, tiny_study, wait_until

Process = subprocess.Popen[str]
STOPPED_WITHIN = 30
"""Seconds from a signal to the end of the driver, of which it takes ten on a quiet machine."""


def written(world: World, study: str, outer_steps: int) -> Path:
    """A file of a study that runs as many trials at a time as it has."""
    path = world.path / f"{study.partition(',')[0].split()[-1]}.yaml"
    text = tiny_study(study, outer_steps)
    path.write_text(text.replace("concurrency: 2", f"concurrency: {study.rpartition(' ')[2]}"))
    return path


def folder_of(world: World, name: str) -> StudyFolder:
    return StudyFolder(world.path / "sdw-studies" / name)


def distilling(folder: StudyFolder) -> dict[int, str]:
    """Trial -> host, of those that are in their distillation."""
    left = folder.left("progress.json").items()
    said = {number: read_whole(path / "progress.json") for number, path in left}
    return {n: str(p["node"]) for n, p in said.items() if p and p["stage"] == "distill"}


def stopped_by(ask: Callable[[], object], folder: StudyFolder, driver: Process) -> dict[str, Any]:
    """What a driver prints that is asked to stop, which it does in time."""
    ask()
    wait_until(folder.stop_flag.exists, driver)
    begun = monotonic()
    status, out, err = ended(driver)
    assert monotonic() - begun < STOPPED_WITHIN
    assert status == 0, err
    assert "go on with `sdw resume" in err
    assert "Traceback" not in err
    document: dict[str, Any] = json.loads(out)
    assert document["state"] == "stopped"
    return document


@pytest.fixture(scope="module")
def on_cluster(hosts: Hosts) -> tuple[str, ...]:
    """A head without CPUs; each test has as many workers as it needs."""
    hosts.start_head()
    return "--address", hosts.address, "--json"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_stops_while_its_trials_wait_for_a_place(
    hosts: Hosts, world: World, on_cluster: tuple[str, ...]
) -> None:
    """Trials of one study run on all workers, so that those of another one wait."""
    workers = hosts.have_workers(2)
    path = written(world, "name: holds, trials: 2", 100 * LONG)
    holds = folder_of(world, "holds")
    holder = hosts.start("head", "launch", path, *on_cluster)
    wait_until(lambda: len(distilling(holds)) == 2, holder)
    assert sorted(distilling(holds).values()) == workers

    path = written(world, "name: waits, trials: 2", 6)
    waits = folder_of(world, "waits")
    for number, begin in enumerate((("launch", path), ("resume", "waits"))):
        waiter = hosts.start("head", *begin, *on_cluster)
        wait_until(lambda: waits.driver().get("waiting"), waiter)
        ask = partial(waiter.send_signal, signal.SIGINT)
        if number:
            ask = partial(hosts.start, "head", "stop", "waits")
        document = stopped_by(ask, waits, waiter)
        assert [trial["outcome"] for trial in document["trials"]] == ["WAITING"] * 2
        assert not waits.left("progress.json")

    document = stopped_by(partial(holder.send_signal, signal.SIGTERM), holds, holder)
    assert [trial["outcome"] for trial in document["trials"]] == ["WAITING"] * 2
    assert len(holds.left("checkpoint.safetensors")) == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_trial_that_loses_four_nodes_completes_on_the_fifth(
    hosts: Hosts, world: World, on_cluster: tuple[str, ...]
) -> None:
    """Four deaths of its worker would be too many."""
    hosts.have_workers(5)
    path = written(world, "name: hunted, trials: 1", 2 * LONG)
    hunted = folder_of(world, "hunted")
    driver = hosts.start("head", "launch", path, *on_cluster)
    lost: list[str] = []
    for _ in range(4):
        wait_until(lambda: {*distilling(hunted).values()} - {*lost}, driver)
        lost.append(distilling(hunted)[0])
        hosts.kill(lost[-1])
    status, out, err = ended(driver)
    assert status == 0, err
    (trial,) = json.loads(out)["trials"]
    assert trial["outcome"] == "COMPLETE"
    assert len({*lost, trial["node"]}) == 5


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_node_that_is_drained_hands_its_trial_over(
    hosts: Hosts, world: World, on_cluster: tuple[str, ...]
) -> None:
    """As a spot node does that is about to be taken away: not a step is lost."""
    hosts.have_workers(2)
    path = written(world, "name: moves, trials: 1", 100 * LONG)
    moves = folder_of(world, "moves")
    driver = hosts.start("head", "launch", path, *on_cluster)
    wait_until(lambda: distilling(moves), driver)
    drained = distilling(moves)[0]
    hosts.drain(drained)
    wait_until(lambda: distilling(moves).get(0, drained) != drained, driver)
    document = stopped_by(partial(driver.send_signal, signal.SIGTERM), moves, driver)
    assert [trial["outcome"] for trial in document["trials"]] == ["WAITING"]
    hosts.kill(drained)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_comparison_stops_while_cells_wait_and_goes_on_after_a_node_was_lost(
    hosts: Hosts, world: World, on_cluster: tuple[str, ...]
) -> None:
    """No more cells are given to Ray than there are places, so that none waits behind a stop."""
    hosts.have_workers(2)
    path = world.path / "tiny.yaml"
    path.write_text(SPEC.replace("outer_steps: 6", f"outer_steps: {LONG}"))
    folder = ComparisonFolder(world.path / "sdw-studies" / "tiny")
    compare = ("compare", path, *on_cluster)

    def working(since: float) -> dict[Path, str]:
        """Cell -> host, of those that began since then and have not ended."""
        said = {file.parent: read_whole(file) for file in folder.path.glob("cells/*/progress.json")}
        left = {file.parent for file in folder.path.glob("cells/*/result.json")}
        begun = {cell: p for cell, p in said.items() if p and p["begun"] > since}
        return {cell: p["node"] for cell, p in begun.items() if cell not in left}

    driver = hosts.start("head", *compare)
    wait_until(lambda: len(working(0)) == 2, driver)
    driver.send_signal(signal.SIGTERM)
    wait_until(folder.stop_flag.exists, driver)
    begun = monotonic()
    status, out, err = ended(driver)
    assert monotonic() - begun < STOPPED_WITHIN
    assert status == 0, err
    assert "the same command again" in err

    resumed = time()
    driver = hosts.start("head", *compare)
    wait_until(lambda: working(resumed), driver)
    hosts.kill(working(resumed).popitem()[1])
    status, out, err = ended(driver)
    assert status == 0, err
    cells = {cell["method"]: cell["failed"] for cell in json.loads(out)["cells"]}
    assert [method for method, failed in cells.items() if failed] == ["too far"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_driver_whose_clusters_head_dies_says_so_before_ray_does(
    hosts: Hosts, world: World, on_cluster: tuple[str, ...]
) -> None:
    """The last test here: the cluster ends with it."""
    (worker, _) = hosts.have_workers(2)
    path = written(world, "name: headless, trials: 2", 100 * LONG)
    headless = folder_of(world, "headless")
    driver = hosts.start(worker, "launch", path, *on_cluster)
    wait_until(lambda: distilling(headless), driver)
    hosts.kill("head")
    begun = monotonic()
    status, out, err = ended(driver)
    assert monotonic() - begun < 60
    assert (status, out) == (1, "")
    (line,) = [line for line in err.splitlines() if line.startswith("sdw: ")]
    assert f"The head of the Ray cluster, at {hosts.address}, has not answered" in line
    assert f"`sdw resume {headless.path} --address HOST:PORT`" in line
    assert "GCS" not in err
    assert headless.driver() == {}
    assert not headless.driven()
