"""What a storage folder holds: its studies and comparisons, and how far each is."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdw_core.errors import SDWError, first_line
from study.folder import StudyFolder
from study.snapshot import RETURNS, Snapshot


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A study or a comparison.

    Attributes:
        kind: `study` or `comparison`.
        name: its folder's.
        path: that folder.
        begun: epoch seconds; None: its folder cannot be read.
        state: `running`, `stopped` or `finished`; `unreadable`, with a `reason`.
        done: trials, or cells, that have an outcome.
        total: how many there are to be.
        best: the best objective, as the search judged it; of a comparison, the best mean over all
            its datasets; None: none yet, or a Pareto front.
        metric: what that is.
        of: what reached it: `trial 3`, `front of 4 trials`, or a method.
        reason: why it cannot be read.
    """

    kind: str
    name: str
    path: Path
    begun: float | None
    state: str
    done: int = 0
    total: int = 0
    best: float | None = None
    metric: str = RETURNS[0]
    of: str | None = None
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """An element of what `sdw list --json` prints."""
        return asdict(self) | {"path": str(self.path)}


def listed(storage: Path) -> list[Listed]:
    """The studies and comparisons under a storage folder, the youngest first."""
    kinds = (("study", _study), ("comparison", _comparison))
    found = []
    for kind, look in kinds:
        for file in storage.glob(f"*/{kind}.yaml"):
            path, begun = file.parent.resolve(), None
            try:
                begun = min(each.lstat().st_mtime for each in path.iterdir())
                known = look(path)
            except (SDWError, OSError) as error:
                known = {"state": "unreadable", "reason": first_line(error)}
            found.append(Listed(kind=kind, name=path.name, path=path, begun=begun, **known))
    return sorted(found, key=lambda each: -(each.begun or 0))


def _study(path: Path) -> dict[str, Any]:
    seen = Snapshot.of(StudyFolder(path))
    known = {"state": seen.state, "done": len(seen.settled), "total": seen.total}
    if len(seen.spec.study.objectives) > 1:
        return known | ({"of": f"front of {len(seen.best)} trials"} if seen.best else {})
    known["metric"] = seen.spec.study.objectives[0].metric
    for number in seen.best:
        values = seen.row(number).values
        known |= {"best": values and values[0], "of": f"trial {number}"}
    return known


def _comparison(path: Path) -> dict[str, Any]:
    """From the cells' results alone: whether their data are still the same is not asked."""
    from study.comparison import ComparisonFolder, final_cell, needed
    from study.outcomes import COMPLETE

    folder = ComparisonFolder(path)
    spec = folder.spec()
    results = folder.results(spec, folder.stated(spec))
    done = sum(cell in results for cell in needed(spec, results))
    means: dict[str, float] = {}
    for method in spec.methods:
        cells = [final_cell(spec, method, dataset, results) for dataset in spec.datasets]
        ended = [results[cell] for cell in cells if cell in results]
        if len(ended) == len(cells) and all(result.outcome == COMPLETE for result in ended):
            returns = [result.metrics["normalized_return"] for result in ended]
            means[method] = sum(returns) / len(returns)
    best = max(means, key=lambda method: means[method], default=None)
    state = "running" if folder.seat.occupied() else "finished" if done == spec.size else "stopped"
    known = {"state": state, "done": done, "total": spec.size, "of": best}
    return known | {"best": means.get(best or "")}
