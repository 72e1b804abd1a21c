"""How fast distillation gets somewhere: the plain default against the one after it.

    python -m benchmarks.convergence [--seeds 3] [--json]

Both are from before state noise and schedules, which `benchmarks.ablation` has: Av-PBC with density
weights, 4 layers x 128. Both run on the bundled dataset with the same sizes, weights, expert and
evaluation; the seconds are those of the outer loop alone, on one thread, both in this process one
after the other. The meta-loss is on a fixed batch of states and fixed initialisations, at the full
number of inner steps; the return is that of 10 policies x 5 episodes for each distillation seed.
"""

import argparse
import contextlib
import itertools
import json
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.ablation import PIPELINE_BEFORE
from benchmarks.machine import describe
from sdw_core.config import DistillConfig, PipelineConfig
from sdw_core.distill.loop import distill
from sdw_core.distill.task import Task
from sdw_core.errors import StopRequested
from sdw_core.evaluate import Arena, Recipe, evaluate_rows
from sdw_core.pipeline import Pipeline
from sdw_core.policy import MLP, clone, cloning_loss
from sdw_core.seeds import torch_generator

PLAIN = {"window": None, "truncation": "last", "outer_lr": 0.01, "averaging": 0.0, "rate_lr": 0.0}
"""Full unroll, fixed rates, Adam at 0.01, the last rows: the default before any measurement."""
CHECKPOINTS = (25, 50, 75, 100, 150, 200, 300, 400, 500)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        config = PipelineConfig.model_validate(PIPELINE_BEFORE)
        task, arena = prepare(config, Path(scratch))
        curves = {
            name: curve(
                config.distill.model_copy(update={**changes, "seeds": arguments.seeds}),
                task,
                arena,
                Path(scratch) / f"{name}.safetensors",
            )
            for name, changes in (("plain", PLAIN), ("default", {}))
        }
    last = curves["plain"][-1]
    document = {
        "machine": describe(torch.device("cpu")),
        "seeds": arguments.seeds,
        "curves": curves,
        "seconds_to_plain_return": reached(curves, "return", last["return"]),
        "seconds_to_plain_meta_loss": reached(curves, "meta_loss", last["meta_loss"]),
    }
    print(json.dumps(document, indent=2) if arguments.json else text(document))


def prepare(config: PipelineConfig, cache: Path) -> tuple[Task, Arena]:
    """Everything before the distillation."""
    stages = Pipeline(config, cache).prepare()
    return stages.task, stages.arena


def curve(
    config: DistillConfig, task: Task, arena: Arena, checkpoint: Path
) -> list[dict[str, Any]]:
    """Seconds, meta-loss and return at each checkpoint; measuring is not counted."""
    seconds, points = 0.0, []
    asked = itertools.count(1)  # once an outer step
    for target in CHECKPOINTS:
        begun = perf_counter()
        with contextlib.suppress(StopRequested):
            distill(
                task,
                config.model_copy(update={"outer_steps": CHECKPOINTS[-1]}),
                0,
                checkpoint=checkpoint,
                should_stop=lambda target=target: next(asked) >= target,
            )
        seconds += perf_counter() - begun
        rows = load_file(checkpoint)
        x, y = rows["mean_observations"], rows["mean_actions"]
        rates = rows["mean_log_rates"].exp()
        recipes = [
            Recipe(config.layers, config.width, config.inner_steps, tuple(each))
            for each in rates.tolist()
        ]
        returns = evaluate_rows(x, y, recipes, arena, 10, 5, 0, "convergence")
        points.append(
            {
                "outer_steps": target,
                "seconds": seconds,
                "meta_loss": meta_loss(config, task, x, y, rates),
                "return": float(returns.mean()),
                "per_seed": returns.reshape(len(x), -1).mean(1).tolist(),
            }
        )
    return points


def meta_loss(
    config: DistillConfig, task: Task, x: torch.Tensor, y: torch.Tensor, rates: torch.Tensor
) -> float:
    """Mean over distillation seeds and 4 initialisations, on 8192 states."""
    policy = MLP.build(x.shape[2], y.shape[2], config.layers, config.width)
    picks = torch.randint(len(task.states), (8192,), generator=torch_generator(0, "meta"))
    losses = []
    for rows, targets, alpha in zip(x, y, rates, strict=True):
        initial = policy.initial_parameters([torch_generator(0, "meta", k) for k in range(4)])
        trained = clone(
            policy,
            initial,
            rows.expand(4, -1, -1),
            targets.expand(4, -1, -1),
            torch.full((4, len(rows)), 1 / len(rows)),
            alpha.expand(4, -1),
            config.inner_steps,
        )
        actions = policy(trained, task.states[picks].expand(4, -1, -1))
        losses.append(
            cloning_loss(actions, task.targets[picks], task.weights[picks] / len(picks)).mean()
        )
    return float(torch.stack(losses).mean())


def reached(curves: dict[str, Any], quantity: str, goal: float) -> dict[str, float | None]:
    """Seconds of the first checkpoint that is as good as the goal."""
    sign = -1 if quantity == "meta_loss" else 1
    return {
        name: next((p["seconds"] for p in points if sign * (p[quantity] - goal) >= 0), None)
        for name, points in curves.items()
    }


def text(document: dict[str, Any]) -> str:
    lines = [
        str(document["machine"]),
        f"one thread, {document['seeds']} distillation seeds at once",
        "",
    ]
    lines.append(f"{'':8} {'steps':>6} {'seconds':>8} {'meta-loss':>10} {'return':>7}  per seed")
    for name, points in document["curves"].items():
        for p in points:
            spread = " ".join(f"{value:.1f}" for value in p["per_seed"])
            lines.append(
                f"{name:8} {p['outer_steps']:6} {p['seconds']:8.1f} {p['meta_loss']:10.4f} "
                f"{p['return']:7.1f}  {spread}"
            )
    for quantity in ("return", "meta_loss"):
        times = document[f"seconds_to_plain_{quantity}"]
        if times["default"]:
            ratio = times["plain"] / times["default"]
            lines.append(
                f"the plain default's last {quantity.replace('_', '-')}: plain "
                f"{times['plain']:.1f} s, default {times['default']:.1f} s, ratio {ratio:.1f}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
