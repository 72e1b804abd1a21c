"""The curves of a distillation, by outer step.

distill/meta_loss                 of that step: of one initialisation and one batch
distill/meta_loss_smoothed        mean over the stretch of steps that ends there; see `stability.py`
distill/hypergradient_norm        of the rows, before any limit
distill/inner_learning_rate_L     of layer L
distill/outer_steps_per_second    since the look before, without evaluations on the way

Each is a mean over the distillation seeds that are finite there, geometric for learning rates. No
step waits for the host: values stay on the device until the loop looks at it, every `LOOK_EVERY`
steps. Whatever was told up to a checkpoint can be told again from it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import torch
from torch import Tensor

from sdw_core.config import DistillConfig
from sdw_core.distill.stability import stretch
from sdw_core.distill.state import LOOK_EVERY, State
from sdw_core.progress import Measured, points_between


class DistillCurves:
    """Tells the curves of a state as its steps are done.

    Args:
        state: what the outer steps change.
        config: how many there are.
        measured: told the curves.
    """

    def __init__(self, state: State, config: DistillConfig, measured: Measured) -> None:
        self._state, self._steps, self._measured = state, config.outer_steps, measured
        self._told = 0
        self._since = perf_counter()

    def look(self, done: int) -> None:
        """Tell what the steps since the last look measured; `done` steps are done."""
        seconds = perf_counter() - self._since
        pace = torch.tensor([(done - self._told) / seconds])
        rates = self._state.log_rates.mean(0).exp().cpu()
        self._state.looks[(done - 1) // LOOK_EVERY] = torch.cat([pace, rates])
        self.told_up_to(done)

    def told_up_to(self, done: int) -> None:
        """Tell what is known of the steps that were not told yet."""
        first, self._told = self._told, done
        self._since = perf_counter()
        if done == first:
            return
        length = stretch(self._steps)
        before = max(0, first - length)
        both = torch.stack([t[:, before:done] for t in (self._state.losses, self._state.norms)])
        losses, norms = both.double().cpu()
        at = {step: step - before for step in points_between(first, done, self._steps)}
        self._tell("meta_loss", {s: _mean(losses[:, i - 1]) for s, i in at.items()})
        self._tell(
            "meta_loss_smoothed",
            {s: _mean(losses[:, max(0, i - length) : i]) for s, i in at.items()},
        )
        self._tell("hypergradient_norm", {s: _mean(norms[:, i - 1]) for s, i in at.items()})
        looks = range(first // LOOK_EVERY, -(-done // LOOK_EVERY))
        ends = {min((look + 1) * LOOK_EVERY, done): self._state.looks[look] for look in looks}
        for layer in range(1, self._state.looks.shape[1]):
            name = f"inner_learning_rate_{layer}"
            self._tell(name, {step: float(look[layer]) for step, look in ends.items()})
        self._tell("outer_steps_per_second", {step: float(look[0]) for step, look in ends.items()})

    def _tell(self, name: str, points: dict[int, float]) -> None:
        self._measured(f"distill/{name}", points)

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Work between steps, whose time is not theirs."""
        start = perf_counter()
        try:
            yield
        finally:
            self._since += perf_counter() - start


def _mean(values: Tensor) -> float:
    """Of the finite ones; nan where there is none."""
    return float(values[values.isfinite()].mean())
