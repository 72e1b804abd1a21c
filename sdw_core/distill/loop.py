"""The outer loop: rows follow their hypergradient, for several distillation seeds at once."""

import hashlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from math import log
from pathlib import Path

import torch
from torch import Tensor

from sdw_core.checkpoint import read_checkpoint, write_checkpoint
from sdw_core.config import DistillConfig, identifying
from sdw_core.distill.capture import Captured
from sdw_core.distill.engine import Hypergradient, MetaBatch, Rows
from sdw_core.distill.fused import Program, Shape, memory_bytes
from sdw_core.distill.selection import select_rows
from sdw_core.errors import DivergenceError, InputError, StopRequested
from sdw_core.files import sha256_of_json
from sdw_core.identity import METHOD
from sdw_core.policy import MLP
from sdw_core.resources import available_memory
from sdw_core.seeds import derive_seed, torch_generator

CHECK_EVERY = 50
"""Outer steps between looks at the device: for divergence, and to write a checkpoint."""


@dataclass(frozen=True)
class Task:
    """What rows are distilled from: N states, each with a target and a weight.

    Attributes:
        states: z [N, O], normalised.
        actions: the dataset's actions [N, A], in [-1, 1].
        targets: target(s) [N, A].
        weights: w(s) c(s) [N].
        log_density: log d(s) [N], nats; only `initial_states: density` needs it.
        episode_returns: return of the episode that a state is of [N]; only `best` needs it.
    """

    states: Tensor
    actions: Tensor
    targets: Tensor
    weights: Tensor
    log_density: Tensor | None = None
    episode_returns: Tensor | None = None


@dataclass(frozen=True)
class Distilled:
    """Synthetic rows of S distillation seeds.

    Attributes:
        observations: x [S, n, O], normalised.
        actions: y [S, n, A], in units of the action range.
        learning_rates: inner learning rates alpha [S, L], one a layer.
        losses: meta-loss of every outer step [S, steps].
        diverged: distillation seed -> what became non-finite, and when. Its rows are not to be
            used.
        visited: outer step -> what was found when the rows were visited there.
    """

    observations: Tensor
    actions: Tensor
    learning_rates: Tensor
    losses: Tensor
    diverged: dict[int, str] = field(default_factory=dict)
    visited: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Visits:
    """Looks at the rows while they are distilled: returns along the way, rungs of a scheduler.

    Attributes:
        steps: numbers of outer steps that are done when the rows are visited.
        find: called with that number and the rows as they would be returned then; what it finds is
            kept in the checkpoint, so that no visit is made twice.
        key: a hash of all that what is found depends on beside the rows; a checkpoint of another
            key, or of other steps, is not used.
    """

    steps: frozenset[int]
    find: Callable[[int, Distilled], Tensor]
    key: str = ""


@torch.inference_mode(False)
@torch.no_grad()
def distill(
    task: Task,
    config: DistillConfig,
    seed: int,
    progress: Callable[[float], None] | None = None,
    checkpoint: Path | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    visits: Visits | None = None,
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
        checkpoint: a file that is written every `CHECK_EVERY` steps and resumed from if it is
            there.
        should_stop: asked after every outer step; True writes the checkpoint and raises.
        visits: looks at the rows on the way.

    Raises:
        DivergenceError: every distillation seed became non-finite.
        StopRequested: `should_stop` said so.
    """
    policy = MLP.build(task.states.shape[1], task.targets.shape[1], config.layers, config.width)
    if config.outer_steps:
        require_memory(config, policy, task.states.device)
    state = _State.start(task, config, seed)
    if not config.outer_steps:
        return state.distilled()
    key = _key(task, config, seed, visits) if checkpoint else ""
    first = state.restore(checkpoint, key)

    with closing(_OuterStep(task, config, seed, policy, state)) as outer_step:
        for step in range(first, config.outer_steps):
            outer_step(step)
            done = step + 1
            if visits and done in visits.steps:
                state.require_sound(config)
                state.visited[done] = visits.find(done, state.distilled())
            stopping = should_stop()
            if done % CHECK_EVERY == 0 or done == config.outer_steps or stopping:
                state.require_sound(config)
                if checkpoint:
                    state.save(checkpoint, key, done)
            if progress:
                progress(done / config.outer_steps)
            if stopping:
                raise StopRequested(f"Stopped after {done} of {config.outer_steps} outer steps.")
    return state.distilled()


class _OuterStep:
    """One outer step, again and again: draw, unroll and go back, follow.

    Each of the three is captured on CUDA. An unroll of random length is its first T' - window inner
    steps, one graph replayed so often, and one graph of all the rest.
    """

    def __init__(
        self, task: Task, config: DistillConfig, seed: int, policy: MLP, state: "_State"
    ) -> None:
        device = task.states.device
        generators = [torch.Generator(device) for _ in range(config.seeds)]
        program = Program(policy, _shape(config, task.states), config.tf32)
        row_weights = torch.full_like(state.actions[..., 0], 1 / config.synthetic_size)

        def draw() -> None:
            parameters = policy.initial_parameters(generators)
            picks = torch.stack(
                [_draw_rows(len(task.states), config.meta_batch_size, g) for g in generators]
            )
            program.load(
                parameters,
                Rows(state.observations, state.actions, row_weights),
                state.log_rates.exp(),
                MetaBatch(task.states[picks], task.targets[picks], task.weights[picks]),
            )

        def follow() -> None:
            state.update(program.result(), config)

        self._config, self._seed = config, seed
        self._generators, self._program = generators, program
        self._draw = Captured(draw, device, generators)
        self._follow = Captured(follow, device)

    def __call__(self, step: int) -> None:
        """Step number `step`, from 0; what it draws depends on the number only."""
        for stream, generator in enumerate(self._generators):
            generator.manual_seed(derive_seed(self._seed, "distill", stream, step + 1))
        self._draw()
        steps, _ = unroll_of(self._config, self._seed, step)
        self._program.run(steps)
        self._follow()

    def close(self) -> None:
        """Gives its graphs back; see `Captured.close`."""
        for captured in (self._draw, self._program, self._follow):
            captured.close()


@dataclass
class _State:
    """What an outer step changes, in place and on the device; no step waits for the host.

    Attributes:
        done: outer steps that are done, [1].
        observations, actions: x [S, n, O] and y [S, n, A].
        log_rates: logarithm of the inner learning rates [S, L].
        mean_observations, mean_actions, mean_log_rates: moving averages over the steps.
        losses: [S, steps].
        diverged_at: [S] the step at which a problem became non-finite; 0: it is sound.
        lost_loss: [S] whether its loss was not finite then, or only its gradient was not.
        optimizer, rate_optimizer: of the rows and of the log rates; element by element, so
            problems stay apart.
        visited: see `Distilled`.
    """

    done: Tensor
    observations: Tensor
    actions: Tensor
    log_rates: Tensor
    mean_observations: Tensor
    mean_actions: Tensor
    mean_log_rates: Tensor
    losses: Tensor
    diverged_at: Tensor
    lost_loss: Tensor
    optimizer: torch.optim.Optimizer
    rate_optimizer: torch.optim.Optimizer
    visited: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def start(cls, task: Task, config: DistillConfig, seed: int) -> "_State":
        observations, actions = initial_rows(task, config, seed)
        log_rates = observations.new_full((config.seeds, config.layers), log(config.inner_lr))
        optimizer: torch.optim.Optimizer
        if config.outer_optimizer == "adam":
            optimizer = _adam([observations, actions], config.outer_lr)
        else:
            optimizer = torch.optim.SGD(
                [observations, actions], lr=config.outer_lr, momentum=config.outer_momentum
            )
        losses = observations.new_zeros(config.seeds, config.outer_steps)
        diverged_at = losses.new_zeros(config.seeds, dtype=torch.int64)
        return cls(
            diverged_at.new_zeros(1),
            observations,
            actions,
            log_rates,
            observations.clone(),
            actions.clone(),
            log_rates.clone(),
            losses,
            diverged_at,
            diverged_at.to(torch.bool),
            optimizer,
            _adam([log_rates], config.rate_lr),
        )

    def update(self, gradient: Hypergradient, config: DistillConfig) -> None:
        """Follow the hypergradient; a problem that is not finite ends here, the others go on."""
        self.losses.index_copy_(1, self.done, gradient.loss[:, None])
        self.done.add_(1)
        norms = gradient.observations.square().sum((1, 2)) + gradient.actions.square().sum((1, 2))
        norms = norms.sqrt()
        finite_loss = torch.isfinite(gradient.loss)
        ended = ~(finite_loss & torch.isfinite(norms)) & (self.diverged_at == 0)
        self.diverged_at.copy_(torch.where(ended, self.done, self.diverged_at))
        self.lost_loss.logical_or_(ended & ~finite_loss)
        sound = self.diverged_at == 0
        scale = torch.ones_like(norms)
        if config.max_gradient_norm is not None:
            scale = (config.max_gradient_norm / norms.clamp_min(1e-12)).clamp_max(1)
        for variable, value in (
            (self.observations, gradient.observations),
            (self.actions, gradient.actions),
        ):
            scaled = value * scale[:, None, None]
            variable.grad = torch.where(sound[:, None, None], scaled, torch.zeros_like(scaled))
        rate_gradient = gradient.learning_rates * self.log_rates.exp()
        self.log_rates.grad = torch.where(
            sound[:, None], rate_gradient, torch.zeros_like(rate_gradient)
        )
        self.optimizer.step()
        self.rate_optimizer.step()
        share = self.done.double().reciprocal().clamp_min(1 - config.averaging).to(norms.dtype)
        self.mean_observations.lerp_(self.observations, share)
        self.mean_actions.lerp_(self.actions, share)
        self.mean_log_rates.lerp_(self.log_rates, share)

    def distilled(self) -> Distilled:
        """The rows as they are now; views of the moving averages."""
        return Distilled(
            self.mean_observations,
            self.mean_actions,
            self.mean_log_rates.exp(),
            self.losses,
            self.diverged(),
            self.visited,
        )

    def diverged(self) -> dict[int, str]:
        """Distillation seed -> what became non-finite, and at which step."""
        return {
            stream: f"the {'meta-loss' if lost else 'hypergradient'} became non-finite at outer "
            f"step {at}"
            for stream, (at, lost) in enumerate(
                zip(self.diverged_at.tolist(), self.lost_loss.tolist(), strict=True)
            )
            if at
        }

    def require_sound(self, config: DistillConfig) -> None:
        """Raises DivergenceError if no problem is left."""
        diverged = self.diverged()
        if len(diverged) == len(self.observations):
            raise DivergenceError(
                f"Distillation diverged: {diverged[0]}; lower `distill.inner_lr` (now "
                f"{config.inner_lr:g}) or `distill.outer_lr` (now {config.outer_lr:g})."
            )

    def save(self, path: Path, key: str, step: int) -> None:
        tensors = {name: getattr(self, name) for name in _TENSORS}
        visited = {f"visited/{at}": found for at, found in self.visited.items()}
        write_checkpoint(path, key, step, tensors | visited, self._optimizers)

    def restore(self, path: Path | None, key: str) -> int:
        """Take everything over from a checkpoint; returns the outer steps that are done."""
        step, stored = read_checkpoint(path, key, self._optimizers)
        self.done.fill_(step)
        for name, tensor in stored.items():
            if name in _TENSORS:
                getattr(self, name).copy_(tensor)
            else:
                self.visited[int(name.removeprefix("visited/"))] = tensor
        return step

    @property
    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"rows": self.optimizer, "rates": self.rate_optimizer}


def _adam(variables: list[Tensor], learning_rate: float) -> torch.optim.Adam:
    """Adam; on CUDA as one kernel, whose step count is on the device."""
    on_device = variables[0].is_cuda
    return torch.optim.Adam(variables, learning_rate, fused=on_device or None, capturable=on_device)


_TENSORS = (
    *("observations", "actions", "log_rates"),
    *("mean_observations", "mean_actions", "mean_log_rates"),
    *("losses", "diverged_at", "lost_loss"),
)


def _key(task: Task, config: DistillConfig, seed: int, visits: Visits | None) -> str:
    """Hash of all that a checkpoint depends on, with what was found on the way."""
    visited = [sorted(visits.steps), visits.key] if visits and visits.steps else None
    settings = sha256_of_json([METHOD["distill"], identifying(config), seed, visited])
    digest = hashlib.sha256(settings.encode())
    for tensor in filter(torch.is_tensor, vars(task).values()):
        digest.update(f"{tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _draw_rows(count: int, size: int, generator: torch.Generator) -> Tensor:
    return torch.randint(count, (size,), generator=generator, device=generator.device)


def _shape(config: DistillConfig, like: Tensor) -> Shape:
    size = config.seeds, config.synthetic_size, config.meta_batch_size, _window(config)
    return Shape(*size, like.dtype, like.device)


def engine_bytes(config: DistillConfig, policy: MLP) -> int:
    """What the engine of a configuration holds, and beside it the draws of initial parameters."""
    shape = _shape(config, torch.empty(0))
    draws = config.seeds * (policy.size + 10 * max(policy.sizes) ** 2)
    return memory_bytes(policy, shape) + draws * shape.dtype.itemsize


def require_memory(config: DistillConfig, policy: MLP, device: torch.device) -> None:
    """Refuse a configuration whose engine cannot fit, before anything is allocated.

    Raises:
        InputError: it needs more than is free on the device.
    """
    need = engine_bytes(config, policy)
    if device.type == "cuda":
        reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + reusable
    else:
        free = available_memory()
    if need > free:
        raise InputError(
            f"The distillation needs {need / 1e9:.1f} GB on {device} and {free / 1e9:.1f} GB are "
            "free; lower `distill.window`, `distill.seeds`, `distill.synthetic_size` or "
            "`distill.meta_batch_size`."
        )


def _window(config: DistillConfig) -> int:
    """Inner steps that are differentiated: the last ones of an outer step."""
    return min(config.window or config.inner_steps, config.inner_steps)


def unroll_of(config: DistillConfig, seed: int, step: int) -> tuple[int, int]:
    """Inner steps T' of an outer step, and how many of the last of them are differentiated.

    `random` is the random truncation of RaT-BPTT (arXiv 2311.07025): T' is uniform over
    `window .. inner_steps`, so that in time every inner step is differentiated and no policy is
    judged at one length of training only. All distillation seeds share T'.
    """
    window = _window(config)
    if config.truncation == "last":
        return config.inner_steps, window
    generator = torch_generator(seed, "unroll", 0, step)
    return int(torch.randint(window, config.inner_steps + 1, (), generator=generator)), window


def initial_rows(task: Task, config: DistillConfig, seed: int) -> tuple[Tensor, Tensor]:
    """The rows that each distillation seed starts from: distinct rows of the dataset.

    Which, `config.initial_states` says.

    Returns:
        observations [S, n, O] and actions [S, n, A]; the actions are the expert's targets or the
        dataset's own, as `config.initial_actions` says.
    """
    picks = select_rows(
        config.initial_states,
        config.synthetic_size,
        [torch_generator(seed, "distill", stream) for stream in range(config.seeds)],
        task.states,
        task.log_density,
        task.episode_returns,
        config.initial_options,
    ).to(task.states.device)
    actions = task.targets if config.initial_actions == "expert" else task.actions
    return task.states[picks].clone(), actions[picks].clone()
