"""Makes rliable_intervals.json: what rliable says of the scores that test_scores.py compares.

In an environment of its own, because rliable's bootstrap needs pandas 2:

    pip install rliable 'pandas<3'; python rliable_intervals.py > rliable_intervals.json
"""

import json

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 50_000


def scores(seed: int, runs: int = 5, tasks: int = 6, shift: float = 0.0) -> NDArray[np.float64]:
    """Returns [runs, tasks] of tasks that differ in level and in spread."""
    generator = np.random.default_rng(seed)
    level, spread = generator.uniform(0, 80, tasks), generator.uniform(1, 20, tasks)
    return shift + level + spread * generator.standard_normal((runs, tasks))


def main() -> None:
    from rliable import library, metrics

    ours, theirs = scores(0), scores(0, shift=4.0)[::-1].copy()
    state = np.random.RandomState(0)
    functions = {
        "mean": ((ours,), metrics.aggregate_mean),
        "iqm": ((ours,), metrics.aggregate_iqm),
        "probability": ((ours, theirs), metrics.probability_of_improvement),
    }
    document = {}
    for name, (arrays, function) in functions.items():
        value = arrays if len(arrays) > 1 else arrays[0]
        points, intervals = library.get_interval_estimates(
            {"x": value},
            lambda *x, function=function: np.array([function(*x)]),
            reps=RESAMPLES,
            random_state=state,
        )
        document[name] = [float(points["x"][0]), *map(float, intervals["x"][:, 0])]
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
