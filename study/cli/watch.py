"""`sdw watch` and `sdw list`: looking on, from any terminal that sees the folder."""

from time import time

from sdw_core.console import Table
from sdw_core.errors import InputError
from study.api import Study
from study.cli.common import AsJson, Storage, StudyName, print_lines
from study.console import out, print_json
from study.locations import STUDIES, storage_folder


def watch(study: StudyName, storage: Storage = STUDIES, as_json: AsJson = False) -> None:
    """A study as it runs, from any terminal or host.

    Its trials by state, stage and node, the best so far, throughput, the time left, failures. The
    key q leaves, s stops the study. In a pipe or a file it is a line a minute, until the study
    ends. Only the study's folder is needed.

    Examples:
        sdw watch mine
        sdw watch mine --json
    """
    from study.display import watch

    found = Study.open(study, storage)
    if as_json:
        print_json(found.status())
    elif watch(found.folder, out) and out.is_terminal:
        print_lines(found.snapshot().next_commands)


def list_studies(storage: Storage = STUDIES, as_json: AsJson = False) -> None:
    """Studies and comparisons under a storage folder.

    State, trials or cells that have an outcome, the best, and age; the youngest first.

    Examples:
        sdw list
        sdw list --storage /shared/studies --json
    """
    from study.listing import listed
    from study.snapshot import minutes, value

    folder = storage_folder(storage)
    if not folder.is_dir() and folder != STUDIES:  # which the first study makes
        raise InputError(
            f"The storage must be a folder, and {str(folder)!r} is none; name another."
        )
    found = listed(folder)
    if as_json:
        print_json([each.to_json() for each in found])
        return
    if not found:
        out.print(f"{str(folder)!r} holds no study and no comparison yet")
        return
    table = Table(padding=(0, 1), header_style="dim")
    table.add_column("name")
    table.add_column("", spare=2)
    table.add_column("state")
    table.add_column("done", justify="right")
    table.add_column("best", justify="right")
    table.add_column("", spare=3)
    table.add_column("age", justify="right", spare=1)
    for each in found:
        table.add_row(
            each.name,
            each.kind,
            each.state,
            "" if each.reason else f"{each.done} of {each.total}",
            "" if each.best is None else value(each.metric, each.best),
            f"{each.of}, in its search"
            if each.kind == "study" and each.best is not None
            else each.of or "",
            "" if each.begun is None else minutes(time() - each.begun),
        )
    out.print(table)
    for each in found:
        if each.reason:
            out.print(f"{each.name}: {each.reason}")
