"""Attempts at trials, or at cells of a comparison: Tune runs each once, and tries none again.

An attempt that ends without an outcome decides nothing: what it was at is asked for again, and goes
on from its checkpoint. Its process died, its node was lost or handed it over, or the work was asked
to stop. Only a trial under which processes die again and again has failed.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from study.admission import Admission
from study.outcomes import FAILED, STOPPED, TrialResult

WORKER_DEATHS = 3
"""How often a trial whose process died is started again before it counts as failed."""
NODE_DEATHS = 30
"""How many nodes a trial may lose. A day on nodes that are taken away every hour passes; a trial
that brings down each node it comes to, as one that fills its memory, ends."""


@dataclass(frozen=True)
class Death:
    """The end of an attempt that left no outcome.

    Attributes:
        reason: in words.
        host: of its process; None where it did not begin.
        with_node: whether its node is gone, or about to go, as far as is known when asked.
    """

    reason: str
    host: str | None
    with_node: Callable[[], bool]


class Attempts(Searcher):  # type: ignore[misc]
    """What Tune asks for work, and tells what came of it.

    Args:
        stopping: while it returns True, nothing new is proposed.
        admission: to the nodes of a cluster; None on this machine.
        places: how many may be under way; Tune would fix that number at its start.
        metric: names of what is reported.
        mode: `min` or `max` for each.

    Attributes:
        trouble: why results cannot be written: nothing more is proposed then.
        changed: what an attempt says that changed of its sources: nothing more is proposed then.
    """

    def __init__(
        self,
        stopping: Callable[[], bool],
        admission: Admission | None,
        places: Callable[[], float],
        metric: list[str],
        mode: list[str],
    ) -> None:
        super().__init__(metric=metric, mode=mode)
        self._admission = admission
        self._places = places
        self._stopping = stopping
        self._under_way: dict[str, int] = {}
        self._deaths: dict[int, list[Death]] = {}
        self._died: set[str] = set()
        self.trouble: str | None = None
        self.changed: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune keeps a copy of what it was given, to restore it, which nobody does."""
        return {}

    def propose(self) -> dict[str, Any] | None:
        """What to attempt next, with its `number`; None where nothing waits."""
        raise NotImplementedError

    def requeue(self, number: int) -> None:
        """An attempt left no outcome: what it was at waits to be proposed again."""
        raise NotImplementedError

    def record(self, number: int, result: TrialResult, ray_trial_id: str) -> None:
        """An attempt left an outcome."""
        raise NotImplementedError

    def over(self) -> bool:
        """Whether nothing more is proposed, and what waits need not wait any more."""
        return bool(self.trouble or self.changed or self._stopping())

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """What to attempt next; None while that hangs on what is under way."""
        if self.over():
            return str(Searcher.FINISHED)
        if len(self._under_way) >= self._places():
            return None
        proposed = self.propose()
        if proposed:
            self._under_way[trial_id] = proposed["number"]
            return proposed | ({"nodes": self._admission.selector()} if self._admission else {})
        return None if self._under_way else str(Searcher.FINISHED)

    def on_death(self, trial_id: str, death: Death) -> None:
        """Hear how an attempt ended, before Tune completes it without a result."""
        self._deaths.setdefault(self._under_way[trial_id], []).append(death)
        self._died.add(trial_id)

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Keep an outcome, or see to it that there will be one.

        An attempt that did not begin, as a stop came before it or its node cannot run it, waits.
        """
        number = self._under_way.pop(trial_id)
        document = json.loads((result or {}).get("document", "{}"))
        found = TrialResult.from_json(document) if "outcome" in document else None
        if "refused" in document and self._admission:
            self._admission.refuse(document["refused"])
        if trial_id in self._died:
            self._died.discard(trial_id)
            found = _failure(self._deaths[number])
        if found and found.sources_changed:
            self.changed = self.changed or found.reason
        elif found and found.outcome == STOPPED and not self._stopping():
            self.trouble = self.trouble or found.reason
        if found is None or found.outcome == STOPPED:
            self.requeue(number)
        else:
            self._deaths.pop(number, None)
            self.record(number, found, trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: results are kept elsewhere."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


def _failure(deaths: list[Death]) -> TrialResult | None:
    """What deaths make of a trial; None while it is to be attempted again.

    A node's death may be known some time after that of its processes, so all are asked again.
    """
    own = [death for death in deaths if not death.with_node()]
    if len(own) > WORKER_DEATHS:
        return TrialResult(outcome=FAILED, reason=own[-1].reason)
    if len(deaths) - len(own) > NODE_DEATHS:
        lost = f"{len(deaths) - len(own)} nodes were lost under it"
        return TrialResult(outcome=FAILED, reason=f"infrastructure: {lost}, {deaths[-1].host} last")
    return None
