"""Whether long distillations hold what they have reached, with the earlier settings and today's.

    python -m benchmarks.stability [--steps 5000] [--datasets ID ...] [--settings NAME ...]
        [--seeds 3] [--device cpu|cuda] [--jobs 1] [--to FILE.jsonl] [--json]

The meta-loss, smoothed, over the lowest that it had had by then (`sdw_core.distill.stability`): the
largest such ratio of a run, and the ratio at its end. 1 is a run that never rose. The distillation
seeds run as one pack. A dataset is found as ever, by MINARI_DATASETS_PATH too. With `--to`, what
has been found is appended to the file, and what is there already is not run again.
"""

import json
import math
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.ablation import BEFORE, RECIPE
from benchmarks.cells import Cell, measure_all, parser
from sdw_core.config import PipelineConfig
from sdw_core.distill.loop import distill
from sdw_core.distill.stability import rises, smoothed
from sdw_core.distill.task import Task
from sdw_core.errors import DivergenceError
from sdw_core.pipeline import Pipeline

SETTINGS: dict[str, tuple[float, dict[str, Any]]] = {
    "before": (0.1, BEFORE),
    "after": (0, RECIPE),
    "cosine alone": (0, RECIPE | {"max_gradient_ratio": None}),
}
"""The weights' temperature, and settings of `distill`."""
SHARED: dict[str, Any] = {
    "synthetic_size": 64,
    "inner_steps": 50,
    "window": 20,
    "truncation": "random",
    "outer_lr": 0.03,
    "rate_lr": 0.01,
    "states": "all",
}
"""Of `distill`, in all."""
EXPERT = {"method": "percent_bc", "fraction": 0.1, "steps": 2000}
RATIOS = ("largest", "final")


def main() -> None:
    options = parser("benchmarks.stability", __doc__)
    options.add_argument("--steps", type=int, default=5000, help="outer steps")
    options.add_argument(
        "--settings", nargs="+", choices=SETTINGS, default=["before", "after"], metavar="NAME"
    )
    options.add_argument("--seeds", type=int, default=3, help="distillation seeds")
    options.add_argument("--device", default="cpu")
    arguments = options.parse_args()
    asked = [
        {
            "dataset": dataset,
            "name": name,
            "device": arguments.device,
            "steps": arguments.steps,
            "seeds": arguments.seeds,
            "settings": settings(name),
        }
        for dataset in arguments.datasets
        for name in arguments.settings
    ]
    with tempfile.TemporaryDirectory() as cache:
        measure = partial(measured, cache=Path(cache))
        runs = measure_all(asked, measure, arguments.jobs, arguments.to)
    if arguments.json:
        print(json.dumps(runs, indent=2))
    else:
        show(runs)


def settings(name: str) -> dict[str, Any]:
    """Of `pipeline`, without the dataset, the device and the sizes."""
    temperature, distill = SETTINGS[name]
    return {
        "seed": 0,
        "weighting": {"temperature": temperature},
        "expert": EXPERT,
        "distill": SHARED | distill,
    }


def measured(asked: Cell, cache: Path) -> Cell:
    """The ratios of a run, a distillation seed each, and its smoothed meta-losses.

    Null for what became not finite.
    """
    asked_for, sizes = asked["settings"], {"outer_steps": asked["steps"], "seeds": asked["seeds"]}
    config = PipelineConfig.model_validate(
        asked_for
        | {"dataset": asked["dataset"], "device": asked["device"]}
        | {"distill": asked_for["distill"] | sizes}
    )
    pipeline = Pipeline(config, cache)
    task = pipeline.prepare().task
    losses: list[torch.Tensor] = []
    seconds = machine.seconds(lambda: losses.append(_losses(task, config)), pipeline.device)
    found = rises(losses[0])
    return {
        **{ratio: [_finite(getattr(rise, ratio)) for rise in found] for ratio in RATIOS},
        "lowest_at": [rise.lowest_at for rise in found],
        "meta_loss": [[_finite(mean) for mean in means] for means in smoothed(losses[0]).tolist()],
        "seconds": seconds,
        "machine": machine.describe(pipeline.device),
    }


def _losses(task: Task, config: PipelineConfig) -> torch.Tensor:
    """Meta-losses [S, steps]; not finite where all distillation seeds diverged."""
    try:
        return distill(task, config.distill, config.seed).losses
    except DivergenceError:
        return torch.full((config.distill.seeds, config.distill.outer_steps), torch.nan)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def show(runs: list[Cell]) -> None:
    """A line a run: the ratios of each distillation seed."""
    console = Console()
    console.print(", ".join(f"{key} {value}" for key, value in runs[0]["machine"].items()))
    title = f"smoothed meta-loss over its running minimum, {runs[0]['steps']} outer steps"
    table = Table("dataset", "settings", *RATIOS, "seconds", title=title, title_justify="left")
    for run in runs:
        cells = [_cell(run[ratio]) for ratio in RATIOS]
        table.add_row(run["dataset"], run["name"], *cells, f"{run['seconds']:.0f}")
    console.print(table)


def _cell(ratios: list[float | None]) -> str:
    return ", ".join("diverged" if ratio is None else f"{ratio:.2f}" for ratio in ratios)


if __name__ == "__main__":
    main()
