"""A real Ray cluster of several nodes: each must see the study's folder before a trial begins."""

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.integration.processes import World, by_number, created

pytestmark = pytest.mark.slow

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


def test_a_study_on_nodes_that_share_its_folder_is_given_up_retried_and_extended(
    world: World, address: str, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a token at hand, which the cluster does not ask for."""
    monkeypatch.setitem(world.env, "RAY_AUTH_TOKEN", "a" * 40)
    settings = ("study.max_identical_failures=2", "study.concurrency=1")
    folder = created(world, spec, "broken", *settings)
    (folder.path / "cache").unlink()
    folder.cache.write_text("not a folder, so that every trial fails")
    on_nodes = ("--address", address, "--json")
    status, out, err = world.run("resume", "broken", *on_nodes)
    assert status == 1
    assert "2 trials in a row FAILED for one reason" in err
    assert "FileExistsError" in err
    assert f"`sdw retry-failed {folder.path}`" in err
    assert "Traceback" not in err
    stopped = json.loads(out)
    assert stopped["state"] == "stopped"
    assert [trial["outcome"] for trial in stopped["trials"]] == ["FAILED", "FAILED"]

    folder.cache.unlink()
    status, out, err = world.run("retry-failed", "broken", *on_nodes)
    assert status == 0, err
    assert "trial 0 is asked again as trial 2" in err
    trials = by_number(json.loads(out))
    assert [trials[n]["retry_of"] for n in range(5)] == [None, None, 0, 1, None]
    assert [trials[n]["outcome"] for n in range(5)] == ["FAILED"] * 2 + ["COMPLETE"] * 3
    assert [trials[n]["params"] for n in (2, 3)] == [trials[n]["params"] for n in (0, 1)]

    status, out, err = world.run("extend", "broken", "--trials", 1, *on_nodes)
    assert status == 0, err
    extended = json.loads(out)
    assert extended["state"] == "finished"
    assert by_number(extended) == trials | {5: extended["trials"][5]}
    assert extended["trials"][5]["outcome"] == "COMPLETE"
    assert not list(folder.path.glob(".nonce*"))


def test_a_node_that_does_not_see_the_folder_is_named_and_nothing_is_left(
    world: World, address: str, spec: str
) -> None:
    """The node has a mount namespace of its own, in which the storage is an empty disk."""
    storage = world.path / "hidden"
    storage.mkdir()
    node = (
        f"mount -t tmpfs none {storage} && "
        f"{sys.executable} -m ray.scripts.scripts start --address={address} --num-cpus=1"
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
    assert line.startswith("sdw: 1 of the cluster's 3 nodes cannot run this: ")
    assert f"does not see what is written to {storage}" in line
    assert "`storage`" in line
    assert list(storage.iterdir()) == []
