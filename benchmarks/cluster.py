"""What a cluster costs beside its trials: gaps, a lost node, memory, and operations a trial.

    python -m benchmarks.cluster [--parts utilisation death memory operations] [--json]

Hosts are network namespaces of this machine, with a real Ray on them, so that needs root and
`ip`; without these the parts `utilisation` and `death` are skipped, and say why. All hosts share
this machine's cores: other work on it prolongs trials and gaps alike.

    utilisation  the trials' own seconds over (seconds of the study x places); 16 trials, two nodes
    death        from the death of a trial's node until the trial goes on elsewhere
    memory       what two workers on a node hold more with a large dataset than with a small one
    operations   what a trial asks of the database and of the shared folder; see docs/cluster.md
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from time import monotonic, process_time, sleep, time
from typing import Any

import numpy as np
import psutil
import sqlalchemy
import torch

from benchmarks import machine
from sdw_core.dataset import load_datasets
from sdw_core.files import read_json, read_whole
from sdw_core.identity import Inventory
from search_spaces import load_spec
from study.folder import StudyFolder
from study.runner import _outcome
from study.search import StudySearch
from tests.integration.hosts import hosts_of, missing
from tests.integration.processes import World, ended, wait_until

PARTS = ("utilisation", "death", "memory", "operations")
TARGETS = {"utilisation": 0.9, "seconds_lost_by_a_death": 15, "copies_of_data": 1}
TRIALS = 16
TRANSITIONS = 2_000_000
"""Of the large dataset: 200 MB at the widths of HalfCheetah."""
SMALL = {
    "study.bc_steps": 0,
    "study.confirm": None,
    "pipeline.expert.steps": 200,
    "pipeline.expert.value_steps": 100,
    "pipeline.evaluation.policies": 4,
    "pipeline.evaluation.episodes": 1,
    "search": {"weighting.temperature": {"type": "categorical", "choices": [0, 0.1]}},
    "pipeline.density.model": "gaussian",
}
ENDLESS = 10_000_000
COUNTED = 5
"""Trials that are counted, for `operations`, once as many have run."""
WATCHED = {"open": "", "os.rename": "renamed", "os.remove": "removed"}
"""Python's audit events of what is counted of files."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seconds", type=float, default=20, help="of a trial, for `utilisation`")
    parser.add_argument("--trials", type=int, default=TRIALS, help="for `utilisation`")
    parser.add_argument("--transitions", type=int, default=TRANSITIONS, help="for `memory`")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    for part in arguments.parts:
        if part in ("utilisation", "death") and (lacks := missing()):
            found[part] = {"skipped": lacks}
            continue
        with new_world() as world:
            if part == "utilisation":
                found[part] = utilisation(world, arguments.trials, arguments.seconds)
            elif part == "death":
                found[part] = death(world)
            elif part == "memory":
                found[part] = memory(world, arguments.transitions)
            else:
                found[part] = operations(world)
        print(f"{part}: {json.dumps(found[part])}", file=sys.stderr)
    document = {
        "machine": machine.describe(torch.device("cpu")) | {"load": os.getloadavg()[0]},
        "targets": TARGETS,
        **found,
    }
    print(json.dumps(document, indent=2) if arguments.json else text(document))


@contextmanager
def new_world() -> Iterator[World]:
    """A home and a folder; nothing that was started there outlives the block."""
    world = World()
    try:
        yield world
    finally:
        world.end()


def utilisation(world: World, trials: int, seconds: float) -> dict[str, Any]:
    """Trials of about so many seconds on two nodes of one place each."""
    outer_steps = steps_of(seconds)
    with hosts_of(world) as hosts:
        hosts.start_head()
        hosts.have_workers(2)
        spec = written(world, "busy", trials, {"pipeline.distill.outer_steps": outer_steps})
        begun = time()
        driver = hosts.start("head", "launch", spec, "--address", hosts.address, "--json")
        status, _, err = ended(driver)
        assert status == 0, err
        spans = sorted(map(span, folder_of(world, "busy").left("result.json").values()))
    last = max(end for _, _, end in spans)
    own = sum(end - start for _, start, end in spans)
    gaps = [
        later - earlier
        for node in {node for node, _, _ in spans}
        for (_, _, earlier), (_, later, _) in pairwise(s for s in spans if s[0] == node)
    ]
    return {
        "trials": trials,
        "places": 2,
        "seconds_of_a_trial": own / trials,
        "seconds": last - begun,
        "utilisation": own / (2 * (last - begun)),
        "seconds_until_the_first_trial": min(start for _, start, _ in spans) - begun,
        "seconds_between_trials": statistics.mean(gaps),
        "utilisation_once_it_runs": own / (2 * (last - min(start for _, start, _ in spans))),
    }


def span(trial: Path) -> tuple[str, float, float]:
    """The node of a trial that ran once, and when it began and ended there."""
    progress, result = read_json(trial / "progress.json"), read_json(trial / "result.json")
    return result["node"], progress["begun"], progress["begun"] + result["seconds"]


def steps_of(seconds: float) -> int:
    """Outer steps that take about so many seconds when two of them run side by side here."""
    command = [sys.executable, "-c", "from benchmarks.cluster import paced; print(paced())"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) for _ in range(2)]
    paces = [float(process.communicate()[0]) for process in both]
    return max(50, int(seconds / statistics.mean(paces)))


def paced() -> float:
    """Seconds of an outer step of the shipped recipe, on one thread."""
    from sdw_core.config import DistillConfig
    from sdw_core.distill.loop import distill
    from sdw_core.distill.task import Task

    torch.set_num_threads(1)
    states, actions = torch.randn(5000, 11), torch.rand(5000, 3)
    task = Task(states, actions, actions, torch.ones(5000))
    begun = monotonic()
    distill(task, DistillConfig(outer_steps=100), 0)
    return (monotonic() - begun) / 100


def death(world: World) -> dict[str, Any]:
    """The node of a trial dies; how long until the trial goes on elsewhere."""
    with hosts_of(world) as hosts:
        hosts.start_head()
        hosts.have_workers(2)
        lost: list[float] = []
        spec = written(world, "hunted", 1, {"pipeline.distill.outer_steps": ENDLESS})
        folder = folder_of(world, "hunted")
        driver = hosts.start("head", "launch", spec, "--address", hosts.address, "--json")
        for _ in range(3):
            wait_until(lambda: distilling(folder), driver)
            wait_until((folder.trial(0) / "checkpoint.safetensors").exists, driver)
            node = distilling(folder)[0]["node"]
            begun = monotonic()
            hosts.kill(node)
            wait_until(lambda node=node: any(p["node"] != node for p in distilling(folder)), driver)
            lost.append(monotonic() - begun)
            hosts.have_workers(2)
        stopped(driver)
    return {"seconds_lost": lost, "seconds_lost_by_a_death": statistics.median(lost)}


def distilling(folder: StudyFolder) -> list[dict[str, Any]]:
    """What the trials say that are in their distillation, and past its first step."""
    said = [read_whole(path / "progress.json") for path in folder.left("progress.json").values()]
    return [each for each in said if each and each["stage"] == "distill" and each["fraction"]]


def stopped(driver: "subprocess.Popen[str]") -> None:
    """Ask a study to stop, and wait for its driver's end."""
    driver.terminate()
    status, _, err = ended(driver)
    assert status == 0, err


def memory(world: World, transitions: int) -> dict[str, Any]:
    """Proportional set sizes of two workers on one node, in the middle of their distillations."""
    large = world.path / "large.npz"
    data = synthesise(large, transitions)
    reference = f"{large}?env=HalfCheetah-v5"
    sizes: dict[str, int] = {}
    of_data: dict[str, int] = {}
    peaks: dict[str, int] = {}
    for name, dataset in (("small", "sdw/hopper-replay-mini-v0"), ("large", reference)):
        for trials in (1, 2):
            changes = {"pipeline.dataset": dataset, "pipeline.distill.outer_steps": ENDLESS}
            changes |= {"study.concurrency": trials}
            study = f"{name}{trials}"
            spec = written(world, study, trials, changes)
            driver = world.start("launch", spec, "--json")
            workers, peaks[study] = at_work(folder_of(world, study), trials, driver)
            sizes[study] = sum(worker.memory_full_info().pss for worker in workers)
            of_data[study] = sum(
                mapped.pss
                for worker in workers
                for mapped in worker.memory_maps(grouped=True)
                if "/cache/dataset-" in mapped.path
            )
            stopped(driver)
    grown = {n: sizes[f"large{n}"] - sizes[f"small{n}"] for n in (1, 2)}
    return {
        "megabytes_of_data": data / 1e6,
        "copies_of_data": {n: of_data[f"large{n}"] / data for n in (1, 2)},
        "megabytes_grown": {n: grown[n] / 1e6 for n in (1, 2)},
        "megabytes_grown_at_most": {
            n: (peaks[f"large{n}"] - sizes[f"small{n}"]) / 1e6 for n in (1, 2)
        },
    }


def synthesise(path: Path, transitions: int) -> int:
    """A file of random steps, as wide as HalfCheetah's; returns the bytes of its arrays."""
    generator = np.random.default_rng(0)
    ends = np.arange(1, transitions + 1) % 1000 == 0
    arrays = {
        "observations": generator.standard_normal((transitions, 17), np.float32),
        "actions": generator.uniform(-1, 1, (transitions, 6)).astype(np.float32),
        "rewards": generator.standard_normal(transitions, np.float32),
        "terminals": np.zeros(transitions, np.bool_),
        "timeouts": ends,
    }
    np.savez(path, **arrays)
    return sum(array.nbytes for array in arrays.values())


def at_work(
    folder: StudyFolder, trials: int, driver: "subprocess.Popen[str]"
) -> tuple[list[psutil.Process], int]:
    """The workers, once all distil; and the most that they held until then.

    What they hold are bytes of memory, each that several share counted once.
    """
    most = 0
    while True:
        assert driver.poll() is None, ended(driver)
        left = folder.left("progress.json").values()
        said = [read_whole(path / "progress.json") for path in left]
        with suppress(psutil.NoSuchProcess):
            workers = [psutil.Process(pid) for pid in {each["pid"] for each in said if each}]
            most = max(most, sum(worker.memory_full_info().pss for worker in workers))
        if len(distilling(folder)) == trials:
            sleep(5)  # every state was drawn by then
            return workers, most
        sleep(0.2)


def written(world: World, name: str, trials: int, changes: dict[str, Any]) -> Path:
    """The file of a study of small trials."""
    changes = SMALL | {"study.name": name, "study.trials": trials} | changes
    spec = load_spec("quickstart", overrides=[f"{k}={json.dumps(v)}" for k, v in changes.items()])
    path = world.path / f"{name}.yaml"
    path.write_text(json.dumps(spec.model_dump(mode="json")))
    return path


def folder_of(world: World, name: str) -> StudyFolder:
    return StudyFolder(world.path / "sdw-studies" / name)


def text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2)


def operations(world: World) -> dict[str, Any]:
    """What a trial asks of the database and of the study's folder, by the driver and by a worker.

    Counted are SQL statements, and, of files in the study's folder, those that are opened to be
    read or written, renamed and removed; each that is written is followed by two `fsync`. What a
    worker says of its progress while it runs stands apart.
    """
    counts: dict[str, Counter[str]] = {"driver": Counter(), "worker": Counter()}
    asking = ""

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if not asking or event not in WATCHED or not isinstance(arguments[0], str):
            return
        if "/sdw-studies/" not in arguments[0]:
            return
        kind = WATCHED[event]
        if event == "open":
            written = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            kind = "opened to be written" if written else "opened to be read"
        if arguments[0].rpartition("/")[2].startswith(".progress.json"):
            kind = f"progress: {kind}"
        counts[asking][kind] += 1

    def executed(*told: Any) -> None:
        if asking:
            counts[asking]["SQL statements"] += 1

    sys.addaudithook(heard)
    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", executed)
    fixed = load_spec(
        str(
            written(
                world,
                "counted",
                2 * COUNTED,
                {"study.database": "sqlite", "pipeline.distill.outer_steps": 50},
            )
        )
    )
    folder = StudyFolder.create(fixed, world.path / "sdw-studies", Inventory.of(
        fixed.reaching(), load_datasets([fixed.pipeline])
    ))  # fmt: skip
    search, seconds, busy = StudySearch(folder.book()), 0.0, 0.0
    for number in range(2 * COUNTED):
        if number == COUNTED:  # what is shared is kept by then, and libraries have loaded theirs
            counts = {"driver": Counter(), "worker": Counter()}
            seconds, busy = 0.0, 0.0
        asking, begun = "driver", process_time()
        asked = search.suggest(str(number))
        busy += process_time() - begun
        assert isinstance(asked, dict)
        asking = "worker"
        result = _outcome(folder, number, asked["params"], lambda step, value: None)
        seconds += result.seconds
        asking, begun = "driver", process_time()
        search.on_trial_complete(str(number), {"document": json.dumps(result.to_json())})
        busy += process_time() - begun
        asking = ""
    return {
        "trials": COUNTED,
        "seconds_of_a_trial": seconds / COUNTED,
        "driver_milliseconds": 1000 * busy / COUNTED,
        **{who: {kind: n / COUNTED for kind, n in found.items()} for who, found in counts.items()},
    }


if __name__ == "__main__":
    main()
