"""How long a study's page takes to write, and how large it is.

    python -m benchmarks.report [--trials 1000] [--computed 20] [--json]

A new study on this disk, of which the first trials are really computed, small ones: the whole
pipeline. The others are copies of their folders, with settings drawn at random, returns shifted by
as much as policies differ, and some of them FAILED. The database is made from those folders, as
`sdw status --rebuild` makes it; then `sdw report` runs, in a process of its own, as a user's does.
"""

import argparse
import json
import math
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from benchmarks import machine
from sdw_core.files import read_json, write_json
from search_spaces import Choice, load_spec
from study.export import export
from study.folder import StudyFolder
from study.outcomes import TrialResult, config_hash
from study.runner import _outcome
from study.search import StudySearch

SETTINGS = {
    "study.name": "a-thousand-trials",
    "study.startup_trials": 10_000,
    "pipeline.expert.steps": 200,
    "pipeline.expert.value_steps": 100,
    "pipeline.distill.outer_steps": 100,
    "pipeline.distill.width": 32,
    "pipeline.evaluation.policies": 10,
    "pipeline.evaluation.episodes": 1,
    "search": {
        "weighting.temperature": {"type": "categorical", "choices": [0.03, 0.1, 0.3]},
        "distill.synthetic_size": {"type": "int", "low": 16, "high": 128, "log": True},
        "distill.state_noise": {"type": "float", "low": 0.1, "high": 0.6, "log": True},
        "distill.outer_lr": {"type": "float", "low": 0.003, "high": 0.1, "log": True},
        "distill.averaging": {"type": "float", "low": 0.9, "high": 0.99},
    },
}
TARGETS = {"seconds": 15, "megabytes": 6}
FAILS = 0.03
"""The share of the copies that failed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--computed", type=int, default=20)
    parser.add_argument("--keep", type=Path, help="put the page there")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as storage:
        folder = made(Path(storage), arguments.trials, arguments.computed)
        export(folder, folder.book().best())
        begun, busy = perf_counter(), processor_seconds()
        command = [sys.executable, "-m", "study.cli", "report", str(folder.path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        document: dict[str, Any] = {
            "machine": machine.describe(torch.device("cpu")),
            "trials": arguments.trials,
            "seconds": perf_counter() - begun,
            "processor_seconds": processor_seconds() - busy,
            "megabytes": folder.report.stat().st_size / 1e6,
            "targets": TARGETS,
        }
        if arguments.keep:
            shutil.copy(folder.report, arguments.keep)
    took = "{seconds:.1f} s ({processor_seconds:.1f} s of processor time)".format(**document)
    text = f"{arguments.trials} trials: {took}, {document['megabytes']:.2f} MB"
    print(json.dumps(document, indent=2) if arguments.json else text)


def processor_seconds() -> float:
    """Of the processes that this one waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def made(storage: Path, trials: int, computed: int) -> StudyFolder:
    """A study of so many trials, the first ones computed here."""
    folder = StudyFolder.create(
        load_spec("quickstart", SETTINGS | {"study.trials": trials}), storage
    )
    search = StudySearch(folder.book())
    for number in range(computed):
        asked = search.suggest(str(number))
        result = _outcome(folder, asked["number"], asked["params"], lambda step, value: None)
        search.on_trial_complete(str(number), {"document": json.dumps(result.to_json())})
        print(f"computed trial {number}: {result.outcome}", file=sys.stderr)
    generator = np.random.default_rng(0)
    for number in range(computed, trials):
        copy(folder, number % computed, number, generator)
    folder.rebuild()
    return folder


def copy(folder: StudyFolder, source: int, number: int, generator: np.random.Generator) -> None:
    """Another trial like one that was computed."""
    shutil.copytree(folder.trial(source), folder.trial(number))
    record, result = (read_json(folder.trial(number) / f"{n}.json") for n in ("record", "result"))
    spec = folder.spec()
    params = {path: drawn(d, generator) for path, d in spec.search.items()}
    config = spec.pipeline_with(params)
    made_of = TrialResult.from_json(result).made_of
    failed = generator.random() < FAILS
    shift = float(generator.normal(0, 5))
    record |= {"number": number, "params": params}
    result |= {"number": number, "config_hash": config_hash(config)}
    result |= {"identity": made_of.identity(config)}
    if failed:
        reason = f"divergence: the loss of step {number} is not finite"
        record |= {"outcome": "FAILED", "reason": reason, "values": None, "interval": None}
        result |= {"outcome": "FAILED", "reason": reason}
    else:
        record["values"] = [value + shift for value in record["values"]]
        record["interval"] = [value + shift for value in record["interval"]]
        summary = result["normalized_return"]
        summary |= {name: summary[name] + shift for name in ("mean", "iqm", "low", "high")}
        summary["per_policy"] = [value + shift for value in summary["per_policy"]]
    for name, document in (("record", record), ("result", result)):
        write_json(folder.trial(number) / f"{name}.json", document)


def drawn(distribution: Any, generator: np.random.Generator) -> Any:
    """A value of a searched range."""
    if isinstance(distribution, Choice):
        return distribution.params[generator.integers(len(distribution.params))]
    low, high = distribution.low, distribution.high
    if distribution.log:
        value = math.exp(generator.uniform(math.log(low), math.log(high)))
    else:
        value = generator.uniform(low, high)
    return round(value) if distribution.type == "int" else value


if __name__ == "__main__":
    main()
