"""`sdw distill`, `train` and `evaluate`: one pipeline run, and rows that were exported."""

from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sdw_core.console import Table
from sdw_core.errors import InputError
from sdw_core.labels import named
from search_spaces import load_spec
from study.api import warned
from study.cli.common import (
    AsJson,
    Cache,
    Exported,
    Formats,
    License,
    Set,
    Spec,
    Trust,
    print_lines,
    returns_table,
    shows_progress,
)
from study.cli.help import OUTPUT, WHERE
from study.console import log, out, print_json
from study.locations import cache_folder, storage_folder

if TYPE_CHECKING:
    from sdw_core.artifact import Artifact

EPISODES, PROTOCOL = "Policies and episodes", "Another protocol than the rows' own"
"""Groups of the options of `evaluate`."""


@shows_progress
def distill(
    spec: Spec,
    overrides: Set = None,
    to: Annotated[
        Path | None,
        typer.Option(
            help="Export folder; left out: no export.", metavar="DIR", rich_help_panel=OUTPUT
        ),
    ] = None,
    license: License = None,
    formats: Formats = None,
    threads: Annotated[
        int,
        typer.Option(
            help="Torch threads; more than one pays from width 256 on.",
            min=1,
            max=1024,
            metavar="N",
            rich_help_panel=WHERE,
        ),
    ] = 1,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Run the pipeline once, without Ray; `search` is ignored.

    Examples:
        sdw distill quickstart --set pipeline.distill.outer_steps=100 --to rows
    """
    import torch

    from sdw_core.artifact import refuse_existing
    from sdw_core.formats import require_formats
    from sdw_core.licenses import require_license
    from sdw_core.pipeline import Pipeline
    from study.preflight import check_study, check_writable

    loaded = load_spec(spec, overrides or (), searched_is_fixed=True)
    loaded = loaded.model_copy(update={"search": {}})
    license = None if license is None else require_license(license)
    written = require_formats(formats or ())
    if to:
        refuse_existing(to)
    warned(check_study(loaded).values())
    cache = cache_folder(storage_folder(), cache)
    check_writable(cache, "cache")
    if to:
        check_writable(to.resolve().parent, "to")
    torch.set_num_threads(threads)
    result = Pipeline(loaded.pipeline, cache).run(progress=log if log.progress else False)
    for sentence in () if log.progress else result.warnings:
        log.print(f"warning: {sentence}")
    document = result.to_json()
    with log.working("evaluating"):
        document["random_subset"] = result.random_summary.to_json()
        document["artifact"] = str(to) if to else None
        if to:
            artifact = result.export(to, license, written)
            scores = artifact.evidence["scores"]
            document["confirmed"] = scores["synthetic"]
            if artifact.ensemble > 1:
                document["confirmed_ensemble"] = scores["synthetic_ensemble"]
    if as_json:
        print_json(document)
        return
    out.print(returns_table(document))
    if to:
        out.print(f"exported to {to}")
        folder = quote(str(to))
        print_lines(
            [
                ("evaluate again", f"sdw evaluate {folder}"),
                ("train a policy", f"sdw train {folder} --to policy.pt2"),
                ("see it walk", f"sdw render {folder}"),
            ]
        )


@shows_progress
def train(
    folder: Exported,
    to: Annotated[
        Path, typer.Option(help="File for the policy, such as policy.pt2.", metavar="FILE")
    ],
    seed: Annotated[int, typer.Option(help="Root seed of the training.", min=0, metavar="S")] = 0,
    ensemble: Annotated[
        int | None,
        typer.Option(help="Networks of the policy; default: the manifest's.", metavar="E"),
    ] = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Train a policy on exported rows; its file runs with torch alone.

    By the rows' own recipe, as an ensemble where the manifest states one: it is the first of the
    policies that `evaluate` judges at that seed.

    Examples:
        sdw train rows --to policy.pt2
    """
    from sdw_core.artifact import read_artifact
    from study.preflight import check_writable

    artifact = read_artifact(folder, trust)
    check_writable(to.resolve().parent, "to")
    with log.working("training"):
        policy = artifact.train(seed, ensemble=ensemble)
        policy.save(to)
    document = {
        "policy": str(to),
        "seed": seed,
        "environment": artifact.arena.environment.to_json(),
        "observation_dimensions": artifact.observations.shape[1],
        "action_dimensions": artifact.actions.shape[1],
        "recipe": asdict(artifact.recipe),
        "ensemble": policy.ensemble,
    }
    if as_json:
        print_json(document)
        return
    kind = "a policy" if policy.ensemble == 1 else f"an ensemble of {policy.ensemble} networks"
    out.print(f"trained {kind} for {artifact.arena.environment}, in {to}")
    out.print(f"  run it   torch.export.load({str(to)!r}).module()(observations)")


@shows_progress
def evaluate(
    folder: Exported,
    policies: Annotated[
        int | None,
        typer.Option(help="Fresh policies.", min=1, metavar="K", rich_help_panel=EPISODES),
    ] = None,
    episodes: Annotated[
        int | None,
        typer.Option(help="Episodes a policy.", min=1, metavar="M", rich_help_panel=EPISODES),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Of policies and episodes.", min=0, metavar="S", rich_help_panel=EPISODES
        ),
    ] = None,
    ensemble: Annotated[
        int | None,
        typer.Option(help="Networks of a policy.", metavar="E", rich_help_panel=PROTOCOL),
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(help="Of the network.", metavar="mlp|residual", rich_help_panel=PROTOCOL),
    ] = None,
    layers: Annotated[
        int | None, typer.Option(help="Linear layers.", metavar="N", rich_help_panel=PROTOCOL)
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(
            help="Of the cloning.",
            metavar="sgd|momentum|adam|adamw",
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Gradient steps of a cloning.", metavar="T", rich_help_panel=PROTOCOL),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Of every layer.", metavar="LR", rich_help_panel=PROTOCOL),
    ] = None,
    protocols: Annotated[
        bool,
        typer.Option(
            "--protocols",
            help="A table of other depths, optimisers and more.",
            rich_help_panel=PROTOCOL,
        ),
    ] = False,
    protocol: Annotated[
        Literal["leaderboard"] | None,
        typer.Option(
            help="That of docs/results.md, beside what labels alone add.", rich_help_panel=PROTOCOL
        ),
    ] = None,
    trust: Trust = False,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Train fresh policies on exported rows and run them.

    Every checksum is checked first. What is left out is as in the manifest: the rows' own recipe,
    and the networks of a policy.

    Examples:
        sdw evaluate best/trial-7
        sdw evaluate best/trial-7 --protocols
        sdw evaluate best/trial-7 --protocol leaderboard
        sdw evaluate hf://user/hopper-64
    """
    from sdw_core.artifact import read_artifact, score

    artifact = read_artifact(folder, trust)
    size = {"policies": policies, "episodes": episodes}
    changes = {
        "architecture": architecture,
        "layers": layers,
        "optimizer": optimizer,
        "steps": steps,
        "learning_rate": learning_rate,
        "ensemble": ensemble,
    }
    given = {key: value for key, value in (size | changes).items() if value is not None}
    if protocol:
        if given or protocols or seed is not None:
            raise InputError(
                "`--protocol` is the same for everybody, and other options of the evaluation were "
                "given as well; use one or the other."
            )
        _leaderboard(artifact, cache, trust, as_json)
        return
    evaluation = artifact.evaluation(**given)
    used = artifact.evidence["evaluation"]["seed"] if seed is None else seed
    if protocols:
        if changed := [key for key in changes if key in given]:
            raise InputError(
                "`--protocols` makes one change at a time by itself, and "
                f"`--{changed[0].replace('_', '-')}` was given as well; use one or the other."
            )
        with log.working() as say:
            document = artifact.evaluate_protocols(policies, episodes, used, say)
        _print_protocols(document, as_json)
        return
    with log.working("evaluating"):
        returns = artifact.evaluate(evaluation, used)
    found = score(returns, used, evaluation.ensemble)
    if as_json:
        print_json(found)
        return
    stated = artifact.evidence["scores"]
    scores = {"evaluated now": found, "in the manifest": stated["synthetic"]}
    if artifact.ensemble > 1:
        scores[named("in the manifest", artifact.ensemble)] = stated["synthetic_ensemble"]
    out.print(returns_table(scores))


def _leaderboard(artifact: "Artifact", cache: Path | None, trust: bool, as_json: bool) -> None:
    from sdw_core.leaderboard import NAMES, leaderboard_line, markdown
    from study.preflight import check_writable

    cache = cache_folder(storage_folder(), cache)
    check_writable(cache, "cache")
    with log.working() as say:
        line = leaderboard_line(artifact, cache, trust, say)
    if as_json:
        print_json(line)
        return
    out.print(returns_table({NAMES[name]: each for name, each in line["scores"].items()}))
    out.print(
        f"the expert's labels add {line['labels']:+.1f}, the rows themselves "
        f"{line['rows_alone']:+.1f}; a line for the table of docs/results.md:"
    )
    out.print(markdown(line))


@shows_progress
def render(
    folder: Exported,
    to: Annotated[
        Path | None,
        typer.Option(
            help="Film to write, FILE.mp4; default: film.mp4 in DIR.",
            metavar="FILE",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    policies: Annotated[
        int | None,
        typer.Option(
            help="Fresh policies to choose from.", min=1, metavar="K", rich_help_panel=EPISODES
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Of policies and episodes.", min=0, metavar="S", rich_help_panel=EPISODES
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="Of the film, from the start of the episodes.", metavar="T")
    ] = 8,
    width: Annotated[
        int, typer.Option(help="Of one picture, pixels.", min=64, max=1920, metavar="PX")
    ] = 384,
    no_expert: Annotated[
        bool, typer.Option("--no-expert", help="Do not show the rows' expert beside them.")
    ] = False,
    cache: Cache = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Film the best, median and worst policy of exported rows.

    K policies are trained by the rows' own recipe, and the expert is shown beside those three. A
    still and a short GIF are written beside the film. A machine without a display needs EGL or
    OSMesa for MuJoCo: on Debian, libegl1 and libgl1-mesa-dri.

    Examples:
        sdw render best/trial-7
        sdw render best/trial-7 --to film.mp4 --seconds 20
    """
    from sdw_core.artifact import read_artifact
    from sdw_core.film import render as filmed
    from sdw_core.labels import FILM
    from sdw_core.remote import is_address
    from study.preflight import check_writable

    if to is None and is_address(folder):
        raise InputError(
            f"A film of {folder} has no folder of its own to lie in: name its file with `--to`."
        )
    artifact, to = read_artifact(folder, trust), to or Path(folder) / FILM
    cache = cache_folder(storage_folder(), cache)
    check_writable(to.resolve().parent, "to")
    with log.working() as say:
        film = filmed(artifact, to, policies, seed, seconds, width, not no_expert, cache, say)
    if as_json:
        print_json(film.to_json())
        return
    table = Table("shown", "normalised return of the episode")
    for name, score in film.scores.items():
        table.add_row(name, f"{score:.1f}")
    out.print(table)
    if film.without_expert and not no_expert:
        out.print(f"without the expert: {film.without_expert}")
    print_lines([("film", film.film), ("still", film.poster), ("GIF", film.gif)])
    study = Path(folder).resolve().parents[1]
    if film.film == Path(folder) / FILM and (study / "study.yaml").is_file():
        again = f"`sdw report {quote(str(study))}` writes it anew"
        out.print(f"the study's page shows a film of its best rows once {again}")


@shows_progress
def publish(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An exported synthetic dataset.")],
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="A new dataset of a hub, hf://USER/NAME.")
    ],
    license: Annotated[
        str | None,
        typer.Option(
            help="What is published is under it, such as cc-by-4.0; default: the manifest's.",
            metavar="ID",
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Only those whom you name can see it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Put exported rows into a dataset hub, whole or not at all.

    Every checksum is verified before, and against what comes back from the hub afterwards. Log in
    with `hf auth login`, or set HF_TOKEN; HF_ENDPOINT names another hub than huggingface.co.

    Examples:
        sdw publish best/trial-7 hf://user/hopper-64
        sdw publish best/trial-7 hf://user/hopper-64 --license cc-by-4.0
    """
    from sdw_core.publishing import publish as published

    with log.working("publishing"):
        dataset = published(folder, address, license, private)
    if as_json:
        print_json(
            {"dataset": dataset.repository, "commit": dataset.revision, "page": dataset.page()}
        )
        return
    out.print(f"published {folder} as {dataset}")
    print_lines(
        [
            ("look at it", dataset.page()),
            ("evaluate it", f"sdw evaluate {address}"),
            ("fetch it", f"sdw pull {address} --to rows"),
        ]
    )


@shows_progress
def pull(
    address: Annotated[
        str,
        typer.Argument(
            metavar="ADDRESS", help="hf://USER/NAME, hf://USER/NAME@REVISION, or s3://BUCKET/PATH."
        ),
    ],
    to: Annotated[Path, typer.Option(help="Folder to write.", metavar="DIR")],
    as_json: AsJson = False,
) -> None:
    """Fetch published rows as a folder, every checksum verified.

    Examples:
        sdw pull hf://user/hopper-64 --to rows
    """
    from sdw_core.publishing import pull as pulled
    from study.preflight import check_writable

    check_writable(to.resolve().parent, "to")
    with log.working("fetching"):
        pulled(address, to)
    if as_json:
        print_json({"address": address, "folder": str(to)})
        return
    out.print(f"fetched {address} to {to}")


def _print_protocols(document: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(document)
        return
    scores = {name: judged["normalized_return"] for name, judged in document.items()}
    table = returns_table(scores)
    for name in (name for name, summary in scores.items() if summary is None):
        table.add_row(name, "diverged", "", "")
    out.print(table)
