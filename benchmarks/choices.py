"""Which choices of the outer loop earn their place: a default against one change at a time.

    python -m benchmarks.choices [--seeds 4] [--steps 300] [--only NAME ...] [--json]

The default is that of before state noise and schedules (`benchmarks.ablation` has those): Av-PBC
with density weights, 4 layers x 128. Every row distils the bundled dataset with 64 rows, alone on
one thread; seconds are processor seconds of the outer loop. All rows are judged alike, whatever
they were distilled for: 10 policies x 5 episodes for each distillation seed, and the meta-loss of
the same policies on one batch of states with the default's targets and weights. Every row draws
from the same random streams, so differences are paired by distillation seed; `+-` is the standard
error of their mean.

Choices that the product does not have run in `outer_loop`, which without a change gives the rows of
`distill` bit for bit: that is checked first.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.ablation import PIPELINE_BEFORE
from benchmarks.machine import describe
from sdw_core.config import DistillConfig, PipelineConfig
from sdw_core.distill.engine import Engine, Hypergradient, MetaBatch, Rows
from sdw_core.distill.fused import FusedEngine
from sdw_core.distill.loop import distill, unroll_of
from sdw_core.distill.state import Distilled
from sdw_core.distill.task import Task, initial_rows
from sdw_core.evaluate import rollout
from sdw_core.pipeline import Pipeline, Prepared
from sdw_core.policy import MLP, Parameters, clone, cloning_loss
from sdw_core.registry import SELECTIONS
from sdw_core.seeds import torch_generator

HELD = 2048  # states of the batch that every row's meta-loss is on


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
    start: Callable[[Task, DistillConfig, int], tuple[Tensor, Tensor]] = initial_rows,
    rates: Tensor | None = None,
    draw: Callable[[Task, int, torch.Generator], tuple[Tensor, Tensor]] = uniform,
    build: Callable[[MLP], Engine] = FusedEngine,
    initialisations: int = 1,
    scalar_rate: bool = False,
    first: int = 0,
) -> Distilled:
    """The product's default loop, open to choices that it does not have."""
    policy = MLP.build(task.states.shape[1], task.targets.shape[1], config.layers, config.width)
    engine = build(policy)
    x, y = start(task, config, seed)
    if rates is None:
        rates = x.new_full((len(x), 1 if scalar_rate else config.layers), config.inner_lr)
    log_rates = rates.log()
    means = [variable.clone() for variable in (x, y, log_rates)]
    groups = (([x, y], config.outer_lr), ([log_rates], config.rate_lr))
    optimizer = torch.optim.Adam([{"params": group, "lr": rate} for group, rate in groups])

    def repeated(value: Tensor) -> Tensor:
        return value.repeat_interleave(initialisations, 0)

    def averaged(value: Tensor) -> Tensor:
        return value.reshape(len(x), initialisations, *value.shape[1:]).mean(1)

    for step in range(first, config.outer_steps):
        generators = [
            torch_generator(seed, f"distill{'/more' * k}", s, step + 1)
            for s in range(len(x))
            for k in range(initialisations)
        ]
        parameters = policy.initial_parameters(generators)
        drawn = [draw(task, config.meta_batch_size, g) for g in generators[::initialisations]]
        picks, weights = (repeated(torch.stack(each)) for each in zip(*drawn, strict=True))
        gradient = engine.hypergradient(
            parameters,
            Rows(*map(repeated, (x, y, torch.full_like(y[..., 0], 1 / y.shape[1])))),
            repeated(log_rates.exp().expand(-1, config.layers)),
            MetaBatch(task.states[picks], task.targets[picks], weights),
            *unroll_of(config, seed, step),
        )
        x.grad, y.grad = averaged(gradient.observations), averaged(gradient.actions)
        by_rate = averaged(gradient.learning_rates) * log_rates.exp()
        log_rates.grad = by_rate.sum(1, keepdim=True) if scalar_rate else by_rate
        optimizer.step()
        share = max(1 - config.averaging, 1 / (step + 1))
        for mean, variable in zip(means, (x, y, log_rates), strict=True):
            mean.lerp_(variable, share)
    return Distilled(means[0], means[1], means[2].exp().expand(-1, config.layers), x.new_zeros(0))


def warm_start(task: Task, config: DistillConfig, seed: int) -> Distilled:
    """Half the steps on half the rows, then fresh rows beside them."""
    half, rows = config.outer_steps // 2, config.synthetic_size // 2
    small = config.model_copy(update={"synthetic_size": rows, "outer_steps": half})
    warm = distill(task, small, seed)
    x, y = initial_rows(task, config, seed)
    x[:, :rows], y[:, :rows] = warm.observations, warm.actions
    rates = warm.learning_rates
    return outer_loop(task, config, seed, start=lambda *_: (x, y), rates=rates, first=half)


@dataclass(frozen=True)
class HeavyBall:
    """Inner steps with momentum, `m <- 0.9 m + g; theta <- theta - alpha m`, through autograd."""

    policy: MLP

    def hypergradient(
        self, theta: Parameters, rows: Rows, rates: Tensor, batch: MetaBatch, *unroll: int
    ) -> Hypergradient:
        """See `Engine.hypergradient`."""
        given = (rows.observations, rows.actions, rates)
        x, y, rates = (v.clone().requires_grad_() for v in given)
        theta = heavy_ball(self.policy, theta, x, y, rows.weights, rates, *unroll)
        weights = batch.weights / batch.weights.shape[1]
        loss = cloning_loss(self.policy(theta, batch.states), batch.targets, weights)
        return Hypergradient(loss.detach(), *torch.autograd.grad(loss.sum(), (x, y, rates)))


def heavy_ball(
    policy: MLP, theta: Parameters, x: Tensor, y: Tensor, r: Tensor, rates: Tensor, *unroll: int
) -> Parameters:
    """`clone` with momentum: T steps; a window, if given, is in the graph."""
    steps, window = (*unroll, 0)[:2]
    momentum = [torch.zeros_like(p) for p in theta]
    for step in range(steps):
        if step <= steps - window:
            theta = [p.detach().requires_grad_() for p in theta]
        loss = cloning_loss(policy(theta, x), y, r).sum()
        gradient = torch.autograd.grad(loss, theta, create_graph=step >= steps - window)
        momentum = [0.9 * m + g for m, g in zip(momentum, gradient, strict=True)]
        theta = [p - rates[:, i // 2, None, None] * momentum[i] for i, p in enumerate(theta)]
    return theta


@dataclass(frozen=True)
class Choice:
    """What a row changes: settings, what distils, and how policies are cloned from its rows."""

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
    "k-means states first": Choice({"distill.initial_states": "kmeans"}),
    "rows of the best episodes first": Choice({"distill.initial_states": "best"}),
    "strata of the density first": Choice({"distill.initial_states": "density"}),
    "warm start from 32 rows": Choice(loop=warm_start),
    "meta-batch 256": Choice({"distill.meta_batch_size": 256}),
    "meta-batch 4096": Choice({"distill.meta_batch_size": 4096}),
    "meta-batch by weight": Choice(loop=partial(outer_loop, draw=by_weight)),
    "pbc": Choice({"distill.objective": "pbc"}),
    "temperature 0": Choice({"weighting.temperature": 0.0}),
    "rank weights": Choice({"weighting.scheme": "rank"}),
}
CHOICES |= {
    f"no steps: {way} rows, the {actions}'s actions": Choice(
        {
            "distill.outer_steps": 0,
            "distill.initial_states": way,
            "distill.initial_actions": actions,
        }
    )
    for way in SELECTIONS.builtin
    for actions in ("dataset", "expert")
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
    judge = Pipeline(configured({}, arguments), cache).prepare()
    brief = configured({"distill.outer_steps": 5}, arguments)
    product, own = (loop(judge.task, brief.distill, brief.seed) for loop in (distill, outer_loop))
    assert torch.equal(product.observations, own.observations)
    assert torch.equal(product.learning_rates, own.learning_rates)
    rows: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(["default", *arguments.only]):
        choice = CHOICES[name]
        config = configured(choice.settings, arguments)
        task = Pipeline(config, cache).prepare().task
        begun = process_time()
        distilled = choice.loop(task, config.distill, config.seed)
        seconds = process_time() - begun
        losses, returns = score(config, judge, distilled, choice.train)
        rows[name] = {"seconds": seconds, "meta_losses": losses, "returns": returns}
        print(row(name, rows), file=sys.stderr, flush=True)
    about: dict[str, Any] = {**describe(torch.device("cpu")), "dataset": config.dataset}
    about |= {"root_seed": arguments.seed, "distillation_seeds": arguments.seeds}
    return {"about": about | {"outer_steps": arguments.steps}, "rows": rows}


def configured(settings: dict[str, Any], arguments: argparse.Namespace) -> PipelineConfig:
    """The recipe of before on the bundled dataset, with changes."""
    document = deepcopy(PIPELINE_BEFORE) | {"seed": arguments.seed}
    document["distill"] |= {"seeds": arguments.seeds, "outer_steps": arguments.steps}
    for path, value in settings.items():
        section, key = path.split(".")
        document.setdefault(section, {})[key] = value
    return PipelineConfig.model_validate(document)


def score(
    config: PipelineConfig, judge: Prepared, distilled: Distilled, train: Callable[..., Parameters]
) -> tuple[list[float], list[float]]:
    """Meta-loss and normalised return of each distillation seed."""
    x, y, rates = distilled.observations, distilled.actions, distilled.learning_rates
    k, total = config.evaluation.policies, len(x) * config.evaluation.policies
    policy = MLP.build(x.shape[2], y.shape[2], config.distill.layers, config.distill.width)
    streams = [torch_generator(config.seed, "choices", each) for each in range(total)]
    initial = policy.initial_parameters(streams)
    r = torch.full_like(y[..., 0], 1 / y.shape[1])
    recipe = (value.repeat_interleave(k, 0) for value in (x, y, r, rates))
    trained = train(policy, initial, *recipe, config.distill.inner_steps)
    parameters = [p.detach() for p in trained]
    task, arena = judge.task, judge.arena
    held = torch.Generator().manual_seed(config.seed)
    picks = torch.randint(len(task.states), (HELD,), generator=held)
    actions = policy(parameters, task.states[picks].expand(total, -1, -1))
    losses = cloning_loss(actions, task.targets[picks], task.weights[picks] / HELD)
    act = arena.actor(lambda states: policy(parameters, states), "cpu")
    returns = rollout(act, arena, total, config.evaluation.episodes, config.seed, "choices")
    by_seed = arena.normalized(returns).reshape(len(x), -1).mean(1)
    return losses.reshape(len(x), k).mean(1).tolist(), by_seed.tolist()


def markdown(report: dict[str, Any]) -> str:
    about = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in report["about"].items())
    columns = ["choice", "seconds", "meta-loss", "return", "spread", "against the default"]
    head = f"| {' | '.join(columns)} |\n|---{'|---:' * 5}|"
    return "\n".join([about, "", head, *(row(name, report["rows"]) for name in report["rows"])])


def row(name: str, rows: dict[str, dict[str, Any]]) -> str:
    """One line of the table; spread: standard deviation over distillation seeds."""
    values, returns = rows[name], np.array(rows[name]["returns"])
    gain = returns - rows["default"]["returns"]
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    return (
        f"| {name} | {values['seconds']:.1f} | {np.mean(values['meta_losses']):.4f} "
        f"| {returns.mean():.1f} | {returns.std(ddof=1):.1f} "
        f"| {'' if name == 'default' else f'{gain.mean():+.1f} +- {error:.1f}'} |"
    )


if __name__ == "__main__":
    main()
