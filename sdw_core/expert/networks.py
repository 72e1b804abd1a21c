"""What experts are made of: packs of MLPs, applied to as many states as there are."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sdw_core.policy import MLP, Parameters

CHUNK = 65536
"""Rows a forward pass, those of all networks counted."""


def outputs(parameters: Parameters, inputs: Tensor, squash: bool = False) -> Tensor:
    """Outputs [P, N, out] of a pack at inputs [N, in], all networks at the same ones."""
    network = MLP.of(parameters, squash)
    rows = max(1, CHUNK // len(parameters[0]))
    chunks = [network(parameters, chunk[None]) for chunk in torch.split(inputs, rows)]
    return torch.cat(chunks, 1)


def named(name: str, parameters: Parameters) -> dict[str, Tensor]:
    """The pack's tensors under names that `pack` finds."""
    return {f"{name}.{i}": p for i, p in enumerate(parameters)}


def pack(name: str, tensors: Mapping[str, Tensor]) -> Parameters:
    """Undoes `named`."""
    count = sum(key.startswith(f"{name}.") for key in tensors)
    return [tensors[f"{name}.{i}"] for i in range(count)]


class ActorCritic:
    """A tanh-Gaussian actor, used at its mean, and the smaller of two critics.

    Attributes:
        actor: a pack of one: state [O] -> mean and log standard deviation, [2 A].
        critics: a pack of two: state and action [O + A] -> action value [1].
        scale, shift: [O]; the networks see `scale * z + shift` of a normalised state z.
    """

    def __init__(
        self, actor: Parameters, critics: Parameters, scale: Tensor, shift: Tensor
    ) -> None:
        self.actor, self.critics, self.scale, self.shift = actor, critics, scale, shift

    @torch.no_grad()
    def actions(self, states: Tensor) -> Tensor:
        """See `Expert.actions`."""
        mean, _ = outputs(self.actor, self._seen(states))[0].chunk(2, -1)
        return torch.tanh(mean)

    @torch.no_grad()
    def values(self, states: Tensor, actions: Tensor) -> Tensor:
        """See `Expert.values`."""
        inputs = torch.cat([self._seen(states), actions], -1)
        return outputs(self.critics, inputs)[..., 0].amin(0)

    def _seen(self, states: Tensor) -> Tensor:
        return self.scale * states + self.shift

    def state(self) -> dict[str, Tensor]:
        """See `Expert.state`."""
        networks = named("actor", self.actor) | named("critics", self.critics)
        return networks | {"scale": self.scale, "shift": self.shift}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "ActorCritic":
        """The expert whose `state()` this is."""
        return cls(pack("actor", state), pack("critics", state), state["scale"], state["shift"])
