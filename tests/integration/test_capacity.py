"""Nodes that join and leave while a study runs, trials that wait for one, clusters that grow."""

import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from tests.integration.hosts import PATIENT, RAY, Hosts
from tests.integration.processes import LONG, SPEC, TINY, World, ended, tiny_study, wait_until

pytestmark = pytest.mark.slow
SHIPPED = Path(__file__).parents[2] / "cluster.yaml"


@pytest.fixture(scope="module")
def cluster(hosts: Hosts) -> Hosts:
    """A head without CPUs, and one node with one."""
    hosts.start_head()
    hosts.start_worker("w1")
    return hosts


def written(world: World, name: str, text: str) -> Path:
    path = world.path / f"{name}.yaml"
    path.write_text(text)
    return path


def says_nothing_of_ray(err: str) -> None:
    for leaked in ("(raylet", "(autoscaler", "resource request", "insufficient", "Traceback"):
        assert leaked not in err


@pytest.mark.parametrize(
    ("command", "text", "section"),
    [("launch", TINY, "study"), ("compare", SPEC, "comparison")],
    ids=["launch", "compare"],
)
def test_what_no_single_node_holds_is_refused_and_nothing_is_left(
    world: World, cluster: Hosts, command: str, text: str, section: str
) -> None:
    spec, storage = written(world, "large", text), world.path / "refused"
    asked = ("--set", f"{section}.resources.cpu=2", "--storage", storage)
    status, out, err = cluster.run("head", command, spec, *asked, "--address", cluster.address)
    assert (status, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.startswith("sdw: ")]
    assert f"`{section}.resources` asks for 2 CPU on one node" in line
    assert "the largest node of the cluster, 'w1', has 1 CPU" in line
    assert not storage.exists()
    says_nothing_of_ray(err)


def test_a_study_follows_nodes_that_join_and_leave(world: World, cluster: Hosts) -> None:
    spec = written(
        world,
        "long",
        tiny_study("name: long, trials: 3", 100 * LONG).replace("concurrency: 2, ", ""),
    )
    launch = cluster.start("head", "launch", spec, "--address", cluster.address)

    def study() -> Any:
        status, out, _ = cluster.run("head", "status", "long", "--json")
        return json.loads(out) if status == 0 else {"running": [], "trials": []}

    def running() -> dict[int, str]:
        """Trial -> its node, of those that distil."""
        return {
            each["number"]: each["node"]
            for each in study()["running"]
            if each["stage"] == "distill"
        }

    def outcomes() -> list[str]:
        return [trial["outcome"] for trial in study()["trials"]]

    wait_until(lambda: running() == {0: "w1"}, launch)
    assert outcomes() == ["RUNNING"]
    cluster.start_worker("w2")
    wait_until(lambda: running() == {0: "w1", 1: "w2"}, launch)
    _, out, _ = cluster.run("head", "status", "long")
    assert [line.split()[-2:] for line in out.splitlines() if "RUNNING" in line] == [
        ["w1", "RUNNING"],
        ["w2", "RUNNING"],
    ]
    cluster.kill("w2")
    lost = ["RUNNING", "WAITING"], {0: "w1"}
    wait_until(lambda: (outcomes(), running()) == lost, launch)
    status, _, err = cluster.run("head", "stop", "long")
    assert status == 0, err
    status, out, err = ended(launch)
    assert status == 0, err
    assert "w2 (1 CPU) joined: 3 nodes now, 2 at a time" in err
    assert "w2 left: 2 nodes now, 1 at a time" in err
    says_nothing_of_ray(err)


@pytest.fixture(scope="module")
def growing(world: World) -> None:
    """The shipped cluster: its node types, on a head whose autoscaler starts nodes on this host."""
    with socket.socket() as free:
        free.bind(("", 0))
        address = f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"
    cluster = yaml.safe_load(SHIPPED.read_text())
    types = cluster["available_node_types"]
    types = {"ray.head.default": types.pop(cluster["head_node_type"]), **types}
    for each in types.values():
        each |= {"node_config": {}}
        each["resources"]["object_store_memory"] = 80_000_000
    nobody = {"auth": {"ssh_user": "nobody"}, "file_mounts": {}, "cluster_synced_files": []}
    commands = ("setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    nobody |= {f"{each}_commands": [] for each in ("initialization", *commands)}
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "head_node_id": FAKE_HEAD_NODE_ID,
        "gcs_address": address,
        "launch_multiple": True,
    }
    grows = cluster | nobody | {"provider": provider, "available_node_types": types}
    grows |= {"head_node_type": "ray.head.default"}
    bootstrap = written(world, "ray_bootstrap_config", yaml.safe_dump(grows))
    host, port = address.rsplit(":", 1)
    env = {
        **PATIENT,
        "RAY_enable_autoscaler_v2": "1",  # as `ray up` does
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }
    started = subprocess.run(
        [
            *RAY,
            *("start", "--head", f"--port={port}", f"--node-ip-address={host}", "--num-cpus=0"),
            *("--object-store-memory=80000000", "--disable-usage-stats"),
            *("--include-dashboard=false", f"--autoscaling-config={bootstrap}"),
        ],
        env=world.env | env,
        cwd=world.path,
        capture_output=True,
        text=True,
    )
    assert started.returncode == 0, started.stderr


def test_the_shipped_cluster_takes_a_study_before_it_has_a_worker(
    world: World, growing: None
) -> None:
    """Both trials are asked for at once, so that two nodes are added; no setting is needed."""
    text = TINY.replace("trials: 3", "trials: 2").replace(
        "concurrency: 2, ", "resources: {cpu: 8}, "
    )
    spec = written(world, "grows", text)
    refused = ("--set", "study.resources.cpu=9", "--address", "auto")
    status, _, err = world.run("launch", spec, *refused)
    assert status == 2
    assert "the largest node type of the cluster, 'gpu_worker', has 8 CPU;" in err
    launch = world.start("launch", spec, "--address", "auto", "--json")
    found: list[Any] = []

    def waiting() -> Any:
        status, out, _ = world.run("status", "one", "--json")
        found[:] = [json.loads(out)] if status == 0 else []
        return found and found[0]["waiting"] and found[0]["waiting"]["starting"]

    wait_until(waiting, launch)
    assert [trial["outcome"] for trial in found[0]["trials"]] == ["WAITING", "WAITING"]
    assert found[0]["running"] == []
    host = os.uname().nodename
    starting = found[0]["waiting"].pop("starting")
    assert set(starting) == {"gpu_worker"}
    assert found[0]["waiting"] == {
        "trials": [0, 1],
        "need": {"cpu": 8, "gpu": 0},
        "free": {"cpu": 0, "gpu": 0},
        "node": host,
        "nodes": 1,
        "failed": {},
    }
    status, out, err = ended(launch)
    assert status == 0, err
    assert [trial["outcome"] for trial in json.loads(out)["trials"]] == ["COMPLETE", "COMPLETE"]
    waits = "WAITING (trials 0, 1) for 8 CPU on a node; most is free on "
    assert err.count(f"{waits}{host} of 1 node: 0 CPU") == 1, err
    assert err.count(f"{host} (8 CPU and 1 GPU) joined") == 2
    says_nothing_of_ray(err)
