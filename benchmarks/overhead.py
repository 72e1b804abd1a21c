"""What the search and the record cost a trial, with trials that do nothing.

    python -m benchmarks.overhead [--trials 10000] [--tune-trials 200] [--json]

First the search and record layer alone: a new study on this disk, and for each trial a proposal
(TPE, three searched settings, one objective) and an outcome, as Tune asks for and hands in.
Processor time stands beside the time on the clock, which other work on the machine prolongs. Then
whole studies with Ray Tune, each trial in a worker that reports at once; a study of one trial is
taken off, which leaves the cost of a trial without Ray's start.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import psutil
import torch

from benchmarks import machine
from search_spaces import StudySpec, parse_spec
from study.console import quiet
from study.display import Display
from study.folder import StudyFolder
from study.runner import drive
from study.search import StudySearch

SPEC = {
    "study": {"name": "overhead"},
    "pipeline": {"dataset": "sdw/hopper-replay-mini-v0"},
    "search": {
        "weighting.temperature": {"type": "float", "low": 0.01, "high": 1.0, "log": True},
        "weighting.scheme": {"type": "categorical", "choices": ["reciprocal", "rank"]},
        "distill.synthetic_size": {"type": "int", "low": 8, "high": 256, "log": True},
    },
}
TARGETS = {"milliseconds_at_the_end": 150, "kilobytes_a_trial": 20}
WINDOW = 500
"""Trials at the end over which the cost is averaged."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--tune-trials", type=int, default=200)
    parser.add_argument("--database", default="sqlite", choices=["sqlite", "journal"])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    document = {
        "machine": machine.describe(torch.device("cpu")),
        "record": search_and_record(arguments.trials, arguments.database),
        "tune": tune(arguments.tune_trials) if arguments.tune_trials else None,
        "targets": TARGETS,
    }
    print(json.dumps(document, indent=2) if arguments.json else text(document))


def search_and_record(trials: int, database: str) -> dict[str, Any]:
    """Milliseconds and driver memory of a trial, without processes."""
    process, milliseconds, processor, resident = psutil.Process(), [], [], []
    with tempfile.TemporaryDirectory() as storage:
        folder = StudyFolder.create(spec(trials, database), Path(storage))
        search = StudySearch(folder.book())
        for number in range(trials):
            begun, busy = perf_counter(), process_time()
            params = search.suggest(str(number))["params"]
            search.on_trial_complete(str(number), {"document": json.dumps(outcome(params))})
            milliseconds.append(1000 * (perf_counter() - begun))
            processor.append(1000 * (process_time() - busy))
            resident.append(process.memory_info().rss)
            if number % 1000 == 999:
                print(f"{number + 1}: {statistics.mean(milliseconds[-WINDOW:]):.0f} ms, "
                      f"{statistics.mean(processor[-WINDOW:]):.0f} ms processor, "
                      f"{resident[-1] / 1e6:.0f} MB", file=sys.stderr)  # fmt: skip
        begun = perf_counter()
        folder.book().rows()
        read = perf_counter() - begun
    settled = trials // 10  # libraries have loaded what they load lazily
    return {
        "database": database,
        "trials": trials,
        "milliseconds_at_the_end": statistics.mean(milliseconds[-WINDOW:]),
        "processor_milliseconds_at_the_end": statistics.mean(processor[-WINDOW:]),
        "milliseconds_at_the_start": statistics.mean(milliseconds[settled : settled + WINDOW]),
        "kilobytes_a_trial": (resident[-1] - resident[settled]) / (trials - settled) / 1000,
        "seconds_to_read_all_trials": read,
    }


def tune(trials: int) -> dict[str, Any]:
    """Seconds of whole studies of no-op trials."""
    seconds = {}
    for count in (1, trials):
        with tempfile.TemporaryDirectory() as storage:
            folder = StudyFolder.create(spec(count, "sqlite"), Path(storage))
            begun = perf_counter()
            drive(folder, None, Display(folder, quiet), no_operation)
            seconds[count] = perf_counter() - begun
            complete = sum(row.outcome == "COMPLETE" for row in folder.book().rows())
            assert complete == count, f"{complete} of {count} trials completed"
    return {
        "trials": trials,
        "seconds": seconds[trials],
        "seconds_of_one_trial": seconds[1],
        "milliseconds_a_trial": 1000 * (seconds[trials] - seconds[1]) / (trials - 1),
    }


def spec(trials: int, database: str) -> StudySpec:
    study = SPEC["study"] | {"trials": trials, "database": database}
    return parse_spec(SPEC | {"study": study})


def no_operation(config: dict[str, Any], folder: str, metrics: list[str]) -> None:
    """A trial that reports at once."""
    from ray import tune

    document = outcome(config["params"])
    tune.report({**document["metrics"], "document": json.dumps(document)})


def outcome(params: dict[str, Any]) -> dict[str, Any]:
    """What a real trial reports, with a made-up return."""
    value = 60 - 20 * abs(math.log10(params["weighting.temperature"]) + 1.5)
    value += math.log2(params["distill.synthetic_size"])
    stages = ("dataset", "density", "weights", "expert", "distill", "evaluate")
    return {
        "outcome": "COMPLETE",
        "reason": None,
        "config_hash": "0" * 64,
        "node": "here",
        "seconds": 1.0,
        "stages": dict.fromkeys(stages, 1.0),
        "metrics": {"normalized_return": value},
        "normalized_return": {"mean": value, "iqm": value, "low": value - 5, "high": value + 5},
    }


def text(document: dict[str, Any]) -> str:
    record, of_tune = document["record"], document["tune"]
    lines = [
        f"search and record, {record['trials']} trials, {record['database']}: "
        f"{record['milliseconds_at_the_end']:.0f} ms a trial over the last {WINDOW} "
        f"({record['processor_milliseconds_at_the_end']:.0f} ms of processor time), "
        f"{record['kilobytes_a_trial']:.1f} kB a trial",
    ]
    if of_tune:
        lines.append(
            f"Ray Tune, {of_tune['trials']} trials: {of_tune['milliseconds_a_trial']:.0f} ms a "
            f"trial, beside {of_tune['seconds_of_one_trial']:.0f} s of a study of one"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
