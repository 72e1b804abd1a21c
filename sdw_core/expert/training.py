"""The training of an expert: step by step, followed, checkpointed and resumed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from sdw_core.checkpoint import restore_checkpoint, write_checkpoint
from sdw_core.errors import DivergenceError, StopRequested
from sdw_core.progress import Progress

CHECK_EVERY = 500
"""Steps between looks at the device: for divergence, and to write a checkpoint."""
TELL_EVERY = 50
"""Steps between words on progress."""


@dataclass(frozen=True)
class Training:
    """How a training is followed, kept and ended.

    Attributes:
        progress: told the fraction done.
        checkpoint: file that is written every `CHECK_EVERY` steps and resumed from if it is there;
            None keeps nothing.
        key: hash of all that a checkpoint depends on; one of another key is not used.
        should_stop: asked after every step; True writes the checkpoint and raises StopRequested.
    """

    progress: Progress = lambda fraction: None
    checkpoint: Path | None = None
    key: str = ""
    should_stop: Callable[[], bool] = lambda: False


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

    def update(self, step: int) -> None:
        """Take a step; what it draws depends on `step` alone, not on the steps taken here."""
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
    for name, tensor in stored.items():
        learner.tensors()[name].detach().copy_(tensor)
    for step in range(first, steps):
        learner.update(step)
        done = step + 1
        stopping = training.should_stop()
        if done % CHECK_EVERY == 0 or done == steps or stopping:
            _require_finite(learner, done)
            if path:
                write_checkpoint(path, training.key, done, learner.tensors(), optimizers)
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
