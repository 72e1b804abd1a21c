"""What a cluster holds: its nodes now and, where it grows, those that its autoscaler may add.

A trial runs on one node, so what counts for it is the largest node, and never a sum over nodes.
What is free on each node, and how many placement groups wait, is asked of `ray.autoscaler.v2.sdk`,
as `ray status` does. No call of Ray's tells a driver which nodes an autoscaler may add, so its
configuration is read on the head node, where the autoscaler's command line names it. Ray's version
is pinned, and a test runs a real autoscaler.
"""

import logging
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import psutil

from sdw_core.errors import InputError
from sdw_core.labels import counted, processors
from search_spaces.documents import StrictLoader, read_yaml
from search_spaces.spec import Resources
from study.preflight import room_for

if TYPE_CHECKING:
    from ray.autoscaler.v2.schema import ClusterStatus

logger = logging.getLogger(__name__)

LOOK = 2.0
"""Seconds between two looks at a cluster's nodes, while trials run."""
HEAD = "node:__internal_head__"
"""The resource by which Ray marks the head node."""
NODE_TYPES = "available_node_types"
"""The key of an autoscaler's configuration."""
PATIENCE = 60.0
"""Seconds for the head node to say what its autoscaler may add."""


@dataclass(frozen=True)
class Node:
    """A node, the free part of one, or what a node of a type will be.

    Attributes:
        name: of the host, or of the node type.
        cpu: CPUs.
        gpu: GPUs.
    """

    name: str
    cpu: float
    gpu: float

    def __str__(self) -> str:
        return f"{self.name} ({processors(self.cpu, self.gpu or None)})"

    @classmethod
    def of(cls, name: str, resources: Mapping[str, float]) -> "Node":
        """From resources as Ray names them: `{"CPU": 8, "GPU": 1}`."""
        return cls(name, resources.get("CPU", 0), resources.get("GPU", 0))

    def room(self, need: Resources) -> int:
        """Trials at a time that it holds."""
        return room_for(need, self.cpu, self.gpu)

    def suits(self, need: Resources) -> tuple[float, float, float]:
        """Larger for a node that holds more trials, or comes nearer to holding one."""
        gpus = self.gpu / need.gpu if need.gpu else float("inf")
        return min(self.cpu / need.cpu, gpus), self.cpu, self.gpu


@dataclass(frozen=True)
class Growth:
    """What an autoscaler may add.

    Attributes:
        types: node types, and how many nodes there may be of each; empty where nobody here knows
            them, as on Kubernetes.
        most: nodes beside the head, of all types.
    """

    types: dict[Node, int]
    most: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Growth":
        """What an autoscaler's configuration says."""
        most = config.get("max_workers", 0)
        types = {
            Node.of(name, said.get("resources", {})): said.get("max_workers", most)
            for name, said in config.get(NODE_TYPES, {}).items()
        }
        return cls({node: limit for node, limit in types.items() if limit}, most)


@dataclass(frozen=True)
class Cluster:
    """A cluster at one moment.

    Attributes:
        nodes: node id -> what it has; a node that is being drained is left out.
        free: node id -> what is free of it.
        kinds: node id -> its node type.
        waiting: the resources of each placement group that waits for them, as a trial of Tune's.
        growth: what an autoscaler may add; None where there is none.
        starting: node type -> nodes that it is starting.
        failed: node type -> why it could start none.
    """

    nodes: dict[str, Node]
    free: dict[str, Node]
    kinds: dict[str, str]
    waiting: list[Node]
    growth: Growth | None = None
    starting: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def holds(self, need: Resources) -> int:
        """Trials at a time, on the nodes that are there."""
        return sum(node.room(need) for node in self.nodes.values())

    def may_hold(self, need: Resources) -> int:
        """Trials at a time, on the nodes that are there and on those that may be added.

        Where nobody knows what may be added, an autoscaler is asked for as much again as there is.
        """
        room = self.holds(need)
        if self.growth is None:
            return room
        if not self.growth.types:
            return 2 * max(1, room)
        there = Counter(self.kinds.values())
        slots = self.growth.most - sum(there[kind.name] for kind in self.growth.types)
        for kind in sorted(self.growth.types, key=lambda kind: -kind.room(need)):
            more = max(0, min(self.growth.types[kind] - there[kind.name], slots))
            room += more * kind.room(need)
            slots -= more
        return room

    def require_room(self, need: Resources, section: str) -> None:
        """Refuse trials, or cells, of which no node holds one: they would wait for ever.

        Args:
            need: of one.
            section: of the spec, that states it.

        Raises:
            InputError: no node holds one, nor one that may be added; the largest is named.
        """
        if self.may_hold(need):
            return
        kinds = self.growth.types if self.growth else {}
        largest = max([*kinds, *self.nodes.values()], key=lambda node: node.suits(need))
        what = "node type" if largest in kinds else "node"
        asked, has = (
            processors(each.cpu, each.gpu if need.gpu else None) for each in (need, largest)
        )
        raise InputError(
            f"`{section}.resources` asks for {asked} on one node, and the largest {what} of the "
            f"cluster, {largest.name!r}, has {has}; lower them, or add a larger {what}."
        )


class Nodes:
    """Looks at the connected cluster, and says in a line which nodes come and go.

    Attributes:
        now: the cluster as it was found last.

    Args:
        need: of a trial, or a cell.
        may_grow: whether there may be an autoscaler; a Ray of one's own has none.
        refused: ids of nodes that are there and not used.
    """

    def __init__(self, need: Resources, may_grow: bool, refused: Container[str] = ()) -> None:
        self._need = need
        self._refused = refused
        self._growth = _growth(_status()) if may_grow else None
        self._hosts: dict[str, str] = {}
        self._looked = monotonic()
        self.now = self._look()

    def require_room(self, section: str) -> None:
        """See `Cluster.require_room`."""
        self.now.require_room(self._need, section)

    def look(self) -> bool:
        """Look again, unless that was less than `LOOK` seconds ago; returns whether it was not.

        A cluster that does not answer is as it was: the head's death is another's to notice.
        """
        from ray.exceptions import RayError

        if monotonic() - self._looked < LOOK:
            return False
        self._looked = monotonic()
        before = self.now
        try:
            self.now = self._look()
        except RayError:
            return False
        joined = self.now.nodes.keys() - before.nodes.keys()
        left = {i for i in before.nodes if i not in self.now.nodes and i not in self._refused}
        if joined or left:
            said = [f"{self.now.nodes[i]} joined" for i in joined]
            said += [f"{before.nodes[i].name} left" for i in left]
            nodes, places = counted(len(self.now.nodes), "node"), self.now.holds(self._need)
            logger.info(f"{', '.join(sorted(said))}: {nodes} now, {places} at a time")
        return True

    def _look(self) -> Cluster:
        status = _status()
        alive = [(n.node_id, n) for n in (*status.active_nodes, *status.idle_nodes) if n.node_id]
        alive = [(i, node) for i, node in alive if i not in self._refused]
        usable = [(i, node) for i, node in alive if node.node_status != "DRAINING"]
        if not self._hosts.keys() >= dict(usable).keys():
            import ray

            self._hosts = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes()}
        launches = [(each.ray_node_type_name, each.count) for each in status.pending_launches]
        launched = [(node.ray_node_type_name, 1) for node in status.pending_nodes]
        starting: Counter[str] = Counter()
        for kind, count in (*launches, *launched):
            starting[kind] += count
        host = {i: self._hosts.get(i, node.ip_address) for i, node in usable}
        return Cluster(
            nodes={i: Node.of(host[i], node.total_resources()) for i, node in usable},
            free={i: Node.of(host[i], node.available_resources()) for i, node in usable},
            kinds={i: node.ray_node_type_name for i, node in alive},
            waiting=[
                Node.of("", group.bundle)
                for demand in status.resource_demands.placement_group_demand
                for group in demand.bundles_by_count
            ],
            growth=self._growth,
            starting=dict(starting),
            failed={
                each.ray_node_type_name: (each.details or "no reason").splitlines()[0]
                for each in status.failed_launches
            },
        )


class Places:
    """How many trials, or cells, may be under way, as nodes come and go.

    Args:
        nodes: of the cluster.
        need: of one.
        asked: how many at most; `auto`: as many as the cluster holds.
        tell: told, by keyword, what the driver's note is to say: see `Seat.driver`.
    """

    def __init__(
        self, nodes: Nodes, need: Resources, asked: int | str, tell: Callable[..., None]
    ) -> None:
        self._nodes, self._need, self._asked = nodes, need, asked
        self._tell = tell
        self._said: dict[str, Any] = {}
        self._note([])

    def __call__(self) -> int:
        """The trials that may be under way, with those that wait for a node; 1 at least."""
        most = max(1, self._nodes.now.may_hold(self._need))
        return min(most, self._asked) if isinstance(self._asked, int) else most

    def look(self, trials: Sequence[Any]) -> None:
        """Look whether nodes came or went, and which of Tune's trials wait for resources.

        Tune calls a trial PENDING also while its worker starts; as many wait as Ray has placement
        groups of their size waiting, the youngest of them.
        """
        if self._nodes.look():
            pending = [trial.config["number"] for trial in trials if trial.status == "PENDING"]
            size = Node("", self._need.cpu, self._need.gpu)
            waiting = min(len(pending), self._nodes.now.waiting.count(size))
            self._note(pending[len(pending) - waiting :])

    def _note(self, waiting: list[int]) -> None:
        cluster, need = self._nodes.now, self._need
        at_a_time = max(1, min(self(), cluster.holds(need)))
        said: dict[str, Any] = {"trials_at_a_time": at_a_time, "waiting": None}
        if waiting:
            freest = max(cluster.free.values(), key=lambda node: node.suits(need), default=None)
            said["waiting"] = {
                "trials": waiting,
                "need": {"cpu": need.cpu, "gpu": need.gpu},
                "free": {"cpu": freest.cpu, "gpu": freest.gpu} if freest else None,
                "node": freest.name if freest else None,
                "nodes": len(cluster.nodes),
                "starting": cluster.starting,
                "failed": cluster.failed,
            }
        if said != self._said:
            self._said = said
            self._tell(**said)


def _status() -> "ClusterStatus":
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status

    return get_cluster_status(ray.get_runtime_context().gcs_address)


def _growth(status: "ClusterStatus") -> Growth | None:
    """What the cluster's autoscaler may add; None where the cluster has none."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    (head,) = [node for node in ray.nodes() if node["Alive"] and HEAD in node["Resources"]]
    there = NodeAffinitySchedulingStrategy(head["NodeID"], soft=False)
    ask = ray.remote(num_cpus=0, scheduling_strategy=there)(_autoscaler_config)
    try:
        config = ray.get(ask.remote(), timeout=PATIENCE)
    except RayError:  # as where the head has not this package
        config = None
    if config is not None:
        return Growth.of(config) if config else None
    # of an autoscaler that runs elsewhere, as KubeRay's does, only what it tells Ray is known
    return Growth({}) if status.stats.autoscaler_version != "0" else None


def _autoscaler_config() -> dict[str, Any] | None:
    """Runs on the head node.

    Returns:
        What the autoscaler that runs there goes by; nothing where it adds no node, as where it was
        given no file; None if no autoscaler runs there.
    """
    import ray

    address = ray.get_runtime_context().gcs_address
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        options = dict(part.partition("=")[::2] for part in command)
        runs = any("/autoscaler/" in part and part.endswith("/monitor.py") for part in command)
        if runs and options.get("--gcs-address") == address:
            path = options.get("--autoscaling-config")
            if path is None:
                return {}
            text = Path(path).expanduser().read_text(encoding="utf-8")
            document = read_yaml(text, path, StrictLoader)
            return {k: v for k, v in document.items() if k in ("max_workers", NODE_TYPES)}
    return None
