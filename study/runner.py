"""Driving a study: Ray Tune runs trials until the study has as many as its spec asks for."""

import json
import logging
import math
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import Timeout

from sdw_core.errors import InputError, SDWError
from search_spaces import StudySpec
from study.book import TrialBook
from study.display import Display
from study.early_stopping import rungs_of
from study.folder import StudyFolder
from study.outcomes import FAILED
from study.preflight import require_light, require_shared_folder, storage_trouble
from study.trial import run_trial

WORKER_DEATHS = 3
"""How often a trial whose process died is started again before it counts as failed."""
LOCK_PATIENCE = 2.0
"""Seconds that a driver waits for its lock: `sdw status` holds it for a moment to look at it."""


def trainable(config: dict[str, Any], folder: str, metrics: list[str]) -> None:
    """What a Ray worker runs: one trial, a report at each rung and one of its outcome."""
    from ray import tune

    def report(document: dict[str, Any]) -> None:
        values = document.get("metrics", {})
        scalars = {metric: values.get(metric, math.nan) for metric in metrics}
        tune.report({**scalars, "document": json.dumps(document)})

    report(_outcome(StudyFolder(Path(folder)), config["number"], config["params"], report))


def _outcome(
    study: StudyFolder,
    number: int,
    params: dict[str, Any],
    report: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    try:
        spec = study.spec()
    except FileNotFoundError:
        reason = f"infrastructure: {socket.gethostname()} does not see {study.path}; put the study "
        return {"outcome": FAILED, "reason": reason + "on storage that all nodes share"}
    pipeline = spec.pipeline
    if pipeline.device == "auto" and not spec.study.resources.gpu:
        pipeline = pipeline.model_copy(update={"device": "cpu"})  # a GPU is not this trial's to use
        spec = spec.model_copy(update={"pipeline": pipeline})
    return run_trial(
        number,
        spec.pipeline_with(params),
        study.trial(number),
        study.cache,
        study.stop_flag,
        spec.study.resources.cpu,
        rungs_of(
            spec,
            study.trial(number),
            lambda step, value: report({"rung": step, "return": value}),
        ),
    )


def drive(folder: StudyFolder, address: str | None, display: Display) -> bool:
    """Run trials until the study is finished or asked to stop.

    Args:
        folder: the study.
        address: of a Ray cluster; None starts Ray on this machine.
        display: shows what goes on.

    Returns:
        Whether every trial has a final state.

    Raises:
        InputError: another driver runs the study, or the cluster cannot be reached.
    """
    lock = folder.driver_lock()
    try:
        lock.acquire(timeout=LOCK_PATIENCE)
    except Timeout:
        driver = folder.driver()
        raise InputError(
            f"The study {folder.name!r} is being run by process {driver.get('pid', '?')} on "
            f"{driver.get('host', '?')}; watch it with `sdw status {folder.name}`."
        ) from None
    try:
        folder.stop_flag.unlink(missing_ok=True)
        book = folder.book()
        book.reconcile(folder.path / "trials")
        if book.remaining():
            with _ray(address) as context:
                if address:
                    require_shared_folder(folder.path)
                folder.write_driver(
                    {
                        "host": socket.gethostname(),
                        "pid": os.getpid(),
                        "ray_dashboard": context.dashboard_url or None,
                    }
                )
                with _stop_on_interrupt(folder), _time_budget(folder, book.spec), display:
                    _tune(folder, book)
            book = folder.book()
            book.reconcile(folder.path / "trials")
        return book.remaining() == 0
    finally:
        lock.release()


def _tune(folder: StudyFolder, book: TrialBook) -> None:
    from ray import tune

    from study.search import StudySearch

    spec = book.spec
    resources = spec.study.resources
    bound = partial(
        trainable,
        folder=str(folder.path),
        metrics=[objective.metric for objective in spec.study.objectives],
    )
    require_light(bound)
    search = StudySearch(book, folder.stop_flag.exists, folder.trial)
    tuner = tune.Tuner(
        tune.with_resources(bound, {"cpu": resources.cpu, "gpu": resources.gpu}),
        tune_config=tune.TuneConfig(
            search_alg=search,
            num_samples=book.remaining(),
            max_concurrent_trials=concurrency(spec),
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"trial-{trial.config['number']}",
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder.path),
            failure_config=tune.FailureConfig(max_failures=WORKER_DEATHS),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except Exception as error:
        trouble = storage_trouble(folder.path)
        if trouble is None:
            raise
        raise _interrupted(folder, trouble) from error
    if search.trouble:
        raise _interrupted(folder, storage_trouble(folder.path) or search.trouble)


def _interrupted(folder: StudyFolder, trouble: str) -> SDWError:
    return SDWError(
        f"The storage of {folder.name!r} cannot be written ({trouble}); what is done is kept: mend "
        f"that, and go on with `sdw resume {folder.path}`."
    )


def concurrency(spec: StudySpec) -> int:
    """Trials at a time: what the spec says, or what the connected cluster holds now.

    A number in the spec may exceed what there is: that is what an autoscaler makes room for.

    Raises:
        InputError: it is `auto`, and the cluster cannot hold a single trial.
    """
    import ray

    if spec.study.concurrency != "auto":
        return spec.study.concurrency
    have, need = ray.cluster_resources(), spec.study.resources
    fits = int(have.get("CPU", 0) // need.cpu)
    if need.gpu:
        fits = min(fits, int(have.get("GPU", 0) / need.gpu + 1e-9))
    if fits < 1:
        raise InputError(
            f"A trial needs {need.cpu} CPU and {need.gpu:g} GPU, and there are "
            f"{have.get('CPU', 0):g} CPU and {have.get('GPU', 0):g} GPU; lower `study.resources`, "
            "or, on a cluster that grows, say with `study.concurrency` how many trials it shall "
            "hold."
        )
    return fits


@contextmanager
def _ray(address: str | None) -> Iterator[Any]:
    """A connection to a cluster, or a Ray of its own on this machine; ended afterwards."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    import ray

    try:
        if address not in (None, "auto"):
            _knock(address)
        context = ray.init(
            address=address or "local",
            include_dashboard=None if address else True,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, ValueError, RuntimeError) as error:
        if address is None:
            raise
        raise InputError(
            f"There is no Ray cluster at {address!r} ({str(error).splitlines()[0]}); give "
            "HOST:PORT, or leave `--address` out to run on this machine."
        ) from None
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    # Of Tune's own snapshots, which nothing reads: a full disk is told once, and by us.
    logging.getLogger("ray.tune.execution.experiment_state").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"ray\.")
    try:
        with redirect_stdout(sys.stderr):  # Ray prints about dead workers on stdout
            yield context
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises if nobody listens at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    socket.create_connection((host, int(port)), timeout=10).close()


@contextmanager
def _stop_on_interrupt(folder: StudyFolder) -> Iterator[None]:
    """Ctrl-C asks the study to stop in order; a second one ends the driver at once."""
    asked: list[int] = []

    def handle(signum: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(signum)
        folder.stop_flag.touch()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _time_budget(folder: StudyFolder, spec: StudySpec) -> Iterator[None]:
    """After the study's time budget, ask it to stop."""
    if spec.study.time_budget is None:
        yield
        return
    timer = threading.Timer(spec.study.time_budget, folder.stop_flag.touch)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
