"""Real `sdw` processes with a home and a Ray of their own; none outlives its test."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import sleep
from typing import Any

import psutil
from safetensors import safe_open

from search_spaces import load_spec
from study.folder import StudyFolder

SDW = Path(sys.executable).with_name("sdw")
Sdw = Callable[..., tuple[int, str, str]]
"""Exit status, stdout and stderr of a command in the test's own process; see the fixture `sdw`."""


def tiny_study(study: str, outer_steps: int) -> str:
    """The text of a study whose trials take a second, or as long as their outer steps take."""
    return f"""
study: {{{study}, concurrency: 2, startup_trials: 2, bc_steps: 20, defaults_first: false}}
pipeline:
  dataset: sdw/hopper-replay-mini-v0
  density: {{transforms: 1, hidden_features: 8, steps: 20}}
  expert: {{layers: 2, width: 16, steps: 20, value_steps: 20}}
  distill:
    {{layers: 2, width: 8, inner_steps: 4, outer_steps: {outer_steps}, meta_batch_size: 64}}
  evaluation: {{policies: 2, episodes: 1}}
search:
  weighting.temperature: {{type: float, low: 0.01, high: 1.0, log: true}}
  distill.synthetic_size: {{type: int, low: 8, high: 16}}
"""


class World:
    """A home and a temporary folder, short enough for Ray's sockets, and what was started there."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="sdw", dir="/tmp"))
        self.env = os.environ | {
            "HOME": str(self.path),
            "TMPDIR": str(self.path),
            "RAY_TMPDIR": str(self.path),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "80",
        }
        self.env.pop("RAY_ADDRESS", None)

    def start(
        self, *arguments: object, program: Sequence[str | Path] = (SDW,)
    ) -> subprocess.Popen[str]:
        """`sdw ARGUMENTS`, or another program, as the leader of its own process group."""
        return subprocess.Popen(
            [*program, *map(str, arguments)],
            env=self.env,
            cwd=self.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: object) -> tuple[int, str, str]:
        """Exit status, stdout and stderr of `sdw ARGUMENTS`."""
        return ended(self.start(*arguments))

    def processes(self) -> list[psutil.Process]:
        """Everything alive that was started here, by whomever: it has this world's home."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                alive = process.status() != psutil.STATUS_ZOMBIE
                if alive and process.environ().get("HOME") == str(self.path):
                    found.append(process)
        return found

    def kill(self) -> None:
        """SIGKILL to all of them at once, by their ids, as when a machine loses its power."""
        while processes := self.processes():
            for process in processes:
                with suppress(psutil.Error):
                    process.kill()

    def end(self) -> None:
        """Kill what is left, and remove the folder."""
        self.kill()
        shutil.rmtree(self.path, ignore_errors=True)


def created(world: World, spec: str, name: str, *settings: str) -> StudyFolder:
    """A study that no trial has been run of."""
    loaded = load_spec(spec, [f"study.name={name}", *settings])
    return StudyFolder.create(loaded, world.path / "sdw-studies")


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a process, at its end."""
    out, err = process.communicate()
    return process.returncode, out, err


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait for a condition for as long as the process lives."""
    while not condition():
        if process.poll() is not None:
            raise AssertionError(f"{process.args} ended early: {ended(process)}")
        sleep(0.05)


def wait_until_gone(present: Callable[[], object]) -> None:
    """Wait until there is nothing any more: Ray's workers outlive their driver for a moment."""
    while present():
        sleep(0.05)


def signal_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """What a terminal does, as with SIGINT at Ctrl-C: to the whole process group."""
    os.killpg(process.pid, number)


TINY = tiny_study("name: one, trials: 3", outer_steps=6)


LONG = 3000
"""Outer steps of a trial that is under way for a second or more: long enough to be killed in. What
is only asked to stop looks for that once a second, and needs a trial without an end: 100 * LONG."""


KEYS = {
    *("study", "state", "driver", "trials", "best", "early_stopping", "warnings", "stopping"),
    *("asked", "settled", "running", "failures", "trials_per_hour", "seconds_left", "exports"),
    "job",
    *("race", "queue", "shrinkage"),
    *("waiting", "report", "ended_by"),
}


def steps_done(checkpoint: Path) -> int:
    """Outer steps of a distillation that its checkpoint holds."""
    with safe_open(checkpoint, framework="pt") as file:
        return int(file.metadata()["step"])


def by_number(document: dict[str, Any]) -> dict[int, dict[str, Any]]:
    trials = {trial["number"]: trial for trial in document["trials"]}
    assert len(trials) == len(document["trials"])
    return trials


SPEC = """
comparison: {name: tiny, ours: SDW, over: Av-PBC, search: {distill: {seeds: 1}}}
datasets: {sdw/hopper-replay-mini-v0: }
pipeline:
  density: {model: gaussian}
  weighting: {temperature: 0}
  expert: {layers: 2, width: 16, steps: 20, value_steps: 20}
  distill:
    {layers: 2, width: 8, synthetic_size: 8, inner_steps: 4, outer_steps: 6, seeds: 2, window: 3,
    meta_batch_size: 64}
  evaluation: {policies: 2, episodes: 1, curve: 2}
methods:
  random: {pipeline: {distill: {outer_steps: 0, initial_actions: dataset}}}
  Av-PBC: {}
  SDW: {candidates: [{weighting: {temperature: 0}}, {weighting: {temperature: 0.5}}]}
  too far: {pipeline: {distill: {inner_lr: 1.0e+30}}}
  expert: {judged: expert, pipeline: {distill: {seeds: 1}}}
"""
