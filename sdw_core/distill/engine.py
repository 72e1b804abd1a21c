"""What a hypergradient engine is given and what it returns.

An engine differentiates the meta-loss H of a trained policy with respect to the rows that it was
trained on. `generic.py` is the readable one, for any policy; every engine passes the conformance
suite in `tests/sdw_core/test_engines.py`.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from sdw_core.policy import Parameters


@dataclass(frozen=True)
class Rows:
    """Synthetic rows of P problems, padded to the largest.

    Attributes:
        observations: x [P, n, O], normalised states.
        actions: y [P, n, A], in units of the action range [-1, 1].
        weights: r [P, n]; 1 / size on a problem's rows, 0 on padding.
    """

    observations: Tensor
    actions: Tensor
    weights: Tensor


@dataclass(frozen=True)
class MetaBatch:
    """States that the trained policies are judged on.

    Attributes:
        states: s [P, B, O], normalised.
        targets: target(s) [P, B, A].
        weights: w(s) c(s) [P, B].
    """

    states: Tensor
    targets: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Hypergradient:
    """The meta-loss of P problems and its gradients.

    Attributes:
        loss: H [P].
        observations: dH/dx [P, n, O].
        actions: dH/dy [P, n, A].
        learning_rates: dH/dalpha [P, L].
    """

    loss: Tensor
    observations: Tensor
    actions: Tensor
    learning_rates: Tensor


class Engine(Protocol):
    """Back-propagation through an unrolled behavioural cloning."""

    def hypergradient(
        self,
        parameters: Parameters,
        rows: Rows,
        learning_rates: Tensor,
        batch: MetaBatch,
        steps: int,
        window: int,
    ) -> Hypergradient:
        """Gradient of `H(theta_T)` with respect to rows and learning rates.

        Inner:  theta_{t+1} = theta_t - alpha_l * grad l(theta_t; x, y),  t = 0 .. T-1
        Outer:  H = mean_{s in B} w(s) c(s) (1/A) || pi_{theta_T}(s) - target(s) ||^2

        Args:
            parameters: theta_0 of the pack; not changed.
            rows: x, y and r.
            learning_rates: alpha [P, L], one a linear layer.
            batch: B.
            steps: T; 0 gives zero gradients.
            window: how many of the last inner steps are differentiated; theta_{T-window} counts as
                a constant. `window = T` is exact; memory grows with the window.
        """
        ...
