"""Driving a comparison: Ray Tune runs its cells, as it runs the trials of a study."""

import json
import math
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from ray import tune

from sdw_core.console import Console
from sdw_core.errors import SDWError, SourceChanged
from sdw_core.identity import Inventory, Sources
from search_spaces import Cell, ComparisonSpec
from study.attempts import Attempts
from study.capacity import Places
from study.comparison import (
    ComparisonFolder,
    Results,
    needed,
    ready,
    run_cell,
    title,
    write_spec,
)
from study.losses import ClusterLost, node_leaves, require_stays
from study.outcomes import FAILED, TrialResult
from study.preflight import require_resources
from study.runner import RayNotStarted, admitted, ray_session
from study.signals import stopping
from study.supervision import Watched, run_attempts

METRIC = "normalized_return"


def run_comparison(
    folder: ComparisonFolder,
    spec: ComparisonSpec,
    inventory: Inventory,
    address: str | None,
    console: Console,
    retry_failed: bool = False,
) -> Results:
    """Run every cell that has no result yet, or as many as there is time for until it is stopped.

    Args:
        folder: where results are, and go.
        spec: what to compare.
        inventory: what its cells are made of; see `check_comparison`.
        address: of a Ray cluster; None starts Ray on this machine.
        console: told when a cell ends.
        retry_failed: forget the results of cells that failed.

    Returns:
        The results; some are missing if the comparison was asked to stop.

    Raises:
        InputError: another process runs it, the cluster cannot be reached, or this machine, or
            the cluster, holds no cell.
        SourceChanged: a cell found that its dataset, checkpoint or method changed meanwhile.
        SDWError: a cell could not write, Ray cannot be started, its node died, or another process
            took the comparison over.
    """
    if address is None:
        require_resources(spec.comparison.resources, "comparison")
    with folder.seat.taken() as heartbeat:
        folder.stop_flag.unlink(missing_ok=True)
        folder.leaving_note.unlink(missing_ok=True)
        results = folder.results(spec, inventory)
        if unused := folder.unused(spec, inventory):
            line = f"{unused} results of these settings lie unused: they were made of other "
            line += "data, of another checkpoint or by another version, or do not say"
            console.print(line)
        if retry_failed:
            results = {c: r for c, r in results.items() if r.outcome != FAILED}
            for cell in spec.all_cells():
                if cell not in results:
                    sources = inventory.sources(cell.config)
                    (folder.cell(cell, sources) / "result.json").unlink(missing_ok=True)
        if any(ready(spec, results)):
            with stopping(folder.stop_flag):
                try:
                    with ray_session(address, "give the same command again", heartbeat.end) as ray:
                        need, note = spec.comparison.resources, folder.leaving_note
                        given = need, "comparison", console.print, folder.stop_flag.exists
                        nodes, admission = admitted(address, folder.seat, *given)
                        write_spec(folder.path, spec)
                        places = Places(nodes, need, "auto", heartbeat.tell)
                        watched = Watched(heartbeat, ray.cluster, places, admission, note)
                        _run(folder, spec, inventory, results, console, watched)
                except (ClusterLost, RayNotStarted) as error:
                    if folder.stop_flag.exists():  # whoever asked for it ended Ray's as well
                        return results
                    if isinstance(error, RayNotStarted):
                        raise
                    raise SDWError(f"{error}.") from error
        return results


def _run(
    folder: ComparisonFolder,
    spec: ComparisonSpec,
    inventory: Inventory,
    results: Results,
    console: Console,
    watched: Watched,
) -> None:
    """Add to the results what the cells find that have none."""

    def told(cell: Cell) -> None:
        done = sum(each in results for each in needed(spec, results))
        line = f"{done} of {spec.size} {title(spec, cell)}: {_told(results[cell])}"
        console.print(line)

    flag, resources = folder.stop_flag, spec.comparison.resources
    search = CellSearch(folder, spec, inventory, results, told, flag.exists, watched)
    bound = partial(run_in_worker, folder=str(folder.path))
    run_attempts(search, bound, resources, folder.path, watched)
    if search.changed:
        raise SourceChanged(search.changed)
    if search.trouble:
        raise SDWError(
            f"The storage {str(folder.path)!r} cannot be written ({search.trouble}); what is done "
            "is kept: mend that, and give the same command again."
        )


def _told(result: TrialResult) -> str:
    summary = result.normalized_return
    if summary is None:
        return f"{result.outcome} {result.reason}"
    return f"{summary.mean:.1f} ({summary.low:.1f} to {summary.high:.1f})"


class CellSearch(Attempts):
    """Proposes the cells that can run and have no result, and takes in what they find.

    A cell's number is its place among all that could run, whatever the searches choose.

    Args:
        folder: where results are, and go.
        spec: what is compared.
        inventory: what its cells are made of.
        results: those that there are; what cells find is added.
        told: called with each cell that ended.
        stopping: while it returns True, nothing new is proposed.
        watched: meanwhile.
    """

    def __init__(
        self,
        folder: ComparisonFolder,
        spec: ComparisonSpec,
        inventory: Inventory,
        results: Results,
        told: Callable[[Cell], None],
        stopping: Callable[[], bool],
        watched: Watched,
    ) -> None:
        super().__init__(stopping, watched.admission, watched.places, [METRIC], ["max"])
        self._spec = spec
        self._results = results
        self._told = told
        self._cells = list(spec.all_cells())
        self._sources = [inventory.sources(cell.config) for cell in self._cells]
        self._homes = [*map(folder.cell, self._cells, self._sources)]
        self._numbers = {cell: number for number, cell in enumerate(self._cells)}
        self._ready = self._now_ready()

    def _now_ready(self) -> list[int]:
        return [self._numbers[cell] for cell in ready(self._spec, self._results)]

    def propose(self) -> dict[str, Any] | None:
        """The next that can run; of those that share a folder, one at a time."""
        taken = {self._homes[number] for number in self._under_way.values()}
        free = (number for number in self._ready if self._homes[number] not in taken)
        number = next(free, None)
        if number is None:
            return None
        return {"number": number, "sources": json.dumps(self._sources[number].to_json())}

    def requeue(self, number: int) -> None:
        """The cell has no result, and so can be proposed again."""

    def record(self, number: int, result: TrialResult, ray_trial_id: str) -> None:
        """Take in a result, which may be what other cells wait for."""
        cell = self._cells[number]
        self._results[cell] = result
        self._ready = self._now_ready()
        self._told(cell)


def run_in_worker(config: dict[str, Any], folder: str) -> None:
    """What a Ray worker runs: one cell, and a report of its outcome."""
    comparison = ComparisonFolder(Path(folder))
    spec = comparison.spec()
    resources = spec.comparison.resources
    cell = next(islice(spec.all_cells(), config["number"], None))
    sources = Sources.stated_by({"sources": json.loads(config["sources"])})
    leaves = node_leaves(comparison.leaving_note)
    result = run_cell(comparison, cell, sources, resources.cpu, resources.gpu, leaves)
    require_stays(result, leaves)
    value = result.metrics.get(METRIC, math.nan)
    tune.report({METRIC: value, "document": json.dumps(result.to_json())})
