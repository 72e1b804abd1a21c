"""Independent twins: slow, plain versions of what the package does fast."""

import torch
from torch import Tensor

from sdw_core.distill.engine import Hypergradient, MetaBatch, Rows
from sdw_core.policy import MLP, Parameters


def _outputs(policy: MLP, theta: list[Tensor], inputs: Tensor) -> Tensor:
    for layer in range(policy.layers):
        inputs = inputs @ theta[2 * layer] + theta[2 * layer + 1]
        if layer < policy.layers - 1:
            inputs = inputs.clamp_min(0)
    return inputs.tanh() if policy.squash else inputs


class DoubleBackward:
    """The hypergradient as the published code computes it: autograd through the whole unroll."""

    def __init__(self, policy: MLP) -> None:
        self.policy = policy

    def hypergradient(
        self,
        parameters: Parameters,
        rows: Rows,
        learning_rates: Tensor,
        batch: MetaBatch,
        steps: int,
        window: int,
    ) -> Hypergradient:
        x, y, alpha = (
            t.detach().clone().requires_grad_()
            for t in (rows.observations, rows.actions, learning_rates)
        )
        theta = [p.detach().clone().requires_grad_() for p in parameters]
        outputs = y.shape[-1]
        for t in range(steps):
            if t == steps - window:
                theta = [p.detach().requires_grad_() for p in theta]
            error = _outputs(self.policy, theta, x) - y
            inner = (error**2 * rows.weights.unsqueeze(-1)).sum() / outputs
            gradients = torch.autograd.grad(inner, theta, create_graph=t >= steps - window)
            theta = [
                p - alpha[:, i // 2, None, None] * g
                for i, (p, g) in enumerate(zip(theta, gradients, strict=True))
            ]
            if t < steps - window:
                theta = [p.detach().requires_grad_() for p in theta]
        if window <= 0:
            theta = [p.detach() for p in theta]
        error = _outputs(self.policy, theta, batch.states) - batch.targets
        loss = (error**2).mean(-1).mul(batch.weights).mean(-1)
        if steps == 0 or window <= 0:
            return Hypergradient(loss.detach(), *(torch.zeros_like(t) for t in (x, y, alpha)))
        return Hypergradient(loss.detach(), *torch.autograd.grad(loss.sum(), (x, y, alpha)))
