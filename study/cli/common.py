"""What commands share: their options, and how returns and warnings are printed."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from study.console import Table, log

if TYPE_CHECKING:
    from sdw_core.dataset import OfflineDataset

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
STUDIES = Path("sdw-studies")


def warned(datasets: "Iterable[OfflineDataset]") -> list[str]:
    """Warn of datasets that seem to come from another environment; returns what was said."""
    from sdw_core.dataset import check

    found = [check(dataset).warning for dataset in datasets]
    for sentence in filter(None, found):
        log.print(f"warning: {sentence}")
    return [sentence for sentence in found if sentence]


ROWS = {
    "normalized_return": "synthetic rows",
    "confirmed": "the exported rows, fresh seeds",
    "random_subset": "random rows, as many",
    "expert": "expert",
}


def returns_table(scores: dict[str, Any]) -> Table:
    """A line for each summary of returns, by the names of `ROWS` where they have one."""
    table = Table("normalised return", "mean", "iqm", "95 % interval")
    for key, summary in scores.items():
        if isinstance(summary, dict) and "per_policy" in summary:
            table.add_row(
                ROWS.get(key, key),
                f"{summary['mean']:.1f}",
                f"{summary['iqm']:.1f}",
                f"{summary['low']:.1f} to {summary['high']:.1f}",
            )
    return table
