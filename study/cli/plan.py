"""`sdw plan`: what a study will cost, before it is launched."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sdw_core.console import Table
from sdw_core.labels import ROWS, counted, processors
from study.api import Study
from study.cli import completion
from study.cli.common import AsJson, Set, Spec, Storage
from study.console import out, print_json
from study.locations import STUDIES

NODES = "Where it is to run; default: this machine"


def plan(
    spec: Spec,
    storage: Storage = STUDIES,
    overrides: Set = None,
    cluster: Annotated[
        Path | None,
        typer.Option(
            help="A cluster's file, of Ray's launcher or KubeRay.",
            metavar="FILE",
            rich_help_panel=NODES,
        ),
    ] = None,
    cpus: Annotated[
        int | None, typer.Option(help="Cores of a node.", metavar="N", rich_help_panel=NODES)
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(help="GPUs of a node.", metavar="N", rich_help_panel=NODES)
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(help="Of an hour of a node.", metavar="X", rich_help_panel=NODES),
    ] = None,
    earlier: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Take the times of this study's trials; default: a short trial is timed here.",
            metavar="STUDY",
            autocompletion=completion.studies,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What a study will cost: time, hours of cores and GPUs, price, disk, and on how many nodes.

    A short, real trial is timed on this machine, as many side by side as will run here; nothing is
    written.

    Examples:
        sdw plan quickstart
        sdw plan quickstart --set study.trials=200 --cpus 16 --price 0.68
        sdw plan paper --from mine --cluster cluster.yaml
    """
    given = overrides or (), storage, cpus, gpus, cluster, price, earlier
    document = Study.plan(spec, *given)
    if as_json:
        print_json(document)
        return
    node, trial = document["node"], document["trial"]
    trials, nodes = counted(document["trials"], "trial"), counted(document["nodes"], "node")
    at_a_time, has = document["trials_at_a_time"], processors(node["cpu"], node["gpu"] or None)
    out.print(f"{document['study']}: {trials}, {at_a_time} at a time, on {nodes} of {has}")
    table = Table(show_header=False)
    table.add_row("wall time", _time(document["seconds"]))
    for part, seconds in document["parts"].items():
        if seconds >= 1:
            table.add_row(f"  {ROWS.get(part, part.replace('_', ' '))}", _short(seconds))
    each = f"{_short(trial['distill'])} to distil, {_short(trial['evaluate'])} to judge"
    table.add_row("a trial", f"{_short(trial['seconds'])}: {each}")
    table.add_row("core hours", _hours(document["core_hours"]))
    if node["gpu"]:
        table.add_row("GPU hours", _hours(document["gpu_hours"]))
    if document["price"]:
        table.add_row("price", _hours(document["price"]))
    table.add_row("disk", f"{document['disk'] / 1e6:.0f} MB")
    table.add_row("timed", document["timed"])
    out.print(table)
    out.print(_by_nodes(document))


def _by_nodes(document: dict[str, Any]) -> Table:
    priced = document["price"] is not None
    table = Table("nodes", "at a time", "wall time", *["price"] * priced, "guided by results", "")
    for row in document["by_nodes"]:
        table.add_row(
            str(row["nodes"]),
            str(row["trials_at_a_time"]),
            _short(row["seconds"]["expected"]),
            *([f"{row['price']['expected']:.3g}"] if priced else []),
            counted(row["guided_trials"], "trial"),
            "best" if row["nodes"] == document["best_nodes"] else "",
        )
    return table


def _time(seconds: dict[str, float]) -> str:
    low, expected, high = map(_short, seconds.values())
    return f"{low} to {high}, {expected} expected"


def _hours(values: dict[str, float]) -> str:
    return "{low:.3g} to {high:.3g}".format(**values)


def _short(seconds: float) -> str:
    """
    >>> _short(9.6), _short(150), _short(9000)
    ('10 s', '2.5 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
