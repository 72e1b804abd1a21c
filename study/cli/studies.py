"""`sdw launch`, `resume`, `status`, `export` and the like: what is done with a study."""

import json
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdw_core.errors import InputError, SDWError
from sdw_core.files import read_json
from search_spaces import StudySpec, load_spec
from study.cli.common import (
    STUDIES,
    AsJson,
    License,
    Set,
    Spec,
    Storage,
    StudyName,
    returns_table,
    warned,
)
from study.console import line, log, out, print_json
from study.signals import going_on_with

if TYPE_CHECKING:
    from sdw_core.dataset import OfflineDataset
    from study.book import TrialBook
    from study.folder import StudyFolder
    from study.preflight import Estimate


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
    warned(datasets.values())
    inventory = Inventory.of(loaded.reaching(), datasets)
    with StudyFolder.launched(loaded, storage, inventory) as folder:
        _drive(folder, address, as_json)


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
        "warnings": warned(datasets.values()),
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


def dashboard(
    study: StudyName,
    storage: Storage = STUDIES,
    port: Annotated[int, typer.Option(help="Port on loopback.", min=0, max=65535)] = 8080,
) -> None:
    """Serve optuna-dashboard on the study's trials, on loopback, and TensorBoard beside it."""
    from study.dashboard import serve

    serve(_find(study, storage), port, log)


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
    from sdw_core.feasibility import check_fit, resolve_device

    reached = [*spec.reaching(), *spec.extremes()]
    datasets = load_datasets([spec.pipeline, *reached])
    for config in reached:
        check_fit(config, datasets[config.source])
        if not spec.study.resources.gpu:
            resolve_device(config.device)
    return datasets


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
            out.print(returns_table(_confirmed(folders[0])))
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
