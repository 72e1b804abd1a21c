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
from study.admission import Admission, placed_by
from study.book import TrialBook
from study.capacity import Nodes, Places
from study.curves import HParams
from study.display import Display
from study.driver import Heartbeat, Replaced, Seat
from study.early_stopping import rungs_of
from study.folder import StudyFolder
from study.outcomes import WORKER_DEATHS, TrialResult
from study.preflight import require_light, storage_trouble
from study.signals import children_deaf, handlers_kept, stopping
from study.startup import keep_ray_token, make_room_for_sockets, settle_environment
from study.trial import placed, run_trial, throttled

if TYPE_CHECKING:
    from study.search import StudySearch

logger = logging.getLogger(__name__)

OBJECT_STORE = 100_000_000
"""Bytes of Ray's object store: trials exchange scalars, and a container's /dev/shm may be small."""
LOOK_FOR_NODE = 5.0
"""Seconds between two looks at whether the driver's Ray node lives."""


def trainable(config: dict[str, Any], folder: str, metrics: list[str]) -> None:
    """What a Ray worker runs: one trial, a report at each rung and one of its outcome."""
    from ray import tune

    def report(document: dict[str, Any], **found: float) -> None:
        scalars = {metric: found.get(metric, math.nan) for metric in metrics}
        tune.report({**scalars, "document": json.dumps(document)})

    def at_rung(step: int, value: float) -> None:
        report({"rung": step, "return": value})

    result = _outcome(StudyFolder(Path(folder)), config["number"], config["params"], at_rung)
    report(result.to_json(), **result.metrics)


def _outcome(
    study: StudyFolder,
    number: int,
    params: dict[str, Any],
    at_rung: Callable[[int, float], None],
) -> TrialResult:
    spec = study.spec()
    config = spec.pipeline_with(params)
    return run_trial(
        number,
        placed(config, spec.study.resources.gpu),
        study.trial(number),
        study.cache,
        study.stop_flag,
        spec.study.resources.cpu,
        spec.study.trial_timeout,
        rungs_of(spec, study.trial(number), at_rung),
        study.inventory().sources(config),
        hparams=HParams(spec, number, params),
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
    given_up = None
    nodes: Nodes | None = None
    admission: Admission | None = None
    with ExitStack() as held:
        with folder.edit_lock():
            heartbeat = held.enter_context(folder.driving())
            folder.stop_flag.unlink(missing_ok=True)
            held.enter_context(stopping(folder.stop_flag))
        while True:
            heartbeat.require()
            with folder.edit_lock():
                book = folder.book(to_write=True)
                book.reconcile()
                if not book.remaining() or folder.stop_flag.exists():
                    held.close()
                    return given_up
            if nodes is None:
                held.enter_context(display)
                display.say(f"connecting to {address}" if address else "starting Ray")
                try:
                    context = held.enter_context(ray_session(address))
                except RayNotStarted:
                    if folder.stop_flag.exists():  # whoever asked for it ended Ray's as well
                        continue
                    raise
                admission = Admission(folder.seat) if address else None
                refused = admission.refused if admission else ()
                need = book.spec.study.resources
                nodes = Nodes(need, may_grow=address is not None, refused=refused)
                nodes.require_room("study")
                if admission:
                    say_connected()
                    admission.ask(display.show, folder.stop_flag.exists)
                heartbeat.tell(ray_dashboard=context.dashboard_url or None, begun=time())
                held.enter_context(_time_budget(folder, book.spec))
                display.say("starting the first trials")
                continue  # a stop may have been asked for meanwhile
            given_up = _tune(folder, book, trainable, heartbeat, nodes, admission)


def _tune(
    folder: StudyFolder,
    book: TrialBook,
    trainable: Callable[..., None],
    heartbeat: Heartbeat,
    nodes: Nodes,
    admission: Admission | None,
) -> str | None:
    """Run as many trials as remain; why the study was given up, if it was.

    Args:
        folder: the study.
        book: its trials.
        trainable: what a worker runs.
        heartbeat: of the driver.
        nodes: where trials run.
        admission: to the nodes of a cluster; None on this machine.
    """
    from ray import tune
    from ray.exceptions import RayError

    from study.search import StudySearch

    spec = book.spec
    resources = spec.study.resources
    metrics = [objective.metric for objective in spec.study.objectives]
    bound = partial(trainable, folder=str(folder.path), metrics=metrics)
    if admission:
        bound = admission.trainable(bound, metrics)
    require_light(bound)
    flag = folder.stop_flag
    places = Places(nodes, spec.study, heartbeat.tell)
    search = StudySearch(book, flag.exists, flag.touch, folder.trial, admission, places)
    tuner = tune.Tuner(
        tune.with_resources(bound, placed_by(resources)),
        tune_config=tune.TuneConfig(
            search_alg=search,
            num_samples=book.remaining(),
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"trial-{trial.config['number']}",
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder.path),
            failure_config=tune.FailureConfig(max_failures=WORKER_DEATHS),
            callbacks=[_watch(search, heartbeat, places)],
            verbose=0,
        ),
    )
    try:
        with handlers_kept():
            tuner.fit()
    except NodeDied as error:
        if flag.exists():  # whoever asked the study to stop ended Ray's processes as well
            return search.given_up
        raise SDWError(f"{error} go on with `sdw resume {folder.called}`.") from error
    except Replaced:
        raise
    except Exception as error:
        trouble, cause = storage_trouble(folder.path), error.__cause__
        if trouble:
            raise _interrupted(folder, trouble) from error
        if isinstance(cause, RayError):  # a worker that was ended for memory before it began
            raise SDWError(
                f"Ray ended the study {folder.name!r} ({first_line(cause).rstrip('.')}); what is "
                f"done is kept: go on with `sdw resume {folder.called}`."
            ) from error
        raise
    if search.changed:
        raise SourceChanged(search.changed)
    if search.trouble:
        raise _interrupted(folder, storage_trouble(folder.path) or search.trouble)
    return search.given_up


def _interrupted(folder: StudyFolder, trouble: str) -> SDWError:
    return SDWError(
        f"The storage of {folder.name!r} cannot be written ({trouble}); what is done is kept: mend "
        f"that, and go on with `sdw resume {folder.called}`."
    )


class RayNotStarted(SDWError):
    """Ray could not be started on this machine."""


class NodeDied(Exception):
    """The driver's Ray node died, and nothing can be run any more.

    A node dies with its raylet, and that with any of the agents beside it.
    """

    def __init__(self, node: dict[str, Any]) -> None:
        logs = Path(node["RayletSocketName"]).parents[1] / "logs"
        super().__init__(f"Ray's node here died (its logs: {logs}); what is done is kept:")


def require_node() -> None:
    """Notice that the driver's Ray node died: Ray itself would wait for ever.

    Raises:
        NodeDied: the node died; the message lacks the way to go on.
    """
    node = own_node()
    if not node["Alive"]:
        raise NodeDied(node)


def own_node() -> dict[str, Any]:
    """What Ray says of the node that the driver is connected to."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    node: dict[str, Any]
    (node,) = [node for node in ray.nodes() if node["NodeID"] == own]
    return node


def _watch(search: "StudySearch", heartbeat: Heartbeat, places: Places) -> Any:
    """Looks for the driver's node, its seat and the cluster; tells the search who died.

    Args:
        search: of the study.
        heartbeat: of its driver.
        places: how many trials may be under way.
    """
    from ray import tune

    look_for_node = throttled(require_node, LOOK_FOR_NODE)

    class Watch(tune.Callback):  # type: ignore[misc]
        def on_step_begin(self, iteration: int, trials: list[Any], **told: Any) -> None:
            """Tune takes several steps a second, whether anything happens or not."""
            heartbeat.require()
            look_for_node()
            places.look(trials)

        def on_trial_recover(self, trial: Any, **told: Any) -> None:
            """Tune hands on no exception: what it wrote of the last one is looked at."""
            last = Path(trial.error_file).read_text(encoding="utf-8").rpartition("Failure #")[2]
            death = "infrastructure: the worker died"
            if "running low on memory" in last:
                death = "out of memory: the node's; Ray ended the worker"
            search.on_trial_recover(trial.trial_id, death)

    return Watch()


_CONNECTION = threading.Lock()
"""Held by the thread that connects this process to a Ray: a process has one connection."""


@contextmanager
def ray_session(address: str | None) -> Iterator[Any]:
    """A connection to a cluster, or a Ray of its own on this machine; ended afterwards.

    Raises:
        InputError: the cluster cannot be reached, or this process is connected to a Ray already,
            whose owner would lose it.
        RayNotStarted: Ray cannot be started on this machine.
    """
    if not _CONNECTION.acquire(blocking=False):
        raise _connected_already()
    try:
        with _connection(address) as context:
            yield context
    finally:
        _CONNECTION.release()


def _connected_already() -> InputError:
    return InputError(
        "A study or a comparison needs a connection to Ray of its own, and this process has one "
        "already; end that one with `ray.shutdown()`, or run this in another process."
    )


@contextmanager
def _connection(address: str | None) -> Iterator[Any]:
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
    with access, _initialized(address, path) as context:
        yield context


@contextmanager
def _initialized(address: str | None, path: str) -> Iterator[Any]:
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
    try:
        with redirect_stdout(sys.stderr), _silent_ray():  # what else is printed is no result
            yield context
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
        with ray_session(address), seat.taken():
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
