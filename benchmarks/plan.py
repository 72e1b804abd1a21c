"""What `sdw plan` foresees of the quickstart, and what it then takes.

    python -m benchmarks.plan [--spec quickstart] [--json]

First the plan, by a short trial on this machine; then the study, to its end, in a folder that goes.
Run it on a machine that does nothing else.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from time import perf_counter
from typing import Any

import torch

from benchmarks import machine

TARGETS = {"relative_error": 0.2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--spec", default="quickstart")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    begun = perf_counter()
    plan = sdw("plan", arguments.spec)
    planning = perf_counter() - begun
    with tempfile.TemporaryDirectory() as storage:
        begun = perf_counter()
        status = sdw("launch", arguments.spec, "--storage", storage)
        seconds = perf_counter() - begun
        trials = status["trials"]
    foreseen = plan["seconds"]
    document = {
        "machine": machine.describe(torch.device("cpu")) | {"load": load},
        "targets": TARGETS,
        "seconds_of_planning": planning,
        "foreseen": foreseen,
        "seconds": seconds,
        "relative_error": foreseen["expected"] / seconds - 1,
        "within_the_range": foreseen["low"] <= seconds <= foreseen["high"],
        "parts": plan["parts"],
        "trial": {
            "foreseen": plan["trial"],
            "found": {
                stage: sum(trial["stages"].get(stage, 0.0) for trial in trials) / len(trials)
                for stage in ("dataset", "density", "expert", "distill", "evaluate")
            },
        },
    }
    print(json.dumps(document, indent=2) if arguments.json else text(document))


def sdw(*arguments: str) -> dict[str, Any]:
    """The document of `sdw ARGUMENTS --json`."""
    command = [sys.executable, "-m", "study.cli", *arguments, "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def text(document: dict[str, Any]) -> str:
    foreseen, trial = document["foreseen"], document["trial"]
    return (
        f"foreseen {foreseen['expected']:.0f} s ({foreseen['low']:.0f} to {foreseen['high']:.0f}), "
        f"taken {document['seconds']:.0f} s: {document['relative_error']:+.0%}; a trial's "
        f"distillation {trial['foreseen']['distill']:.1f} s and {trial['found']['distill']:.1f} s, "
        f"its evaluation {trial['foreseen']['evaluate']:.1f} s and "
        f"{trial['found']['evaluate']:.1f} s; parts foreseen: "
        + ", ".join(f"{part} {seconds:.0f}" for part, seconds in document["parts"].items())
    )


if __name__ == "__main__":
    main()
