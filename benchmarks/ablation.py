"""What each part of the recipe is worth: each left out of it, and each alone.

    python -m benchmarks.ablation [--datasets ID ...] [--seeds 5] [--jobs 1] [--to FILE.jsonl]
        [--json]

The recipe is that of the defaults. "without" puts back one setting of what was done before; "only"
takes over one setting of the recipe. The return is that of 10 fresh policies x 5 episodes for each
distillation seed, on equal streams for all, so that differences are paired by distillation seed;
their intervals (95 %) resample the seeds of each dataset. Seconds are of one core and one
distillation, without its evaluation. With `--to`, what has been found is appended to the file, and
what is there already is not measured again. A dataset is found as ever, by MINARI_DATASETS_PATH
too.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cells import Cell, measure_all, parser, told
from sdw_core.config import PipelineConfig
from sdw_core.console import Console, Table
from sdw_core.pipeline import Pipeline
from sdw_core.statistics import gain, mean_score, with_interval

PARTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "state noise": ({"state_noise": 0.3}, {"state_noise": 0.0}),
    "cosine and scaled outliers": (
        {"outer_schedule": "cosine", "max_gradient_ratio": 2.0},
        {"outer_schedule": "constant", "max_gradient_ratio": None},
    ),
    "2 x 1024": ({"layers": 2, "width": 1024}, {"layers": 4, "width": 128}),
    "PBC": ({"objective": "pbc"}, {"objective": "av_pbc"}),
}
"""Part of the recipe -> its settings of `distill`, and those of before."""
RECIPE, BEFORE = ({k: v for part in PARTS.values() for k, v in part[i].items()} for i in (0, 1))
WEIGHTS = {"scheme": "reciprocal", "temperature": 0.1}
VARIANTS: dict[str, dict[str, Any]] = {
    "the recipe": RECIPE,
    **{f"without {name}": RECIPE | before for name, (_, before) in PARTS.items()},
    "with density weights": RECIPE,
    "before": BEFORE,
    **{f"only {name}": BEFORE | part for name, (part, _) in PARTS.items()},
    "only density weights": BEFORE,
}
"""What is measured -> its settings of `distill`."""
PIPELINE_BEFORE: dict[str, Any] = {
    "dataset": "sdw/hopper-replay-mini-v0",
    "weighting": WEIGHTS,
    "distill": BEFORE,
}
"""The defaults of before, at which `benchmarks.choices` and `benchmarks.convergence` were made."""
SHARED = {"synthetic_size": 64, "outer_steps": 600, "inner_steps": 50, "window": 20}


def main() -> None:
    options = parser("benchmarks.ablation", __doc__)
    options.add_argument("--seeds", type=int, default=5, help="distillation seeds")
    arguments = options.parse_args()
    asked = [
        {"dataset": dataset, "variant": name, "settings": settings(name, arguments.seeds)}
        for dataset in arguments.datasets
        for name in VARIANTS
    ]
    with TemporaryDirectory() as cache:  # for experts and densities that variants share
        measure = partial(measured, cache=Path(cache))
        cells = measure_all(asked, measure, arguments.jobs, arguments.to)
    told({"cells": cells, "gains": gains(cells)}, arguments.json, show)


def settings(variant: str, seeds: int) -> dict[str, Any]:
    """Of `pipeline`, without the dataset."""
    return {
        "seed": 0,
        "device": "cpu",
        "weighting": WEIGHTS if variant.endswith("density weights") else {"temperature": 0},
        "distill": SHARED | VARIANTS[variant] | {"seeds": seeds},
        "evaluation": {"policies": 10, "episodes": 5},
    }


def measured(asked: Cell, cache: Path) -> Cell:
    """Returns by distillation seed, and seconds by stage."""
    pipeline = Pipeline(PipelineConfig(dataset=asked["dataset"], **asked["settings"]), cache)
    result = pipeline.run()
    by_seed = result.returns.reshape(len(result.observations), -1).mean(1)
    return {"returns": by_seed.tolist(), "seconds": pipeline.seconds}


def gains(cells: list[Cell]) -> dict[str, Any]:
    """Of each variant over the one that it changes, over the datasets on which all ran whole."""
    seeds = len(cells[0]["returns"]) if cells else 0
    found: dict[str, dict[str, list[float]]] = {name: {} for name in VARIANTS}
    for cell in cells:
        if len(cell["returns"]) == seeds:
            found[cell["variant"]][cell["dataset"]] = cell["returns"]
    whole = [d for d in found["before"] if all(d in each for each in found.values())]
    if not whole:
        return {}
    returns = {name: np.array([each[d] for d in whole]).T for name, each in found.items()}
    return {
        name: {
            "mean": asdict(with_interval(mean_score, mine)),
            "over": _over(name),
            "gain": asdict(with_interval(gain, mine, returns[_over(name)], paired=True)),
        }
        for name, mine in returns.items()
    }


def _over(variant: str) -> str:
    """Which variant it changes; the recipe as a whole changes what was done before."""
    return "before" if variant == "the recipe" or variant.startswith("only") else "the recipe"


def show(report: dict[str, Any]) -> None:
    """A line a variant."""
    console = Console()
    console.print(", ".join(f"{key} {value}" for key, value in report["machine"].items()))
    datasets = list(dict.fromkeys(cell["dataset"] for cell in report["cells"]))
    columns = [*datasets, "mean (95 %)", "gain (95 %)", "over", "seconds"]
    table = Table("variant", *columns)
    for name in VARIANTS:
        cells = {c["dataset"]: c for c in report["cells"] if c["variant"] == name}
        if not cells:
            continue
        each = [_spread(cells[d]["returns"]) if d in cells else "" for d in datasets]
        found = report["gains"].get(name)
        shown = [_text(found["mean"]), _text(found["gain"]), found["over"]] if found else [""] * 3
        seconds = [c["seconds"]["distill"] / len(c["returns"]) for c in cells.values()]
        table.add_row(name, *each, *shown, f"{np.mean(seconds):.0f}")
    console.print(table)


def _spread(returns: list[float]) -> str:
    each: NDArray[np.float64] = np.array(returns)
    return f"{each.mean():.1f} +- {each.std(ddof=1):.1f}" if len(each) > 1 else f"{each[0]:.1f}"


def _text(found: dict[str, float | None]) -> str:
    value, low, high = found.values()
    return f"{value:.1f}" + ("" if low is None else f" ({low:.1f} to {high:.1f})")


if __name__ == "__main__":
    main()
