"""`sdw compare`: methods x datasets."""

from typing import Annotated

import typer

from study.api import STUDIES, Comparison, WorkFailed
from study.cli.common import AsJson, Set, Storage
from study.console import out, print_json


def compare(
    spec: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped comparison.")],
    name: Annotated[str | None, typer.Option(help="Name of the comparison.")] = None,
    storage: Storage = STUDIES,
    address: Annotated[str | None, typer.Option(help="Ray cluster, as for `launch`.")] = None,
    retry_failed: Annotated[bool, typer.Option(help="Run the cells again that failed.")] = False,
    overrides: Set = None,
    as_json: AsJson = False,
) -> None:
    """Run methods x datasets, and write their table, statistics and figures; go on if begun."""
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
    if failed:
        raise failed
