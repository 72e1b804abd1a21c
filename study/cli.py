"""The command line: `sdw`.

Every command that prints results takes `--json`: one document on stdout and nothing else. Exit
status: 0 success, 1 the work failed, 2 the input was wrong.

What is slow to import (torch, ray, optuna, minari) is imported by the commands that need it.
"""

import json
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from sdw_core import __version__
from sdw_core.errors import DivergenceError, InputError, SDWError, first_line
from sdw_core.files import read_json
from search_spaces import StudySpec, load_comparison, load_spec
from study.analyze_cli import analyze_app
from study.console import Table, line, log, out, print_json
from study.data_cli import data_app
from study.signals import Ended, ending, going_on_with
from study.startup import make_ready

if TYPE_CHECKING:
    from sdw_core.artifact import Artifact
    from sdw_core.config import EvaluationConfig
    from sdw_core.dataset import OfflineDataset
    from study.book import TrialBook
    from study.folder import StudyFolder
    from study.preflight import Estimate

app = typer.Typer(
    name="sdw",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")
cache_app = typer.Typer(help="A study's stage cache: list, prune.")
app.add_typer(cache_app, name="cache")
app.add_typer(analyze_app, name="analyze")

Spec = Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped spec.")]
StudyName = Annotated[str, typer.Argument(help="A study's name under the storage, or its path.")]
Storage = Annotated[
    Path, typer.Option(help="Folder that holds studies.", envvar="SDW_STORAGE", show_default=True)
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="A path from the spec's root; repeatable.", metavar="K=V"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
License = Annotated[
    str | None,
    typer.Option(help="Of the export, such as cc-by-4.0; default: the source's.", metavar="ID"),
]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Let a set name modules to import, and any arguments."),
]
STUDIES = Path("sdw-studies")


def _say_version(asked: bool) -> None:
    if asked:
        out.print(f"sdw-obd {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say which.")
    ] = False,
) -> None:
    """Distil an offline-RL dataset into a few dozen rows, and search for the best settings."""


@app.command()
def launch(
    spec: Spec,
    name: Annotated[str | None, typer.Option(help="Name of the study.")] = None,
    storage: Storage = STUDIES,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster: `auto` or HOST:PORT; left out: this machine.")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="How many trials.")] = None,
    overrides: Set = None,
    as_json: AsJson = False,
) -> None:
    """Run a new study to its end and export the best synthetic dataset."""
    from sdw_core.identity import Inventory
    from study.folder import StudyFolder

    loaded = _load(spec, overrides, name, trials)
    datasets, _ = _require_launchable(loaded, storage, address)
    _warned(datasets.values())
    inventory = Inventory.of(loaded.reaching(), datasets)
    with StudyFolder.launched(loaded, storage, inventory) as folder:
        _drive(folder, address, as_json)


@app.command()
def resume(
    study: StudyName,
    storage: Storage = STUDIES,
    address: Annotated[str | None, typer.Option(help="Ray cluster, as for `launch`.")] = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a study that was interrupted: its trials keep their numbers and checkpoints."""
    folder = _find_to_write(study, storage)
    _require_runnable(folder, address)
    _drive(folder, address, as_json)


@app.command()
def extend(
    study: StudyName,
    trials: Annotated[int, typer.Option(help="How many more trials.", min=1)],
    storage: Storage = STUDIES,
    address: Annotated[str | None, typer.Option(help="Ray cluster, as for `launch`.")] = None,
    as_json: AsJson = False,
) -> None:
    """Give a study more trials: taken up by the process that runs it, or else run here."""
    folder = _find_to_write(study, storage)
    _require_more(folder, address, trials)
    total = folder.extend(trials)
    log.print(f"{folder.name} now has {total} trials")
    _drive_unless_driven(folder, address, as_json)


@app.command("retry-failed")
def retry_failed(
    study: StudyName,
    storage: Storage = STUDIES,
    address: Annotated[str | None, typer.Option(help="Ray cluster, as for `launch`.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask again for the trials that FAILED: the same settings, each under a new number."""
    folder = _find_to_write(study, storage)
    failed = len(folder.book().failed())
    if not failed:
        raise InputError(
            f"The study {folder.name!r} has no FAILED trial that was not asked again; see `sdw "
            f"status {folder.name}`."
        )
    _require_more(folder, address, failed)
    with folder.edit_lock():
        retries = folder.book(to_write=True).retry_failed()
    for failed, new in retries.items():
        log.print(f"trial {failed} is asked again as trial {new}")
    _drive_unless_driven(folder, address, as_json)


@app.command()
def stop(study: StudyName, storage: Storage = STUDIES) -> None:
    """Ask a running study to stop: its trials write a checkpoint, then end."""
    folder = _find_to_write(study, storage)
    with folder.edit_lock():
        if not folder.driven():
            raise InputError(f"The study {folder.name!r} is not running; there is nothing to stop.")
        folder.stop_flag.touch()
    with (
        going_on_with(f"the study stops all the same; see `sdw status {folder.name}`"),
        log.working("stopping: running trials write a checkpoint"),
    ):
        while folder.driven():
            sleep(0.5)
    log.print(f"stopped; go on with `sdw resume {folder.name}`")


@app.command()
def validate(
    spec: Spec,
    name: Annotated[str | None, typer.Option(help="As for `launch`.")] = None,
    storage: Storage = STUDIES,
    address: Annotated[str | None, typer.Option(help="As for `launch`; not connected to.")] = None,
    trials: Annotated[int | None, typer.Option(help="As for `launch`.")] = None,
    overrides: Set = None,
    cluster: Annotated[Path | None, typer.Option(help="A cluster.yaml to check as well.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what `launch` would run, or why it would refuse to; nothing is written."""
    from study.cluster import validate_cluster

    loaded = _load(spec, overrides, name, trials)
    datasets, need = _require_launchable(loaded, storage, address)
    dataset = datasets[loaded.pipeline.source]
    if cluster:
        validate_cluster(cluster)
    document = {
        "study": loaded.study.model_dump(mode="json"),
        "dataset": {
            "name": dataset.name,
            "environment": str(dataset.environment),
            "episodes": len(dataset.episode_ends),
            "transitions": len(dataset),
        },
        "search": {path: d.model_dump(mode="json") for path, d in loaded.search.items()},
        "pipeline": loaded.pipeline.model_dump(mode="json"),
        "estimate": asdict(need),
        "cluster": str(cluster) if cluster else None,
        "warnings": _warned(datasets.values()),
    }
    if as_json:
        print_json(document)
        return
    settings = loaded.study
    distill = loaded.pipeline.distill
    out.print(line((settings.name, "bold"), f": {settings.trials} trials on {dataset.name}"))
    out.print(
        f"{dataset.environment}, {len(dataset.episode_ends)} episodes, {len(dataset)} transitions"
    )
    for path, distribution in loaded.search.items():
        ranges = {
            k: v for k, v in distribution.model_dump().items() if v is not None and v is not False
        }
        out.print(f"  search {path}: " + ", ".join(f"{k} {v}" for k, v in ranges.items()))
    for objective in settings.objectives:
        out.print(f"  objective {objective.metric}: {objective.mode}")
    out.print(
        f"  each trial: {distill.objective}, {distill.outer_steps} outer x {distill.inner_steps} "
        f"inner steps, {distill.seeds} seed(s), {settings.resources.cpu} CPU, "
        f"{settings.resources.gpu:g} GPU"
    )
    gpu = need.gpu_memory_per_trial
    out.print(
        f"  about {need.disk / 1e6:.0f} MB of disk, {need.disk_per_trial / 1e6:.1f} MB a trial; "
        f"{need.memory / 1e9:.1f} GB of memory for {need.trials_at_a_time} at a time"
        + (f", {gpu / 1e9:.1f} GB on the GPU each" if gpu else "")
    )
    if cluster:
        out.print(f"  {cluster} is valid for the Ray cluster launcher")


@app.command()
def status(
    study: StudyName,
    storage: Storage = STUDIES,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="First make the database anew from the folders.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show a study's trials and whether it is running."""
    from study.book import TrialRow
    from study.display import trial_table

    folder = _find_to_write(study, storage) if rebuild else _find(study, storage)
    rebuilt = _rebuild(folder) if rebuild else {}
    document = _status(folder) | rebuilt
    if as_json:
        print_json(document)
        return
    driver = document["driver"]
    where = f" (process {driver['pid']} on {driver['host']})" if driver else ""
    out.print(f"{folder.name}: {document['state']}{where}")
    rows = [TrialRow(**trial) for trial in document["trials"]]
    out.print(trial_table(folder.spec(), rows, document["best"]))
    _say_saved(document["early_stopping"])
    _say_warnings(folder.book())


@app.command()
def export(
    study: StudyName,
    top: Annotated[
        int | None, typer.Option(help="How many of the best trials.", min=1, show_default="1")
    ] = None,
    pareto: Annotated[
        bool, typer.Option(help="The whole Pareto front; so it is of two objectives anyway.")
    ] = False,
    to: Annotated[Path | None, typer.Option(help="Folder; default: exports in the study.")] = None,
    license: License = None,
    storage: Storage = STUDIES,
    as_json: AsJson = False,
) -> None:
    """Re-evaluate the best trials on fresh seeds and write their synthetic datasets."""
    from sdw_core.card import require_license
    from study.export import export as write

    folder = _find(study, storage)
    book = folder.book()
    several = len(book.spec.study.objectives) > 1
    if pareto and not several:
        raise InputError(
            f"`--pareto` needs a study of two objectives, and {folder.name!r} has one; use `--top`."
        )
    if several and top is not None:
        raise InputError(
            f"`--top` needs a study of one objective, and {folder.name!r} has two, so that no "
            "trial is the best; use `--pareto`."
        )
    numbers = book.best(top or 1)
    license = license and require_license(license)
    with log.working("re-evaluating on fresh seeds"):
        folders = write(folder, numbers, to, license)
    if as_json:
        print_json({"study": folder.name, "folders": [str(path) for path in folders]})
    else:
        for path in folders:
            out.print(str(path))


@app.command()
def distill(
    spec: Spec,
    overrides: Set = None,
    to: Annotated[Path | None, typer.Option(help="Export folder; left out: no export.")] = None,
    license: License = None,
    threads: Annotated[
        int,
        typer.Option(help="Torch threads; more than one pays from width 256 on.", min=1, max=1024),
    ] = 1,
    cache: Annotated[Path, typer.Option(help="Stage cache.")] = STUDIES / "cache",
    as_json: AsJson = False,
) -> None:
    """Run the pipeline once, without Ray; `search` is ignored."""
    from sdw_core.artifact import Artifact, refuse_existing, score, write_artifact
    from sdw_core.card import require_license
    from sdw_core.pipeline import Pipeline, random_subset
    from study.export import confirmed_scores, evidence_of, source_states
    from study.preflight import check_writable

    loaded = load_spec(spec, overrides or (), searched_is_fixed=True)
    loaded = loaded.model_copy(update={"search": {}})
    license = license and require_license(license)
    if to:
        refuse_existing(to)
    _warned(_check(loaded).values())
    check_writable(cache, "--cache")
    if to:
        check_writable(to.resolve().parent, "--to")
    _threads(threads)
    with _progress() as progress:
        pipeline = Pipeline(loaded.pipeline, cache, progress)
        prepared = pipeline.prepare()
        expert = prepared.expert_summary(loaded.pipeline.seed)
        method = loaded.pipeline.expert.method
        log.print(
            f"expert ({method}): normalised return {expert.mean:.1f}, 95 % interval "
            f"{expert.low:.1f} to {expert.high:.1f}",
        )
        for sentence in prepared.warnings:
            log.print(f"warning: {sentence}")
        result = pipeline.finish(prepared)
        dataset = prepared.dataset
        subset = random_subset(dataset, result.config, result.arena, "evaluate")
    document = result.to_json()
    seed = loaded.pipeline.seed
    document["random_subset"] = score(subset, seed)
    document["artifact"] = str(to) if to else None
    if to:
        best = result.best
        seed_of_rows = result.seeds[best]
        evidence = evidence_of(result.config, result.dataset, seed_of_rows, dataset, license)
        artifact = Artifact.distilled(
            result.observations[best],
            result.actions[best],
            result.arena,
            result.recipes[best],
            evidence,
        )
        evidence["scores"] = confirmed_scores(artifact, dataset, result.config, document)
        document["confirmed"] = evidence["scores"]["synthetic"]
        write_artifact(artifact, to, source_states(dataset, seed))
    if as_json:
        print_json(document)
        return
    out.print(_returns_table(document))
    if to:
        out.print(f"exported to {to}")


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="An exported synthetic dataset.")],
    policies: Annotated[int | None, typer.Option(help="Fresh policies, K.", min=1)] = None,
    episodes: Annotated[int | None, typer.Option(help="Episodes a policy, M.", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Default: the manifest's.", min=0)] = None,
    architecture: Annotated[str | None, typer.Option(help="mlp or residual.")] = None,
    layers: Annotated[int | None, typer.Option(help="Linear layers of the network.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd, momentum, adam or adamw.")] = None,
    steps: Annotated[int | None, typer.Option(help="Gradient steps of a cloning.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of every layer.")] = None,
    ensemble: Annotated[int | None, typer.Option(help="Networks of a policy.")] = None,
    protocols: Annotated[
        bool, typer.Option("--protocols", help="Other depths, optimisers, ...: a table of each.")
    ] = False,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Train fresh policies on an exported dataset and run them; checks every checksum first.

    What is left out is the rows' own recipe, as in the manifest.
    """
    from sdw_core.artifact import read_artifact, score
    from sdw_core.config import EvaluationConfig
    from sdw_core.validation import parse

    artifact = read_artifact(folder, trust)
    stated = artifact.evidence["evaluation"]
    size = {key: stated[key] for key in ("policies", "episodes")}
    size |= {k: v for k, v in (("policies", policies), ("episodes", episodes)) if v is not None}
    changes = {
        "architecture": architecture,
        "layers": layers,
        "optimizer": optimizer,
        "steps": steps,
        "learning_rate": learning_rate,
        "ensemble": ensemble,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    evaluation = parse(EvaluationConfig, size | changes, "")
    used = stated["seed"] if seed is None else seed
    _threads(1)
    if protocols:
        if changes:
            given = next(iter(changes)).replace("_", "-")
            raise InputError(
                f"`--protocols` makes one change at a time by itself, and `--{given}` was given as "
                "well; use one or the other."
            )
        _print_protocols(_judged_by_each(artifact, evaluation, used, stated["stage"]), as_json)
        return
    with log.working("evaluating"):
        returns = artifact.evaluate(evaluation, used, stated["stage"])
    document = {"normalized_return": score(returns, used)}
    if as_json:
        print_json(document["normalized_return"])
        return
    scores = artifact.evidence["scores"]
    out.print(
        _returns_table(
            {"evaluated now": document["normalized_return"], "in the manifest": scores["synthetic"]}
        )
    )


@app.command()
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
    _warned(datasets.values())
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


@app.command()
def dashboard(
    study: StudyName,
    storage: Storage = STUDIES,
    port: Annotated[int, typer.Option(help="Port on loopback.", min=0, max=65535)] = 8080,
) -> None:
    """Serve optuna-dashboard on the study's trials, on loopback, and TensorBoard beside it."""
    from study.dashboard import serve

    serve(_find(study, storage), port, log)


@cache_app.command("list")
def cache_list(study: StudyName, storage: Storage = STUDIES, as_json: AsJson = False) -> None:
    """Stage results that the study's trials share."""
    from study.stage_cache import contents

    folder = _find(study, storage)
    entries = contents(folder)
    if as_json:
        print_json({"study": folder.name, "entries": [asdict(entry) for entry in entries]})
        return
    table = Table("stage", "MB", "written", "trials", "needed", "file")
    for entry in entries:
        table.add_row(
            entry.stage,
            f"{entry.bytes / 1e6:.1f}",
            f"{datetime.fromtimestamp(entry.written):%Y-%m-%d %H:%M}",
            str(len(entry.trials)),
            "yes" if entry.needed else "no",
            entry.file,
        )
    out.print(table)


@cache_app.command("prune")
def cache_prune(
    study: StudyName,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what unfinished trials would compute again.")
    ] = False,
    storage: Storage = STUDIES,
    as_json: AsJson = False,
) -> None:
    """Remove stage results that no unfinished trial needs; what is in use stays."""
    from study.stage_cache import prune

    folder = _find_to_write(study, storage)
    document = prune(folder, everything)
    if as_json:
        print_json({"study": folder.name, **document})
        return
    used = f"; {len(document['in_use'])} are in use and stay" if document["in_use"] else ""
    freed = f"{document['bytes_freed'] / 1e6:.1f} MB"
    out.print(f"removed {len(document['removed'])} files, {freed}{used}")


def main() -> None:
    """The entry point: one sentence and an exit status for whatever goes wrong.

    With SDW_DEBUG set, the traceback precedes the sentence.
    """
    try:
        make_ready()
        _require_unicode(*sys.argv, str(Path.cwd()))
        with ending():
            status = app(standalone_mode=False)
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
        _fail(f"{error.format_message().rstrip('.')}; see `sdw --help`.", error.exit_code)
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


def _load(
    spec: str, overrides: list[str] | None, name: str | None = None, trials: int | None = None
) -> StudySpec:
    given = list(overrides or ())
    if name is not None:
        given.append(f"study.name={json.dumps(name)}")
    if trials is not None:
        given.append(f"study.trials={trials}")
    return load_spec(spec, given)


def _find(study: str, storage: Path) -> "StudyFolder":
    from study.folder import StudyFolder

    return StudyFolder.find(study, storage)


def _find_to_write(study: str, storage: Path) -> "StudyFolder":
    """Refuse, besides, a folder that cannot be written."""
    from study.preflight import check_writable

    folder = _find(study, storage)
    check_writable(folder.path, "--storage")
    return folder


def _check(spec: StudySpec) -> "dict[str, OfflineDataset]":
    """Refuse, before anything is written, what could not run.

    Returns:
        `PipelineConfig.source` -> dataset, of all that the search can reach.
    """
    from sdw_core.dataset import load_datasets
    from sdw_core.pipeline import check_fit, resolve_device

    reached = [*spec.reaching(), *spec.extremes()]
    datasets = load_datasets([spec.pipeline, *reached])
    for config in reached:
        check_fit(config, datasets[config.source])
        if not spec.study.resources.gpu:
            resolve_device(config.device)
    return datasets


def _warned(datasets: "Iterable[OfflineDataset]") -> list[str]:
    """Warn of datasets that seem to come from another environment; returns what was said."""
    from sdw_core.dataset import check

    found = [check(dataset).warning for dataset in datasets]
    for sentence in filter(None, found):
        log.print(f"warning: {sentence}")
    return [sentence for sentence in found if sentence]


def _require_launchable(
    spec: StudySpec, storage: Path, address: str | None
) -> "tuple[dict[str, OfflineDataset], Estimate]":
    """Refuse, before anything is written, a new study that could not run."""
    from study.folder import StudyFolder

    if not spec.search:
        raise InputError(
            "`search` is empty, so that all trials would be the same; name what to search, or run "
            "the pipeline once with `sdw distill`."
        )
    datasets = _check(spec)
    need = _preflight(spec, datasets, storage / spec.study.name, address)
    StudyFolder.require_free(spec, storage)
    return datasets, need


def _require_runnable(folder: "StudyFolder", address: str | None, more: int = 0) -> None:
    """Refuse, before anything is written, a study that could not go on, or not with more trials."""
    from sdw_core.identity import Inventory

    todo = folder.book(to_write=True).remaining() + more
    if not todo:
        return
    spec = folder.spec()
    datasets = _check(spec)
    folder.require_same_sources(Inventory.of(spec.reaching(), datasets))
    if not folder.driven():
        _preflight(spec, datasets, folder.path, address, todo)


def _require_more(folder: "StudyFolder", address: str | None, trials: int) -> None:
    """Refuse, before they are written, more trials that could not be run."""
    from study.runner import require_cluster

    _require_runnable(folder, address, trials)
    if not folder.driven():
        require_cluster(address)


def _drive_unless_driven(folder: "StudyFolder", address: str | None, as_json: bool) -> None:
    """Run a study's new trials, or say whose they are."""
    from study.driver import Driven, process

    with suppress(Driven):
        _drive(folder, address, as_json)
        return
    does = "takes them up"
    if folder.stop_flag.exists():
        does = f"is stopping; go on with `sdw resume {folder.name}`"
    log.print(f"{process(folder.driver())} {does}")
    if as_json:
        print_json(_status(folder))


def _preflight(
    spec: StudySpec,
    datasets: "dict[str, OfflineDataset]",
    folder: Path,
    address: str | None,
    trials: int | None = None,
) -> "Estimate":
    """Refuse, before anything is written, a study that does not fit; returns what it needs."""
    from study.preflight import estimate, require_room

    need = estimate(spec, datasets, trials)
    require_room(spec, need, folder, on_this_machine=address is None)
    return need


def _drive(folder: "StudyFolder", address: str | None, as_json: bool) -> None:
    """Run a study to its end; confirm and export the winner; say how to go on."""
    with going_on_with(f"go on with `sdw resume {folder.path}`"):
        _drive_and_export(folder, address, as_json)


def _drive_and_export(folder: "StudyFolder", address: str | None, as_json: bool) -> None:
    from study.display import Display, trial_table
    from study.early_stopping import saved
    from study.export import export as write
    from study.runner import drive

    given_up = drive(folder, address, Display(folder, log))
    book = folder.book()
    finished = not book.remaining()
    winners = book.best()
    folders: list[Path] = []
    if finished and winners:
        with log.working("re-evaluating the winner on fresh seeds"):
            folders = write(folder, winners)
    if as_json:
        print_json(_status(folder) | {"exports": [str(path) for path in folders]})
    else:
        out.print(trial_table(book.spec, book.rows(), winners))
        _say_saved(saved(book))
        _say_warnings(book)
        if len(winners) == 1 and folders:
            out.print(f"trial {winners[0]} on fresh seeds, beside what it has to beat:")
            out.print(_returns_table(_confirmed(folders[0])))
        for path in folders:
            out.print(f"exported to {path}")
        if folders:
            out.print(f"  evaluate again   sdw evaluate {folders[0]}")
            out.print(f"  look at trials   sdw dashboard {folder.path}")
        if len(winners) == 1 and folders:
            out.print(f"  export more      sdw export {folder.path} --top 3 --to DIR")
    if given_up and not finished:
        name, count = folder.name, book.spec.study.max_identical_failures
        raise SDWError(
            f"{count} trials in a row FAILED for one reason, so the study was stopped: {given_up}; "
            f"mend that, then go on with `sdw resume {name}` and `sdw retry-failed {name}`."
        )
    if not finished:
        why = folder.stop_flag.read_text() if folder.stop_flag.exists() else ""
        because = f", as {why}" if why else ""
        way_on = f"go on with `sdw resume {folder.path}`"
        log.print(f"stopped with {book.remaining()} trials to go{because}; {way_on}")
    elif not winners:
        reasons = {row.reason for row in book.rows()}
        raise SDWError(f"No trial completed: {'; '.join(sorted(filter(None, reasons)))}")


def _say_saved(saved: dict[str, Any] | None) -> None:
    if saved:
        out.print(
            f"early stopping ended {saved['pruned']} trials and saved "
            f"{saved['outer_steps_saved']} outer steps, {saved['percent']:.0f} % of them",
        )


def _say_warnings(book: "TrialBook") -> None:
    for sentence, trials in book.warnings().items():
        log.print(f"warning, {trials} trial(s): {sentence}")


def _confirmed(exported: Path) -> dict[str, Any]:
    scores = read_json(exported / "manifest.json")["scores"]
    return {
        "normalized_return": scores["synthetic"],
        "random_subset": scores["random_subset"],
        "expert": scores["expert"],
    }


def _status(folder: "StudyFolder") -> dict[str, Any]:
    from study.early_stopping import saved

    book = folder.book()
    state = "running" if folder.driven() else "stopped" if book.remaining() else "finished"
    trials = [asdict(row) for row in book.rows()]
    for trial in trials:
        if state != "running" and trial["outcome"] == "RUNNING":
            trial["outcome"] = "WAITING"  # its process is gone; `sdw resume` asks for it again
    said = folder.driver()
    driver = {"host": said.get("host"), "pid": said.get("pid")} if state == "running" else None
    return {
        "study": folder.name,
        "state": state,
        "driver": driver,
        "trials": trials,
        "best": book.best(),
        "early_stopping": saved(book),
        "warnings": [
            {"warning": sentence, "trials": trials} for sentence, trials in book.warnings().items()
        ],
    }


def _rebuild(folder: "StudyFolder") -> dict[str, Any]:
    book, kept = folder.rebuild()
    outcomes = Counter(row.outcome for row in book.rows())
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    log.print(f"rebuilt from the trials' folders: {counts or 'no trials'}")
    log.print(f"what was there is kept as {kept}" if kept else "there was no database")
    return {"rebuilt": {"outcomes": dict(outcomes), "kept": kept}}


def _threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)


ROWS = {
    "normalized_return": "synthetic rows",
    "confirmed": "the exported rows, fresh seeds",
    "random_subset": "random rows, as many",
    "expert": "expert",
}


def _returns_table(scores: dict[str, Any]) -> Table:
    table = Table("normalised return", "mean", "iqm", "95 % interval")
    for key, summary in scores.items():
        if isinstance(summary, dict) and "per_policy" in summary:
            table.add_row(
                ROWS.get(key, key),
                f"{summary['mean']:.1f}",
                f"{summary['iqm']:.1f}",
                f"{summary['low']:.1f} to {summary['high']:.1f}",
            )
    return table


def _judged_by_each(
    artifact: "Artifact", evaluation: "EvaluationConfig", seed: int, stage: str
) -> dict[str, Any]:
    """What each protocol of the field makes of the rows; null where its policies diverge."""
    from sdw_core.artifact import score
    from sdw_core.protocols import applied, grid

    document: dict[str, Any] = {}
    protocols = grid(artifact.recipe, evaluation.policies, evaluation.episodes)
    with log.working() as say:
        for name, protocol in protocols.items():
            say(f"evaluating {len(document) + 1} of {len(protocols)}: {name}")
            document[name] = {
                "recipe": asdict(applied(protocol, artifact.recipe)),
                "ensemble": protocol.ensemble,
                "normalized_return": None,
            }
            with suppress(DivergenceError):
                returns = artifact.evaluate(protocol, seed, stage)
                document[name]["normalized_return"] = score(returns, seed)
    return document


def _print_protocols(document: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(document)
        return
    scores = {name: judged["normalized_return"] for name, judged in document.items()}
    table = _returns_table(scores)
    for name in (name for name, summary in scores.items() if summary is None):
        table.add_row(name, "diverged", "", "")
    out.print(table)


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """A progress bar a stage, on stderr."""
    from sdw_core.config import STAGES

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=log, transient=True, disable=not log.is_terminal
    ) as bars:
        tasks = {stage: bars.add_task(stage, total=1.0, visible=False) for stage in STAGES}

        def report(stage: str, fraction: float) -> None:
            bars.update(tasks[stage], completed=fraction, visible=True)

        yield report


if __name__ == "__main__":
    main()
