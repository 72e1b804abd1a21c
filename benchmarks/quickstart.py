"""The quickstart over several study seeds: how good the winner is, and where the time goes.

    python -m benchmarks.quickstart [--seeds 0 1 2 3] [--spec quickstart] [--json]

Each seed is a whole study, as `make quickstart` runs it, in a fresh folder. The winner is judged on
seeds that its search did not use, beside as many random rows of the dataset, behavioural cloning of
all of it and the expert. Seconds of a stage are summed over trials; trials run side by side.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from benchmarks import machine
from sdw_core.config import STAGES
from sdw_core.files import read_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--spec", default="quickstart")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    runs = []
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as storage:
            runs.append(run(arguments.spec, seed, Path(storage)))
        print(line(runs[-1]), file=sys.stderr)
    document = {"machine": machine.describe(torch.device("cpu")), "runs": runs}
    print(json.dumps(document, indent=2) if arguments.json else "\n".join(map(line, runs)))


def run(spec: str, seed: int, storage: Path) -> dict[str, Any]:
    """One study to its end."""
    command = [sys.executable, "-m", "study.cli", "launch", spec, "--json", "--storage"]
    command += [str(storage), "--set", f"study.seed={seed}"]
    begun = perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = perf_counter() - begun
    status = json.loads(done.stdout)
    best = status["best"][0]
    winner = next(trial for trial in status["trials"] if trial["number"] == best)
    scores = read_json(storage / status["study"] / "trials" / str(best) / "confirmed.json")
    return {
        "seed": seed,
        "seconds": seconds,
        "trials": len(status["trials"]),
        "params": winner["params"],
        "in_search": winner["values"][0],
        **{key: scores[key] for key in ("synthetic", "random_subset", "bc_all_data", "expert")},
        "stage_seconds": {
            stage: sum(trial["stages"].get(stage, 0.0) for trial in status["trials"])
            for stage in STAGES
        },
    }


def line(run: dict[str, Any]) -> str:
    """A run in one line."""
    rows, subset = run["synthetic"], run["random_subset"]
    stages = ", ".join(f"{stage} {value:.0f}" for stage, value in run["stage_seconds"].items())
    return (
        f"seed {run['seed']}: {rows['mean']:.1f} ({rows['low']:.1f} to {rows['high']:.1f}), random "
        f"rows {subset['mean']:.1f}, BC on all data {run['bc_all_data']['mean']:.1f}, expert "
        f"{run['expert']['mean']:.1f}; "
        f"{run['params']['distill.synthetic_size']} rows at temperature "
        f"{run['params']['weighting.temperature']:.3f}; {run['trials']} trials in "
        f"{run['seconds']:.0f} s (stages, summed: {stages})"
    )


if __name__ == "__main__":
    main()
