"""What Ray says of a cluster's nodes, and what it does not say, or says too late."""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from sdw_core.files import read_whole
from study.address import knock
from study.console import log
from study.outcomes import STOPPED, TrialResult
from study.trial import throttled

KNOCKING = 3.0
"""Seconds in which a node that lives accepts a connection."""
SILENCE = 30.0
"""Seconds without an answer after which the head is given up: Ray's core ends the process at 60."""
UNWINDING = 10.0
"""Seconds that the work has to end by itself then, before its process is ended."""
KNOCK_EVERY = 2.0
"""Seconds between two knocks at the head."""
LOOK_AT_NOTE = 5.0
"""Seconds between two looks of a worker at whether its node is about to leave."""
Node = dict[str, Any]
"""As `ray.nodes()` has it."""


class ClusterLost(Exception):
    """The cluster, or its node here, is gone, and nothing can be run any more."""


def nodes() -> dict[str, Node]:
    """Every node that the connected cluster has or had, by Ray's id of it."""
    import ray

    return {node["NodeID"]: node for node in ray.nodes()}


def node_of(actor_id: str) -> Node | None:
    """The node that an actor runs on, or ran on; None if it never ran."""
    import ray

    told = ray._private.state.actors(actor_id)
    return nodes().get(told.get("Address", {}).get("NodeID", ""))


def leaving() -> list[str]:
    """Ray's ids of the nodes that are drained, as a spot node before it is taken away."""
    import ray

    return sorted(ray._private.state.state.get_draining_nodes())


class NodeLeaves(Exception):
    """Work stopped as its node is about to leave: another node goes on with it."""


def node_leaves(note: Path) -> Callable[[], bool]:
    """In a worker: says whether its node is about to leave.

    Args:
        note: where the driver says which nodes are, under `nodes`.
    """
    import ray

    own = ray.get_runtime_context().get_node_id()
    return throttled(lambda: own in (read_whole(note) or {}).get("nodes", ()), LOOK_AT_NOTE)


def require_stays(result: TrialResult, leaves: Callable[[], bool]) -> None:
    """In a worker: end it after work that was stopped as its node is about to leave.

    Raises:
        NodeLeaves: an error, as Tune gives other work to a worker that ends well.
    """
    if result.outcome == STOPPED and leaves():
        raise NodeLeaves


def lost(node: Node) -> bool:
    """Whether a node that once lived is gone, or about to go.

    A node whose processes were ended is known to Ray as dead after a minute at worst, and a node
    that is shut down in order has lost its workers some seconds before: so the node is asked.
    """
    now = nodes().get(node["NodeID"])
    if not now or not now["Alive"] or node["NodeID"] in leaving():
        return True
    try:
        knock(node["NodeManagerAddress"], node["NodeManagerPort"], KNOCKING)
    except OSError:
        return True
    return False


class ClusterWatch:
    """Notices that the driver can run nothing any more: Ray's core would wait, or end the process.

    The driver's own node dies with its raylet, and that with any of the agents beside it: Ray then
    waits for ever. Whatever asks a head that is gone waits for a minute, in C++, where no exception
    reaches it, and then Ray's core ends the process with words of its own. So a thread knocks at
    the head; it ends the process itself where the work does not end in time.

    Args:
        address: of the head.
        way_on: how to go on, as a sentence ends.
        leave: called before the process is ended.
    """

    def __init__(self, address: str, way_on: str, leave: Callable[[], None]) -> None:
        host, _, port = address.rpartition(":")
        self._head = host, int(port)
        self._way_on = way_on
        self._leave = leave
        self._lost = self.loss(
            f"The head of the Ray cluster, at {address}, has not answered for {SILENCE:.0f} s (it "
            "ended, or its host, or the network is cut)"
        )
        self._silent = False
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "ClusterWatch":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        self._thread.join()

    def loss(self, what: str) -> ClusterLost:
        """The loss in words, with the way to go on."""
        return ClusterLost(f"{what}; what is done is kept: {self._way_on}")

    def require(self) -> None:
        """Notice that the head is gone.

        Raises:
            ClusterLost: it is.
        """
        if self._silent:
            raise self._lost

    def require_node(self) -> None:
        """Notice that the driver's own node died.

        Raises:
            ClusterLost: it did.
        """
        import ray

        own = nodes()[ray.get_runtime_context().get_node_id()]
        if not own["Alive"]:
            logs = Path(own["RayletSocketName"]).parents[1] / "logs"
            raise self.loss(f"Ray's node here died (its logs: {logs})")

    def _watch(self) -> None:
        heard = monotonic()
        while not self._left.wait(KNOCK_EVERY) and not self._silent:
            with suppress(OSError):
                knock(*self._head, KNOCKING)
                heard = monotonic()
            self._silent = monotonic() - heard > SILENCE
        if not self._left.wait(UNWINDING):
            with suppress(Exception):
                self._leave()
            log.print(f"sdw: {self._lost}.")
            os._exit(1)
