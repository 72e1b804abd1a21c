"""A trial: every end is an outcome, and a result that exists is returned."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sdw_core.cache import entry_name
from sdw_core.config import PipelineConfig
from sdw_core.dataset import load
from sdw_core.stage_keys import density_key
from study.curves import read_curves
from study.outcomes import TrialResult
from study.trial import Work, config_hash, distil_rows, run_trial
from tests.study.conftest import small_spec

ROOT = Path(__file__).parents[2]


def small() -> PipelineConfig:
    """Of a trial that needs a density."""
    return small_spec().pipeline_with({"weighting.temperature": 0.1})


def run(
    root: Path,
    config: PipelineConfig | None = None,
    stop: bool = False,
    timeout: float | None = None,
    work: Work = distil_rows,
) -> TrialResult:
    root.mkdir(exist_ok=True)
    flag = root / "stop"
    flag.unlink(missing_ok=True)
    if stop:
        flag.touch()
    config = config or small()
    return run_trial(4, config, root / "trials" / "4", root / "cache", flag, 1, timeout, work=work)


def changed(**distill: object) -> PipelineConfig:
    document = small().model_dump()
    document["distill"] |= distill
    return PipelineConfig(**document)


def test_a_complete_trial_leaves_rows_and_a_result_and_no_checkpoint(tmp_path):
    document = run(tmp_path)
    folder = tmp_path / "trials" / "4"
    assert document.outcome == "COMPLETE"
    assert document.to_json() == json.loads((folder / "result.json").read_text())
    assert set(document.stages) == {
        "dataset", "density", "weights", "expert", "distill", "evaluate",
    }  # fmt: skip
    assert load_file(folder / "rows.safetensors")["observations"].shape == (1, 64, 11)
    assert not (folder / "checkpoint.safetensors").exists()
    progress = json.loads((folder / "progress.json").read_text())
    assert progress["stage"] == "evaluate"
    assert progress["expert"] == document.expert.mean
    assert progress["node"] == document.node
    assert 0 < progress["distilling"] < 2 * document.stages["distill"]


def test_a_trial_keeps_what_it_was_warned_of(tmp_path):
    """An expert of 20 steps stays far below the episodes that it was cloned from, and so few leave
    many values below 0."""
    document = run(tmp_path, changed(objective="av_pbc"))
    weightless, useless = document.warnings
    assert "of the states have a weight of 0 or less" in weightless
    assert "far below the" in useless
    assert "`pipeline.expert.steps`" in useless
    assert document.effective_sample_size_percent > 0
    failed = run(tmp_path, changed(objective="av_pbc", inner_lr=1e30))
    assert (failed.outcome, failed.warnings) == ("FAILED", document.warnings)


def test_a_trial_keeps_that_its_meta_loss_rose_for_good(tmp_path):
    wild = {"outer_steps": 200, "seeds": 12, "rate_lr": 0.5, "layers": 2, "width": 8}
    document = run(tmp_path, changed(**wild, window=5, synthetic_size=10, meta_batch_size=32))
    assert document.warnings[-1].startswith("The meta-loss of ")
    kept = json.loads((tmp_path / "trials" / "4" / "result.json").read_text())
    assert kept["warnings"] == document.warnings


def test_a_trial_may_be_a_baseline_of_no_outer_steps(tmp_path):
    document = run(tmp_path, changed(outer_steps=0, initial_states="kmeans"))
    assert document.outcome == "COMPLETE"
    assert document.learning_rates == [pytest.approx([0.1] * 4)]
    rows = load_file(tmp_path / "trials" / "4" / "rows.safetensors")
    assert rows["observations"].shape == (1, 64, 11)
    assert rows["losses"].shape == (1, 0)


def test_a_result_that_exists_is_returned_and_not_computed_again(tmp_path):
    folder = tmp_path / "trials" / "4"
    folder.mkdir(parents=True)
    result = TrialResult(outcome="COMPLETE", config_hash=config_hash(small()))
    later = {"of a later version": 1}
    (folder / "result.json").write_text(json.dumps(result.to_json() | later))
    assert run(tmp_path) == result
    assert not (folder / "rows.safetensors").exists()


def test_a_record_is_the_document_that_it_is_read_from(tmp_path):
    for config in (None, changed(inner_lr=1e30)):
        result = run(tmp_path, config)
        document = json.loads((tmp_path / "trials" / "4" / "result.json").read_text())
        read = TrialResult.from_json(document)
        assert (read, read.to_json()) == (result, document)


def test_a_result_of_other_settings_or_a_torn_one_is_computed_again(tmp_path):
    folder = tmp_path / "trials" / "4"
    folder.mkdir(parents=True)
    for text in ('{"outcome": "COMPLETE", "config_hash": "of another"}', '{"outcome": "COMPL'):
        (folder / "result.json").write_text(text)
        document = run(tmp_path)
        assert document.outcome == "COMPLETE"
        assert document.config_hash == config_hash(small())


@pytest.mark.parametrize(
    ("distill", "reason"),
    [
        ({"inner_lr": 1e30}, "divergence"),
        ({"synthetic_size": 10**6}, "configuration"),
        ({"synthetic_size": 40_000, "inner_steps": 10**6, "window": None}, "configuration"),
    ],
)
def test_a_failure_is_an_outcome_with_a_reason_class(tmp_path, distill, reason):
    document = run(tmp_path, changed(**distill))
    assert document.outcome == "FAILED"
    assert document.reason.startswith(f"{reason}: ")
    assert "Traceback" in (tmp_path / "trials" / "4" / "error.txt").read_text()
    assert run(tmp_path, changed(**distill)) == document


def test_a_stopped_trial_goes_on_to_the_rows_of_an_uninterrupted_one(tmp_path):
    stopped = run(tmp_path / "a", stop=True)
    folder = tmp_path / "a" / "trials" / "4"
    assert stopped.outcome == "STOPPED"
    assert not (folder / "result.json").exists()
    assert run(tmp_path / "a").outcome == "COMPLETE"
    assert run(tmp_path / "b").outcome == "COMPLETE"
    rows = [load_file(tmp_path / n / "trials" / "4" / "rows.safetensors") for n in "ab"]
    for name in rows[0]:
        assert torch.equal(rows[0][name], rows[1][name])


# Curves


def test_a_trial_keeps_its_curves_and_what_it_found_in_the_end(tmp_path):
    document = run(tmp_path)
    curves = read_curves(tmp_path / "trials" / "4")
    assert {name.partition("/")[0] for name in curves} == {
        "density", "expert", "distill", "return", "trial",
    }  # fmt: skip
    assert curves["distill/meta_loss"].steps == [1, 2, 3, 4, 5, 6]
    mean = pytest.approx(document.normalized_return.mean, rel=1e-5)
    assert curves["return/mean"] == ([6], [mean])
    assert curves["trial/normalized_return"] == ([0], [mean])


@pytest.mark.parametrize(("distill", "outcome"), [({}, "COMPLETE"), ({"inner_lr": 1e30}, "FAILED")])
def test_a_trial_that_was_stopped_ends_with_the_curves_of_an_uninterrupted_one(
    tmp_path, distill, outcome
):
    config = changed(**distill)
    assert run(tmp_path / "a", config, stop=True).outcome == "STOPPED"
    found = [run(tmp_path / name, config).outcome for name in "ab"]
    assert found == [outcome, outcome]
    one, other = (read_curves(tmp_path / name / "trials" / "4") for name in "ab")
    own_time = {"distill/outer_steps_per_second", "trial/seconds"}
    assert {n: c for n, c in one.items() if n not in own_time} == {
        n: c for n, c in other.items() if n not in own_time
    }


KILLED = """
import os, sys
from pathlib import Path
from sdw_core.distill import curves, loop, state
from study import curves as written
from tests.study.test_trial import changed, run
curves.LOOK_EVERY = loop.LOOK_EVERY = state.LOOK_EVERY = 5
written.WRITE_EVERY = 0.0
if sys.argv[2] == "kill":
    save = state.State.save
    def last(self, path, key, step):  # what is told by then is past what the checkpoint holds
        if step == 15:
            os.kill(os.getpid(), 9)
        save(self, path, key, step)
    state.State.save = last
print(run(Path(sys.argv[1]), changed(outer_steps=22)).outcome)
"""


@pytest.mark.slow
def test_a_trial_that_was_killed_leaves_no_gap_and_no_point_twice(tmp_path):
    def attempt(root: Path, how: str) -> str:
        command = [sys.executable, "-c", KILLED, str(root), how]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout

    folder = tmp_path / "a" / "trials" / "4"
    assert attempt(tmp_path / "a", "kill") == ""
    assert read_curves(folder)["distill/meta_loss"].steps[-1] == 15
    assert attempt(tmp_path / "a", "go on") == attempt(tmp_path / "b", "go on") == "COMPLETE\n"
    one, other = (read_curves(tmp_path / n / "trials" / "4") for n in "ab")
    for name in ("distill/meta_loss", "distill/hypergradient_norm", "return/mean"):
        assert one[name] == other[name]
        seen = EventAccumulator(str(folder)).Reload().Scalars(name)
        assert [event.step for event in seen] == one[name].steps


# Time


def test_seconds_are_of_all_attempts(tmp_path):
    stopped = run(tmp_path, stop=True)
    assert stopped.outcome == "STOPPED"
    progress = tmp_path / "trials" / "4" / "progress.json"
    said = json.loads(progress.read_text())
    assert said["seconds"] > 0
    progress.write_text(json.dumps(said | {"seconds": 1000.0}))
    document = run(tmp_path)
    assert 1000 + sum(document.stages.values()) <= document.seconds < 2000


def test_a_trial_past_its_time_has_failed_and_leaves_its_traces(tmp_path):
    document = run(tmp_path, changed(outer_steps=10**6), timeout=1.5)
    assert (document.outcome, document.stages) == ("FAILED", {})
    assert document.reason == ("timeout: the trial ran for more than 1.5 s (`study.trial_timeout`)")
    assert document.seconds > 1.5
    assert document.to_json() == json.loads((tmp_path / "trials" / "4" / "result.json").read_text())
    assert not (tmp_path / "trials" / "4" / "hung.txt").exists()


def test_earlier_attempts_count_towards_the_time(tmp_path):
    folder = tmp_path / "trials" / "4"
    folder.mkdir(parents=True)
    (folder / "progress.json").write_text('{"seconds": 1000.0}')
    assert run(tmp_path, timeout=1001.0 - 1).reason.startswith("timeout: ")


def test_a_trial_within_its_time_completes(tmp_path):
    assert run(tmp_path, timeout=1000.0).outcome == "COMPLETE"
    assert not (tmp_path / "trials" / "4" / "hung.txt").exists()


HANG = """
import sys, time
from pathlib import Path
from study import clock
clock.GRACE = 0.2
with clock.TrialClock(Path(sys.argv[1]), 0.1):
    if sys.argv[2] == "sleeping":
        time.sleep(1000)
    sum(range(10**15))  # never comes back from C, and never lets another thread run
"""


@pytest.mark.parametrize("how", ["sleeping", "in native code that holds the interpreter"])
def test_a_hung_process_is_ended_and_the_next_attempt_knows(tmp_path, how):
    folder = tmp_path / "trials" / "4"
    folder.mkdir(parents=True)
    ended = subprocess.run([sys.executable, "-c", HANG, str(folder), how], check=False)
    assert ended.returncode == 1
    assert 'File "<string>"' in (folder / "hung.txt").read_text()
    document = run(tmp_path, timeout=1000.0)
    assert document.outcome == "FAILED"
    assert document.reason.startswith("timeout: the trial ran for more than")
    assert "hung.txt" in document.reason
    assert document.seconds >= 1000


HOLD = """
import sys
from pathlib import Path
from filelock import FileLock
lock = Path(sys.argv[1])
lock.parent.mkdir(parents=True, exist_ok=True)
with FileLock(lock):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def held_elsewhere(lock: Path) -> Iterator[None]:
    """Another process holds a lock, as one that computes does."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        yield
        other.stdin.close()


@pytest.fixture
def density_lock(tmp_path) -> Path:
    """Of a density that a trial needs."""
    config = small()
    key = density_key(config, load(config.dataset).content_hash)
    return (tmp_path / "cache" / entry_name("density", key)).with_suffix(".lock")


def progress_of(root: Path) -> dict[str, object]:
    path = root / "trials" / "4" / "progress.json"
    return json.loads(path.read_text()) if path.exists() else {}


WAITER = """
import json, sys
from pathlib import Path
from sdw_core.dataset import load
from study import clock
from study.curves import read_curves
from study.outcomes import TrialResult
from tests.study.test_trial import run
clock.GRACE = 0.1
def work(pipeline, folder, progress):
    pipeline.source_density(load(pipeline.config.dataset))
    metrics = {"normalized_return": 1.0}
    return TrialResult(outcome="COMPLETE", metrics=metrics, stages=pipeline.seconds)
print(json.dumps(run(Path(sys.argv[1]), timeout=float(sys.argv[2]), work=work).to_json()))
"""


@pytest.mark.slow
def test_a_wait_for_another_process_is_none_of_the_trials_time(tmp_path, density_lock):
    """The density is computed elsewhere for longer than the trial may take."""
    limit = 4.0
    with held_elsewhere(density_lock):
        trial = subprocess.Popen(
            [sys.executable, "-c", WAITER, tmp_path, str(limit)],
            stdout=subprocess.PIPE,
            text=True,
        )
        while not progress_of(tmp_path).get("waiting"):
            assert trial.poll() is None
            sleep(0.02)
        begun, first = monotonic(), progress_of(tmp_path)
        written = (tmp_path / "trials" / "4" / "progress.json").stat().st_mtime_ns
        while monotonic() - begun < limit + 1:
            assert trial.poll() is None
            sleep(0.02)
        assert (tmp_path / "trials" / "4" / "progress.json").stat().st_mtime_ns > written
        assert progress_of(tmp_path) == first  # the same seconds, that is
        assert first["stage"] == "density"
    result = TrialResult.from_json(json.loads(trial.communicate()[0]))
    assert result.outcome == "COMPLETE"
    assert sum(result.stages.values()) < result.seconds < limit


def test_a_trial_that_waits_can_be_stopped(tmp_path, density_lock):
    def stop() -> None:
        while not progress_of(tmp_path).get("waiting"):
            sleep(0.01)
        (tmp_path / "stop").touch()

    with held_elsewhere(density_lock), ThreadPoolExecutor(1) as thread:
        stopped = thread.submit(stop)
        document = run(tmp_path)
        stopped.result()
    assert (document.outcome, document.reason) == (
        "STOPPED",
        "Stopped while it waited in the stage 'density'.",
    )


def test_a_trial_that_runs_elsewhere_is_waited_for_until_asked_to_stop(tmp_path):
    with held_elsewhere(tmp_path / "trials" / "4" / "lock"):
        document = run(tmp_path, stop=True)
    assert (document.outcome, document.reason) == (
        "STOPPED",
        "Stopped while another process ran the trial.",
    )


def test_a_hang_after_a_wait_is_still_ended(tmp_path):
    wait = "    with running.paused():\n        time.sleep(0.6)\n"
    hang = HANG.replace(", 0.1):\n", f", 0.1) as running:\n{wait}")
    begun = monotonic()
    ended = subprocess.run([sys.executable, "-c", hang, str(tmp_path), "sleeping"], check=False)
    assert ended.returncode == 1
    assert monotonic() - begun > 0.6
    assert 'File "<string>"' in (tmp_path / "hung.txt").read_text()
