"""`sdw submit` from a host outside of a cluster, whose head has a job server and wants a token."""

import json
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from study.folder import BROUGHT
from tests.integration.hosts import RAY, Hosts
from tests.integration.processes import LONG, World, ended, tiny_study, wait_until
from tests.study.commands import write_d4rl

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
WEIGHTS = """
import numpy as np
from helper import SCALE

def by_rank(log_density, config):
    return SCALE * (1 + np.argsort(np.argsort(-log_density)))
"""


@pytest.fixture(scope="module")
def cluster(world: World, hosts: Hosts) -> Hosts:
    """A head without CPUs and a node with two; `desk` is outside, and does not see the storage."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "t" * 32}
    path = f"{Path(sys.executable).parent}:{world.env['PATH']}"
    head = {"PATH": path, "SDW_STORAGE": str(world.path / "shared")}
    (world.path / "shared").mkdir()
    hosts.start_head(token | head, job_server=True)
    hosts.start_worker("w1", env=token, num_cpus=2)
    hosts.add("desk", hidden=[world.path / "shared"])
    return hosts


def on_desk(hosts: Hosts, *arguments: object, token: str = "t" * 32, program: Any = None) -> Any:
    """What runs outside of the cluster, with a token."""
    there = [f"RAY_AUTH_TOKEN={token}"] * bool(token)
    sdw = (sys.executable, "-P", "-m", "study.cli")
    return hosts.start("desk", *arguments, program=("env", *there, *(program or sdw)))


def of_my_own(world: World) -> Path:
    """A long study of data and a weighting scheme that lie beside its spec."""
    folder = world.path / "mine"
    (folder / "data").mkdir(parents=True)
    write_d4rl(folder / "data" / "my.hdf5")
    (folder / "helper.py").write_text("SCALE = 1.0\n")
    (folder / "my_weights.py").write_text(WEIGHTS)
    text = tiny_study("name: mine, trials: 2", 2 * LONG)
    text = text.replace("sdw/hopper-replay-mini-v0", f"{folder}/data/my.hdf5?env=Hopper-v5")
    text = text.replace("  density:", "  weighting: {scheme: my_weights:by_rank}\n  density:")
    text = text.replace("pipeline:", "pipeline:\n  reference_scores: [0, 100]")
    (folder / "mine.yaml").write_text(text)
    return folder / "mine.yaml"


def test_a_study_outlives_who_submitted_it_is_stopped_and_goes_on(
    world: World, cluster: Hosts
) -> None:
    spec, at = of_my_own(world), ("--address", cluster.job_server)
    for token, sentence in [("", "asks for a token, and there is none"), ("x" * 32, "not take")]:
        status, _, err = ended(on_desk(cluster, "submit", spec, *at, token=token))
        assert (status, err.count("\n")) == (2, 1), err
        assert sentence in err

    folder = world.path / "shared" / "mine"
    follower = on_desk(cluster, "submit", spec, *at)
    wait_until(lambda: [*folder.glob("trials/*/checkpoint.safetensors")], follower)
    follower.send_signal(signal.SIGINT)
    status, _, err = ended(follower)
    assert status == 130, err
    assert f"the study runs in {folder}" in err
    (job,) = {*re.findall(r"sdw-mine-\w{6}", err)}
    brought = world.path / "shared" / BROUGHT / "mine"
    assert {path.name for path in brought.rglob("*.*")} >= {"my.hdf5", "my_weights.py", "helper.py"}

    def study() -> Any:
        status, out, err = cluster.run("head", "status", folder, "--json")
        assert status == 0, err
        return json.loads(out)

    assert study()["state"] == "running"
    assert f"ray job stop {' '.join(at)} {job}" in err
    stop = (*RAY[:-1], "ray.scripts.scripts", "job", "stop", *at, job)
    status, _, err = ended(on_desk(cluster, program=("env", "RAY_AUTH_MODE=token", *stop)))
    assert status == 0, err
    stopped = study()
    assert stopped["state"] == "stopped"
    assert {trial["outcome"] for trial in stopped["trials"]} == {"WAITING"}

    status, out, err = ended(on_desk(cluster, "submit", "mine", "--resume", *at, "--json"))
    assert status == 0, err
    assert json.loads(out)["state"] == "SUCCEEDED"
    assert study()["state"] == "finished"
    status, out, err = ended(on_desk(cluster, "submit", spec, *at))
    assert (status, out) == (2, "")
    assert f"{str(folder)!r} exists on the cluster" in err
    status, out, err = ended(on_desk(cluster, "submit", "other", "--resume", *at))
    assert (status, out) == (2, "")
    assert "There is no study 'other'" in err
    refused = ("--name", "refused", "--set", "pipeline.dataset=/nowhere/my.hdf5")
    status, out, err = ended(on_desk(cluster, "submit", spec, *refused, *at))
    assert (status, out) == (2, "")
    assert "/nowhere/my.hdf5" in err.splitlines()[-1]
    assert not (world.path / "shared" / BROUGHT / "refused").exists()
