"""The training of an expert: step by step, followed, checkpointed and resumed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sdw_core.errors import DivergenceError, StopRequested
from sdw_core.files import replaced_atomically

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

    progress: Callable[[float], None] = lambda fraction: None
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
    first = _restore(learner, path, training.key) if path and path.exists() else 0
    for step in range(first, steps):
        learner.update(step)
        done = step + 1
        stopping = training.should_stop()
        if done % CHECK_EVERY == 0 or done == steps or stopping:
            _require_finite(learner, done)
            if path:
                _save(learner, path, training.key, done)
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


def _save(learner: Learner, path: Path, key: str, step: int) -> None:
    tensors = {name: tensor.detach() for name, tensor in learner.tensors().items()}
    for owner, optimizer in enumerate(learner.optimizers):
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{owner}.{index}.{name}": m for name, m in moments.items()}
    with replaced_atomically(path) as scratch:
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            scratch,
            {"key": key, "step": str(step)},
        )


@torch.no_grad()
def _restore(learner: Learner, path: Path, key: str) -> int:
    """Take everything over from a checkpoint; returns the steps that are done.

    A checkpoint that is damaged or of another key is not used: nothing is done yet then.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return 0
    if metadata.get("key") != key:
        return 0
    for name, tensor in learner.tensors().items():
        tensor.copy_(stored.pop(name))
    moments: list[dict[int, dict[str, Tensor]]] = [{} for _ in learner.optimizers]
    for name, tensor in stored.items():
        _, owner, index, moment = name.split(".")
        moments[int(owner)].setdefault(int(index), {})[moment] = tensor
    for optimizer, state in zip(learner.optimizers, moments, strict=True):
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return int(metadata["step"])
