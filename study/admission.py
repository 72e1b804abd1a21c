"""Trials run on nodes that can run them: each node of a cluster is asked before it is used.

The nodes that are there are asked before the first trial, and one that fails refuses the study. A
node that joins later is asked by the first act of any trial that Ray places there: a refused node
gets no trial that is proposed afterwards, and the trial waits to be placed elsewhere. Ray's labels
cannot be set on a node that runs, and to list the nodes that passed would keep an autoscaler from
making others; so the refused ones are listed, and excluded.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from sdw_core.console import Table
from sdw_core.errors import InputError, first_line
from search_spaces.spec import Resources
from study import node
from study.driver import Seat

logger = logging.getLogger(__name__)

NAMED = 3
"""Most nodes that the sentence of a refusal names; the table has all."""
NODE_ID = "ray.io/node-id"
"""The label that Ray itself gives to each node."""


class Admission:
    """Which nodes of the connected cluster may run trials of a study, or cells of a comparison.

    Attributes:
        refused: id of a node that joined and failed -> why.

    Args:
        seat: the driver's.
    """

    def __init__(self, seat: Seat) -> None:
        from ray import cloudpickle

        cloudpickle.register_pickle_by_value(node)
        self._passed: list[str] = []
        self.refused: dict[str, list[str]] = {}
        self._question = {
            "folder": str(seat.folder),
            "driver": {key: seat.driver().get(key) for key in ("host", "pid")},
            "wanted": node.versions(),
            "ahead": node.ahead_of_storage(str(seat.folder)),
        }

    def ask(self, show: Callable[[Table], object], stopping: Callable[[], bool]) -> None:
        """Ask every node that is there, all at once.

        Args:
            show: is given a table of all nodes, if one fails.
            stopping: ends the wait for answers.

        Raises:
            InputError: a node fails, or does not answer; the message names the node.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        look = ray.remote(num_cpus=0, max_retries=0)(node.troubles)
        nodes = {each["NodeID"]: each for each in ray.nodes() if each["Alive"]}
        asked = {
            look.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(identity, soft=False)
            ).remote(**self._question): identity
            for identity in nodes
        }
        waiting, waited = list(asked), 0.0
        while waiting and waited < node.ANSWER:
            _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=1)
            waited += 1
            if stopping():
                break
        answers = {asked[reference]: _answer(reference, waiting) for reference in asked}
        if stopping():
            return
        self._passed = [identity[: node.BRIEF] for identity, said in answers.items() if not said]
        failed = {_called(nodes[identity]): said for identity, said in answers.items() if said}
        if failed:
            show(_table({_called(nodes[identity]): said for identity, said in answers.items()}))
            first = [f"{name} ({said[0]})" for name, said in list(failed.items())[:NAMED]]
            more = [f"{len(failed) - NAMED} more"] if len(failed) > NAMED else []
            raise InputError(
                f"{len(failed)} of the cluster's {len(nodes)} nodes cannot run this: "
                f"{', '.join([*first, *more])}; mend that, or take them out of the cluster, and "
                "give the command again."
            )

    def refuse(self, refused: Mapping[str, Any]) -> None:
        """Use a node no more that joined later and failed, and say so.

        Args:
            refused: `node.refusal`.
        """
        if refused["id"] not in self.refused:
            self.refused[refused["id"]] = refused["troubles"]
            logger.warning(
                f"{refused['node']} joined the cluster and is not used: "
                f"{'; '.join(refused['troubles'])}, and start Ray on it anew"
            )

    def selector(self) -> dict[str, str]:
        """Ray's label selector of the nodes that were not refused."""
        return {NODE_ID: f"!in({','.join(self.refused)})"} if self.refused else {}

    def trainable(self, work: Callable[..., None], metrics: Sequence[str]) -> Any:
        """What Tune is given instead of `work`: it does that on a node that passes.

        Args:
            work: runs a trial of a configuration.
            metrics: of which every report must hold something.
        """
        from ray import cloudpickle

        return partial(
            node.trial,
            work=cloudpickle.dumps(work),
            metrics=metrics,
            asked=self._passed,
            question=self._question,
        )


def placed_by(resources: Resources) -> Callable[[dict[str, Any]], Any]:
    """Of a trial's configuration, what Tune asks Ray for: a place on a node that was not refused.

    Like what `trainable` gives, it is sent to nodes by value.
    """
    bundle = {"CPU": resources.cpu, "GPU": resources.gpu}

    def place(config: dict[str, Any]) -> Any:
        from ray.tune import PlacementGroupFactory

        selector = config.get("nodes")
        chosen = {"bundle_label_selector": [selector]} if selector else {}
        return PlacementGroupFactory([bundle], **chosen)

    return place


def _answer(reference: Any, waiting: list[Any]) -> list[str]:
    """What a node answered, or why it did not."""
    import ray

    if reference in waiting:
        ray.cancel(reference, force=True)
        return [f"did not answer within {node.ANSWER:.0f} s: look at Ray's logs there"]
    try:
        said: list[str] = ray.get(reference)
    except Exception as error:  # the node died, or its Python cannot begin
        return [f"could not be asked ({first_line(error).rstrip('.')}): look at Ray's logs there"]
    return said


def _called(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} at {node['NodeManagerAddress']}"


def _table(answers: Mapping[str, list[str]]) -> Table:
    """A line a node, and one more for each further trouble."""
    table = Table("node", "can run trials")
    for name, troubles in answers.items():
        for index, said in enumerate(troubles or ["yes"]):
            table.add_row("" if index else name, said if said == "yes" else f"no: {said}")
    return table
