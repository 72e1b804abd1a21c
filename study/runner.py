"""Driving a study: Ray Tune runs trials until the study has as many as its spec asks for."""

import json
import logging
import math
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    nullcontext,
    redirect_stdout,
)
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

from sdw_core.console import Table
from sdw_core.errors import InputError, SDWError, SourceChanged, first_line
from sdw_core.registry import module_path
from sdw_core.resources import usable_cpus
from search_spaces import StudySpec
from search_spaces.spec import Resources
from study.address import let_in, say_connected, settled, unconnected
from study.admission import Admission
from study.book import TrialBook
from study.capacity import Nodes, Places
from study.curves import HParams
from study.display import Display
from study.driver import Seat
from study.early_stopping import Judging, rungs_of
from study.folder import StudyFolder
from study.losses import ClusterLost, ClusterWatch, node_leaves, require_stays
from study.outcomes import TrialResult
from study.preflight import storage_trouble
from study.signals import children_deaf, handlers_kept, stopping
from study.startup import keep_ray_token, make_room_for_sockets, settle_environment
from study.trial import placed, run_trial

if TYPE_CHECKING:
    from study.supervision import Watched

logger = logging.getLogger(__name__)

OBJECT_STORE = 100_000_000
"""Bytes of Ray's object store: trials exchange scalars, and a container's /dev/shm may be small."""


def trainable(config: dict[str, Any], folder: str, metrics: list[str]) -> None:
    """What a Ray worker runs: one trial, a report at each rung and one of its outcome."""
    from ray import tune

    def report(document: dict[str, Any], **found: float) -> None:
        scalars = {metric: found.get(metric, math.nan) for metric in metrics}
        tune.report({**scalars, "document": json.dumps(document)})

    def at_rung(step: int, value: float) -> None:
        report({"rung": step, "return": value})

    study = StudyFolder(Path(folder))
    leaves = node_leaves(study.leaving_note)
    result = _outcome(study, config["number"], config["params"], at_rung, leaves)
    require_stays(result, leaves)
    report(result.to_json(), **result.metrics)


def _outcome(
    study: StudyFolder,
    number: int,
    params: dict[str, Any],
    at_rung: Callable[[int, float], None],
    leaves: Callable[[], bool] = lambda: False,
) -> TrialResult:
    spec = study.spec()
    config, batch = spec.pipeline_with(params), spec.study.evaluation_batch
    return run_trial(
        number,
        placed(config, spec.study.resources.gpu),
        study.trial(number),
        study.cache,
        study.stop_flag,
        spec.study.resources.cpu,
        spec.study.trial_timeout,
        rungs_of(spec, study.trial(number), at_rung),
        Judging(study, number, batch) if batch else None,
        study.inventory().sources(config),
        hparams=HParams(spec, number, params),
        leaves=leaves,
    )


def drive(
    folder: StudyFolder,
    address: str | None,
    display: Display,
    trainable: Callable[..., None] = trainable,
) -> str | None:
    """Run trials until the study is finished, asked to stop, or given up.

    It goes round again for trials that were asked for meanwhile; see `StudyFolder.edit_lock`.

    Args:
        folder: the study.
        address: of a Ray cluster; None starts Ray on this machine.
        display: shows what goes on.
        trainable: what a worker runs.

    Returns:
        The reason for which trial after trial failed, if the study was given up for it.

    Raises:
        Driven: another driver runs the study.
        InputError: the cluster cannot be reached, or holds no trial.
        SourceChanged: a trial found that its dataset, checkpoint or method changed meanwhile.
        SDWError: Ray cannot be started, its node died, the storage cannot be written, or another
            driver took the study over.
    """
    from study.supervision import Watched

    given_up = None
    watched: Watched | None = None
    way_on = f"go on with `{folder.go_on}`"
    if address and folder.go_on.startswith("sdw resume"):
        way_on = f"when there is a cluster again, {way_on[:-1]} --address HOST:PORT`"
    with ExitStack() as held:
        with folder.edit_lock():
            heartbeat = held.enter_context(folder.driving())
            folder.stop_flag.unlink(missing_ok=True)
            folder.leaving_note.unlink(missing_ok=True)
            held.enter_context(stopping(folder.stop_flag))
        while True:
            heartbeat.require()
            with folder.edit_lock():
                book = folder.book(to_write=True)
                book.reconcile()
                if not book.remaining() or folder.stop_flag.exists():
                    held.close()
                    return given_up
            if watched is None:
                held.enter_context(display)
                display.say(f"connecting to {address}" if address else "starting Ray")
                try:
                    session = ray_session(address, way_on, heartbeat.end)
                    connection = held.enter_context(session)
                except RayNotStarted:
                    if folder.stop_flag.exists():  # whoever asked for it ended Ray's as well
                        continue
                    raise
                need, stop = book.spec.study.resources, folder.stop_flag.exists
                nodes, admission = admitted(address, folder.seat, need, "study", display.show, stop)
                heartbeat.tell(ray_dashboard=connection.dashboard or None, begun=time())
                held.enter_context(_time_budget(folder, book.spec))
                display.say("starting the first trials")
                places = Places(nodes, need, book.spec.study.concurrency, heartbeat.tell)
                note = folder.leaving_note
                watched = Watched(heartbeat, connection.cluster, places, admission, note)
                continue  # a stop may have been asked for meanwhile
            given_up = _tune(folder, book, trainable, watched)


def _tune(
    folder: StudyFolder, book: TrialBook, trainable: Callable[..., None], watched: "Watched"
) -> str | None:
    """Run as many trials as remain; why the study was given up, if it was.

    Args:
        folder: the study.
        book: its trials.
        trainable: what a worker runs.
        watched: meanwhile.
    """
    from study.search import StudySearch
    from study.supervision import run_attempts

    spec, flag = book.spec, folder.stop_flag
    metrics = [objective.metric for objective in spec.study.objectives]
    bound = partial(trainable, folder=str(folder.path), metrics=metrics)
    given = (flag.exists, flag.touch, folder.trial, watched.admission, watched.places)
    search = StudySearch(book, *given)
    try:
        run_attempts(search, bound, spec.study.resources, folder.path, watched)
    except ClusterLost as error:
        if flag.exists():  # whoever asked the study to stop ended Ray's processes as well
            return search.given_up
        raise SDWError(f"{error}.") from error
    if search.changed:
        raise SourceChanged(search.changed)
    if search.trouble:
        raise _interrupted(folder, storage_trouble(folder.path) or search.trouble)
    return search.given_up


def _interrupted(folder: StudyFolder, trouble: str) -> SDWError:
    return SDWError(
        f"The storage of {folder.name!r} cannot be written ({trouble}); what is done is kept: mend "
        f"that, and go on with `{folder.go_on}`."
    )


class RayNotStarted(SDWError):
    """Ray could not be started on this machine."""


_CONNECTION = threading.Lock()
"""Held by the thread that connects this process to a Ray: a process has one connection."""


@dataclass(frozen=True)
class Connection:
    """A connection to a cluster.

    Attributes:
        dashboard: the address of Ray's own; empty where there is none.
        cluster: looks whether it lives.
    """

    dashboard: str
    cluster: ClusterWatch


@contextmanager
def ray_session(
    address: str | None, way_on: str, leave: Callable[[], None] = lambda: None
) -> Iterator[Connection]:
    """A connection to a cluster, or a Ray of its own on this machine; ended afterwards.

    Args:
        address: of the cluster; None starts Ray on this machine.
        way_on: how to go on where the cluster's head is lost, as a sentence ends.
        leave: what to do before this process is ended, where that alone is left.

    Raises:
        InputError: the cluster cannot be reached, or this process is connected to a Ray already,
            whose owner would lose it.
        RayNotStarted: Ray cannot be started on this machine.
    """
    if not _CONNECTION.acquire(blocking=False):
        raise _connected_already()
    try:
        with _connection(address, way_on, leave) as connection:
            yield connection
    finally:
        _CONNECTION.release()


def _connected_already() -> InputError:
    return InputError(
        "A study or a comparison needs a connection to Ray of its own, and this process has one "
        "already; end that one with `ray.shutdown()`, or run this in another process."
    )


@contextmanager
def _connection(
    address: str | None, way_on: str, leave: Callable[[], None]
) -> Iterator[Connection]:
    settle_environment()
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # trials write their own curves
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(sys.maxsize)  # the searcher limits them
    path = module_path()
    if address is None:
        keep_ray_token()
        make_room_for_sockets()
        access: AbstractContextManager[None] = nullcontext()
    else:
        address = settled(address)
        access = let_in(address)
    with access, _initialized(address, path, way_on, leave) as connection:
        yield connection


@contextmanager
def _initialized(
    address: str | None, path: str, way_on: str, leave: Callable[[], None]
) -> Iterator[Connection]:
    import ray

    if ray.is_initialized():
        raise _connected_already()
    try:
        own = {
            "include_dashboard": True,
            "num_cpus": usable_cpus(),
            "object_store_memory": OBJECT_STORE,
        }
        with handlers_kept(), children_deaf():
            context = ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": {"PYTHONPATH": path}} if path else None,
                **({} if address else own),
            )
    except Exception as error:  # whatever Ray raises
        if address:
            raise unconnected(address, error) from None
        why = (first_line(error) or type(error).__name__).rstrip(".")
        raise RayNotStarted(f"Ray cannot be started on this machine: {why}.") from error
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial's error is its outcome
    warnings.filterwarnings("ignore", module=r"ray\.")
    watch = ClusterWatch(ray.get_runtime_context().gcs_address, way_on, leave)
    with watch as cluster, redirect_stdout(sys.stderr), _silent_ray():  # no result is printed here
        try:
            yield Connection(context.dashboard_url or "", cluster)
        finally:
            ray.shutdown()


@contextmanager
def _silent_ray() -> Iterator[None]:
    """Keep Ray from printing paragraphs of its own about nodes, workers and resources.

    No public setting does: the driver prints whatever a raylet tells. Ray's own debugger does it in
    this way, and Ray's logs have it all.
    """
    from ray._private import worker

    worker._worker_logs_enabled = False
    try:
        yield
    finally:
        worker._worker_logs_enabled = True


def admitted(
    address: str | None,
    seat: Seat,
    need: Resources,
    section: str,
    show: Callable[[Table], object],
    stopping: Callable[[], bool],
) -> tuple[Nodes, Admission | None]:
    """The nodes of the Ray that this process is connected to, once they have been asked.

    Args:
        address: of a cluster; None: a Ray of its own, whose one node need not be asked.
        seat: the driver's.
        need: of a trial, or a cell.
        section: of the spec, that states it.
        show, stopping: see `Admission.ask`.

    Raises:
        InputError: no node holds a trial, or one cannot run any.
    """
    admission = Admission(seat) if address else None
    refused = admission.refused if admission else ()
    nodes = Nodes(need, may_grow=admission is not None, refused=refused)
    nodes.require_room(section)
    if admission:
        say_connected()
        admission.ask(show, stopping)
    return nodes, admission


def require_cluster(
    address: str | None, need: Resources, seat: Seat, show: Callable[[Table], object]
) -> None:
    """Refuse the address of a cluster that could run no trial, and a process that has a Ray.

    Args:
        address: as for `drive`.
        need: of a trial.
        seat: of the study's driver, which is free.
        show: see `Admission.ask`.

    Raises:
        InputError: the cluster cannot be reached or holds no trial, a node of it cannot run one, or
            this process is connected to a Ray already.
    """
    import ray

    if _CONNECTION.locked() or ray.is_initialized():
        raise _connected_already()
    if address:
        with ray_session(address, "begin again"), seat.taken():
            Nodes(need, may_grow=True).require_room("study")
            Admission(seat).ask(show, lambda: False)


@contextmanager
def _time_budget(folder: StudyFolder, spec: StudySpec) -> Iterator[None]:
    """After the study's time budget, ask it to stop, and say why."""
    if spec.study.time_budget is None:
        yield
        return
    why = f"the time budget of {spec.study.time_budget:g} s is over"
    timer = threading.Timer(spec.study.time_budget, folder.stop_flag.write_text, [why])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
