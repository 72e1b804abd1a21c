"""A cluster that asks for a token, with nodes on which no trial can run, whenever they join."""

import json
from pathlib import Path

import pytest

import study
from study.folder import StudyFolder
from tests.integration.hosts import Hosts
from tests.integration.processes import LONG, SDW, SPEC, World, ended, wait_until

PACKAGE = Path(study.__file__).parent
TOKEN = {"RAY_AUTH_TOKEN": "a" * 40}
SECURED = {"RAY_AUTH_MODE": "token"} | TOKEN


def sdw_with(**env: str) -> tuple[str | Path, ...]:
    return ("env", *(f"{name}={value}" for name, value in env.items()), SDW)


def other_versions(world: World) -> dict[str, str]:
    """The environment of a host with an old torch, and a clock that is an hour ahead."""
    folder = world.path / "other"
    metadata = folder / "torch-2.0.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.0.0\n")
    clock = "import time\nnow = time.time\ntime.time = lambda: now() + 3600\n"
    (folder / "sitecustomize.py").write_text(clock)
    return SECURED | {"PYTHONPATH": str(folder)}


@pytest.mark.slow
def test_nodes_that_can_run_no_trial_are_refused_now_and_when_they_join_later(
    hosts: Hosts, world: World, spec: str
) -> None:
    storage = world.path / "storage"
    storage.mkdir()
    hosts.start_head(env=SECURED)
    hosts.start_worker("good", env=SECURED)
    hosts.start_worker("bare", hidden=[PACKAGE], env=SECURED)
    hosts.start_worker("reader", readonly=[storage], env=SECURED)
    hosts.start_worker("other", env=other_versions(world))
    launch = ("launch", spec, "--storage", storage, "--json")
    at = (*launch, "--address", hosts.address)
    for given, said in {
        sdw_with(): "asks for a token, and there is none here; ",
        sdw_with(RAY_AUTH_TOKEN="b" * 40): "does not take the token of RAY_AUTH_TOKEN; ",
    }.items():
        status, out, err = ended(hosts.start("head", *at, program=given))
        *before, line = err.splitlines()
        assert (status, out) == (2, "")
        assert all(each.startswith(("study one in", "connecting to")) for each in before), err
        assert line.startswith(f"sdw: The Ray cluster at {hosts.address} ")
        assert said in line
        assert "`ray get-auth-token`" in line

    status, out, err = ended(hosts.start("head", *at, program=sdw_with(**TOKEN)))
    assert (status, out) == (2, "")
    assert list(storage.iterdir()) == []
    lines = [" ".join(line.split()) for line in err.splitlines()]
    (refused,) = [line for line in lines if line.startswith("sdw: ")]
    assert "3 of the cluster's 5 nodes cannot run this: " in refused
    assert refused.count(" at 10.77.") == 3
    said = {}
    for line in lines:
        name, _, rest = line.partition(" at ")
        if rest.startswith("10.77."):
            said[name] = rest.partition(" ")[2]
    assert said["head"] == said["good"] == "yes"
    assert said["bare"].startswith("no: sdw-obd is not installed for ")
    assert said["reader"].startswith(f"no: cannot write to {storage}")
    assert said["other"].startswith("no: torch 2.0.0, not ")
    (clock,) = [line for line in lines if "ahead of the driver's" in line]
    assert clock.startswith(("no: its clock is 3600 s", "no: its clock is 3599 s"))
    assert "Traceback" not in err

    for host in ("bare", "reader", "other"):
        hosts.kill(host)
    endless = f"pipeline.distill.outer_steps={100 * LONG}"
    settings = ("study.trials=2", "study.concurrency=2", endless)
    sets = [word for setting in settings for word in ("--set", setting)]
    there = ("--address", "auto")
    given = sdw_with(RAY_ADDRESS=hosts.address, **TOKEN)
    running = hosts.start("head", *launch, *there, *sets, program=given)
    trials = storage / "one" / "trials"
    wait_until(lambda: list(trials.glob("*/progress.json")), running)
    hosts.start_worker("late", hidden=[PACKAGE], env=SECURED, num_cpus=2)
    assert running.stderr
    said = []
    for line in running.stderr:  # until it is there
        said.append(line.strip())
        if "late joined" in line:
            assert "sdw-obd is not installed" in line
            break
    status, _, err = hosts.run("head", "stop", "one", "--storage", storage)
    assert status == 0, err
    status, out, err = ended(running)
    assert status == 0, err
    assert {trial["outcome"] for trial in json.loads(out)["trials"]} == {"WAITING"}
    assert f"connected to the Ray cluster at {hosts.address}" in said
    assert "Traceback" not in err

    more = ("extend", "one", "--trials", 1, "--storage", storage, "--address", hosts.address)
    status, _, err = ended(hosts.start("head", *more, program=sdw_with(**TOKEN)))
    assert (status, "1 of the cluster's 3 nodes cannot run this: late at " in err) == (2, True), err
    assert StudyFolder(storage / "one").spec().study.trials == 2

    compared = world.path / "compared.yaml"
    compared.write_text(SPEC)
    at = ("--storage", world.path / "cells", "--address", hosts.address, "--json")
    status, out, err = ended(
        hosts.start("head", "compare", compared, *at, program=sdw_with(**TOKEN))
    )
    assert (status, out) == (2, "")
    assert "1 of the cluster's 3 nodes cannot run this: late at " in err
    assert not (world.path / "cells").exists()
