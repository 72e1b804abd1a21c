"""The outer loop: rows follow their hypergradient, for several distillation seeds at once."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sdw_core.config import DistillConfig
from sdw_core.distill.engine import Engine, MetaBatch, Rows
from sdw_core.distill.fused import FusedEngine
from sdw_core.errors import DivergenceError, StopRequested
from sdw_core.files import replaced_atomically
from sdw_core.policy import MLP
from sdw_core.seeds import torch_generator

CHECKPOINT_EVERY = 50
"""Outer steps between checkpoints."""


@dataclass(frozen=True)
class Task:
    """What rows are distilled from: N states, each with a target and a weight.

    Attributes:
        states: z [N, O], normalised.
        actions: the dataset's actions [N, A], in [-1, 1].
        targets: target(s) [N, A].
        weights: w(s) c(s) [N].
    """

    states: Tensor
    actions: Tensor
    targets: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Distilled:
    """Synthetic rows of S distillation seeds.

    Attributes:
        observations: x [S, n, O], normalised.
        actions: y [S, n, A], in units of the action range.
        losses: meta-loss of every outer step [S, steps].
        diverged: distillation seed -> what became non-finite, and when. Its rows are the last good
            ones and are not to be used.
    """

    observations: Tensor
    actions: Tensor
    losses: Tensor
    diverged: dict[int, str] = field(default_factory=dict)


def distill(
    task: Task,
    config: DistillConfig,
    seed: int,
    progress: Callable[[float], None] | None = None,
    checkpoint: Path | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Distilled:
    """Optimise `config.seeds` independent sets of synthetic rows in one batched run.

    Every outer step draws, for each distillation seed, a fresh initialisation and a meta-batch from
    streams addressed by (seed, distillation seed, step). So a run that resumes from its checkpoint
    gives, bit for bit, what an uninterrupted run on the same processor and threads gives.

    Args:
        task: states, targets and weights, on the device to work on.
        config: objective-independent settings.
        seed: root seed.
        progress: told the fraction done after every outer step.
        checkpoint: a file that is written every `CHECKPOINT_EVERY` steps and resumed from if it is
            there.
        should_stop: asked after every outer step; True writes the checkpoint and raises.

    Raises:
        DivergenceError: every distillation seed became non-finite.
        StopRequested: `should_stop` said so.
    """
    device = task.states.device
    policy = MLP.build(task.states.shape[1], task.targets.shape[1], config.layers, config.width)
    engine = build_engine(policy)
    observations, actions = initial_rows(task, config, seed)
    row_weights = torch.full(observations.shape[:2], 1 / config.synthetic_size, device=device)
    rates = torch.full((config.seeds, policy.layers), config.inner_lr, device=device)
    optimizer: torch.optim.Optimizer
    if config.outer_optimizer == "adam":
        optimizer = torch.optim.Adam([observations, actions], lr=config.outer_lr)
    else:
        optimizer = torch.optim.SGD(
            [observations, actions], lr=config.outer_lr, momentum=config.outer_momentum
        )
    losses = torch.zeros(config.seeds, config.outer_steps, device=device)
    diverged: dict[int, str] = {}
    first = 0
    if checkpoint and checkpoint.exists():
        first = _restore(checkpoint, observations, actions, optimizer, losses, diverged)

    for step in range(first, config.outer_steps):
        generators = [
            torch_generator(seed, "distill", stream, step + 1, device)
            for stream in range(config.seeds)
        ]
        parameters = policy.initial_parameters(generators)
        picks = torch.stack(
            [
                torch.randint(
                    len(task.states), (config.meta_batch_size,), generator=g, device=device
                )
                for g in generators
            ]
        )
        batch = MetaBatch(task.states[picks], task.targets[picks], task.weights[picks])
        rows = Rows(observations, actions, row_weights)
        steps, window = unroll_of(config, seed, step)
        gradient = engine.hypergradient(parameters, rows, rates, batch, steps, window)
        losses[:, step] = gradient.loss
        norms = (
            gradient.observations.square().sum((1, 2)) + gradient.actions.square().sum((1, 2))
        ).sqrt()
        finite = torch.isfinite(norms) & torch.isfinite(gradient.loss)
        if not bool(finite.all()):
            for stream in torch.nonzero(~finite)[:, 0].tolist():
                quantity = "meta-loss" if not gradient.loss[stream].isfinite() else "hypergradient"
                diverged.setdefault(stream, f"the {quantity} became non-finite at step {step + 1}")
        if len(diverged) == config.seeds:
            raise DivergenceError(
                f"Distillation diverged: {diverged[0]}; lower `distill.inner_lr` (now "
                f"{config.inner_lr}) or `distill.outer_lr` (now {config.outer_lr})."
            )
        scale = torch.ones_like(norms)
        if config.max_gradient_norm is not None:
            scale = (config.max_gradient_norm / (norms + 1e-12)).clamp_max(1.0)
        for variable, value in (
            (observations, gradient.observations),
            (actions, gradient.actions),
        ):
            scaled = value * scale[:, None, None]
            for stream in diverged:
                scaled[stream] = 0
            variable.grad = scaled
        optimizer.step()
        done = step + 1
        if progress:
            progress(done / config.outer_steps)
        stopping = should_stop()
        if checkpoint and (stopping or done % CHECKPOINT_EVERY == 0):
            _save(checkpoint, observations, actions, optimizer, losses, diverged, done)
        if stopping:
            raise StopRequested(f"Stopped after {done} of {config.outer_steps} outer steps.")
    return Distilled(observations.detach(), actions.detach(), losses, diverged)


def unroll_of(config: DistillConfig, seed: int, step: int) -> tuple[int, int]:
    """Inner steps T' of an outer step, and how many of the last of them are differentiated.

    `random` is the random truncation of RaT-BPTT (arXiv 2311.07025): T' is uniform over
    `window .. inner_steps`, so that in time every inner step is differentiated and no policy is
    judged at one length of training only. All distillation seeds share T'.
    """
    window = min(config.window or config.inner_steps, config.inner_steps)
    if config.truncation == "last":
        return config.inner_steps, window
    generator = torch_generator(seed, "unroll", 0, step)
    return int(torch.randint(window, config.inner_steps + 1, (), generator=generator)), window


def initial_rows(task: Task, config: DistillConfig, seed: int) -> tuple[Tensor, Tensor]:
    """The rows that each distillation seed starts from: distinct rows of the dataset.

    Returns:
        observations [S, n, O] and actions [S, n, A]; the actions are the expert's targets or the
        dataset's own, as `config.initial_actions` says.
    """
    picks = torch.stack(
        [
            torch.randperm(len(task.states), generator=torch_generator(seed, "distill", stream))[
                : config.synthetic_size
            ]
            for stream in range(config.seeds)
        ]
    ).to(task.states.device)
    actions = task.targets if config.initial_actions == "expert" else task.actions
    return task.states[picks].clone(), actions[picks].clone()


def build_engine(policy: MLP) -> Engine:
    """The fastest engine for the policy."""
    return FusedEngine(policy)


def _save(
    path: Path,
    observations: Tensor,
    actions: Tensor,
    optimizer: torch.optim.Optimizer,
    losses: Tensor,
    diverged: dict[int, str],
    step: int,
) -> None:
    tensors = {"observations": observations.detach(), "actions": actions.detach(), "losses": losses}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            tensors[f"optimizer.{index}.{name}"] = value
    metadata = {"step": str(step), "diverged": json.dumps(diverged)}
    with replaced_atomically(path) as scratch:
        save_file({k: v.contiguous() for k, v in tensors.items()}, scratch, metadata)


def _restore(
    path: Path,
    observations: Tensor,
    actions: Tensor,
    optimizer: torch.optim.Optimizer,
    losses: Tensor,
    diverged: dict[int, str],
) -> int:
    with safe_open(path, framework="pt", device=str(observations.device)) as file:
        metadata = file.metadata()
        observations.copy_(file.get_tensor("observations"))
        actions.copy_(file.get_tensor("actions"))
        losses.copy_(file.get_tensor("losses"))
        state: dict[int, dict[str, Tensor]] = {}
        for key in file.keys():  # noqa: SIM118 (a safetensors handle is not a mapping)
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                state.setdefault(int(index), {})[name] = file.get_tensor(key)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    diverged.update({int(k): v for k, v in json.loads(metadata["diverged"]).items()})
    return int(metadata["step"])
