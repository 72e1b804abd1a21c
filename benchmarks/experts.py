"""How good an expert is for the seconds that it costs: by steps, and by range of episodes.

    python -m benchmarks.experts [--datasets ID ...] [--steps 2000 4000 8000 16000] [--seeds 3]
        [--jobs 1] [--to FILE.jsonl] [--json]

The expert is `percent_bc`, cloned from a range of the episodes by their return. Its return is the
mean of 10 episodes, as every run states it, for each of the root seeds; `+-` is the standard
deviation over them. Seconds are processor seconds of one thread, for all that a run does of an
expert: the policy, the action value with its default steps, both asked about all states, and the 10
episodes. A dataset is found as ever, by
MINARI_DATASETS_PATH too. With `--to`, what has been found is appended to the file, and what is
there already is not measured again.
"""

from itertools import product
from time import process_time
from typing import Any

import numpy as np
import torch

from benchmarks.cells import Cell, measure_all, parser, told
from sdw_core.config import PipelineConfig
from sdw_core.console import Console, Table
from sdw_core.dataset import load
from sdw_core.pipeline import Pipeline

RANGES = ((0.9, 1.0), (0.5, 1.0), (0.0, 0.5), (0.0, 1.0))
"""Of quantiles of the return."""


def main() -> None:
    options = parser("benchmarks.experts", __doc__)
    options.add_argument("--steps", type=int, nargs="+", default=[2000, 4000, 8000, 16_000])
    options.add_argument("--seeds", type=int, default=3, help="root seeds")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    cases = product(arguments.datasets, RANGES, arguments.steps, range(arguments.seeds))
    asked = [
        {"dataset": dataset, "episodes": list(episodes), "steps": steps, "seed": seed}
        for dataset, episodes, steps, seed in cases
    ]
    cells = measure_all(asked, measure, arguments.jobs, arguments.to)
    told({"cells": cells}, arguments.json, show)


def measure(asked: Cell) -> Cell:
    """The expert's normalised return, and its seconds."""
    config = PipelineConfig.model_validate(
        {
            "dataset": load(asked["dataset"]),
            "seed": asked["seed"],
            "device": "cpu",
            "weighting": {"temperature": 0.0},
            "expert": {"steps": asked["steps"], "episodes": asked["episodes"]},
            "distill": {"objective": "pbc"},
        }
    )
    begun = process_time()
    summary = Pipeline(config).prepare().expert_summary
    return {"return": summary.mean, "seconds": process_time() - begun}


def show(report: dict[str, Any]) -> None:
    """A line a dataset and range; a column a number of steps."""
    console = Console()
    console.print(", ".join(f"{key} {value}" for key, value in report["machine"].items()))
    lines: dict[tuple[str, str], dict[int, list[Cell]]] = {}
    for cell in report["cells"]:
        of = cell["dataset"], "{:g} to {:g}".format(*cell["episodes"])
        lines.setdefault(of, {}).setdefault(cell["steps"], []).append(cell)
    steps = sorted({cell["steps"] for cell in report["cells"]})
    columns = [f"{count:,} steps" for count in steps]
    title = "return of the expert, and seconds of one core"
    table = Table("dataset", "episodes", *columns, title=title, title_justify="left")
    for of, found in lines.items():
        table.add_row(*of, *(_text(found.get(count, [])) for count in steps))
    console.print(table)


def _text(cells: list[Cell]) -> str:
    if not cells:
        return ""
    returns = [cell["return"] for cell in cells]
    seconds = np.mean([cell["seconds"] for cell in cells])
    spread = f" +- {np.std(returns, ddof=1):.1f}" if len(returns) > 1 else ""
    return f"{np.mean(returns):.1f}{spread}, {seconds:.0f} s"


if __name__ == "__main__":
    main()
