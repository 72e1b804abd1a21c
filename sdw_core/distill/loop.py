"""The outer loop: rows follow their hypergradient, for several distillation seeds at once."""

import hashlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sdw_core.config import DistillConfig, identifying
from sdw_core.distill.capture import Captured
from sdw_core.distill.curves import DistillCurves
from sdw_core.distill.engine import Rows
from sdw_core.distill.fused import Program, Shape, memory_bytes, operations
from sdw_core.distill.state import LOOK_EVERY, Distilled, State
from sdw_core.distill.task import Task, state_noise
from sdw_core.errors import InputError, StopRequested
from sdw_core.files import sha256_of_json
from sdw_core.identity import METHOD
from sdw_core.policy import MLP
from sdw_core.progress import Measured, Progress, unheard
from sdw_core.resources import free_memory
from sdw_core.seeds import derive_seed, torch_generator


@dataclass(frozen=True)
class Visits:
    """Looks at the rows while they are distilled: returns along the way, rungs of a scheduler.

    Attributes:
        steps: numbers of outer steps that are done when the rows are visited.
        find: called with that number and the rows as they would be returned then; what it finds is
            kept in the checkpoint, so that no visit is made twice.
        key: a hash of all that what is found depends on beside the rows; a checkpoint of another
            key, or of other steps, is not used.
        found: told what was found at a visit: also, once more, what the checkpoint holds.
    """

    steps: frozenset[int]
    find: Callable[[int, Distilled], Tensor]
    key: str = ""
    found: Callable[[int, Tensor], None] = lambda step, found: None


@torch.inference_mode(False)
@torch.no_grad()
def distill(
    task: Task,
    config: DistillConfig,
    seed: int,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    visits: Visits | None = None,
    measured: Measured = unheard,
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
        checkpoint: a file that is written every `LOOK_EVERY` steps and resumed from if it is
            there.
        should_stop: asked after every outer step; True writes the checkpoint and raises.
        visits: looks at the rows on the way.
        measured: told the curves of `sdw_core/distill/curves.py`, where the device is looked at.

    Raises:
        DivergenceError: every distillation seed became non-finite.
        StopRequested: `should_stop` said so.
    """
    policy = MLP.build(task.states.shape[1], task.targets.shape[1], config.layers, config.width)
    if config.outer_steps:
        require_memory(config, policy, task.states.device)
    state = State.start(task, config, seed)
    if not config.outer_steps:
        return state.distilled()
    key = _key(task, config, seed, visits) if checkpoint else ""
    first = state.restore(checkpoint, key)
    curves = DistillCurves(state, config, measured)
    curves.told_up_to(first)
    if visits:
        for at, found in sorted(state.visited.items()):
            visits.found(at, found)

    with closing(_OuterStep(task, config, seed, policy, state)) as outer_step:
        for step in range(first, config.outer_steps):
            outer_step(step)
            done = step + 1
            if visits and done in visits.steps:
                state.require_sound(config)
                with curves.pausing():
                    state.visited[done] = visits.find(done, state.distilled())
                visits.found(done, state.visited[done])
            stopping = should_stop()
            if done % LOOK_EVERY == 0 or done == config.outer_steps or stopping:
                curves.look(done)
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
        self, task: Task, config: DistillConfig, seed: int, policy: MLP, state: State
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
                task.batch(
                    picks,
                    state_noise(
                        config.state_noise, config.meta_batch_size, generators, task.states
                    ),
                ),
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
    """Bytes of the engine of a configuration, and of the draws of initial parameters beside it."""
    shape = _shape(config, torch.empty(0))
    draws = config.seeds * (policy.size + 10 * max(policy.sizes) ** 2)
    return memory_bytes(policy, shape) + draws * shape.dtype.itemsize


def step_operations(config: DistillConfig, policy: MLP) -> float:
    """Floating-point operations of an outer step's hypergradient, in the mean over unrolls."""
    shape = _shape(config, torch.empty(0))
    shortest = config.inner_steps if config.truncation == "last" else shape.window
    return operations(policy, shape, (shortest + config.inner_steps) / 2)


def require_memory(config: DistillConfig, policy: MLP, device: torch.device) -> None:
    """Refuse a configuration whose engine cannot fit, before anything is allocated.

    Raises:
        InputError: the engine needs more than is free on the device.
    """
    need, free = engine_bytes(config, policy), free_memory(device)
    if need > free:
        raise InputError(
            f"The distillation needs {need / 1e9:.1f} GB on {device} and {free / 1e9:.1f} GB are "
            "free; lower `pipeline.distill.window`, `pipeline.distill.seeds`, "
            "`pipeline.distill.synthetic_size` or `pipeline.distill.meta_batch_size`."
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
