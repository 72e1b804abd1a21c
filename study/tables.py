"""Tables of a study: its trials, and a Pareto front on fresh seeds."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sdw_core.console import Table
from sdw_core.files import read_json
from sdw_core.labels import ROWS, in_words, named
from study.book import ENSEMBLE, TrialRow
from study.outcomes import FAILED, PRUNED
from study.snapshot import RETURNS, Snapshot, kind, value


def trial_table(snapshot: Snapshot) -> Table:
    """A row a trial: its settings, its objectives, seconds and outcome; the best say so."""
    spec, rows = snapshot.spec, snapshot.trials
    searched = {path: path.rpartition(".")[2] for path in spec.search}
    metrics = {
        index: objective.metric
        for index, objective in enumerate(spec.study.objectives)
        if objective.metric not in searched.values()
    }
    table = Table(padding=(0, 1), header_style="dim")
    kinds = () if ENSEMBLE in searched else {row.ensemble for row in rows}  # else a column says it
    found = [named(metric, *kinds) if metric in RETURNS else metric for metric in metrics.values()]
    for heading in ("trial", *searched.values(), *found):
        table.add_column(_in_lines(heading), justify="right")
    several = snapshot.on_several_nodes
    table.add_column("95 %\ninterval", justify="right", spare=1)
    table.add_column("trial\nseconds", justify="right", spare=2)
    if several:
        table.add_column("node", spare=3)
    table.add_column("outcome", no_wrap=True)
    for row in rows:
        best = row.number in snapshot.best
        table.add_row(
            str(row.number),
            *[_cell(row.params.get(path)) for path in searched],
            *[value(metric, row.values[i]) if row.values else "" for i, metric in metrics.items()],
            "{:.1f} to {:.1f}".format(*row.interval) if row.interval else "",
            f"{row.seconds:.0f}" if row.seconds is not None else "",
            *[row.node or ""] * several,
            _outcome(row, best, len(spec.study.objectives) > 1),
            style="bold" if best else None,
        )
    return table


def front_table(snapshot: Snapshot) -> Table:
    """The trials of a Pareto front as they were exported: judged on fresh seeds, by their rows."""
    objectives = [each.metric for each in snapshot.spec.study.objectives]
    others = {i: metric for i, metric in enumerate(objectives) if metric not in RETURNS}
    table = Table(padding=(0, 1), header_style="dim")
    headings = ["trial", *map(_in_lines, others.values()), "fresh seeds:\nreturn", "95 %\ninterval"]
    spare = {"BC on\nall data": 2, "expert": 1}
    for heading in (*headings, "random\nrows", *spare):
        table.add_column(heading, justify="right", spare=spare.get(heading, 0))
    front = sorted(
        (snapshot.row(number) for number in snapshot.best),
        key=lambda row: [(row.values or [0.0])[i] for i in others],
    )
    for row in front:
        folder = snapshot.folder.exports / f"trial-{row.number}"
        if not folder.is_dir():
            continue
        scores = fresh_scores(folder)
        rows, random = by_recipe(scores)
        table.add_row(
            str(row.number),
            *[value(metric, row.values[i]) for i, metric in others.items() if row.values],
            f"{rows['mean']:.1f}",
            f"{rows['low']:.1f} to {rows['high']:.1f}",
            f"{random['mean']:.1f}",
            *(f"{scores[k]['mean']:.1f}" if k in scores else "" for k in ("bc_all_data", "expert")),
        )
    return table


def fresh_scores(export: Path) -> dict[str, Any]:
    """What an export states of its rows and of what they have to beat, on fresh seeds."""
    return in_order(read_json(export / "manifest.json")["scores"])


def in_order(scores: dict[str, Any], names: Iterable[str] = ROWS) -> dict[str, Any]:
    """The scores of these names, in their order; of those of `ROWS`: without the search's."""
    return {name: scores[name] for name in names if name in scores}


def by_recipe(scores: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of `fresh_scores`, those of the rows and of random ones: of ensembles where there are any."""
    recipe = "_ensemble" if "synthetic_ensemble" in scores else ""
    return scores[f"synthetic{recipe}"], scores[f"random_subset{recipe}"]


def doubt(scores: dict[str, Any]) -> str | None:
    """That rows of such `fresh_scores` may be worth no more than random ones; None: they are."""
    rows, random = by_recipe(scores)
    if rows["low"] > random["high"]:
        return None
    return (
        f"These rows cannot be told from as many random rows ({rows['mean']:.1f} against "
        f"{random['mean']:.1f}, and the 95 % intervals overlap): search more widely, or for longer."
    )


def _outcome(row: TrialRow, best: bool, several: bool) -> str:
    """`COMPLETE best asked`, `FAILED divergence`, `PRUNED rung 80`, `COMPLETE 3 of 10 policies`."""
    said = [row.outcome]
    if best:
        said.append("front" if several else "best")
    elif row.outcome in (FAILED, PRUNED):
        said.append(kind(row))
    elif row.violates:
        said.append(f"beyond {', '.join(row.violates)}")
    if row.judged_by:
        said.append(row.judged_by)
    return " ".join([*said, *["asked"] * row.asked])


def _in_lines(heading: str) -> str:
    return in_words(heading, "\n").replace(", ", ",\n")


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
