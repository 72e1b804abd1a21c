"""Percent behavioural cloning: imitate the episodes with the highest return.

The policy is cloned from the best episodes, as many as make up a fraction of the transitions (%BC
of "Decision Transformer", arXiv 2106.01345). Its action value is fitted to the discounted
Monte-Carlo returns-to-go of the whole dataset: the value of acting as the dataset does after
(s, a), which ranks states as Av-PBC needs it without bootstrapping.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdw_core.config import ExpertConfig
from sdw_core.policy import MLP, Parameters
from sdw_core.seeds import torch_generator

CHUNK = 65536
"""Rows a forward pass over the whole dataset."""
AVERAGING = 0.998
"""Decay of the moving average of the parameters."""


class PercentBC:
    """A cloned policy and a fitted action value.

    Attributes:
        policy, value: the networks' parameters, packs of one.
    """

    def __init__(
        self, layers: int, width: int, policy: Parameters, value: Parameters, value_scale: Tensor
    ) -> None:
        observations, actions = policy[0].shape[1], policy[-1].shape[-1]
        self._policy = MLP.build(observations, actions, layers, width)
        self._value = MLP.build(observations + actions, 1, layers, width, squash=False)
        self.policy, self.value, self._value_scale = policy, value, value_scale

    @torch.no_grad()
    def actions(self, states: Tensor) -> Tensor:
        """See `Expert.actions`."""
        chunks = [self._policy(self.policy, chunk[None])[0] for chunk in torch.split(states, CHUNK)]
        return torch.cat(chunks)

    @torch.no_grad()
    def values(self, states: Tensor, actions: Tensor) -> Tensor:
        """See `Expert.values`."""
        inputs = torch.cat([states, actions], -1)
        chunks = [
            self._value(self.value, chunk[None])[0, :, 0] for chunk in torch.split(inputs, CHUNK)
        ]
        return torch.cat(chunks) * self._value_scale

    def state(self) -> dict[str, Tensor]:
        """See `Expert.state`."""
        return {
            **{f"policy.{i}": p for i, p in enumerate(self.policy)},
            **{f"value.{i}": p for i, p in enumerate(self.value)},
            "value_scale": self._value_scale,
        }

    @classmethod
    def from_state(cls, state: dict[str, Tensor], config: ExpertConfig) -> "PercentBC":
        """The expert whose `state()` this is."""
        policy, value = (
            [state[f"{name}.{i}"] for i in range(2 * config.layers)] for name in ("policy", "value")
        )
        return cls(config.layers, config.width, policy, value, state["value_scale"])


def best_rows(
    returns: NDArray[np.float64], episode_ends: NDArray[np.int64], fraction: float
) -> NDArray[np.int64]:
    """Rows of the episodes with the highest return, which together hold `fraction` of the rows.

    At least one episode; ties go to the earlier one. Counting transitions and not episodes keeps
    a dataset of many short failures and a few long successes from lending its failures.
    """
    starts = np.concatenate([[0], episode_ends[:-1]])
    order = np.argsort(-returns, kind="stable")
    held = np.cumsum((episode_ends - starts)[order])
    count = max(1, int(np.searchsorted(held, fraction * episode_ends[-1], side="right")))
    return np.concatenate([np.arange(starts[e], episode_ends[e]) for e in order[:count]])


def fit_percent_bc(
    states: Tensor,
    actions: Tensor,
    selected: Tensor,
    returns_to_go: Tensor,
    config: ExpertConfig,
    seed: int,
    progress: Callable[[float], None] | None = None,
) -> PercentBC:
    """Clone the selected rows, and fit the action value to every row.

    Args:
        states: z [N, O], normalised.
        actions: a [N, A] in [-1, 1].
        selected: indices of the rows of the best episodes.
        returns_to_go: discounted sum of the rewards from each row on [N].
        config: sizes and steps.
        seed: root seed; stage "expert".
        progress: told the fraction done.
    """
    policy = MLP.build(states.shape[1], actions.shape[1], config.layers, config.width)
    value = MLP.build(
        states.shape[1] + actions.shape[1], 1, config.layers, config.width, squash=False
    )
    scale = returns_to_go.square().mean().sqrt().clamp_min(1e-6)
    total = config.steps + config.value_steps

    def report(done: int) -> None:
        if progress and done % 50 == 0:
            progress(done / total)

    cloned = _regress(
        policy, states[selected], actions[selected], config, config.steps, seed, 0, report
    )
    fitted = _regress(
        value,
        torch.cat([states, actions], -1),
        (returns_to_go / scale)[:, None],
        config,
        config.value_steps,
        seed,
        1,
        lambda done: report(config.steps + done),
    )
    return PercentBC(config.layers, config.width, cloned, fitted, scale)


def _regress(
    network: MLP,
    inputs: Tensor,
    targets: Tensor,
    config: ExpertConfig,
    steps: int,
    seed: int,
    stream: int,
    report: Callable[[int], None],
) -> Parameters:
    """Least squares by Adam on random mini-batches; returns a moving average of the parameters.

    A single last iterate may fall where its neighbours walk; the average does not.
    """
    generator = torch_generator(seed, "expert", stream)
    parameters = network.initial_parameters([generator])
    parameters = [p.to(inputs.device).requires_grad_() for p in parameters]
    optimizer = torch.optim.Adam(parameters, lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    average = [p.detach().clone() for p in parameters]
    for step in range(steps):
        picks = torch.randint(len(inputs), (config.batch_size,), generator=generator)
        picks = picks.to(inputs.device)
        error = network(parameters, inputs[picks][None])[0] - targets[picks]
        optimizer.zero_grad()
        error.square().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        for mean, p in zip(average, parameters, strict=True):
            mean.lerp_(p.detach(), max(1 - AVERAGING, 1 / (step + 1)))
        report(step + 1)
    return average
