"""Percent behavioural cloning: imitate the episodes with the highest return.

The policy is cloned from the best episodes, as many as make up a fraction of the transitions (%BC
of "Decision Transformer", arXiv 2106.01345). Its action value is fitted to the discounted
Monte-Carlo returns-to-go of the whole dataset: the value of acting as the dataset does after
(s, a), which ranks states as Av-PBC needs it without bootstrapping.
"""

from collections.abc import Mapping
from math import cos, pi

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdw_core.config import PercentBCConfig
from sdw_core.errors import InputError
from sdw_core.expert import Demonstrations
from sdw_core.expert.networks import named, outputs, pack
from sdw_core.expert.training import UNTENDED, Training, train
from sdw_core.offline_dataset import OfflineDataset
from sdw_core.policy import MLP, Parameters
from sdw_core.resources import free_memory
from sdw_core.seeds import torch_generator

AVERAGING = 0.998
"""Decay of the moving average of the parameters."""


class PercentBC:
    """A cloned policy and a fitted action value.

    Attributes:
        policy: the parameters of a pack of networks, which act by the mean of their actions.
        value: a pack of one.
        value_scale: what the value network's output is multiplied by, in units of reward.
    """

    def __init__(self, policy: Parameters, value: Parameters, value_scale: Tensor) -> None:
        self.policy, self.value, self.value_scale = policy, value, value_scale

    @torch.no_grad()
    def actions(self, states: Tensor) -> Tensor:
        """See `Expert.actions`."""
        return outputs(self.policy, states, squash=True).mean(0)

    @torch.no_grad()
    def values(self, states: Tensor, actions: Tensor) -> Tensor:
        """See `Expert.values`."""
        return outputs(self.value, torch.cat([states, actions], -1))[0, :, 0] * self.value_scale

    def state(self) -> dict[str, Tensor]:
        """See `Expert.state`."""
        networks = named("policy", self.policy) | named("value", self.value)
        return networks | {"value_scale": self.value_scale}

    @classmethod
    def fit(
        cls, data: Demonstrations, config: PercentBCConfig, seed: int, training: Training
    ) -> "PercentBC":
        """See `fit_percent_bc`."""
        rows = cloned_rows(data.dataset, config)
        returns_to_go = data.returns_to_go(config.discount)
        return fit_percent_bc(
            data.states, data.actions, data.here(rows), returns_to_go, config, seed, training
        )

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "PercentBC":
        """The expert whose `state()` this is."""
        return cls(pack("policy", state), pack("value", state), state["value_scale"])


def best_episodes(
    returns: NDArray[np.float64],
    episode_ends: NDArray[np.int64],
    fraction: float,
    skipped: float = 0,
) -> NDArray[np.int64]:
    """The episodes with the highest return, which together hold `fraction` of the rows.

    At least one episode; ties go to the earlier one. The fraction is of the transitions and not of
    the episodes: where successes are few and long, and failures many and short, the best tenth of
    the episodes contains failures.

    Args:
        returns: of the episodes [E].
        episode_ends: row after the last one of each [E].
        fraction: of the rows.
        skipped: fraction of the rows whose episodes, the best ones, are left out.
    """
    order = np.argsort(-returns, kind="stable")
    held = np.cumsum(np.diff(episode_ends, prepend=0)[order])
    # Rows are whole, and 1 - 0.9 is a little less than 0.1.
    bounds = np.multiply((skipped, fraction), held[-1]).round(6)
    first, last = np.searchsorted(held, bounds, side="right")
    first = min(first, len(order) - 1)
    return order[first : max(first + 1, last)]


def best_rows(
    returns: NDArray[np.float64],
    episode_ends: NDArray[np.int64],
    fraction: float,
    skipped: float = 0,
) -> NDArray[np.int64]:
    """Rows of the `best_episodes`, the best one first."""
    starts = np.concatenate([[0], episode_ends[:-1]])
    chosen = best_episodes(returns, episode_ends, fraction, skipped)
    return np.concatenate([np.arange(starts[e], episode_ends[e]) for e in chosen])


def cloned_rows(dataset: OfflineDataset, config: PercentBCConfig) -> NDArray[np.int64]:
    """Rows of the episodes that the policy is cloned from, the best one first."""
    skipped, fraction = config.cloned
    return best_rows(dataset.episode_returns(), dataset.episode_ends, fraction, skipped)


def policy_bytes(config: PercentBCConfig, observations: int, actions: int) -> tuple[int, int]:
    """Bytes of all networks of the policy: as they are kept, and while they are trained.

    A training holds their gradients, moments, moving average and a copy in passing, and thrice the
    activations of a batch.
    """
    network = MLP.build(observations, actions, config.layers, config.width)
    kept = 4 * config.ensemble * network.size
    return kept, 6 * kept + 12 * config.ensemble * config.batch_size * sum(network.sizes)


def operations(config: PercentBCConfig, observations: int, actions: int) -> float:
    """Floating-point operations of the training of both networks."""
    policy = MLP.build(observations, actions, config.layers, config.width)
    value = MLP.build(observations + actions, 1, config.layers, config.width)
    cloning = config.ensemble * config.steps * policy.size
    return 6.0 * config.batch_size * (cloning + config.value_steps * value.size)


def require_memory(
    config: PercentBCConfig, observations: int, actions: int, device: torch.device
) -> None:
    """Refuse networks whose training cannot fit, before anything is allocated.

    Raises:
        InputError: they need more than is free on the device.
    """
    need, free = policy_bytes(config, observations, actions)[1], free_memory(device)
    if need > free:
        raise InputError(
            f"The expert's {config.ensemble} networks need {need / 1e9:.1f} GB on {device} and "
            f"{free / 1e9:.1f} GB are free; lower `pipeline.expert.ensemble`, "
            "`pipeline.expert.width` or `pipeline.expert.batch_size`."
        )


def fit_percent_bc(
    states: Tensor,
    actions: Tensor,
    selected: Tensor,
    returns_to_go: Tensor,
    config: PercentBCConfig,
    seed: int,
    training: Training = UNTENDED,
) -> PercentBC:
    """Clone the selected rows, and fit the action value to every row.

    Args:
        states: z [N, O], normalised.
        actions: a [N, A] in [-1, 1].
        selected: indices of the rows of the best episodes.
        returns_to_go: discounted sum of the rewards from each row on [N].
        config: sizes and steps.
        seed: root seed; stage "expert".
        training: how it is followed, kept and ended.

    Raises:
        InputError: the networks need more memory than is free.
        DivergenceError: a network became non-finite.
        StopRequested: the training was asked to stop.
    """
    observations, width = states.shape[1], actions.shape[1]
    require_memory(config, observations, width, states.device)
    policy = MLP.build(observations, width, config.layers, config.width)
    value = MLP.build(observations + width, 1, config.layers, config.width, squash=False)
    scale = returns_to_go.square().mean().sqrt().clamp_min(1e-6)
    both = torch.cat([states, actions], -1)
    fitting = torch_generator(seed, "expert", 1)
    cloning = [torch_generator(seed, "expert", 0, member) for member in range(config.ensemble)]
    learner = _Regressions(
        _Regression(policy, states[selected], actions[selected], config.steps, config, cloning),
        _Regression(
            value, both, (returns_to_go / scale)[:, None], config.value_steps, config, [fitting]
        ),
    )
    train(learner, config.steps + config.value_steps, training)
    return PercentBC(learner.policy.average, learner.value.average, scale)


class _Regression:
    """Least squares by Adam on random mini-batches, and a moving average of the parameters.

    A network a generator, each with an initialisation and mini-batches of its own. The policy of a
    single last iterate may fall where those of its neighbours walk; the policy of the average does
    not.
    """

    def __init__(
        self,
        network: MLP,
        inputs: Tensor,
        targets: Tensor,
        steps: int,
        config: PercentBCConfig,
        generators: list[torch.Generator],
    ) -> None:
        self._network, self._inputs, self._targets = network, inputs, targets
        self._batch_size = config.batch_size
        self._generators = generators
        self._drawn = 0
        initial = network.initial_parameters(generators)
        self.parameters = [p.to(inputs.device).requires_grad_() for p in initial]
        self.average = [p.detach().clone() for p in self.parameters]
        self.optimizer = torch.optim.Adam(self.parameters)
        self._rates = cosine_rates(config.learning_rate, steps)
        self.steps = steps

    def update(self, step: int) -> Tensor:
        picks = self._picks(step).to(self._inputs.device)
        error = self._network(self.parameters, self._inputs[picks]) - self._targets[picks]
        self.optimizer.param_groups[0]["lr"] = self._rates[step]
        self.optimizer.zero_grad()
        losses = error.square().mean((1, 2))
        losses.sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        for mean, p in zip(self.average, self.parameters, strict=True):
            mean.lerp_(p.detach(), max(1 - AVERAGING, 1 / (step + 1)))
        return losses.detach().mean()

    def _picks(self, step: int) -> Tensor:
        """Rows of a step [P, B], drawn in sequence: a resumed training draws past those before."""
        while self._drawn <= step:
            rows, size = len(self._inputs), (self._batch_size,)
            picks = [torch.randint(rows, size, generator=g) for g in self._generators]
            self._drawn += 1
        return torch.stack(picks)


class _Regressions:
    """The policy's regression, then the value's."""

    def __init__(self, policy: _Regression, value: _Regression) -> None:
        self.policy, self.value = policy, value
        self.optimizers = (policy.optimizer, value.optimizer)

    def tensors(self) -> dict[str, Tensor]:
        return {
            **named("policy", self.policy.parameters),
            **named("policy_average", self.policy.average),
            **named("value", self.value.parameters),
            **named("value_average", self.value.average),
        }

    def update(self, step: int) -> dict[str, Tensor]:
        if step < self.policy.steps:
            return {"policy_loss": self.policy.update(step)}
        return {"value_loss": self.value.update(step - self.policy.steps)}


def cosine_rates(rate: float, steps: int) -> list[float]:
    """Learning rates of the steps, from `rate` along a half cosine towards zero.

    Each follows from the one before, as in torch's CosineAnnealingLR, and so rounds as that does.
    """
    rates = [rate]
    for step in range(1, steps):
        ratio = (1 + cos(pi * step / steps)) / (1 + cos(pi * (step - 1) / steps))
        rates.append(ratio * rates[-1])
    return rates
