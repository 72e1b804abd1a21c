"""Trackers get a run a trial, and nothing that they do fails or holds up the study."""

import json
import logging
import os
import shutil
import struct
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from sdw_core.errors import InputError
from sdw_core.files import write_json
from study import trackers
from study.curves import followed
from study.folder import StudyFolder
from study.outcomes import TrialResult, write_record
from study.trackers import Follower, Scalars, require_trackers, tracked
from tests.study.conftest import small_spec

LOSS = "distill/meta_loss"


class Memory:
    """A tracker that keeps runs in this process, for as long as the class is not made anew."""

    runs: dict[str, dict[str, Any]]

    def __init__(self, study: str, home: Path) -> None:
        self.study = study

    def begin(self, name: str, settings: Mapping[str, Any]) -> str:
        self.runs[name] = {"settings": dict(settings), "log": [], "outcome": None, "kept": []}
        return name

    def log(self, run: str, scalars: Scalars) -> None:
        self.runs[run]["log"] += scalars

    def end(self, run: str, result: TrialResult) -> None:
        assert self.runs[run]["outcome"] is None
        self.runs[run]["outcome"] = result.outcome

    def keep(self, run: str, folder: Path) -> None:
        self.runs[run]["kept"] += sorted(path.name for path in folder.iterdir())


@pytest.fixture
def memory(monkeypatch) -> type[Memory]:
    tracker = type("Fresh", (Memory,), {"runs": {}})
    monkeypatch.setitem(trackers.TRACKERS, "memory", tracker)
    return tracker


def asked(folder: StudyFolder, number: int = 0) -> Path:
    """The folder of a trial that was proposed."""
    write_record(folder.trials, {"number": number, "params": {"weighting.temperature": 0.25}})
    return folder.trial(number)


def finish(trial: Path, told: Any, outcome: str = "COMPLETE") -> None:
    result = TrialResult(outcome=outcome, metrics={"normalized_return": 41.0})
    told.end(result)
    write_json(trial / "result.json", result.to_json())


def exported(folder: StudyFolder, number: int = 0) -> None:
    files = folder.exports / f"trial-{number}"
    files.mkdir(parents=True)
    for name in ("manifest.json", "rows.safetensors"):
        write_json(files / name, {})


def test_a_run_gets_each_point_once_in_the_order_of_the_steps(folder, memory) -> None:
    trial = asked(folder)
    follower = Follower(folder, "memory")
    follower.look()
    assert memory.runs == {}
    with followed(trial, "hash", None) as told:
        told(LOSS, {1: 4.0, 2: 2.0})
        told("distill/hypergradient_norm", {1: 1.0, 2: 1.0})
        told.write()
        follower.look()
    with followed(trial, "hash", None) as again:  # an attempt that goes on tells all of it
        again(LOSS, {1: 4.0, 2: 2.0, 3: 1.0})
        again.write()
        Follower(folder, "memory").look()  # a process that goes on
        finish(trial, again)
    Follower(folder, "memory").look()
    run = memory.runs["trial-0"]
    assert run["settings"] == {"weighting.temperature": 0.25}
    assert run["log"] == [
        (LOSS, 1, 4.0),
        ("distill/hypergradient_norm", 1, 1.0),
        (LOSS, 2, 2.0),
        ("distill/hypergradient_norm", 2, 1.0),
        (LOSS, 3, 1.0),
        ("trial/normalized_return", 0, 41.0),
    ]
    assert run["outcome"] == "COMPLETE"


@pytest.mark.parametrize("outcome", ["COMPLETE", "PRUNED", "FAILED"])
def test_a_run_ends_as_its_trial_does_and_keeps_its_export(folder, memory, outcome) -> None:
    trial = asked(folder)
    with followed(trial, "hash", None) as told:
        told(LOSS, {1: 4.0})
        finish(trial, told, outcome)
    follower = Follower(folder, "memory")
    follower.look()
    exported(folder)
    exported(folder, 7)  # of a trial that was not followed
    shutil.copytree(folder.exports / "trial-0", folder.exports / "trial-0-copy")
    shutil.copytree(trial, folder.trials / "0-copy")
    for _ in range(2):
        follower.look()
    assert memory.runs["trial-0"]["outcome"] == outcome
    assert memory.runs["trial-0"]["kept"] == ["manifest.json", "rows.safetensors"]
    assert list(memory.runs) == ["trial-0"]


def test_a_trial_that_failed_before_it_told_anything_has_a_run_too(folder, memory) -> None:
    trial = asked(folder)
    write_json(trial / "result.json", TrialResult(outcome="FAILED").to_json())
    Follower(folder, "memory").look()
    assert memory.runs["trial-0"]["outcome"] == "FAILED"


def test_a_tracker_that_is_unknown_or_not_installed_is_one_sentence() -> None:
    with pytest.raises(
        InputError, match=r"`study.trackers.0` cannot be 'wanbd': did you mean `wandb`"
    ):
        small_spec("study.trackers=[wanbd]")
    with pytest.raises(InputError, match=r"`study.trackers` must be trackers, each named once"):
        small_spec("study.trackers=[wandb, wandb]")
    with pytest.raises(InputError, match=r"'trackio', whose package is not installed; install it"):
        require_trackers(small_spec("study.trackers=[trackio]"))
    require_trackers(small_spec())


def test_trackers_are_no_part_of_a_studys_identity() -> None:
    assert small_spec("study.trackers=[wandb]").identity == small_spec().identity


def followed_to_its_end(folder: StudyFolder) -> None:
    """A study of one trial, whose rows are exported."""
    trial = asked(folder)
    with tracked(folder):
        with followed(trial, "hash", None) as told:
            told("density/held_out_log_likelihood", {10: -6.0, 20: -5.0})
            told(LOSS, {1: 4.0, 2: 2.0})
            told.write()
            finish(trial, told)
        exported(folder)


def tracked_by(name: str, root: Path) -> StudyFolder:
    return StudyFolder.create(small_spec(f"study.trackers=[{name}]"), root)


def log_of(folder: StudyFolder, name: str) -> str:
    return (folder.path / "trackers" / f"{name}.log").read_text()


@pytest.mark.slow
def test_mlflow_has_the_run_with_its_curves_and_its_export(tmp_path, monkeypatch) -> None:
    from mlflow.tracking import MlflowClient

    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    folder = tracked_by("mlflow", tmp_path)
    followed_to_its_end(folder)
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name(folder.name)
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("trial-0", "FINISHED")
    assert run.data.params == {"weighting.temperature": "0.25"}
    assert run.data.metrics["trial/normalized_return"] == 41.0
    history = client.get_metric_history(run.info.run_id, LOSS)
    assert {metric.step: metric.value for metric in history} == {1: 4.0, 2: 2.0}
    kept = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert kept == {"manifest.json", "rows.safetensors"}


@pytest.mark.slow
def test_wandb_has_the_run_with_its_curves_and_its_export(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tracked_by("wandb", tmp_path)
    followed_to_its_end(folder)
    written = sorted(folder.path.glob("trackers/wandb/offline-run-*/*.wandb"))
    records = [record for path in written for record in records_of(path)]
    runs = [record.run for record in records if record.HasField("run")]
    (known,) = json.loads((folder.path / "trackers" / "wandb.json").read_text()).values()
    assert {(run.project, run.run_id) for run in runs} == {(folder.name, known["run"])}
    assert runs[0].display_name == "trial-0"
    points = defaultdict(list)
    for record in records:
        items = {item.nested_key[0]: item.value_json for item in record.history.item}
        for name in (LOSS, "density/held_out_log_likelihood"):
            if name in items:
                step = items[f"{name.partition('/')[0]}/step"]
                points[name].append((int(step), float(items[name])))
    assert points == {
        LOSS: [(1, 4.0), (2, 2.0)],
        "density/held_out_log_likelihood": [(10, -6.0), (20, -5.0)],
    }
    (artifact,) = (record.artifact for record in records if record.HasField("artifact"))
    assert artifact.name == f"{folder.name}-trial-0"


def records_of(path: Path) -> Iterator[Any]:
    """Of an offline run of a few kB, in which no record is split."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at = path.read_bytes(), 7
    while at < len(data):
        _, size, _ = struct.unpack("<IHB", data[at : at + 7])
        record = Record()
        record.ParseFromString(data[at + 7 : at + 7 + size])
        yield record
        at += 7 + size


TRACKIO = """
import json
from pathlib import Path

def say(*call):
    with Path("calls.jsonl").open("a") as file:
        file.write(json.dumps(call) + "\\n")

class Run:
    def log(self, metrics, step=None):
        say("log", metrics, step)
    def log_artifact(self, artifact_or_path, name=None, type=None, aliases=None):
        say("artifact", Path(artifact_or_path).name, name, type)
    def finish(self):
        say("finish")

def init(project, name=None, group=None, space_id=None, config=None, resume="never", embed=True):
    say("init", project, name.rpartition("-")[0], config, resume)
    return Run()
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Modules in the place of a tracker's package."""
    place = tmp_path / "modules"
    place.mkdir()
    monkeypatch.setattr(sys, "path", [str(place), *sys.path])

    def put(name: str, code: str) -> None:
        (place / f"{name}.py").write_text(textwrap.dedent(code))

    return put


@pytest.mark.slow
def test_trackio_is_called_as_its_documentation_says(tmp_path, stand_in) -> None:
    """By a stand-in with the signatures of trackio 0.38."""
    stand_in("trackio", TRACKIO)
    folder = tracked_by("trackio", tmp_path)
    followed_to_its_end(folder)
    lines = (folder.path / "trackers" / "calls.jsonl").read_text().splitlines()
    calls = [json.loads(line) for line in lines]
    begun = ["init", folder.name, "trial-0"]
    assert calls[0] == [*begun, {"weighting.temperature": 0.25}, "allow"]
    assert ["log", {LOSS: 2.0}, 2] in calls
    assert calls[-4:] == [
        ["finish"],
        [*begun, None, "allow"],
        ["artifact", "trial-0", f"{folder.name}-trial-0", "dataset"],
        ["finish"],
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "trouble"),
    [
        ("raise RuntimeError('no such server')", "failed"),
        ("def init(**given): raise RuntimeError('no such server')", "failed"),
        ("import time; time.sleep(1000)", "had not handed everything on within 3 s and was ended"),
        ("sum(range(10**15))", "had not handed everything on within 3 s"),
        ("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass",
         "had not handed everything on within 3 s"),
    ],
    ids=["raises at import", "raises", "hangs", "hangs in C", "ignores signals"],
)  # fmt: skip
def test_a_tracker_that_fails_or_hangs_costs_the_study_its_patience_at_most(
    tmp_path, stand_in, monkeypatch, caplog, code, trouble
) -> None:
    monkeypatch.setattr(trackers, "PATIENCE", 3.0)
    stand_in("wandb", code)
    folder = tracked_by("wandb", tmp_path)
    begun = monotonic()
    with caplog.at_level(logging.WARNING):
        followed_to_its_end(folder)
    assert monotonic() - begun < 3.0 + 2.0
    (said,) = caplog.messages
    assert said.startswith(f"the tracker wandb {trouble}")
    assert "the study is whole" in said


@pytest.mark.slow
def test_a_tracker_whose_study_was_killed_hands_on_what_there_is_and_ends(
    tmp_path, stand_in
) -> None:
    stand_in("trackio", TRACKIO)
    folder = tracked_by("trackio", tmp_path)
    trial = asked(folder)
    with followed(trial, "hash", None) as told:
        told(LOSS, {1: 4.0})
    read, write = os.pipe()
    if (killed := os.fork()) == 0:
        context = tracked(folder)
        context.__enter__()
        os.write(write, b"begun")
        sleep(1000)
    os.read(read, 5)
    os.kill(killed, 9)
    os.waitpid(killed, 0)
    calls = folder.path / "trackers" / "calls.jsonl"
    until = monotonic() + 60
    while not (calls.exists() and LOSS in calls.read_text()):
        assert monotonic() < until
        sleep(0.1)
