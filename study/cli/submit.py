"""`sdw submit`: a study as a job of Ray, from outside of its cluster."""

from typing import Annotated

import typer

from study.api import Study
from study.cli import completion
from study.cli.common import AsJson, Set, print_lines, require_of_new
from study.cli.help import WHERE
from study.cli.studies import Name, Trials
from study.console import log, print_json
from study.signals import going_on_with


def submit(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="SPEC|STUDY",
            help="A YAML file or a shipped spec; with --resume, a study on the cluster.",
            autocompletion=completion.specs,
        ),
    ],
    address: Annotated[
        str,
        typer.Option(
            help="The cluster's job server, as in http://HEAD:8265.",
            envvar="RAY_API_SERVER_ADDRESS",
            metavar="URL",
            rich_help_panel=WHERE,
        ),
    ],
    name: Name = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Folder of studies on the cluster, its whole path; default: the head's "
            "SDW_STORAGE.",
            metavar="DIR",
            rich_help_panel=WHERE,
        ),
    ] = None,
    trials: Trials = None,
    overrides: Set = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a study that is on the cluster.")
    ] = False,
    detach: Annotated[
        bool,
        typer.Option("--detach", help="Leave once the study is accepted and its trials begin."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a study on a cluster, from a machine outside of it.

    The spec goes to the cluster's job server, with the data files and modules of yours that it
    names. The command follows the study's log, and the study needs it no more: Ctrl-C, or a lost
    connection, ends the command alone.

    Examples:
        sdw submit quickstart --name mine --address http://127.0.0.1:8265
        sdw submit my.yaml --address http://10.0.0.5:8265 --storage /shared/studies --detach
        sdw submit mine --resume --address http://127.0.0.1:8265
    """
    if resume:
        require_of_new({"--name": name, "--trials": trials, "--set": overrides})
    given = name, storage, trials, overrides or (), resume
    job = Study.submit(reference, address, *given)
    status = None
    log.print(f"submitted to {address} as the job {job.job}")
    try:
        with going_on_with(f"the study goes on, as the job {job.job} of {address}"):
            for line in job.lines(until_begun=detach):
                log.print(line)
            status = job.exit_status()
    finally:
        if status is None:
            print_lines(job.next_commands, log)
    if as_json:
        print_json(job.to_json())
    if status:
        raise typer.Exit(status)
