"""How the policies of an export's `policy.py`, in numpy, compare with those that torch clones.

    python -m benchmarks.standalone DIR [--policies 20] [--episodes 5] [--seed 0] [--json]

Single policies, by the rows' own recipe, each with episodes of its own. Both kinds draw their
initialisations alike, from other numbers: the means agree up to their standard errors.
"""

import argparse
import json
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from benchmarks import machine
from sdw_core import Artifact, read_artifact, standalone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--policies", type=int, default=20)
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    artifact = read_artifact(given.folder)
    evaluation = artifact.evaluation(policies=given.policies, episodes=given.episodes, ensemble=1)
    numpys, seconds = in_numpy(artifact, given)
    document = {
        "machine": machine.describe(torch.device("cpu")),
        "torch": summary(artifact.evaluate(evaluation, given.seed)),
        "numpy": summary(numpys) | {"seconds_to_clone_one": seconds},
    }
    if given.json:
        print(json.dumps(document, indent=2))
        return
    for kind in ("torch", "numpy"):
        found = document[kind]
        print(f"{kind}  mean {found['mean']:.1f} +- {found['standard_error']:.1f} over policies")
    print(f"cloned in numpy in {seconds:.2f} s")


def in_numpy(artifact: Artifact, given: argparse.Namespace) -> tuple[np.ndarray, float]:
    """Normalised returns [K, M], and the seconds of one cloning."""
    env, returns, spent = artifact.arena.environment.make(), [], 0.0
    for policy in range(given.policies):
        started = perf_counter()
        act = standalone.clone(given.seed * given.policies + policy, 1, given.folder)
        spent += perf_counter() - started
        for _ in range(given.episodes):
            observation, _ = env.reset(seed=len(returns) + given.seed)
            returns.append(0.0)
            ended = False
            while not ended:
                observation, reward, terminated, truncated, _ = env.step(act(observation))
                returns[-1] += float(reward)
                ended = terminated or truncated
    env.close()
    shape = given.policies, given.episodes
    return artifact.arena.normalized(np.array(returns).reshape(shape)), spent / given.policies


def summary(returns: np.ndarray) -> dict[str, Any]:
    """Mean and standard error over policies, and each policy's mean."""
    means = returns.mean(1)
    error = means.std(ddof=1) / np.sqrt(len(means))
    return {"mean": means.mean(), "standard_error": error, "per_policy": means.tolist()}


if __name__ == "__main__":
    main()
