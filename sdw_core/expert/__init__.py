"""Experts: the near-optimal policy pi* and its action value q*, extracted from a dataset.

Every expert satisfies the protocol below and the conformance suite in
`tests/sdw_core/test_experts.py`. `sdw_core.registry.EXPERTS` names them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdw_core.errors import InputError
from sdw_core.offline_dataset import OfflineDataset
from sdw_core.registry import EXPERTS
from sdw_core.validation import shown


class Expert(Protocol):
    """pi* and q* over normalised states and unit actions.

    A class method `fit` makes one of what it asks for by name: `data` (see `Demonstrations`),
    `config` (the section `expert`), `seed`, `training` (see `training.py`), `checkpoint` (the file
    of `method: checkpoint`), and its options.
    """

    def actions(self, states: Tensor) -> Tensor:
        """pi*(s): states [N, O], normalised -> actions [N, A] in [-1, 1]."""
        ...

    def values(self, states: Tensor, actions: Tensor) -> Tensor:
        """q*(s, a): [N, O], [N, A] -> discounted returns [N], in units of reward."""
        ...

    def state(self) -> dict[str, Tensor]:
        """The tensors that `from_state` of the same class restores."""
        ...

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """The expert whose `state()` this is; other names may be among it."""
        ...


@dataclass(frozen=True, eq=False)
class Demonstrations:
    """A dataset as experts see it: normalised states, unit actions, on the device to work on.

    Attributes:
        dataset: the source, in its own units.
        states: z [N, O].
    """

    dataset: OfflineDataset
    states: Tensor

    @property
    def actions(self) -> Tensor:
        """The dataset's actions [N, A], in [-1, 1]."""
        return self.here(self.dataset.unit_actions)

    @property
    def rewards(self) -> Tensor:
        """r [N]."""
        return self.here(self.dataset.rewards)

    @property
    def next_states(self) -> Tensor:
        """z' [N, O]; see `OfflineDataset.next_observations`."""
        return self.here(self.dataset.units.normalized_states(self.dataset.next_observations))

    @property
    def terminated(self) -> Tensor:
        """1.0 where the environment ended the episode, else 0.0 [N]."""
        return self.here(self.dataset.terminated.astype(np.float32))

    def returns_to_go(self, discount: float) -> Tensor:
        """Discounted sum of the rewards from each row on, within its episode [N]."""
        return self.here(self.dataset.returns_to_go(discount).astype(np.float32))

    def here(self, array: NDArray[Any]) -> Tensor:
        """An array on the device to work on: a copy, for an expert may work in place."""
        return torch.tensor(array, device=self.states.device)


def tensors_of(
    method: str, expert: Expert, fresh: Callable[[], Tensor], dataset: OfflineDataset
) -> dict[str, Tensor]:
    """`actions` pi*(s) [N, A] and `values` q*(s, pi*(s)) [N] of a dataset, and the `state()`.

    Args:
        method: its name.
        expert: the expert.
        fresh: makes the dataset's states [N, O], normalised, anew: an expert may work in place.
        dataset: the source.

    Raises:
        InputError: they are not what the protocol says, or a tensor's name is taken.
        SDWError: a user's own expert failed.
    """
    with EXPERTS.running(method):
        found, state = expert.actions(fresh()), expert.state()
    actions = EXPERTS.numbers(method, "actions", found, dataset.actions.shape)
    with EXPERTS.running(method):
        found = expert.values(fresh(), actions.clone())
    values = EXPERTS.numbers(method, "values", found, dataset.rewards.shape)
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise InputError(
            f"The expert `{method}` must give tensors by their names as its `state()`, and gives "
            f"{shown(state)}; correct it."
        )
    if kept := {"actions", "values", "returns"} & state.keys():
        raise InputError(
            f"The expert `{method}` has a tensor named {sorted(kept)[0]!r} in its `state()`, which "
            "is kept beside others of that name; give it another one."
        )
    return {"actions": actions, "values": values, **state}
