"""Whether it can be told beforehand how well a teacher can be distilled.

    python -m benchmarks.teachers [--datasets ID ...] [--steps 600] [--jobs 1] [--to FILE.jsonl]
        [--json]

A teacher is `percent_bc`, of a range of the episodes by their return. For each dataset and teacher:
what is cheap, and the return after a whole distillation. Cheap are

    fit         1 - meta-loss after 100 outer steps / variance of the teacher's actions
    steadiness  1 - E |pi(z + sigma e) - pi(z)|^2 / (2 variance), with sigma = `state_noise`
    teacher     the teacher's own return
    and the products teacher x fit and teacher x steadiness

Then Spearman's rank correlation of each with the return: of the teachers of a dataset, its mean
over datasets, and over all cells at once. Intervals (95 %) resample datasets, for the teachers of a
dataset are given and not drawn. Policies are judged on states of the teacher's own episodes, as
rows start from them. A dataset is found as ever, by MINARI_DATASETS_PATH too. With `--to`, what has
been found is appended to the file, and what is there already is not measured again.
"""

from dataclasses import asdict
from time import process_time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.cells import Cell, measure_all, parser, told
from sdw_core.config import PipelineConfig
from sdw_core.console import Console, Table
from sdw_core.distill.loop import distill
from sdw_core.distill.task import Task
from sdw_core.pipeline import Pipeline
from sdw_core.seeds import torch_generator
from sdw_core.statistics import Estimate, spearman, with_interval

TEACHERS = ((0.9, 1.0), (0.5, 1.0), (0.0, 0.5), (0.25, 0.75), (0.0, 1.0))
"""Ranges of quantiles of the return."""
EARLY, SMOOTHED = 100, 20
"""Outer steps of the short distillation, and the last of them that its meta-loss is a mean over."""
PROBED = 8192
"""States that the teacher's steadiness is of."""
SECONDS = ("teacher", "fit", "steadiness", "whole")
"""What time goes to; `whole` is the distillation and its policies' episodes."""
PIPELINE: dict[str, Any] = {
    "seed": 0,
    "device": "cpu",
    "weighting": {"temperature": 0.0},
    "expert": {"method": "percent_bc", "steps": 4000, "value_steps": 50},
    "distill": {
        "objective": "pbc",
        "synthetic_size": 64,
        "seeds": 2,
        "layers": 2,
        "width": 1024,
        "inner_steps": 50,
        "window": 20,
        "truncation": "random",
        "outer_schedule": "cosine",
        "state_noise": 0.3,
        "states": "teacher",
    },
    "evaluation": {"policies": 8, "episodes": 3},
}
"""`pbc` asks for no action value, so that few steps are spent on it."""
Array = NDArray[np.float64]


def main() -> None:
    options = parser("benchmarks.teachers", __doc__)
    options.add_argument("--steps", type=int, default=600, help="outer steps")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    asked = [
        {"dataset": dataset, "teacher": list(teacher), "settings": settings(arguments.steps)}
        for dataset in arguments.datasets
        for teacher in TEACHERS
    ]
    cells = measure_all(asked, measure, arguments.jobs, arguments.to)
    told({"cells": cells, "correlations": correlations(cells)}, arguments.json, show)


def settings(steps: int) -> dict[str, Any]:
    """Of `pipeline`, without dataset and teacher."""
    return PIPELINE | {"distill": PIPELINE["distill"] | {"outer_steps": steps}}


def measure(asked: Cell) -> Cell:
    """The estimates, the return after the whole distillation, and processor seconds."""
    expert = asked["settings"]["expert"] | {"episodes": asked["teacher"]}
    config = PipelineConfig.model_validate(
        asked["settings"] | {"dataset": asked["dataset"], "expert": expert}
    )
    pipeline, clock = Pipeline(config), [process_time()]
    prepared = pipeline.prepare()
    clock.append(process_time())
    short = config.distill.model_copy(update={"outer_steps": EARLY})
    losses = distill(prepared.task, short, config.seed).losses[:, -SMOOTHED:]
    fit = 1 - float(losses.mean()) / _variance(prepared.task)
    clock.append(process_time())
    steady = steadiness(prepared.task, config.distill.state_noise)
    clock.append(process_time())
    found = pipeline.finish(prepared).summary
    clock.append(process_time())
    teacher = prepared.expert_summary.mean
    return {
        "estimates": {
            "fit": fit,
            "steadiness": steady,
            "teacher": teacher,
            "teacher x fit": teacher * fit,
            "teacher x steadiness": teacher * steady,
        },
        "return": {"mean": found.mean, "low": found.low, "high": found.high},
        "seconds": dict(zip(SECONDS, np.diff(clock).tolist(), strict=True)),
    }


def steadiness(task: Task, sigma: float) -> float:
    """How little the teacher's actions change within the state noise: 1 not at all.

    Around 0 where a perturbed state's action tells no more of the state's own than any other's.
    """
    assert task.targets_at is not None
    generator = torch_generator(0, "teachers")
    picks = torch.randint(len(task.states), (PROBED,), generator=generator)
    states = task.states[picks]
    noise = sigma * torch.randn(states.shape, generator=generator)
    change = (task.targets_at(states + noise) - task.targets[picks]).square().mean()
    return 1 - float(change) / (2 * _variance(task))


def _variance(task: Task) -> float:
    """Of the targets over the states, mean over the actions' dimensions."""
    return float(task.targets.double().var(0, correction=0).mean())


def correlations(cells: list[Cell]) -> dict[str, Any]:
    """Of each estimate with the return, over the datasets of which every teacher was measured."""
    datasets = dict.fromkeys(cell["dataset"] for cell in cells)
    of_dataset = {name: [c for c in cells if c["dataset"] == name] for name in datasets}
    whole = {name: found for name, found in of_dataset.items() if len(found) == len(TEACHERS)}
    if not whole:
        return {}
    returns = np.array([[c["return"]["mean"] for c in found] for found in whole.values()])
    found = {}
    for name in cells[0]["estimates"]:
        estimates = np.array([[c["estimates"][name] for c in found] for found in whole.values()])
        by_dataset, within, over_all = rank_correlations(estimates, returns)
        found[name] = {
            "by_dataset": dict(zip(whole, by_dataset.tolist(), strict=True)),
            "within": asdict(within),
            "over_all": asdict(over_all),
        }
    return found


def rank_correlations(estimates: Array, returns: Array) -> tuple[Array, Estimate, Estimate]:
    """Spearman's, of D datasets x K teachers: that of each dataset [D], their mean, and over all.

    Both intervals resample datasets, each with all its teachers.
    """
    by_dataset = spearman(estimates[..., None], returns[..., None])

    def averaged(drawn: Array) -> Array:
        return np.asarray(by_dataset[drawn[..., 0].astype(int)].mean(1))

    def pooled(drawn: Array) -> Array:
        rows = drawn[..., 0].astype(int)
        a, b = (each[rows].reshape(len(rows), -1, 1) for each in (estimates, returns))
        return spearman(a, b)

    datasets = np.arange(len(returns), dtype=float)[:, None]
    return by_dataset, with_interval(averaged, datasets), with_interval(pooled, datasets)


def show(report: dict[str, Any]) -> None:
    """A line a teacher, then a line an estimate."""
    console = Console()
    console.print(", ".join(f"{key} {value}" for key, value in report["machine"].items()))
    names = list(report["cells"][0]["estimates"]) if report["cells"] else []
    table = Table(
        "dataset", "teacher", *names, "return (95 %)", *(f"{part}, s" for part in SECONDS)
    )
    for cell in report["cells"]:
        found = cell["return"]
        table.add_row(
            cell["dataset"],
            "{:g} to {:g}".format(*cell["teacher"]),
            *(f"{value:.2f}" for value in cell["estimates"].values()),
            f"{found['mean']:.1f} ({found['low']:.1f} to {found['high']:.1f})",
            *(f"{seconds:.1f}" for seconds in cell["seconds"].values()),
        )
    console.print(table)
    datasets = [name for found in report["correlations"].values() for name in found["by_dataset"]]
    title = "Spearman's rank correlation with the return"
    columns = [*dict.fromkeys(datasets), "mean (95 %)", "over all (95 %)"]
    table = Table("estimate", *columns, title=title, title_justify="left")
    for name, found in report["correlations"].items():
        each = [f"{value:.2f}" for value in found["by_dataset"].values()]
        table.add_row(name, *each, _text(found["within"]), _text(found["over_all"]))
    console.print(table)


def _text(found: dict[str, float | None]) -> str:
    value, low, high = found.values()
    return f"{value:.2f}" + ("" if low is None else f" ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
