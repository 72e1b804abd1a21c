"""A real Ray cluster of several nodes: each must see the study's folder before a trial begins."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.processes import SDW, TINY, World

CLUSTER = """if True:
    import sys
    from ray.cluster_utils import Cluster
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    print(cluster.address, flush=True)
    sys.stdin.read()
    cluster.shutdown()
"""


@pytest.fixture(scope="module")
def address(world: World) -> Iterator[str]:
    """A head and a node."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env=world.env,
        cwd=world.path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    yield next(line.strip() for line in process.stdout if line.startswith(("127.", "1")))
    process.stdin.close()
    process.wait()


@pytest.fixture(scope="module")
def spec(world: World) -> str:
    path = world.path / "tiny.yaml"
    path.write_text(TINY)
    return str(path)


def test_a_study_runs_on_nodes_that_share_its_folder(world: World, address: str, spec: str) -> None:
    status, out, err = world.run(
        "launch", spec, "--name", "shared", "--trials", 2, "--address", address, "--json"
    )
    assert status == 0, err
    assert {trial["outcome"] for trial in json.loads(out)["trials"]} == {"COMPLETE"}
    assert not list((world.path / "sdw-studies" / "shared").glob(".nonce*"))


def test_a_node_that_does_not_see_the_folder_is_named_and_nothing_is_left(
    world: World, address: str, spec: str
) -> None:
    """The node has a mount namespace of its own, in which the storage is an empty disk."""
    storage = world.path / "hidden"
    storage.mkdir()
    node = (
        f"mount -t tmpfs none {storage} && "
        f"{Path(SDW).with_name('ray')} start --address={address} --num-cpus=1"
    )
    started = subprocess.run(
        ["unshare", "-m", "sh", "-c", node], env=world.env, capture_output=True, text=True
    )
    if started.returncode:
        pytest.skip(f"needs a mount namespace: {started.stderr[-200:]}")
    status, out, err = world.run(
        *("launch", spec, "--name", "blind", "--storage", storage, "--address", address, "--json")
    )
    assert (status, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.startswith("sdw: ")]
    assert line.startswith("sdw: 1 of the cluster's 3 nodes do not see what is written to ")
    assert "--storage" in line
    assert list(storage.iterdir()) == []
