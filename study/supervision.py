"""Running attempts with Tune, and what is looked after meanwhile.

Tune calls its scheduler several times a second, whether anything happens or not. Ours lets trials
run in the order in which they were proposed, and looks after what Tune does not: the driver's seat,
the cluster, nodes that are about to leave, trials that wait for a place when a stop is asked for,
and why a process died.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.exceptions import RayError
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler

from sdw_core.errors import SDWError, described
from sdw_core.files import write_json
from search_spaces.spec import Resources
from study.admission import Admission, placed_by
from study.attempts import Attempts, Death
from study.capacity import Places
from study.driver import Heartbeat
from study.losses import ClusterLost, ClusterWatch, Node, leaving, lost, node_of
from study.preflight import require_light, storage_trouble
from study.signals import handlers_kept
from study.trial import throttled

LOOK = 5.0
"""Seconds between two looks at the cluster's nodes."""


@dataclass(frozen=True)
class Watched:
    """What is looked at while attempts run.

    Attributes:
        heartbeat: whether the driver still has its seat.
        cluster: whether it lives.
        places: which nodes come and go, and what waits for one.
        admission: to the nodes of a cluster; None on this machine.
        leaving: the note in which workers read which nodes are about to leave.
    """

    heartbeat: Heartbeat
    cluster: ClusterWatch
    places: Places
    admission: Admission | None
    leaving: Path


def run_attempts(
    attempts: Attempts,
    trainable: Callable[..., None],
    resources: Resources,
    folder: Path,
    watched: Watched,
) -> None:
    """Let Tune run attempts until none is left.

    Args:
        attempts: proposes them, and is told what came of each.
        trainable: what a worker runs.
        resources: of one.
        folder: of the study or the comparison, where Tune keeps its own files.
        watched: meanwhile.

    Raises:
        Replaced: another driver took this one's place.
        ClusterLost: nothing can be run any more.
    """
    if watched.admission:
        trainable = watched.admission.trainable(trainable, attempts.metric)
    require_light(trainable)
    tuner = tune.Tuner(
        tune.with_resources(trainable, placed_by(resources)),
        tune_config=tune.TuneConfig(
            search_alg=attempts,
            scheduler=Supervision(attempts, watched),
            num_samples=-1,  # as many as are proposed
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"trial-{trial.config['number']}",
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder),
            failure_config=tune.FailureConfig(max_failures=0),
            callbacks=[Silent()],
            verbose=0,
        ),
    )
    try:
        with handlers_kept():
            tuner.fit()
    except (SDWError, ClusterLost):
        raise
    except Exception as error:
        attempts.trouble = storage_trouble(folder)
        if attempts.trouble:
            return
        if isinstance(cause := error.__cause__, RayError):  # ended for memory before it began
            raise watched.cluster.loss(f"Ray ended the work ({described(cause)})") from error
        raise


class Silent(TrialProgressCallback):  # type: ignore[misc]
    """In the place of Tune's, which prints of a trial never begun, whatever `verbose` is."""

    def on_trial_complete(self, *told: Any, **more: Any) -> None:
        """Nothing."""


class Supervision(FIFOScheduler):  # type: ignore[misc]
    """Tune's scheduler; see above.

    Args:
        attempts: at what is run.
        watched: meanwhile.
    """

    def __init__(self, attempts: Attempts, watched: Watched) -> None:
        super().__init__()
        self._attempts = attempts
        self._watched = watched
        self._actors: dict[str, str] = {}
        self._leaving: list[str] = []
        self._lost: set[str] = set()
        self._look = throttled(self._look_at_nodes, LOOK)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: see `Attempts`."""
        return {}

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The next that waits; where nothing more is to run, none waits any longer."""
        self._watched.heartbeat.require()
        self._watched.cluster.require()
        self._look()
        self._watched.places.look(tune_controller.get_trials())
        self._note_actors(tune_controller.get_live_trials())
        if self._attempts.over():
            for trial in list(tune_controller.get_live_trials()):
                if trial.status == Trial.PENDING:
                    trial.init_local_path()  # in the end Tune asks each for its folder
                    tune_controller.stop_trial(trial)
        return super().choose_trial_to_run(tune_controller)

    def _note_actors(self, trials: Iterable[Trial]) -> None:
        """Note which actor runs which trial: when it dies, Tune knows that no more.

        Tune looks for one event at a time, and calls its scheduler before each.
        """
        with_actors = ((t.trial_id, t.temporary_state.ray_actor) for t in trials)
        self._actors = {name: actor._actor_id.hex() for name, actor in with_actors if actor}

    def _look_at_nodes(self) -> None:
        self._watched.cluster.require_node()
        found = leaving()
        if found != self._leaving:
            write_json(self._watched.leaving, {"nodes": found})
            self._leaving = found

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """A process died, or gave its work up: Tune hands on what it wrote of that, as a text."""
        actor = self._actors.get(trial.trial_id)
        node = node_of(actor) if actor else None
        host = node["NodeManagerHostname"] if node else None
        said = Path(trial.error_file).read_text(encoding="utf-8").rpartition("Failure #")[2]
        reason = "infrastructure: the worker died"
        if "running low on memory" in said:
            reason = "out of memory: the node's; Ray ended the worker"
        reason += f" on {host}" if host else ""
        death = Death(reason, host, lambda: node is not None and self._is_lost(node))
        self._attempts.on_death(trial.trial_id, death)

    def _is_lost(self, node: Node) -> bool:
        if node["NodeID"] not in self._lost and lost(node):
            self._lost.add(node["NodeID"])
        return node["NodeID"] in self._lost
