"""`sdw launch`, `resume`, `status`, `export` and the like: what is done with a study."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdw_core.console import Table, line
from sdw_core.labels import FILM, counted, shrunk
from search_spaces.constraints import Constraint
from search_spaces.ranges import range_in_words
from study.api import Study, WorkFailed, open_either
from study.cli import completion
from study.cli.common import (
    Address,
    AsJson,
    Cache,
    Formats,
    License,
    Set,
    Spec,
    Storage,
    StudyName,
    WarmFrom,
    print_lines,
    returns_table,
    shows_progress,
)
from study.cli.help import OUTPUT, WHERE
from study.console import log, out, print_json
from study.job import log_of
from study.locations import STUDIES

if TYPE_CHECKING:
    from study.snapshot import Snapshot

Name = Annotated[
    str | None, typer.Option(help="Name of the study; default: the spec's.", metavar="NAME")
]
Trials = Annotated[
    int | None, typer.Option(help="How many trials; default: the spec's.", metavar="N")
]


@shows_progress
def launch(
    spec: Spec,
    name: Name = None,
    storage: Storage = STUDIES,
    address: Address = None,
    trials: Trials = None,
    overrides: Set = None,
    warm_from: WarmFrom = None,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Run a new study to its end and export its best rows.

    Examples:
        sdw launch quickstart --name mine --set study.trials=20
        sdw launch my.yaml --storage /shared/studies --address auto
        sdw launch my.yaml --warm-from mine --warm-from other
    """
    given = name, storage, address, trials, overrides or (), True, warm_from or (), cache
    _run(lambda: Study.launch(spec, *given), as_json)


@shows_progress
def resume(
    study: StudyName,
    storage: Storage = STUDIES,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a study that was interrupted.

    Its trials keep their numbers and go on from their checkpoints.

    Examples:
        sdw resume mine
    """
    found = Study.open(study, storage)
    _run(lambda: found.resume(address, progress=True), as_json)


@shows_progress
def extend(
    study: StudyName,
    trials: Annotated[int, typer.Option(help="How many more trials.", min=1, metavar="N")],
    storage: Storage = STUDIES,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Give a study more trials.

    The process that runs the study takes them up; where none does, they are run here.

    Examples:
        sdw extend mine --trials 10
    """
    found = Study.open(study, storage)
    _run(lambda: found.extend(trials, address, progress=True), as_json)


@shows_progress
def retry_failed(
    study: StudyName,
    storage: Storage = STUDIES,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Ask again for the trials that FAILED.

    Each has the same settings, under a new number.

    Examples:
        sdw retry-failed mine
    """
    found = Study.open(study, storage)
    _run(lambda: found.retry_failed(address, progress=True), as_json)


@shows_progress
def enqueue(
    study: StudyName,
    settings: Annotated[
        list[str],
        typer.Argument(
            metavar="K=V ...",
            help="Searched settings and their values; the sampler draws the others.",
            autocompletion=completion.searched,
        ),
    ],
    extend: Annotated[
        bool, typer.Option("--extend", help="Give the study one more trial for it.")
    ] = False,
    storage: Storage = STUDIES,
    as_json: AsJson = False,
) -> None:
    """Ask for a configuration before any other.

    The process that runs the study begins it next; where none does, `sdw resume` begins with it.
    It is one of the study's trials.

    Examples:
        sdw enqueue mine distill.synthetic_size=64 weighting.temperature=0.1
        sdw enqueue mine distill.synthetic_size=64 --extend
    """
    found = Study.open(study, storage)
    found.enqueue(settings, extend)
    if as_json:
        print_json(found.status())


@shows_progress
def stop(study: StudyName, storage: Storage = STUDIES) -> None:
    """Ask a running study to stop.

    Its trials write a checkpoint, then end.

    Examples:
        sdw stop mine
    """
    found = Study.open(study, storage)
    with log.working("stopping: running trials write a checkpoint"):
        found.stop()


def validate(
    spec: Spec,
    name: Name = None,
    storage: Storage = STUDIES,
    address: Address = None,
    trials: Trials = None,
    overrides: Set = None,
    warm_from: WarmFrom = None,
    cluster: Annotated[
        Path | None,
        typer.Option(
            help="A cluster that the study is to fit: a file of Ray's launcher, or KubeRay's.",
            metavar="FILE",
            rich_help_panel=WHERE,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What `launch` would run, or why it would refuse to.

    Nothing is written, and no cluster is connected to.

    Examples:
        sdw validate quickstart --set study.trials=20
    """
    given = name, storage, address, trials, overrides or (), cluster, warm_from or ()
    document = Study.validate(spec, *given)
    if as_json:
        print_json(document)
        return
    name_and_size = f": {counted(document['study']['trials'], 'trial')}"
    out.print(line((document["study"]["name"], "bold"), name_and_size))
    table = Table(show_header=False)
    for what, said in _plan_in_words(document):
        table.add_row(what, said)
    out.print(table)


def _plan_in_words(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What a study would run, line by line."""
    from study.snapshot import settings

    dataset, need = document["dataset"], document["estimate"]
    resources = document["study"]["resources"]
    episodes, transitions = dataset["episodes"], dataset["transitions"]
    yield "dataset", dataset["name"]
    yield "", f"{counted(episodes, 'episode')}, {counted(transitions, 'transition')}"
    yield "environment", dataset["environment"]
    for path, distribution in document["search"].items():
        yield "search", f"{path}: {range_in_words(distribution)}"
    for constraint in document["study"]["constraints"]:
        yield "within", ", ".join(Constraint(**constraint).beyond(0))
    for asked in document["study"]["enqueue"]:
        yield "asked first", settings(asked)
    for objective in document["study"]["objectives"]:
        better = "higher" if objective["mode"] == "max" else "lower"
        yield "objective", f"{objective['metric']}, the {better} the better"
    distill = document["pipeline"]["distill"]
    steps = "{outer_steps:,} outer x {inner_steps:,} inner steps".format(**distill)
    seeds = counted(distill["seeds"], "distillation seed")
    yield "each trial", f"{distill['objective']}, {steps}, {seeds}"
    gpus = f", {resources['gpu']:g} GPU" if resources["gpu"] else ""
    yield "", f"{counted(resources['cpu'], 'core')}{gpus}"
    if steps := document["study"]["bc_steps"]:
        cloned = f"BC on all data ({counted(steps, 'step')})"
        yield "at the end", f"the best on fresh seeds, beside random rows, {cloned} and the expert"
    disk, a_trial = need["disk"] / 1e6, need["disk_per_trial"] / 1e6
    yield "needs", f"about {disk:,.0f} MB of disk, {a_trial:,.1f} MB a trial"
    memory, gpu = need["memory"] / 1e9, need["gpu_memory_per_trial"] / 1e9
    at_a_time = counted(need["trials_at_a_time"], "trial")
    on_gpu = f", {gpu:,.1f} GB on the GPU each" if gpu else ""
    yield "", f"{memory:,.1f} GB of memory for {at_a_time} at a time{on_gpu}"
    if document["cluster"]:
        yield "cluster", f"{document['cluster']} is valid for {document['cluster_for']}"
        if document["cluster_holds"] is not None:
            holds = counted(document["cluster_holds"], "trial")
            yield "", f"holds {holds} at a time at its largest"


def status(
    study: StudyName,
    storage: Storage = STUDIES,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="First make the database anew from the folders.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """A study's trials, its best, and whether it is running.

    Examples:
        sdw status mine
        sdw status mine --json
    """
    from study.display import by_whom, summary

    found = Study.open(study, storage)
    rebuilt = {"rebuilt": found.rebuild()} if rebuild else {}
    snapshot = found.snapshot()
    if as_json:
        print_json(snapshot.to_json() | rebuilt)
        return
    out.print(f"{found.name}: {snapshot.state}{by_whom(snapshot)}, {summary(snapshot)}")
    _print_study(snapshot)


@shows_progress
def export(
    study: StudyName,
    top: Annotated[
        int | None,
        typer.Option(help="How many of the best trials.", min=1, show_default="1", metavar="K"),
    ] = None,
    pareto: Annotated[
        bool,
        typer.Option("--pareto", help="The whole Pareto front: the default for two objectives."),
    ] = False,
    to: Annotated[
        str | None,
        typer.Option(
            help="Folder, or s3://BUCKET/PATH or gs://...; default: exports in the study.",
            metavar="DIR",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    license: License = None,
    formats: Formats = None,
    film: Annotated[
        bool,
        typer.Option(
            "--film", help="Film the policies, for the card; see `render`.", rich_help_panel=OUTPUT
        ),
    ] = False,
    storage: Storage = STUDIES,
    as_json: AsJson = False,
) -> None:
    """Judge the best trials on fresh seeds and write their rows.

    Examples:
        sdw export mine --top 3 --to best
        sdw export mine --to s3://results/mine
    """
    found = Study.open(study, storage)
    folders = found.export(to, top, pareto, license, film, progress=True, formats=formats or ())
    if as_json:
        print_json({"study": found.name, "folders": [str(path) for path in folders]})
    else:
        for path in folders:
            out.print(str(path))


@shows_progress
def report(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="STUDY|COMPARISON",
            help="A study's or a comparison's name under the storage, or its path.",
            autocompletion=completion.studies_and_comparisons,
        ),
    ],
    to: Annotated[
        str | None,
        typer.Option(
            help="A new file, here or at s3://BUCKET/PATH; default: report.html in its folder.",
            metavar="FILE",
        ),
    ] = None,
    storage: Storage = STUDIES,
    as_json: AsJson = False,
) -> None:
    """Write a study or a comparison as one HTML page.

    The page loads nothing else: send it to anybody. It says the answer first, then shows what
    leads to it; of a study that runs, what there is so far.

    Examples:
        sdw report mine
        sdw report compare-quick --to for-a-colleague.html
        sdw report mine --to s3://results/mine.html
    """
    found = open_either(reference, storage)
    with log.working("writing the report"):
        written = found.report(to)
    if as_json:
        print_json({"report": str(written)})
    else:
        out.print(f"report in {written}")


def dashboard(
    study: StudyName,
    storage: Storage = STUDIES,
    port: Annotated[
        int, typer.Option(help="Port on loopback.", min=0, max=65535, metavar="P")
    ] = 8080,
) -> None:
    """Trials and curves in a browser, on this machine only.

    Serves optuna-dashboard and TensorBoard.

    Examples:
        sdw dashboard mine
    """
    from study.dashboard import serve

    serve(Study.open(study, storage).folder, port, log)


def _run(work: Callable[[], Study], as_json: bool) -> None:
    """Run a study, and print what came of it, or that nothing did."""
    failed: WorkFailed | None = None
    try:
        study = work()
    except WorkFailed as error:
        failed, study = error, error.ran
    snapshot = study.snapshot()
    if as_json:
        print_json(snapshot.to_json())
    elif not snapshot.goes_on:  # else by another process or a job, whose trials these are
        _print_study(snapshot)
    if failed:
        raise failed


def _print_study(snapshot: "Snapshot") -> None:
    """The trials, why some failed, the winner on fresh seeds, what lies where, and how to go on."""
    from study.display import waiting
    from study.snapshot import settings
    from study.tables import trial_table

    out.print(trial_table(snapshot) if snapshot.trials else "no trial was begun yet")
    if snapshot.waiting:
        out.print(waiting(snapshot.waiting))
    for asked in snapshot.queue:
        out.print(f"asked next: {settings(asked)}")
    for group in snapshot.failures:
        trials = counted(len(group.trials), "trial")
        out.print(f"{trials} FAILED ({group.numbers()}): {group.reason}")
    if snapshot.why_ended:
        out.print(snapshot.why_ended)
    if saved := snapshot.early_stopping:
        out.print(
            f"early stopping ended {counted(saved['pruned'], 'trial')} and saved "
            f"{saved['outer_steps_saved']:,} outer steps, {saved['percent']:.0f} % of them",
        )
    for sentence, count in snapshot.warnings.items():
        log.print(f"warning, {counted(count, 'trial')}: {sentence}")
    if snapshot.best:
        _print_best(snapshot)
    elif snapshot.unsatisfied:
        out.print(snapshot.unsatisfied)
    print_lines((what, path) for what, path in _made(snapshot) if path.exists())
    print_lines(snapshot.next_commands[:3])


def _print_best(snapshot: "Snapshot") -> None:
    """What won, on fresh seeds once it was exported."""
    from study.snapshot import settings
    from study.tables import doubt, fresh_scores, front_table

    exports = snapshot.exports
    if len(snapshot.spec.study.objectives) > 1:
        out.print(f"Pareto front: {counted(len(snapshot.best), 'trial')}")
        if exports:
            out.print(front_table(snapshot))
    else:
        row = snapshot.row(snapshot.best[0])
        said = f"{snapshot.objectives(row)}; {settings(row.params)}".rstrip("; ")
        if snapshot.race:
            out.print(f"best: trial {row.number}, in the search {said}")
            out.print(snapshot.race.verdict)
        else:
            out.print(f"best in the search: trial {row.number}, {said}")
        if exports:
            out.print("on fresh seeds, beside what it has to beat:")
            scores = fresh_scores(exports[0])
            out.print(returns_table(scores))
            if snapshot.shrinkage is not None:
                out.print(f"these rows score {shrunk(snapshot.shrinkage)}")
            if doubted := doubt(scores):
                log.print(f"warning: {doubted}")


def _made(snapshot: "Snapshot") -> list[tuple[str, Path]]:
    """Where the rows, the page and the films of a study lie, once they are there."""
    folder, exports = snapshot.folder, snapshot.exports
    rows = exports[0] if len(exports) == 1 else folder.exports
    films = [("film", export / FILM) for export in exports]
    said = log_of(folder.path)
    logs = [("log of its job", said)] if said else []
    return [("rows", rows), ("report", folder.report), *films, *logs]
