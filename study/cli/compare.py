"""`sdw compare`: methods x datasets."""

from typing import Annotated

import typer

from study.api import STUDIES, Comparison, WorkFailed
from study.cli import completion
from study.cli.common import Address, AsJson, Storage, shows_progress
from study.console import out, print_json


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
        comparison = Comparison.run(spec, *given, progress=True)
    except WorkFailed as error:
        failed, comparison = error, error.ran
    if as_json:
        print_json(comparison.to_json())
    elif comparison.finished:
        for each in comparison.standings.markdown().split("\n"):
            out.print(each)
        out.print(f"table, results and figures are in {comparison.folder.path}")
        if comparison.folder.report.is_file():
            out.print(f"report in {comparison.folder.report}")
    if failed:
        raise failed
