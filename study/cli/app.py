"""The command line: `sdw`.

Every command that prints results takes `--json`: one document on stdout and nothing else. Exit
status: 0 success, 1 the work failed, 2 the input was wrong.

What is slow to import (torch, ray, optuna, minari) is imported by the commands that need it.
"""

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from sdw_core import __version__
from sdw_core.errors import InputError, SDWError, first_line
from study.cli.analyze import analyze_app
from study.cli.cache import cache_app
from study.cli.compare import compare
from study.cli.data import data_app
from study.cli.help import App
from study.cli.plan import plan
from study.cli.rows import distill, evaluate, publish, pull, render, train
from study.cli.slurm import slurm
from study.cli.specs import specs
from study.cli.studies import (
    dashboard,
    enqueue,
    export,
    extend,
    launch,
    report,
    resume,
    retry_failed,
    status,
    stop,
    validate,
)
from study.cli.submit import submit
from study.cli.watch import list_studies, watch
from study.console import log, logged, out
from study.signals import Ended, ending
from study.startup import make_ready

COMMANDS = {
    "Studies": (launch, resume, extend, enqueue, retry_failed, stop, plan, validate),
    "What a study found": (status, watch, report, dashboard, export),
    "Synthetic rows": (distill, train, evaluate, render, publish, pull),
    "Clusters": (submit, slurm),
    "Comparisons": (compare,),
}
"""What `sdw --help` lists, in its groups."""
LOOK = "Data, settings, analyses"

app = App(name="sdw")
for group, commands in COMMANDS.items():
    for command in commands:
        app.command(rich_help_panel=group)(command)
app.command("list", rich_help_panel="What a study found")(list_studies)
app.command(rich_help_panel=LOOK)(specs)
app.add_typer(data_app, name="data", rich_help_panel=LOOK)
app.add_typer(analyze_app, name="analyze", rich_help_panel=LOOK)
app.add_typer(cache_app, name="cache", rich_help_panel=LOOK)


def _say_version(asked: bool) -> None:
    if asked:
        out.print(f"sdw-obd {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Say which this is."),
    ] = False,
) -> None:
    """Distil an offline-RL dataset into a few dozen rows, and search for the best settings."""


def _command() -> Any:
    """The command that the process's arguments give."""
    return app(standalone_mode=False)


def main(work: Callable[[], Any] = _command) -> None:
    """The entry point: one sentence and an exit status for whatever goes wrong.

    With SDW_DEBUG set, the traceback precedes the sentence.

    Args:
        work: what is run; returns an exit status, or None.
    """
    try:
        make_ready()
        _require_unicode(*sys.argv, str(Path.cwd()))
        with ending(), logged():
            status = work()
        _flush()
    except Ended as ended:
        _fail(str(ended), ended.exit_code)
    except BrokenPipeError:  # whoever read is gone, as in `sdw data list | head -1`
        with suppress(OSError):
            _flush()
        sys.exit(1)
    except SDWError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:  # a full disk, a folder that went away
        _fail(f"{error.strerror or error}: {error.filename or 'the disk or the network'}.", 1)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)  # of the command whose words were wrong
        command = context.command_path if context else "sdw"
        said = error.format_message().rstrip(".")
        _fail(f"{said}; see `{command} --help`.", error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)  # as Typer does of one within a command
    except Exception as error:
        _fail(
            f"internal error: {type(error).__name__}: {first_line(error).rstrip('.')}; run the "
            "command again with SDW_DEBUG=1 in the environment, and report what is printed then.",
            1,
        )
    sys.exit(status)


def _flush() -> None:
    """Write what stdout holds back; what cannot be written is not tried again when Python ends."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _require_unicode(*words: str) -> None:
    """Refuse names of files that are no UTF-8: no YAML, JSON or database holds them."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"Paths and arguments must be UTF-8, and {word!a} is not; rename it, or work "
                "through a link of another name."
            ) from None


def _fail(sentence: str, status: int) -> NoReturn:
    if os.environ.get("SDW_DEBUG"):
        traceback.print_exc()
    with suppress(OSError):  # of a stream that nothing can be written to
        _flush()
    with suppress(OSError):
        log.print(f"sdw: {sentence}")
    sys.exit(status)
