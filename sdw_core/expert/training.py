"""The training of an expert: step by step, followed, checkpointed and resumed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from sdw_core.checkpoint import restore_checkpoint, write_checkpoint
from sdw_core.errors import DivergenceError, StopRequested
from sdw_core.progress import Measured, Progress, points_between, unheard

CHECK_EVERY = 500
"""Steps between looks at the device: for divergence, and to write a checkpoint."""
TELL_EVERY = 50
"""Steps between words on progress."""
CURVE = "curve/"
"""What the names of curves begin with in a checkpoint."""


@dataclass(frozen=True)
class Training:
    """How a training is followed, kept and ended.

    Attributes:
        progress: told the fraction done.
        checkpoint: file that is written every `CHECK_EVERY` steps and resumed from if it is there;
            None keeps nothing.
        key: hash of all that a checkpoint depends on; one of another key is not used.
        should_stop: asked after every step; True writes the checkpoint and raises StopRequested.
        measured: told the losses that the learner's steps return, `expert/NAME` by step.
    """

    progress: Progress = lambda fraction: None
    checkpoint: Path | None = None
    key: str = ""
    should_stop: Callable[[], bool] = lambda: False
    measured: Measured = unheard


UNTENDED = Training()


class Learner(Protocol):
    """What is trained."""

    @property
    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        """They keep moments of what they change."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """All that a step changes, in place, besides the optimisers' moments."""
        ...

    def update(self, step: int) -> Mapping[str, Tensor] | None:
        """Take a step; what it draws depends on `step` alone, not on the steps taken here.

        Returns:
            Its losses by name, [], on the device; None: there are none to tell.
        """
        ...


def train(learner: Learner, steps: int, training: Training) -> None:
    """Take every step that the checkpoint does not hold yet.

    A training that resumes from its checkpoint ends, bit for bit, where an uninterrupted one on the
    same processor and threads ends.

    Raises:
        DivergenceError: something became non-finite.
        StopRequested: `training.should_stop` said so.
    """
    path = training.checkpoint
    optimizers = {str(i): optimizer for i, optimizer in enumerate(learner.optimizers)}
    first, stored = restore_checkpoint(path, training.key, optimizers)
    curves = _Curves(training.measured, stored)
    for name, tensor in stored.items():
        learner.tensors()[name].detach().copy_(tensor)
    for step in range(first, steps):
        losses = learner.update(step)
        done = step + 1
        if losses and any(points_between(step, done, steps)):
            curves.add(done, losses)
        stopping = training.should_stop()
        if done % CHECK_EVERY == 0 or done == steps or stopping:
            curves.tell()
            _require_finite(learner, done)
            if path:
                kept = learner.tensors() | curves.tensors()
                write_checkpoint(path, training.key, done, kept, optimizers)
        if done % TELL_EVERY == 0 or done == steps:
            training.progress(done / steps)
        if stopping:
            raise StopRequested(f"Stopped after {done} of {steps} steps of the expert.")


def _require_finite(learner: Learner, done: int) -> None:
    for name, tensor in learner.tensors().items():
        if not tensor.isfinite().all():
            raise DivergenceError(
                f"The expert diverged within {done} steps: {name} is not finite; lower the "
                "learning rates of `pipeline.expert`."
            )


class _Curves:
    """Losses of a training; new ones stay on the device until they are told.

    Args:
        measured: told them.
        stored: of a checkpoint; what it holds of curves is taken out, and told.
    """

    def __init__(self, measured: Measured, stored: dict[str, Tensor]) -> None:
        self._measured = measured
        self._told: dict[str, dict[int, float]] = {}
        self._new: dict[str, dict[int, Tensor]] = {}
        for key in [key for key in stored if key.startswith(CURVE)]:
            points = stored.pop(key)
            name = key.removeprefix(CURVE)
            self._told[name] = {int(step): float(value) for step, value in points}
            measured(f"expert/{name}", self._told[name])

    def add(self, step: int, losses: Mapping[str, Tensor]) -> None:
        for name, loss in losses.items():
            self._new.setdefault(name, {})[step] = loss.detach()

    def tell(self) -> None:
        for name, losses in self._new.items():
            points = dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True))
            self._told.setdefault(name, {}).update(points)
            self._measured(f"expert/{name}", points)
        self._new.clear()

    def tensors(self) -> dict[str, Tensor]:
        """What was told, [points, 2]: steps and values, for a checkpoint."""
        return {
            CURVE + name: torch.tensor(list(points.items()), dtype=torch.float64)
            for name, points in self._told.items()
        }
