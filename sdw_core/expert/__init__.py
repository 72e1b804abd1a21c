"""Experts: the near-optimal policy pi* and its action value q*, extracted from a dataset.

Every expert satisfies the protocol below and the conformance suite in
`tests/sdw_core/test_experts.py`.
"""

from typing import Protocol

from torch import Tensor


class Expert(Protocol):
    """pi* and q* over normalised states and unit actions."""

    def actions(self, states: Tensor) -> Tensor:
        """pi*(s): states [N, O], normalised -> actions [N, A] in [-1, 1]."""
        ...

    def values(self, states: Tensor, actions: Tensor) -> Tensor:
        """q*(s, a): [N, O], [N, A] -> discounted returns [N], in units of reward."""
        ...

    def state(self) -> dict[str, Tensor]:
        """The tensors that `from_state` of the same class restores."""
        ...
