"""`sdw data`: the datasets that can be used, and what is done with one's own.

A dataset of one's own is imported under a Minari id, checked, given reference scores, removed.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer

from sdw_core.console import Table
from sdw_core.errors import InputError
from sdw_core.labels import counted, in_words
from study.cli.common import AsJson
from study.cli.help import App
from study.console import out, print_json

data_app = App(help="Datasets: list, describe, check; import, set-reference, remove one's own.")

Reference = Annotated[
    str,
    typer.Argument(
        metavar="REF", help="A dataset: id, folder or file; `?env=ENVIRONMENT` behind it."
    ),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The Minari id of a local dataset.")]
Scores = Annotated[
    tuple[float, float] | None,
    typer.Option(
        "--reference", help="Returns of a random and of an expert policy.", metavar="LOW HIGH"
    ),
]
ClipActions = Annotated[
    bool, typer.Option("--clip-actions", help="Clip actions to the environment's bounds.")
]


@data_app.command("list")
def data_list(as_json: AsJson = False) -> None:
    """Datasets that can be used by name, without a network.

    Examples:
        sdw data list
    """
    from sdw_core.dataset import available

    found = available()
    if as_json:
        print_json([asdict(dataset) for dataset in found])
        return
    table = Table()
    table.add_column("dataset")
    table.add_column("where", spare=1)
    table.add_column("environment")
    table.add_column("episodes", justify="right", spare=2)
    table.add_column("transitions", justify="right", spare=3)
    for dataset in found:
        sizes = f"{dataset.episodes:,}", f"{dataset.transitions:,}"
        table.add_row(dataset.id, dataset.where, dataset.environment or "?", *sizes)
    out.print(table)


@data_app.command("describe")
def data_describe(
    dataset: Reference,
    reference: Scores = None,
    clip_actions: ClipActions = False,
    as_json: AsJson = False,
) -> None:
    """Size, returns and reference scores of a dataset.

    Examples:
        sdw data describe sdw/hopper-replay-mini-v0
        sdw data describe "my.hdf5?env=Hopper-v5" --reference -20.3 3234.3
    """
    from sdw_core.dataset import describe, load

    loaded = load(dataset, reference, clip_actions)
    document = describe(loaded)
    if as_json:
        print_json(document)
        return
    table = Table(show_header=False)
    for what, said in _in_words(document, str(loaded.environment)):
        table.add_row(what, said)
    out.print(table)


@data_app.command("check")
def data_check(
    dataset: Reference,
    clip_actions: ClipActions = False,
    seed: Annotated[
        int, typer.Option(help="Of the transitions that are drawn.", min=0, metavar="S")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Whether a dataset comes from the environment it is judged in.

    Steps of the dataset are taken again there.

    Examples:
        sdw data check "my.hdf5?env=Hopper-v5"
    """
    from sdw_core.dataset import check, load

    found = check(load(dataset, clip_actions=clip_actions), seed)
    if as_json:
        print_json(found.to_json())
        return
    out.print(found.sentence)
    table = Table(show_header=False)
    for key, value in found.numbers.items():
        table.add_row(in_words(key), f"{value:,.3g}")
    out.print(table)


@data_app.command("import")
def data_import(
    source: Reference,
    name: Annotated[
        str, typer.Option(help="Minari id of the result, like my/hopper-v0.", metavar="NAME")
    ],
    env: Annotated[
        str | None,
        typer.Option(
            "--env",
            help="Like Hopper-v5 or Ant-v4&use_contact_forces=true.",
            metavar="ENVIRONMENT",
        ),
    ] = None,
    reference: Scores = None,
    clip_actions: ClipActions = False,
    as_json: AsJson = False,
) -> None:
    """Turn own data into a named local Minari dataset.

    Examples:
        sdw data import my.hdf5 --env Hopper-v5 --name my/hopper-v0
    """
    from sdw_core.dataset import import_dataset, reference_scores_of

    made = import_dataset(source, name, env, reference, clip_actions)
    scores = reference_scores_of(name)
    if as_json:
        print_json({"dataset": made, "reference_scores": scores})
        return
    out.print(f"imported as {made}")
    if not scores:
        out.print(
            "it has no reference scores, without which no return is normalised: state the returns "
            f"of a random and of an expert policy with `sdw data set-reference {name} LOW HIGH`"
        )
    out.print(f"use it with `pipeline.dataset: {made}`")


@data_app.command("set-reference", context_settings={"ignore_unknown_options": True})
def data_set_reference(
    name: Name,
    low: Annotated[float, typer.Argument(metavar="LOW", help="Return of a random policy.")],
    high: Annotated[float, typer.Argument(metavar="HIGH", help="Return of an expert policy.")],
    as_json: AsJson = False,
) -> None:
    """State the reference scores of a local dataset anew.

    Examples:
        sdw data set-reference my/hopper-v0 -20.3 3234.3
    """
    from sdw_core.dataset import set_reference

    before = set_reference(name, (low, high))
    if as_json:
        print_json({"dataset": name, "reference_scores": [low, high], "before": before})
        return
    stood = f"before: {before[0]} and {before[1]}" if before else "it had none before"
    out.print(f"the reference scores of {name} are {low:g} and {high:g} now; {stood}")


@data_app.command("remove")
def data_remove(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it indeed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a local dataset that `sdw data import` made.

    Examples:
        sdw data remove my/hopper-v0 --yes
    """
    from sdw_core.dataset import remove

    if not yes:
        raise InputError(
            f"what is removed cannot be brought back: say `sdw data remove {name} --yes`, if you "
            "mean it."
        )
    folder = remove(name)
    if as_json:
        print_json({"dataset": name, "folder": str(folder)})
    else:
        out.print(f"removed {name}, which was in {folder}")


def _in_words(document: dict[str, Any], environment: str) -> Iterator[tuple[str, str]]:
    """What a dataset is, line by line."""
    yield "dataset", document["name"]
    limit = counted(document["max_episode_steps"], "step")
    yield "environment", f"{environment}, at most {limit} an episode"
    episodes, transitions = document["episodes"], document["transitions"]
    yield "data", f"{counted(episodes, 'episode')}, {counted(transitions, 'transition')}"
    ends = document["terminated"], document["truncated"]
    yield "episodes end", "{:,} by themselves, {:,} by a limit of time".format(*ends)
    constant = document["constant_observation_dimensions"]
    still = f", of which {', '.join(map(str, constant))} never change" if constant else ""
    yield "a state", counted(document["observation_dimensions"], "dimension") + still
    yield "an action", counted(document["action_dimensions"], "dimension")
    for what in ("return", "normalized_return"):
        summary = document[what + "s"]
        if summary:
            yield (
                in_words(what),
                "mean {mean:,.1f}, from {min:,.1f} to {max:,.1f}".format(**summary),
            )
    scores = document["reference_scores"]
    if scores:
        source = document["reference_source"]
        yield "reference scores", "random {:,g}, expert {:,g}".format(*scores) + f" ({source})"
    else:
        yield "reference scores", "none, so that no return is normalised; see `--reference`"
    yield "content", f"{document['content_hash'][:16]}... (the whole hash is in `--json`)"
