"""Preflight: what a study needs, and what is refused before anything is written."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from sdw_core.config import PipelineConfig
from sdw_core.dataset import load
from sdw_core.errors import InputError, SDWError
from sdw_core.identity import Sources
from sdw_core.policy import MLP
from study import Study
from study.preflight import (
    check_writable,
    estimate,
    largest,
    require_light,
    require_room,
    storage_trouble,
)
from study.search import StudySearch
from study.trial import run_trial
from tests.study.conftest import small_spec
from tests.study.reports import report

DATASET = load("sdw/hopper-replay-mini-v0")
DATASETS = {"sdw/hopper-replay-mini-v0": DATASET}


def test_the_largest_settings_are_the_ends_and_the_dearest_choices():
    spec = small_spec(
        "search.distill.window={type: categorical, choices: [2, null, 3]}",
        "search.distill.seeds={type: categorical, choices: [4, 1]}",
        "pipeline.distill.inner_steps=9",
    )
    found = largest(spec, DATASET).distill
    assert (found.synthetic_size, found.window, found.seeds) == (24, None, 4)


def test_the_networks_of_an_expert_count():
    small = estimate(small_spec(), DATASETS)
    searched = "search.expert.ensemble={type: categorical, choices: [1, 1000, 10]}"
    large = estimate(small_spec(searched), DATASETS)
    assert largest(small_spec(searched), DATASET).expert.ensemble == 1000
    expert = small_spec().pipeline.expert
    network = MLP.build(11, 3, expert.layers, expert.width).size
    assert large.memory_per_trial - small.memory_per_trial > 999 * 4 * 6 * network
    assert large.disk - small.disk > 999 * 4 * network


def test_a_finished_study_fits_its_estimate_of_disk(folder):
    spec = folder.spec()
    need = estimate(spec, DATASETS, trials=2)
    search, sources = StudySearch(folder.book()), Sources.of(DATASET, None)
    for number, name in enumerate("ab"):
        config = spec.pipeline_with(search.suggest(name)["params"])
        given = folder.trial(number), folder.cache, folder.stop_flag, 1
        run_trial(number, config, *given, sources=sources)
        search.on_trial_complete(name, report(normalized_return=1.0))
    entries = (*folder.path.rglob("*"), *folder.cache.iterdir())
    used = sum(path.stat().st_size for path in entries if path.is_file())
    assert 0.2 * need.disk < used < need.disk
    per_trial = sum(path.stat().st_size for path in folder.trial(0).iterdir())
    assert per_trial < need.disk_per_trial


MEMORY = """if True:
    import resource, sys, tempfile
    from pathlib import Path
    import optuna, ray
    from search_spaces import load_spec
    from study.trial import run_trial
    home = Path(sys.argv[1])
    pipeline = load_spec("quickstart", sys.argv[2:]).pipeline
    result = run_trial(0, pipeline, home / "0", home / "cache", home / "stop", 1)
    assert result.outcome == "COMPLETE", result
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def test_a_worker_takes_about_the_memory_that_was_foreseen(tmp_path):
    from tests.study.conftest import SMALL

    big = ("pipeline.distill.meta_batch_size=32768", "pipeline.distill.seeds=4")
    short = ("pipeline.distill.outer_steps=1", "pipeline.evaluation.policies=1")
    overrides = [*SMALL, *big, *short, "pipeline.distill.width=256"]
    spec = small_spec(*overrides)
    need = estimate(spec, DATASETS, trials=1).memory_per_trial
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path), *overrides],
        check=True,
        capture_output=True,
        text=True,
    )
    assert 0.5 * need < int(done.stdout) < 1.3 * need


def test_more_trials_and_longer_ones_need_more_disk():
    one, more = (estimate(small_spec(f"study.trials={n}"), DATASETS) for n in (1, 1000))
    long = estimate(small_spec("pipeline.distill.outer_steps=50000"), DATASETS)
    assert one.disk < more.disk
    assert more.disk_per_trial == one.disk_per_trial < long.disk_per_trial


def test_workers_of_a_machine_share_the_data(monkeypatch):
    """All but those that fit something, of which there are two at a time, or as many as trials."""
    monkeypatch.setattr("study.preflight.usable_cpus", lambda: 10)
    shared, apart = (
        estimate(small_spec("study.trials=10", *more), DATASETS)
        for more in ((), ("search.expert.width={type: categorical, choices: [16, 16]}",))
    )
    alone = estimate(small_spec("study.trials=1"), DATASETS)
    assert alone.memory == alone.memory_per_trial == shared.memory_per_trial
    assert shared.memory < apart.memory < 10 * alone.memory


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["study.trials=100000000"], "GB of disk in .* lower `study.trials`"),
        (
            ["pipeline.distill.meta_batch_size=10000000", "pipeline.distill.width=16384"],
            "of memory and .* lower `study.concurrency`",
        ),
        (
            ["pipeline.expert.ensemble=1000", "pipeline.expert.batch_size=10000000"],
            "of memory and .* `pipeline.expert.ensemble`",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_writes_nothing(tmp_path, overrides, said):
    spec = small_spec(*overrides)
    with pytest.raises(InputError, match=said):
        require_room(spec, estimate(spec, DATASETS), tmp_path / "a" / "b", on_this_machine=True)
    assert list(tmp_path.iterdir()) == []


def test_the_cores_that_the_process_may_use_count(monkeypatch, tmp_path):
    monkeypatch.setattr("study.preflight.usable_cpus", lambda: 6)
    at_a_time = {
        override: estimate(small_spec(override), DATASETS).trials_at_a_time
        for override in (
            "study.resources={cpu: 1}",
            "study.resources={cpu: 4}",
            "study.concurrency=4",
            "study.concurrency=400",
        )
    }
    assert list(at_a_time.values()) == [6, 1, 4, 6]


@pytest.mark.parametrize("asked", ["cpu: 7", "cpu: 1, gpu: 1000"])
def test_a_trial_that_the_machine_cannot_hold_is_refused(monkeypatch, tmp_path, asked):
    """Also where the spec says how many at a time, for which a cluster would grow."""
    monkeypatch.setattr("study.preflight.usable_cpus", lambda: 6)
    spec = small_spec(f"study.resources={{{asked}}}", "study.concurrency=1")
    need = estimate(spec, DATASETS)
    with pytest.raises(InputError, match=r"^`study\.resources` asks for .* may use 6 CPU and"):
        require_room(spec, need, tmp_path, on_this_machine=True)
    require_room(spec, need, tmp_path, on_this_machine=False)


def test_memory_is_the_nodes_own_affair_on_a_cluster(tmp_path):
    spec = small_spec("pipeline.distill.meta_batch_size=10000000", "pipeline.distill.width=16384")
    need = estimate(spec, DATASETS)
    assert need.memory > psutil.virtual_memory().available
    require_room(spec, need, tmp_path, on_this_machine=False)


def test_on_a_gpu_the_engine_lies_there():
    cpu, gpu = (
        estimate(small_spec(f"study.resources={{cpu: 1, gpu: {share}}}"), DATASETS)
        for share in (0, 0.5)
    )
    assert cpu.gpu_memory_per_trial == 0
    assert gpu.gpu_memory_per_trial > 0
    assert gpu.memory_per_trial < cpu.memory_per_trial


def test_a_storage_that_cannot_be_written_is_refused():
    spec = small_spec()
    with pytest.raises(InputError, match=r"'/proc' cannot be written .*`storage`"):
        require_room(spec, estimate(spec, DATASETS), Path("/proc/no/where"), True)
    assert storage_trouble(Path("/proc"))


def test_a_link_to_nothing_cannot_be_written(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"link' cannot be written .*`to`"):
        check_writable(tmp_path / "link" / "deeper", "to")


def test_a_trainable_that_carries_data_is_refused():
    require_light(run_trial)
    with pytest.raises(SDWError, match="bytes pickled"):
        require_light(bytes(10**6))


def test_validate_and_launch_say_so(tmp_path, monkeypatch, capsys):
    from tests.study.commands import sdw

    monkeypatch.chdir(tmp_path)
    status, out, _ = sdw(capsys, "validate", "quickstart", "--json")
    assert (status, set(json.loads(out)["estimate"])) == (
        0,
        {
            *("disk_per_trial", "disk", "memory_per_trial", "memory"),
            *("gpu_memory_per_trial", "trials_at_a_time"),
        },
    )
    status, out, err = sdw(capsys, "launch", "quickstart", "--set", "study.trials=100000000")
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert "GB of disk" in err
    assert list(tmp_path.iterdir()) == []


def test_data_in_memory_are_refused_for_workers_cannot_read_them(tmp_path):
    arrays = {
        "observations": np.zeros((4, 11)),
        "actions": np.zeros((4, 3)),
        "rewards": np.ones(4),
        "terminals": np.array([0, 1, 0, 1]),
    }
    data = load(arrays, environment="Hopper-v5")
    spec = small_spec()
    given = spec.model_copy(update={"pipeline": PipelineConfig(dataset=data)})
    with pytest.raises(InputError, match=r"made in memory.*for other processes.*import_dataset"):
        Study.validate(given, storage=tmp_path)
    assert list(tmp_path.iterdir()) == []
