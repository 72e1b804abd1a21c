"""Which choices of the outer loop earn their place: the default against one change at a time.

    python -m benchmarks.choices [--seeds 4] [--steps 300] [--only NAME ...] [--json]

Every row is one distillation run of the bundled dataset at the quickstart's sizes, alone on one
thread. Seconds are processor seconds of the outer loop (on one thread, wall-clock seconds without
the neighbours' share). All rows are judged alike, whatever they were distilled for: 10 policies x 5
episodes for each distillation seed, and the meta-loss of the same policies on one batch of states
with the default's targets and weights. Distillation seeds, initialisations, meta-batches and
evaluation draw from the same streams in every row, so that differences are paired by distillation
seed; `+-` is the standard error of their mean.

Choices that the product does not have run in `outer_loop`, which without a change gives the rows of
`distill` bit for bit; that is checked first.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import describe
from sdw_core.config import DistillConfig, PipelineConfig
from sdw_core.distill.engine import Engine, Hypergradient, MetaBatch, Rows
from sdw_core.distill.fused import FusedEngine
from sdw_core.distill.loop import Distilled, Task, distill, initial_rows, unroll_of
from sdw_core.evaluate import Arena, rollout
from sdw_core.pipeline import Pipeline
from sdw_core.policy import MLP, Parameters, clone, cloning_loss
from sdw_core.seeds import torch_generator

HELD = 2048
"""States of the batch that every row's meta-loss is on."""


Start = tuple[Tensor, Tensor, Tensor]
"""Rows x, y and inner learning rates [S, L]."""


def initialised(task: Task, config: DistillConfig, seed: int) -> Start:
    """Where the product starts."""
    x, y = initial_rows(task, config, seed)
    return x, y, x.new_full((config.seeds, config.layers), config.inner_lr)


def uniform(task: Task, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A meta-batch as the product draws it: states [B], and their weights."""
    picks = torch.randint(len(task.states), (size,), generator=generator)
    return picks, task.weights[picks]


def by_weight(task: Task, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """States in proportion to their weight, so that in the loss all weigh the same."""
    picks = torch.multinomial(task.weights, size, replacement=True, generator=generator)
    return picks, task.weights.mean().expand(size)


def outer_loop(
    task: Task,
    config: DistillConfig,
    seed: int,
    *,
    start: Callable[[Task, DistillConfig, int], Start] = initialised,
    draw: Callable[[Task, int, torch.Generator], tuple[Tensor, Tensor]] = uniform,
    build: Callable[[MLP], Engine] = FusedEngine,
    initialisations: int = 1,
    scalar_rate: bool = False,
    first: int = 0,
) -> Distilled:
    """The product's default loop, open to choices that it does not have."""
    policy = MLP.build(task.states.shape[1], task.targets.shape[1], config.layers, config.width)
    engine = build(policy)
    x, y, rates = start(task, config, seed)
    log_rates = rates[:, :1].log() if scalar_rate else rates.log()
    means = [variable.clone() for variable in (x, y, log_rates)]
    optimizers = [
        torch.optim.Adam([x, y], lr=config.outer_lr),
        torch.optim.Adam([log_rates], lr=config.rate_lr),
    ]
    losses = x.new_zeros(config.seeds, config.outer_steps)

    def repeated(value: Tensor) -> Tensor:
        return value.repeat_interleave(initialisations, 0)

    def averaged(value: Tensor) -> Tensor:
        return value.unflatten(0, (config.seeds, initialisations)).mean(1)

    for step in range(first, config.outer_steps):
        streams = [
            [torch_generator(seed, f"distill{'/more' * k}", s, step + 1) for s in range(len(x))]
            for k in range(initialisations)
        ]
        interleaved = [generator for each in zip(*streams, strict=True) for generator in each]
        parameters = policy.initial_parameters(interleaved)
        drawn = [draw(task, config.meta_batch_size, generator) for generator in streams[0]]
        picks, weights = (repeated(torch.stack(each)) for each in zip(*drawn, strict=True))
        gradient = engine.hypergradient(
            parameters,
            Rows(*map(repeated, (x, y, torch.full_like(y[..., 0], 1 / y.shape[1])))),
            repeated(log_rates.exp().expand(-1, config.layers)),
            MetaBatch(task.states[picks], task.targets[picks], weights),
            *unroll_of(config, seed, step),
        )
        losses[:, step] = averaged(gradient.loss)
        x.grad, y.grad = averaged(gradient.observations), averaged(gradient.actions)
        by_rate = averaged(gradient.learning_rates) * log_rates.exp()
        log_rates.grad = by_rate.sum(1, keepdim=True) if scalar_rate else by_rate
        for optimizer in optimizers:
            optimizer.step()
        share = max(1 - config.averaging, 1 / (step + 1))
        for mean, variable in zip(means, (x, y, log_rates), strict=True):
            mean.lerp_(variable, share)
    return Distilled(means[0], means[1], means[2].exp().expand(-1, config.layers), losses)


def plus_plus(task: Task, config: DistillConfig, seed: int) -> Start:
    """k-means++: each state in proportion to its squared distance from those before it."""
    x, y, rates = initialised(task, config, seed)
    for stream in range(config.seeds):
        generator = torch_generator(seed, "plus_plus", stream)
        distance = torch.ones(len(task.states))
        for row in range(config.synthetic_size):
            pick = int(torch.multinomial(distance, 1, generator=generator))
            x[stream, row], y[stream, row] = task.states[pick], task.targets[pick]
            to_pick = (task.states - task.states[pick]).square().sum(1)
            distance = torch.minimum(distance, to_pick) if row else to_pick
    return x, y, rates


def warm_start(task: Task, config: DistillConfig, seed: int, fresh: bool) -> Distilled:
    """Half the steps on half the rows; the other half are fresh, or copies with noise 0.1."""
    half, rows = config.outer_steps // 2, config.synthetic_size // 2
    small = config.model_copy(update={"synthetic_size": rows, "outer_steps": half})
    warm = distill(task, small, seed)
    x, y = initial_rows(task, config, seed)
    x[:, :rows], y[:, :rows] = warm.observations, warm.actions
    if not fresh:
        for stream in range(config.seeds):
            noise = torch.randn(x[0, rows:].shape, generator=torch_generator(seed, "warm", stream))
            x[stream, rows:] = warm.observations[stream] + 0.1 * noise
        y[:, rows:] = warm.actions
    return outer_loop(task, config, seed, start=lambda *_: (x, y, warm.learning_rates), first=half)


BETA = 0.9


class HeavyBall:
    """Inner steps with momentum, `m <- BETA m + g; theta <- theta - alpha m`, through autograd."""

    def __init__(self, policy: MLP) -> None:
        self.policy = policy

    def hypergradient(  # noqa: D102
        self,
        theta: Parameters,
        rows: Rows,
        rates: Tensor,
        batch: MetaBatch,
        steps: int,
        window: int,
    ) -> Hypergradient:
        """See `Engine.hypergradient`."""
        given = (rows.observations, rows.actions, learning_rates)
        x, y, rates = (v.detach().clone().requires_grad_() for v in given)
        theta = heavy_ball(self.policy, parameters, x, y, rows.weights, rates, steps, window)
        weights = batch.weights / batch.weights.shape[1]
        loss = cloning_loss(self.policy(theta, batch.states), batch.targets, weights)
        return Hypergradient(loss.detach(), *torch.autograd.grad(loss.sum(), (x, y, rates)))


def heavy_ball(
    policy: MLP,
    theta: Parameters,
    x: Tensor,
    y: Tensor,
    r: Tensor,
    rates: Tensor,
    steps: int,
    window: int = 0,
) -> Parameters:
    """`clone` with momentum; the last `window` steps are in the graph."""
    momentum = [torch.zeros_like(p) for p in theta]
    for step in range(steps):
        inside = step >= steps - window
        if step <= steps - window:
            theta = [p.detach().requires_grad_() for p in theta]
        loss = cloning_loss(policy(theta, x), y, r).sum()
        gradient = torch.autograd.grad(loss, theta, create_graph=inside)
        momentum = [BETA * m + g for m, g in zip(momentum, gradient, strict=True)]
        theta = [p - rates[:, i // 2, None, None] * momentum[i] for i, p in enumerate(theta)]
    return theta


@dataclass(frozen=True)
class Choice:
    """What a row changes.

    Attributes:
        settings: changes of the default settings, as `section.key`.
        loop: what distils.
        train: how policies are cloned from its rows.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    loop: Callable[[Task, DistillConfig, int], Distilled] = distill
    train: Callable[..., Parameters] = clone


CHOICES = {
    "default": Choice(),
    "full unroll": Choice({"distill.window": None, "distill.truncation": "last"}),
    "window of the last 20": Choice({"distill.truncation": "last"}),
    "window 10": Choice({"distill.window": 10}),
    "sgd 0.1, momentum 0.9": Choice({"distill.outer_optimizer": "sgd", "distill.outer_lr": 0.1}),
    "adam 0.01": Choice({"distill.outer_lr": 0.01}),
    "clipped to norm 0.02": Choice({"distill.max_gradient_norm": 0.02}),
    "no averaging": Choice({"distill.averaging": 0.0}),
    "fixed inner rates": Choice({"distill.rate_lr": 0.0}),
    "scalar inner rate": Choice(loop=partial(outer_loop, scalar_rate=True)),
    "inner momentum 0.9": Choice(
        {"distill.inner_lr": 0.02}, partial(outer_loop, build=HeavyBall), heavy_ball
    ),
    "100 inner steps": Choice({"distill.inner_steps": 100}),
    "two initialisations": Choice(loop=partial(outer_loop, initialisations=2)),
    "dataset actions first": Choice({"distill.initial_actions": "dataset"}),
    "k-means++ states first": Choice(loop=partial(outer_loop, start=plus_plus)),
    "warm start, fresh rows": Choice(loop=partial(warm_start, fresh=True)),
    "warm start, copied rows": Choice(loop=partial(warm_start, fresh=False)),
    "meta-batch 256": Choice({"distill.meta_batch_size": 256}),
    "meta-batch 4096": Choice({"distill.meta_batch_size": 4096}),
    "meta-batch by weight": Choice(loop=partial(outer_loop, draw=by_weight)),
    "pbc": Choice({"distill.objective": "pbc"}),
    "temperature 0": Choice({"weighting.temperature": 0.0}),
    "rank weights": Choice({"weighting.scheme": "rank"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.choices", description=__doc__)
    parser.add_argument("--seeds", type=int, default=4, help="distillation seeds")
    parser.add_argument("--steps", type=int, default=300, help="outer steps")
    parser.add_argument("--seed", type=int, default=0, help="root seed, of density and expert too")
    parser.add_argument("--only", nargs="+", choices=CHOICES, default=list(CHOICES), metavar="NAME")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        report = measure(arguments, Path(scratch))
    print(json.dumps(report, indent=2) if arguments.json else markdown(report))


def measure(arguments: argparse.Namespace, cache: Path) -> dict[str, Any]:
    """Every row; the default is always the first."""

    def configured(settings: dict[str, Any]) -> PipelineConfig:
        document: dict[str, Any] = {
            "dataset": "sdw/hopper-replay-mini-v0",
            "seed": arguments.seed,
            "distill": {"seeds": arguments.seeds, "outer_steps": arguments.steps},
        }
        for path, value in settings.items():
            section, key = path.split(".")
            document.setdefault(section, {})[key] = value
        return PipelineConfig.model_validate(document)

    judge = Pipeline(configured({}), cache).prepare()
    require_same_loop(judge.task, configured({}).distill)
    rows = {}
    for name in dict.fromkeys(["default", *arguments.only]):
        choice = CHOICES[name]
        config = configured(choice.settings)
        task = Pipeline(config, cache).prepare().task
        begun = process_time()
        distilled = choice.loop(task, config.distill, config.seed)
        spent = process_time() - begun
        losses, returns = score(config, judge.task, judge.arena, distilled, choice.train)
        rows[name] = {
            "seconds": spent,
            "meta_loss": float(np.mean(losses)),
            "return": float(np.mean(returns)),
            "spread": float(np.std(returns, ddof=1)),
            "per_seed": {"meta_loss": losses, "return": returns},
            "inner_rates": distilled.learning_rates.mean(0).tolist(),
            "against_default": paired(returns, rows["default"]["per_seed"]["return"])
            if rows
            else None,
        }
        print(row(name, rows[name]), file=sys.stderr, flush=True)
    return {
        "machine": describe(torch.device("cpu")),
        "dataset": config.dataset,
        "distillation_seeds": arguments.seeds,
        "outer_steps": arguments.steps,
        "seed": arguments.seed,
        "rows": rows,
    }


def require_same_loop(task: Task, config: DistillConfig) -> None:
    config = config.model_copy(update={"seeds": 2, "outer_steps": 5})
    product, own = distill(task, config, 0), outer_loop(task, config, 0)
    assert torch.equal(product.observations, own.observations)
    assert torch.equal(product.learning_rates, own.learning_rates)


def score(
    config: PipelineConfig,
    task: Task,
    arena: Arena,
    distilled: Distilled,
    train: Callable[..., Parameters],
) -> tuple[list[float], list[float]]:
    """Meta-loss and normalised return of each distillation seed."""
    x, y, rates = distilled.observations, distilled.actions, distilled.learning_rates
    k, total = config.evaluation.policies, len(x) * config.evaluation.policies
    policy = MLP.build(x.shape[2], y.shape[2], config.distill.layers, config.distill.width)
    generators = [torch_generator(config.seed, "choices", each) for each in range(total)]
    parameters = [
        p.detach()
        for p in train(
            policy,
            policy.initial_parameters(generators),
            x.repeat_interleave(k, 0),
            y.repeat_interleave(k, 0),
            torch.full((total, x.shape[1]), 1 / x.shape[1]),
            rates.repeat_interleave(k, 0),
            config.distill.inner_steps,
        )
    ]
    held = torch.Generator().manual_seed(config.seed)
    picks = torch.randint(len(task.states), (HELD,), generator=held)
    actions = policy(parameters, task.states[picks].expand(total, -1, -1))
    losses = cloning_loss(actions, task.targets[picks], task.weights[picks] / HELD)
    act = arena.actor(lambda states: policy(parameters, states), "cpu")
    returns = rollout(act, arena, total, config.evaluation.episodes, config.seed, "choices")
    by_seed = arena.normalized(returns).reshape(len(x), -1).mean(1)
    return losses.reshape(len(x), k).mean(1).tolist(), by_seed.tolist()


def paired(values: Sequence[float], default: Sequence[float]) -> dict[str, float]:
    difference = np.subtract(values, default)
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return {"difference": float(difference.mean()), "standard_error": float(error)}


def markdown(report: dict[str, Any]) -> str:
    lines = [
        ", ".join(f"{key} {value}" for key, value in report["machine"].items()),
        "",
        f"`{report['dataset']}`, root seed {report['seed']}, {report['distillation_seeds']} "
        f"distillation seeds in one pack, {report['outer_steps']} outer steps.",
        "",
        row("choice", None),
        "|---|---:|---:|---:|---:|---:|",
        *(row(name, values) for name, values in report["rows"].items()),
    ]
    return "\n".join(lines)


def row(name: str, values: dict[str, Any] | None) -> str:
    if values is None:
        return f"| {name} | seconds | meta-loss | return | spread | against the default |"
    against = values["against_default"]
    difference = (
        f"{against['difference']:+.1f} +- {against['standard_error']:.1f}" if against else ""
    )
    return (
        f"| {name} | {values['seconds']:.1f} | {values['meta_loss']:.4f} | "
        f"{values['return']:.1f} | {values['spread']:.1f} | {difference} |"
    )


if __name__ == "__main__":
    main()
