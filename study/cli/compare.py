"""`sdw compare`: methods x datasets."""

import json
from typing import Annotated

import typer

from sdw_core.errors import SDWError
from search_spaces import load_comparison
from study.cli.common import STUDIES, AsJson, Set, Storage, warned
from study.console import log, out, print_json


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
    from study.comparison import (
        ComparisonFolder,
        check_comparison,
        ready,
        run_comparison,
        write_spec,
    )
    from study.standings import Standings

    given = [f"comparison.name={json.dumps(name)}"] if name is not None else []
    loaded = load_comparison(spec, [*(overrides or ()), *given])
    inventory, datasets = check_comparison(loaded)
    warned(datasets.values())
    with ComparisonFolder.opened(loaded, storage) as folder:
        results = run_comparison(folder, loaded, inventory, address, log, retry_failed)
    finished = not any(ready(loaded, results))
    standings = Standings.of(loaded, results)
    if finished:
        write_spec(folder.path, loaded)  # a spec that shrank has no cell to run
        standings.write(folder.path)
    if as_json:
        found = standings.to_json()
        print_json(found | {"finished": finished, "folder": str(folder.path)})
    elif finished:
        for each in standings.markdown().split("\n"):
            out.print(each)
        out.print(f"table, results and figures are in {folder.path}")
    if not finished:
        log.print("stopped; give the same command again, and it goes on where it was")
    elif standings.frame.empty:
        raise SDWError(f"No cell completed: {'; '.join(sorted(set(standings.failed.values())))}")
