"""What commands share: their options, and how returns are printed."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sdw_core.console import Table
from sdw_core.labels import ROWS, named

Spec = Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped spec.")]
StudyName = Annotated[str, typer.Argument(help="A study's name under the storage, or its path.")]
Storage = Annotated[
    Path, typer.Option(help="Folder that holds studies.", envvar="SDW_STORAGE", show_default=True)
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="A path from the spec's root; repeatable.", metavar="K=V"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
License = Annotated[
    str | None,
    typer.Option(help="Of the export, such as cc-by-4.0; default: the source's.", metavar="ID"),
]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Let a set name modules to import, and any arguments."),
]



def returns_table(scores: dict[str, Any]) -> Table:
    """A line for each summary of returns, by the names of `ROWS` where they have one.

    That of ensembles says so.
    """
    table = Table("normalised return", "mean", "iqm", "95 % interval")
    for key, summary in scores.items():
        if isinstance(summary, dict) and "per_policy" in summary:
            table.add_row(
                named(ROWS.get(key, key), summary.get("ensemble", 1)),
                f"{summary['mean']:.1f}",
                f"{summary['iqm']:.1f}",
                f"{summary['low']:.1f} to {summary['high']:.1f}",
            )
    return table
