"""Hosts on one machine, with nodes of real Ray clusters on them.

A host is a network namespace with an address, a name and mounts of its own; it shares the machine's
processors, memory, files and list of processes. What is started on hosts belongs to a `World`,
which ends it. `tests/integration/test_nodes.py` uses Ray's own `Cluster` beside this: its nodes
are processes of one host, which need no root.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import psutil

from tests.integration.processes import SDW, World, ended

RAY = (sys.executable, "-m", "ray.scripts.scripts")
DRAIN = """
from time import time
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION
gcs = GcsClient(address="{address}")
(node,) = [n for n in gcs.get_all_node_info().values() if n.node_manager_hostname == "{host}"]
deadline = int((time() + 600) * 1000)
print(gcs.drain_node(node.node_id.hex(), DRAIN_NODE_REASON_PREEMPTION, "spot", deadline)[0])
"""
NOTHING: Mapping[str, str] = {}
SUBNETS = 250
"""Of 10.77.0.0/16, one for the hosts of each test process."""
PATIENT = {
    "RAY_worker_niceness": "0",  # a nice worker starves on a machine that is busy otherwise
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "4000",
    "RAY_health_check_failure_threshold": "5",
}
"""A host whose cable was cut counts as dead after about ten seconds, and no slow one does."""


def missing() -> str | None:
    """What this machine lacks to have hosts; None where nothing lacks."""
    if os.geteuid():
        return "network namespaces need root"
    if not shutil.which("ip"):
        return "network namespaces need `ip`, of iproute2"
    name = f"sdw-probe-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode == 0:
        _ip("netns", "del", name)
        return None
    return f"no network namespaces here: {tried.stderr.strip()}"


class Hosts:
    """A bridge and the hosts on it, the first of which is `head`.

    Attributes:
        address: of the cluster whose head runs on `head`.
        job_server: of that head, if it was started with one.

    Args:
        world: whose processes run on the hosts.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._subnet = _claimed_subnet()
        self._free = count(1)
        self._addresses: dict[str, str] = {}
        self._workers: list[str] = []
        self._mounts: dict[str, list[str]] = {}
        self.address = f"10.77.{self._subnet}.1:6379"
        self.job_server = f"http://10.77.{self._subnet}.1:8265"

    @property
    def _bridge(self) -> str:
        return f"sdwbr{self._subnet}"

    def _namespace(self, host: str) -> str:
        return f"sdw-{self._subnet}-{host}"

    def _cable(self, host: str) -> str:
        return f"sdw{self._subnet}.{self._addresses[host].rpartition('.')[2]}"

    def add(self, host: str, hidden: Sequence[Path] = (), readonly: Sequence[Path] = ()) -> None:
        """A new host.

        Args:
            host: its name.
            hidden: folders over which it has an empty disk.
            readonly: folders that it cannot write.
        """
        namespace = self._namespace(host)
        self._addresses[host] = f"10.77.{self._subnet}.{next(self._free)}"
        self._mounts[host] = [f"mount -t tmpfs none {folder}" for folder in hidden]
        self._mounts[host] += [
            f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}"
            for folder in readonly
        ]
        _ip("netns", "add", namespace)
        peer = ("peer", "name", "eth0", "netns", namespace)
        _ip("link", "add", self._cable(host), "type", "veth", *peer)
        _ip("link", "set", self._cable(host), "master", self._bridge, "up")
        _ip("-n", namespace, "addr", "add", f"{self._addresses[host]}/24", "dev", "eth0")
        _ip("-n", namespace, "link", "set", "eth0", "up")
        _ip("-n", namespace, "link", "set", "lo", "up")

    def start(
        self, host: str, *arguments: object, program: Sequence[str | Path] = (SDW,)
    ) -> subprocess.Popen[str]:
        """`sdw ARGUMENTS`, or another program, on a host; see `World.start`."""
        script = " && ".join([f"hostname {host}", *self._mounts[host], 'exec "$@"'])
        on_host = ("ip", "netns", "exec", self._namespace(host), "unshare", "-u", "-m")
        shell = (*on_host, "sh", "-c", script, "sh")
        return self._world.start(*arguments, program=(*shell, *program))

    def run(self, host: str, *arguments: object) -> tuple[int, str, str]:
        """Exit status, stdout and stderr of `sdw ARGUMENTS` on a host."""
        return ended(self.start(host, *arguments))

    def start_head(
        self, env: Mapping[str, str] = NOTHING, job_server: bool = False, **resources: float
    ) -> None:
        """The head of a cluster on a new host, `head`: with the driver, and no CPUs.

        Args:
            env: added to the environment of the node.
            job_server: whether one listens at `job_server`.
            resources: such as `num_cpus=2`.
        """
        self.add("head")
        where = ["--head", "--port=6379", f"--include-dashboard={str(job_server).lower()}"]
        where += [f"--dashboard-host={self._addresses['head']}"] * job_server
        self._start_node("head", *where, env=env, **{"num_cpus": 0} | resources)

    def have_workers(self, number: int) -> list[str]:
        """The names of so many workers that live, and no more; each of 1 CPU."""
        for host in self._workers[number:]:
            self.kill(host)
        while len(self._workers) < number:
            self.start_worker(f"w{len(self._addresses)}")
        return list(self._workers)

    def start_worker(
        self,
        host: str,
        hidden: Sequence[Path] = (),
        readonly: Sequence[Path] = (),
        env: Mapping[str, str] = NOTHING,
        **resources: float,
    ) -> None:
        """A node of the cluster on a new host, with 1 CPU unless told otherwise.

        Args:
            host: its name.
            hidden: folders over which it has an empty disk.
            readonly: folders that it cannot write.
            env: added to the environment of the node.
            resources: such as `num_cpus=2`.
        """
        self.add(host, hidden, readonly)
        self._start_node(host, f"--address={self.address}", env=env, **{"num_cpus": 1} | resources)
        self._workers.append(host)

    def _start_node(
        self, host: str, *where: str, env: Mapping[str, str] = NOTHING, **resources: float
    ) -> None:
        """Started one by one: `ray start` returns when the node has joined."""
        settings = [f"{name}={value}" for name, value in (PATIENT | env).items()]
        given = [f"--{key.replace('_', '-')}={value:g}" for key, value in resources.items()]
        process = self.start(
            host,
            *where,
            f"--node-ip-address={self._addresses[host]}",
            f"--temp-dir={self._world.path / host}",
            "--disable-usage-stats",
            "--object-store-memory=80000000",
            *given,
            program=("env", *settings, *RAY, "start"),
        )
        status, out, err = ended(process)
        assert status == 0, f"no Ray node on {host}: {out}{err}"

    def processes(self, host: str) -> list[psutil.Process]:
        """What runs on a host."""
        listed = _ip("netns", "pids", self._namespace(host)).split()
        return [psutil.Process(int(pid)) for pid in listed if psutil.pid_exists(int(pid))]

    def drain(self, host: str) -> None:
        """The node is about to be taken away, as Ray tells it of one that a cloud reclaims."""
        script = DRAIN.format(address=self.address, host=host)
        status, out, err = ended(self.start("head", program=(sys.executable, "-c", script)))
        assert (status, out) == (0, "True\n"), err

    def kill(self, host: str) -> None:
        """The host is lost, its sockets closed: SIGKILL to all that runs on it."""
        self._forget(host)
        while processes := self.processes(host):
            for process in processes:
                with suppress(psutil.Error):
                    process.kill()

    def cut(self, host: str) -> None:
        """The host is lost without a word: its cable is cut, and what runs on it goes on."""
        self._forget(host)
        _ip("link", "set", self._cable(host), "down")

    def _forget(self, host: str) -> None:
        with suppress(ValueError):
            self._workers.remove(host)

    def mend(self, host: str) -> None:
        """The cable is back."""
        _ip("link", "set", self._cable(host), "up")

    def end(self) -> None:
        """Kill what runs on the hosts, and remove them."""
        for host in self._addresses:
            with suppress(subprocess.CalledProcessError):  # of one that was half made
                self.kill(host)
                _ip("netns", "del", self._namespace(host))
        _ip("link", "del", self._bridge)


@contextmanager
def hosts_of(world: World) -> Iterator[Hosts]:
    """Hosts for a block; none outlives it."""
    hosts = Hosts(world)
    try:
        yield hosts
    finally:
        hosts.end()


def _claimed_subnet() -> int:
    """A subnet that no other test process has: its bridge is what claims it."""
    for offset in range(SUBNETS):
        subnet = (os.getpid() + offset) % SUBNETS
        with suppress(subprocess.CalledProcessError):
            _ip("link", "add", f"sdwbr{subnet}", "type", "bridge")
            _ip("addr", "add", f"10.77.{subnet}.254/24", "dev", f"sdwbr{subnet}")
            _ip("link", "set", f"sdwbr{subnet}", "up")
            return subnet
    raise RuntimeError("no subnet of 10.77.0.0/16 is free; remove bridges `sdwbr*` of dead tests")


def _ip(*arguments: str) -> str:
    """What `ip ARGUMENTS` prints."""
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout
