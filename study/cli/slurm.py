"""`sdw slurm`: a study as a job of SLURM."""

import sys
from typing import Annotated

import typer

from study.api import Study
from study.cli import completion
from study.cli.common import AsJson, Set, Storage, WarmFrom, print_lines, require_of_new
from study.cli.help import OUTPUT
from study.cli.studies import Name, Trials
from study.console import print_json
from study.job import SCRIPT, Allocation
from study.locations import STUDIES

ASKED = "What SLURM is asked for"


def slurm(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="SPEC|STUDY",
            help="A YAML file or a shipped spec; with --resume, a study.",
            autocompletion=completion.specs,
        ),
    ],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- OPTIONS", help="Options of sbatch, handed on as they are."),
    ] = None,
    name: Name = None,
    storage: Storage = STUDIES,
    trials: Trials = None,
    overrides: Set = None,
    warm_from: WarmFrom = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a study, by its script.")
    ] = False,
    nodes: Annotated[
        int | None,
        typer.Option(
            help="How many nodes.", min=1, show_default="1", metavar="N", rich_help_panel=ASKED
        ),
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(
            help="Time limit; then the job queues again, until the study is finished.",
            metavar="T",
            rich_help_panel=ASKED,
        ),
    ] = None,
    partition: Annotated[
        str | None,
        typer.Option(
            help="Where; default: the cluster's default one.", metavar="P", rich_help_panel=ASKED
        ),
    ] = None,
    gpus_per_node: Annotated[
        str | None,
        typer.Option(
            "--gpus-per-node",
            help="How many GPUs, as in 2 or a100:2.",
            metavar="G",
            rich_help_panel=ASKED,
        ),
    ] = None,
    show: Annotated[
        bool,
        typer.Option(
            "--print", help="Print the script; nothing is submitted.", rich_help_panel=OUTPUT
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a new study as a job of SLURM.

    The job starts a Ray of its own on its nodes. Before its time is over the trials write
    checkpoints, and the job queues again. `sdw status`, `watch` and `stop` work from the login
    node.

    Examples:
        sdw slurm quickstart --print
        sdw slurm my.yaml --nodes 4 --time 8:00:00 --partition long -- --account=mine
        sdw slurm paper --gpus-per-node 4 --set study.resources.gpu=0.25 --time 1-00
        sdw slurm mine --resume
    """
    asked = Allocation(nodes, time, partition, gpus_per_node, tuple(options or ()))
    if resume:
        of_new = {"--print": show, "--name": name, "--trials": trials, "--set": overrides}
        require_of_new(of_new | {"--warm-from": warm_from})
        study = Study.open(reference, storage)
        study.resume_on_slurm(asked)
    else:
        given = name, storage, trials, overrides or (), not show, True, warm_from or ()
        study, text = Study.slurm(reference, asked, *given)
    if show:
        sys.stdout.write(text)
    elif as_json:
        print_json(study.status())
    else:
        print_lines([("script", study.folder.path / SCRIPT), *study.snapshot().next_commands])
