"""What commands share: their options, and how returns are printed."""

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from sdw_core.console import Console, Table
from sdw_core.errors import InputError
from sdw_core.labels import ROWS, named
from study.cli import completion
from study.cli.help import OUTPUT, WHERE
from study.console import out, show

Spec = Annotated[
    str,
    typer.Argument(
        metavar="SPEC",
        help="A YAML file, or the name of a shipped spec; see `sdw specs`.",
        autocompletion=completion.specs,
    ),
]
StudyName = Annotated[
    str,
    typer.Argument(
        metavar="STUDY",
        help="A study's name under the storage, or its path.",
        autocompletion=completion.studies,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", help="Print results, warnings and errors alone.", rich_help_panel=OUTPUT
    ),
]
NoProgress = Annotated[
    bool,
    typer.Option("--no-progress", help="Do not show how far the work is.", rich_help_panel=OUTPUT),
]
Exported = Annotated[
    str,
    typer.Argument(
        metavar="DIR",
        help="An exported synthetic dataset, or its address: hf://USER/NAME, s3://BUCKET/PATH.",
    ),
]
Storage = Annotated[
    Path,
    typer.Option(
        help="Folder that holds studies.",
        envvar="SDW_STORAGE",
        show_default=True,
        metavar="DIR",
        rich_help_panel=WHERE,
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster: `auto` or HOST:PORT; default: this machine.",
        metavar="ADDRESS",
        rich_help_panel=WHERE,
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        help="What is computed once for a dataset; default: `cache` in the storage.",
        envvar="SDW_CACHE",
        metavar="DIR",
        rich_help_panel=WHERE,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="A setting by its path from the spec's root; repeatable.",
        metavar="K=V",
        autocompletion=completion.keys,
    ),
]
WarmFrom = Annotated[
    list[str] | None,
    typer.Option(
        help="An earlier study, whose best configurations are asked first; repeatable.",
        metavar="STUDY",
        autocompletion=completion.studies,
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document.", rich_help_panel=OUTPUT)
]
License = Annotated[
    str | None,
    typer.Option(
        help="Of the export, by its id, such as cc-by-4.0; default: the source's.",
        metavar="ID",
        rich_help_panel=OUTPUT,
    ),
]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        help="Beside safetensors and parquet; repeatable.",
        metavar="npz|csv|minari",
        rich_help_panel=OUTPUT,
    ),
]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Let a set name modules to import, and any arguments."),
]


def shows_progress(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options `--quiet` and `--no-progress` beside its own."""

    @wraps(command)
    def run(*, quiet: bool, no_progress: bool, **given: Any) -> None:
        show(progress=not (quiet or no_progress), messages=not quiet)
        command(**given)

    own = signature(command)
    options = {"quiet": Quiet, "no_progress": NoProgress}
    added = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=False, annotation=option)
        for name, option in options.items()
    ]
    run.__annotations__ = command.__annotations__ | options
    run.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=[*own.parameters.values(), *added]
    )
    return run


def print_lines(lines: Iterable[tuple[str, object]], console: Console = out) -> None:
    """What lies where, or what may be done, and the path or the command."""
    for what, it in lines:
        console.print(f"  {what:<18}{it}")


def require_of_new(given: Mapping[str, object]) -> None:
    """Refuse options of a new study beside `--resume`.

    Args:
        given: option -> its value.

    Raises:
        InputError: one was given.
    """
    for option, value in given.items():
        if value:
            raise InputError(
                f"`{option}` is for a new study, and `--resume` goes on with one as it is; leave "
                "one of the two out."
            )


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
