"""`sdw compare`: methods x datasets."""

from typing import TYPE_CHECKING, Annotated

import typer

from sdw_core.console import Table
from study.api import Comparison, WorkFailed
from study.cli import completion
from study.cli.common import Address, AsJson, Cache, Storage, shows_progress
from study.console import out, print_json
from study.locations import STUDIES

if TYPE_CHECKING:
    from study.standings import Standings


@shows_progress
def compare(
    spec: Annotated[
        str,
        typer.Argument(
            metavar="SPEC",
            help="A YAML file, or the name of a shipped comparison; see `sdw specs`.",
            autocompletion=completion.comparisons,
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the comparison.", metavar="NAME")
    ] = None,
    storage: Storage = STUDIES,
    address: Address = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run the cells again that failed.")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A setting by its path from the spec's root; repeatable.",
            metavar="K=V",
            autocompletion=completion.comparison_keys,
        ),
    ] = None,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Run methods x datasets; write table, statistics and figures.

    The same command goes on with a comparison that was interrupted.

    Examples:
        sdw compare compare-quick
    """
    given = name, storage, address, retry_failed, overrides or ()
    failed: WorkFailed | None = None
    try:
        comparison = Comparison.run(spec, *given, progress=True, cache=cache)
    except WorkFailed as error:
        failed, comparison = error, error.ran
    if as_json:
        print_json(comparison.to_json())
    elif comparison.finished:
        print_standings(comparison.standings)
        out.print(f"table, results and figures are in {comparison.folder.path}")
        if comparison.folder.report.is_file():
            out.print(f"report in {comparison.folder.report}")
    if failed:
        raise failed


def print_standings(standings: "Standings") -> None:
    """The tables, the method that the comparison is about in bold; then what is to be said."""
    from study.standings import MEASURE, TABLES

    out.print(MEASURE)
    methods = list(standings.spec.methods)
    for which, title in TABLES.items():
        header, *rows = standings.table(which)
        table = Table(header_style="dim")
        aggregates = len(header) - 1 - len(standings.spec.datasets)
        for place, heading in enumerate(header):
            spare = max(0, len(header) - place) if place > len(header) - aggregates else 0
            right = "right" if place else "left"
            table.add_column(heading.replace("-", "\n"), justify=right, spare=spare)
        for method, row in zip(methods, rows, strict=True):
            ours = method == standings.spec.comparison.ours
            table.add_row(*row, style="bold" if ours else None)
        out.print(f"{title}:")
        out.print(table)
    for line in "\n".join(standings.notes()).strip().split("\n"):
        out.print(line)
