"""`sdw cache`: the stage results that a study's trials share."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer

from sdw_core.console import Table
from study.api import STUDIES, Study
from study.cli.common import AsJson, Storage, StudyName
from study.cli.help import App
from study.console import out, print_json

cache_app = App(help="What a study's trials share: list, prune.")


@cache_app.command("list")
def cache_list(study: StudyName, storage: Storage = STUDIES, as_json: AsJson = False) -> None:
    """Stage results that the study's trials share.

    Examples:
        sdw cache list mine
    """
    found = Study.open(study, storage)
    entries = found.cache()
    if as_json:
        print_json({"study": found.name, "entries": [asdict(entry) for entry in entries]})
        return
    table = Table()
    table.add_column("stage")
    table.add_column("MB", justify="right")
    table.add_column("written", spare=1)
    table.add_column("trials", justify="right", spare=2)
    table.add_column("needed")
    table.add_column("file")
    for entry in entries:
        table.add_row(
            entry.stage,
            f"{entry.bytes / 1e6:.1f}",
            f"{datetime.fromtimestamp(entry.written):%Y-%m-%d %H:%M}",
            str(len(entry.trials)),
            "yes" if entry.needed else "no",
            entry.file,
        )
    out.print(table)


@cache_app.command("prune")
def cache_prune(
    study: StudyName,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what unfinished trials would compute again.")
    ] = False,
    storage: Storage = STUDIES,
    as_json: AsJson = False,
) -> None:
    """Remove stage results that no unfinished trial needs.

    What is in use stays.

    Examples:
        sdw cache prune mine
    """
    found = Study.open(study, storage)
    document = found.prune(everything)
    if as_json:
        print_json({"study": found.name, **document})
        return
    used = f"; {len(document['in_use'])} are in use and stay" if document["in_use"] else ""
    freed = f"{document['bytes_freed'] / 1e6:.1f} MB"
    out.print(f"removed {len(document['removed'])} files, {freed}{used}")
