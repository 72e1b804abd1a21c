"""Packs of deterministic policies: P networks of one architecture, applied as batched products."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

Parameters = list[Tensor]
"""[W_0, b_0, W_1, b_1, ...] of a pack: W_l is [P, in, out], b_l is [P, 1, out]."""


@dataclass(frozen=True)
class MLP:
    """`pi_theta(z) = tanh(h_L)`, `h_{l+1} = relu(h_l W_l + b_l)`, no relu after the last product.

    Attributes:
        sizes: (state dimensions, hidden units..., action dimensions).
        squash: False leaves out the tanh (an action value instead of an action).
    """

    sizes: tuple[int, ...]
    squash: bool = True

    @classmethod
    def build(
        cls, inputs: int, outputs: int, layers: int, width: int, squash: bool = True
    ) -> "MLP":
        """A network of `layers` linear layers, the hidden ones `width` units wide."""
        return cls((inputs, *[width] * (layers - 1), outputs), squash)

    @property
    def layers(self) -> int:
        """Linear layers."""
        return len(self.sizes) - 1

    @property
    def size(self) -> int:
        """Parameters of one network."""
        return sum((i + 1) * o for i, o in zip(self.sizes, self.sizes[1:], strict=False))

    def initial_parameters(self, generators: Sequence[torch.Generator]) -> Parameters:
        """Orthogonal weights (gain sqrt(2), the last layer 1) and zero biases, one network each.

        A network's draw depends on its own generator only, not on the pack it is drawn with.
        """
        parameters: Parameters = []
        pairs = list(zip(self.sizes, self.sizes[1:], strict=False))
        for layer, (fan_in, fan_out) in enumerate(pairs):
            gain = 1.0 if layer == self.layers - 1 else sqrt(2)
            rows, columns = max(fan_in, fan_out), min(fan_in, fan_out)
            normal = torch.stack(
                [torch.randn(rows, columns, generator=g, device=g.device) for g in generators]
            )
            q, r = torch.linalg.qr(normal)
            q = q * torch.diagonal(r, dim1=-2, dim2=-1).sign().unsqueeze(-2)
            weight = gain * (q if fan_in >= fan_out else q.mT)
            parameters += [weight.contiguous(), weight.new_zeros(len(generators), 1, fan_out)]
        return parameters

    def __call__(self, parameters: Sequence[Tensor], inputs: Tensor) -> Tensor:
        """Outputs [P, rows, out] of inputs [P, rows, in]; or, for one network, without the P."""
        hidden = inputs
        for layer in range(self.layers):
            hidden = hidden @ parameters[2 * layer] + parameters[2 * layer + 1]
            if layer < self.layers - 1:
                hidden = torch.relu(hidden)
        return torch.tanh(hidden) if self.squash else hidden


def cloning_loss(actions: Tensor, targets: Tensor, row_weights: Tensor) -> Tensor:
    """Weighted mean-square error `sum_i r_i (1/A) || pi(x_i) - y_i ||^2`, [P, n, A] -> [P].

    The row weights r [P, n] of a problem sum to one; padding rows weigh nothing.
    """
    return ((actions - targets).square().mean(-1) * row_weights).sum(-1)


def clone(
    policy: MLP,
    parameters: Parameters,
    observations: Tensor,
    actions: Tensor,
    row_weights: Tensor,
    learning_rates: Tensor,
    steps: int,
) -> Parameters:
    """Behavioural cloning by full-batch gradient descent, every network on its own rows.

    `theta <- theta - alpha_l * grad_theta l(theta; x, y)`, `steps` times: the inner loop of the
    distillation, run forward only.

    Args:
        policy: the architecture.
        parameters: the pack's initial parameters; they are not changed.
        observations: x [P, n, O], normalised.
        actions: y [P, n, A], in [-1, 1].
        row_weights: r [P, n], summing to one.
        learning_rates: alpha [P, L], one a linear layer.
        steps: T.
    """
    parameters = [p.detach() for p in parameters]
    rates = [learning_rates[:, layer // 2, None, None] for layer in range(len(parameters))]
    for _ in range(steps):
        variables = [p.requires_grad_() for p in parameters]
        with torch.enable_grad():
            loss = cloning_loss(policy(variables, observations), actions, row_weights).sum()
            gradients = torch.autograd.grad(loss, variables)
        parameters = [
            p.detach() - rate * gradient
            for p, rate, gradient in zip(variables, rates, gradients, strict=True)
        ]
    return parameters
