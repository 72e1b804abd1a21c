"""Trackers of experiments beside a study: one run a trial in wandb, mlflow or trackio.

A tracker is a process of its own on the machine that runs the study. It reads what trials leave in
their folders, and hands that on. So a trial knows of no tracker, and one that raises, hangs or is
slow fails nothing and delays the study by `PATIENCE` at its end.

trackers/NAME.json  trial -> its run, the last step handed on of each curve, `ended`, `exported`
trackers/NAME.log   what the tracker said
trackers/NAME.lock  held by its process
"""

import importlib
import importlib.util
import logging
import os
import secrets
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from subprocess import PIPE, Popen, TimeoutExpired
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Protocol

from filelock import FileLock, Timeout

from sdw_core.errors import InputError
from sdw_core.files import read_whole, write_json
from study.curves import read_curves
from study.outcomes import COMPLETE, FAILED, TrialResult, read_record, read_result

if TYPE_CHECKING:
    from search_spaces import StudySpec
    from study.folder import StudyFolder

PATIENCE = 30.0
"""Seconds that a study waits, at its end, for all of its trackers together."""
EVERY = 5.0
"""Seconds between two looks of a tracker at the trials' folders."""
logger = logging.getLogger(__name__)
Scalars = list[tuple[str, int, float]]
"""Points of curves: name, step of the curve's stage, value; by stage and step."""


class Tracker(Protocol):
    """Where runs are kept; a run is known by an id, also to another process later.

    It is made of the study's name and of a folder that it may write to.
    """

    def begin(self, name: str, settings: Mapping[str, Any]) -> str:
        """A new run; returns its id."""
        ...

    def log(self, run: str, scalars: Scalars) -> None:
        """Points of its curves."""
        ...

    def end(self, run: str, result: TrialResult) -> None:
        """Its trial has an outcome."""
        ...

    def keep(self, run: str, folder: Path) -> None:
        """Keep the files of an export, as an artifact of a run that has ended."""
        ...


class Wandb:
    """https://docs.wandb.ai: a project a study. Where runs are kept is up to the environment."""

    def __init__(self, study: str, home: Path) -> None:
        self._study, self._home = study, home
        self._runs: dict[str, Any] = {}

    def begin(self, name: str, settings: Mapping[str, Any]) -> str:
        """See `Tracker.begin`."""
        run = secrets.token_hex(4)
        self._opened(run, name=name, config=dict(settings))
        return run

    def log(self, run: str, scalars: Scalars) -> None:
        """See `Tracker.log`."""
        for name, step, value in scalars:
            self._opened(run).log({name: value, f"{name.partition('/')[0]}/step": step})

    def end(self, run: str, result: TrialResult) -> None:
        """See `Tracker.end`."""
        self._opened(run).summary["outcome"] = result.outcome
        self._close(run, failed=result.outcome == FAILED)

    def keep(self, run: str, folder: Path) -> None:
        """See `Tracker.keep`."""
        self._opened(run).log_artifact(
            str(folder), name=f"{self._study}-{folder.name}", type="dataset"
        )
        self._close(run, failed=False)

    def _opened(self, run: str, **new: Any) -> Any:
        import wandb

        if run not in self._runs:
            self._runs[run] = opened = wandb.init(
                project=self._study,
                id=run,
                resume="allow",
                reinit="create_new",
                dir=self._home,
                settings=wandb.Settings(console="off", x_disable_stats=True, disable_git=True),
                **new,
            )
            for stage in ("density", "expert", "distill", "return"):
                opened.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        return self._runs[run]

    def _close(self, run: str, failed: bool) -> None:
        self._runs.pop(run).finish(exit_code=int(failed))


class Trackio:
    """https://huggingface.co/docs/trackio: wandb's calls, by a run's name instead of its id."""

    def __init__(self, study: str, home: Path) -> None:
        self._study = study
        self._runs: dict[str, Any] = {}

    def begin(self, name: str, settings: Mapping[str, Any]) -> str:
        """See `Tracker.begin`."""
        run = f"{name}-{secrets.token_hex(4)}"
        self._opened(run, config=dict(settings))
        return run

    def log(self, run: str, scalars: Scalars) -> None:
        """See `Tracker.log`."""
        for name, step, value in scalars:
            self._opened(run).log({name: value}, step=step)

    def end(self, run: str, result: TrialResult) -> None:
        """See `Tracker.end`."""
        self._runs.pop(run).finish()

    def keep(self, run: str, folder: Path) -> None:
        """See `Tracker.keep`."""
        self._opened(run).log_artifact(
            str(folder), name=f"{self._study}-{folder.name}", type="dataset"
        )
        self._runs.pop(run).finish()

    def _opened(self, run: str, **new: Any) -> Any:
        trackio = importlib.import_module("trackio")
        if run not in self._runs:
            given = {"project": self._study, "name": run, "resume": "allow", "embed": False}
            self._runs[run] = trackio.init(**given, **new)
        return self._runs[run]


class MLflow:
    """https://mlflow.org: an experiment a study. Where it is kept is up to the environment."""

    def __init__(self, study: str, home: Path) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        known = self._client.get_experiment_by_name(study)
        self._experiment = known.experiment_id if known else self._client.create_experiment(study)

    def begin(self, name: str, settings: Mapping[str, Any]) -> str:
        """See `Tracker.begin`."""
        from mlflow.entities import Param

        run = self._client.create_run(self._experiment, run_name=name).info.run_id
        params = [Param(key, str(value)) for key, value in settings.items()]
        self._client.log_batch(run, params=params)
        return str(run)

    def log(self, run: str, scalars: Scalars) -> None:
        """See `Tracker.log`."""
        from mlflow.entities import Metric

        now = round(1000 * time())
        metrics = [Metric(name, value, now, step) for name, step, value in scalars]
        for first in range(0, len(metrics), 1000):  # as many as a call may hold
            self._client.log_batch(run, metrics[first : first + 1000])

    def end(self, run: str, result: TrialResult) -> None:
        """See `Tracker.end`."""
        status = {COMPLETE: "FINISHED", FAILED: "FAILED"}.get(result.outcome, "KILLED")
        self._client.set_tag(run, "outcome", result.outcome)
        self._client.set_terminated(run, status)

    def keep(self, run: str, folder: Path) -> None:
        """See `Tracker.keep`."""
        self._client.log_artifacts(run, str(folder))


PACKAGES = {"wandb": "'sdw-obd[wandb]'", "mlflow": "'sdw-obd[mlflow]'", "trackio": "trackio"}
"""What pip installs for each."""
TRACKERS: dict[str, Callable[[str, Path], Tracker]] = {
    "wandb": Wandb,
    "mlflow": MLflow,
    "trackio": Trackio,
}


def require_trackers(spec: "StudySpec") -> None:
    """Refuse trackers whose packages are not installed.

    Raises:
        InputError: one is not.
    """
    for name in spec.study.trackers:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # None: some folder of that name
            raise InputError(
                f"`study.trackers` names {name!r}, whose package is not installed; install it with "
                f"`pip install {PACKAGES[name]}`, or take it out."
            )


@contextmanager
def tracked(folder: "StudyFolder") -> Iterator[None]:
    """A study is run meanwhile; its trackers are begun, and waited for at the end."""
    home = folder.path / "trackers"
    processes: dict[str, Popen[bytes]] = {}
    try:
        names: tuple[str, ...] = folder.spec().study.trackers
        for name in dict.fromkeys(names):
            home.mkdir(exist_ok=True)
            with (home / f"{name}.log").open("ab") as log:
                processes[name] = Popen(
                    [sys.executable, "-m", "study.trackers", str(folder.path), name],
                    stdin=PIPE,
                    stdout=log,
                    stderr=log,
                    cwd=home,  # what a tracker writes where it stands
                    env=os.environ
                    | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
                    start_new_session=True,  # Ctrl-C is for the study
                )
        yield
    finally:
        until = monotonic() + PATIENCE
        for process in processes.values():
            assert process.stdin
            process.stdin.close()  # the study is over
        for name, process in processes.items():
            if trouble := _ended(process, until - monotonic()):
                logger.warning(
                    f"the tracker {name} {trouble}; the study is whole, and "
                    f"{home / name}.log says more"
                )


def _ended(process: "Popen[bytes]", patience: float) -> str | None:
    """Wait for a tracker, or end it; what went wrong."""
    try:
        failed = process.wait(max(0.0, patience))
        return "failed" if failed else None
    except TimeoutExpired:
        return f"had not handed everything on within {PATIENCE:.0f} s and was ended"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


# In the tracker's process


@dataclass
class Handed:
    """What was handed on of a trial."""

    run: str
    steps: dict[str, int] = field(default_factory=dict)
    ended: bool = False
    exported: bool = False


class Follower:
    """Hands on what the trials of a study leave.

    Args:
        folder: the study's.
        name: the tracker's.
    """

    def __init__(self, folder: "StudyFolder", name: str) -> None:
        home = folder.path / "trackers"
        self._folder = folder
        self._tracker: Tracker = TRACKERS[name](folder.name, home)
        self._path = home / f"{name}.json"
        known = read_whole(self._path) or {}
        self._handed = {int(number): Handed(**each) for number, each in known.items()}

    def look(self) -> None:
        """Hand on what is new."""
        begun = self._folder.left("curves.json") | self._folder.left("result.json")
        for number in sorted(begun):
            known = self._handed.get(number)
            if not known or not known.ended:
                self._hand_on(number)
        for number, export in sorted(self._folder.exported("manifest.json").items()):
            known = self._handed.get(number)
            if known and known.ended and not known.exported:
                self._tracker.keep(known.run, export)
                known.exported = True
                self._write()

    def _hand_on(self, number: int) -> None:
        result = read_result(self._folder.trial(number))  # before the curves, which are whole then
        curves = read_curves(self._folder.trial(number))
        if number not in self._handed:
            record = read_record(self._folder.trials, number) or {"params": {}}
            run = self._tracker.begin(f"trial-{number}", record["params"])
            self._handed[number] = Handed(run)
            self._write()
        handed = self._handed[number]
        new = [
            (name, step, value)
            for name, curve in curves.items()
            for step, value in zip(*curve, strict=True)
            if step > handed.steps.get(name, -1)
        ]
        if new:
            self._tracker.log(handed.run, sorted(new, key=_by_stage_and_step))
            handed.steps |= {name: curve.steps[-1] for name, curve in curves.items()}
        if result:
            self._tracker.end(handed.run, result)
            handed.ended = True
        if new or result:
            self._write()

    def _write(self) -> None:
        write_json(self._path, {str(n): asdict(handed) for n, handed in self._handed.items()})


def _by_stage_and_step(point: tuple[str, int, float]) -> tuple[str, int]:
    name, step, _ = point
    return name.partition("/")[0], step


def follow(folder: "StudyFolder", name: str) -> None:
    """Hand on what the trials leave until standard input ends, and then a last time."""
    over = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        signal.alarm(round(2 * PATIENCE))  # of the system: nobody may be there to end it
        over.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    os.nice(10)  # the trials go before
    follower: Follower | None = None
    while True:
        last = over.wait(EVERY)
        try:
            follower = follower or Follower(folder, name)
            follower.look()
        except Exception:  # of whatever kind a tracker raises: it may work at the next look
            if last:
                raise
            traceback.print_exc()
        if last:
            return


def main() -> None:
    """`python -m study.trackers FOLDER NAME`."""
    from study.folder import StudyFolder

    folder, name = StudyFolder(Path(sys.argv[1])), sys.argv[2]
    try:
        with FileLock(folder.path / "trackers" / f"{name}.lock", timeout=0):
            follow(folder, name)
    except Timeout:  # one of another process follows the study already
        return


if __name__ == "__main__":
    main()
