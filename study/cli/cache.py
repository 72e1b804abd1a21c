"""`sdw cache`: the stage results that studies share."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer

from sdw_core.console import Table
from study.api import Study
from study.cli import completion
from study.cli.common import AsJson, Cache, Storage
from study.cli.help import App
from study.console import out, print_json
from study.locations import STUDIES, cache_folder, storage_folder

cache_app = App(help="What is computed once for a dataset: list, prune.")

Asked = Annotated[
    str | None,
    typer.Argument(
        metavar="[STUDY]",
        help="A study's name under the storage, or its path; default: the whole cache.",
        autocompletion=completion.studies,
    ),
]


@cache_app.command("list")
def cache_list(
    study: Asked = None,
    storage: Storage = STUDIES,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Stage results that studies share, or one study's.

    Examples:
        sdw cache list
        sdw cache list mine
    """
    found: dict[str, Any]
    if study is None:
        from study.stage_cache import all_contents

        folder = cache_folder(storage_folder(storage), cache)
        found, entries = {"cache": str(folder)}, all_contents(folder, storage_folder(storage))
    else:
        opened = Study.open(study, storage)
        found, entries = {"study": opened.name}, opened.cache()
    if as_json:
        print_json(found | {"entries": [asdict(entry) for entry in entries]})
        return
    table = Table()
    table.add_column("stage")
    table.add_column("MB", justify="right")
    table.add_column("written", spare=1)
    table.add_column("used by", spare=2)
    table.add_column("needed")
    table.add_column("file")
    for entry in entries:
        table.add_row(
            entry.stage,
            f"{entry.bytes / 1e6:.1f}",
            f"{datetime.fromtimestamp(entry.written):%Y-%m-%d %H:%M}",
            f"{len(entry.trials)} trials" if study else ", ".join(entry.studies) or "no study",
            "yes" if entry.needed else "no",
            entry.file,
        )
    out.print(table)
    out.print(f"{_files(entries)}, {sum(entry.bytes for entry in entries) / 1e6:.1f} MB")


@cache_app.command("prune")
def cache_prune(
    study: Asked = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what unfinished trials would compute again.")
    ] = False,
    storage: Storage = STUDIES,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Remove stage results that no unfinished trial needs.

    What is in use stays. Whatever is removed and needed later is computed again.

    Examples:
        sdw cache prune
        sdw cache prune mine
    """
    if study is None:
        from study.preflight import check_writable
        from study.stage_cache import prune_all

        folder = cache_folder(storage_folder(storage), cache)
        check_writable(folder, "cache")
        document = {"cache": str(folder)} | prune_all(folder, storage_folder(storage), everything)
    else:
        opened = Study.open(study, storage)
        document = {"study": opened.name} | opened.prune(everything)
    if as_json:
        print_json(document)
        return
    used = f"; {len(document['in_use'])} are in use and stay" if document["in_use"] else ""
    freed = f"{document['bytes_freed'] / 1e6:.1f} MB"
    out.print(f"removed {_files(document['removed'])}, {freed}{used}")


def _files(found: list[Any]) -> str:
    return f"{len(found)} file{'' if len(found) == 1 else 's'}"
