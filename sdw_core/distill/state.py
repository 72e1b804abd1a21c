"""What an outer step changes: rows, learning rates, their averages and moments; its checkpoint."""

from dataclasses import dataclass, field
from math import ceil, log, nan, pi
from pathlib import Path

import torch
from torch import Tensor

from sdw_core.checkpoint import restore_checkpoint, write_checkpoint
from sdw_core.config import DistillConfig
from sdw_core.distill.engine import Hypergradient
from sdw_core.distill.task import Task, initial_rows
from sdw_core.errors import DivergenceError

LOOK_EVERY = 50
"""Outer steps between looks at the device: for divergence, for a checkpoint, for the curves."""
LOWEST = 0.03
"""What is left of the outer learning rates at the end of `outer_schedule: cosine`."""
HISTORY = 0.05
"""Share of a step in the moving average of the hypergradient's norm."""
_TENSORS = (
    *("observations", "actions", "log_rates"),
    *("mean_observations", "mean_actions", "mean_log_rates"),
    *("losses", "norms", "diverged_at", "lost_loss", "usual_norms", "looks"),
)


@dataclass(frozen=True, eq=False)
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


@dataclass
class State:
    """What an outer step changes, in place and on the device; no step waits for the host.

    Attributes:
        done: outer steps that are done, [1].
        observations, actions: x [S, n, O] and y [S, n, A].
        log_rates: logarithm of the inner learning rates [S, L].
        mean_observations, mean_actions, mean_log_rates: moving averages over the steps.
        losses: [S, steps].
        norms: of the hypergradients of the rows [S, steps]; nan where none is known.
        diverged_at: [S] the step at which a problem became non-finite; 0: it is sound.
        lost_loss: [S] whether its loss was not finite then, or only its gradient was not.
        usual_norms: [S] moving average of the hypergradient's norm, for `max_gradient_ratio`.
        looks: on the host, of every look at the device [looks, 1 + L]: outer steps a second since
            the look before, and the inner learning rates; nan where there was none.
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
    norms: Tensor
    diverged_at: Tensor
    lost_loss: Tensor
    usual_norms: Tensor
    looks: Tensor
    optimizer: torch.optim.Optimizer
    rate_optimizer: torch.optim.Optimizer
    visited: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def start(cls, task: Task, config: DistillConfig, seed: int) -> "State":
        """Before the first step: the rows that are chosen, every learning rate `inner_lr`."""
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
            torch.full_like(losses, nan),
            diverged_at,
            diverged_at.to(torch.bool),
            losses.new_zeros(config.seeds),
            torch.full((ceil(config.outer_steps / LOOK_EVERY), 1 + config.layers), nan),
            optimizer,
            _adam([log_rates], config.rate_lr),
        )

    def update(self, gradient: Hypergradient, config: DistillConfig) -> None:
        """Follow the hypergradient; a problem that is not finite ends here, the others go on."""
        norms = gradient.observations.square().sum((1, 2)) + gradient.actions.square().sum((1, 2))
        norms = norms.sqrt()
        self.losses.index_copy_(1, self.done, gradient.loss[:, None])
        self.norms.index_copy_(1, self.done, norms[:, None])
        self.done.add_(1)
        finite_loss = torch.isfinite(gradient.loss)
        ended = ~(finite_loss & torch.isfinite(norms)) & (self.diverged_at == 0)
        self.diverged_at.copy_(torch.where(ended, self.done, self.diverged_at))
        self.lost_loss.logical_or_(ended & ~finite_loss)
        sound = self.diverged_at == 0
        calmed = self._calmed(norms, config.max_gradient_ratio)
        scale = calmed
        if config.max_gradient_norm is not None:
            scale = (config.max_gradient_norm / norms.clamp_min(1e-12)).clamp_max(calmed)
        for variable, value in (
            (self.observations, gradient.observations),
            (self.actions, gradient.actions),
        ):
            scaled = value * scale[:, None, None]
            variable.grad = torch.where(sound[:, None, None], scaled, torch.zeros_like(scaled))
        rate_gradient = gradient.learning_rates * self.log_rates.exp() * calmed[:, None]
        self.log_rates.grad = torch.where(
            sound[:, None], rate_gradient, torch.zeros_like(rate_gradient)
        )
        cosine = config.outer_schedule == "cosine"
        before = [variable.clone() for variable in self._variables] if cosine else []
        self.optimizer.step()
        self.rate_optimizer.step()
        if cosine:  # an optimiser's step is proportional to its rate
            scale = self._cosine(config.outer_steps).to(norms.dtype)
            for variable, old in zip(self._variables, before, strict=True):
                variable.copy_(old.lerp(variable, scale))
        share = self.done.double().reciprocal().clamp_min(1 - config.averaging).to(norms.dtype)
        self.mean_observations.lerp_(self.observations, share)
        self.mean_actions.lerp_(self.actions, share)
        self.mean_log_rates.lerp_(self.log_rates, share)

    def _calmed(self, norms: Tensor, most: float | None) -> Tensor:
        """What scales outliers among hypergradients down to `most` times their usual norm, [S]."""
        if most is None:
            return torch.ones_like(norms)
        usual = torch.where(self.usual_norms == 0, norms, self.usual_norms)
        kept = torch.minimum(norms, most * usual)
        self.usual_norms.copy_(usual.lerp(kept, HISTORY))
        return kept / norms.clamp_min(1e-12)

    def _cosine(self, steps: int) -> Tensor:
        """Half a cosine from 1 at the first step to `LOWEST` after the last, [1]."""
        passed = (self.done - 1).double() / steps
        return LOWEST + (1 - LOWEST) * (1 + (passed * pi).cos()) / 2

    @property
    def _variables(self) -> list[Tensor]:
        return [self.observations, self.actions, self.log_rates]

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
                f"Distillation diverged: {diverged[0]}; lower `pipeline.distill.inner_lr` (now "
                f"{config.inner_lr:g}) or `pipeline.distill.outer_lr` (now {config.outer_lr:g})."
            )

    def save(self, path: Path, key: str, step: int) -> None:
        """Write a checkpoint under `key`, after `step` outer steps."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        visited = {f"visited/{at}": found for at, found in self.visited.items()}
        write_checkpoint(path, key, step, tensors | visited, self._optimizers)

    def restore(self, path: Path | None, key: str) -> int:
        """Take everything over from a checkpoint; returns the outer steps that are done."""
        step, stored = restore_checkpoint(path, key, self._optimizers)
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
