"""The readable engine: reverse over forward, through `torch.func`, for any policy.

Going back through `theta_{t+1} = theta_t - alpha g(theta_t; x, y)` with `v = dH/dtheta_{t+1}`, all
that is needed at step t is the gradient of one scalar, the directional derivative of the inner loss
along `u = -alpha v`:

    phi(theta, x, y, alpha) = < grad_theta l(theta; x, y), -alpha v >
    dH/dtheta_t = v + dphi/dtheta,  dH/dx += dphi/dx,  dH/dy += dphi/dy,  dH/dalpha += dphi/dalpha

phi is one forward-mode pass (`jvp`), its gradient one reverse pass over it: no graph of the unroll
is ever held, only the trajectory theta_{T-window} .. theta_T.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, jvp, vmap

from sdw_core.distill.engine import Hypergradient, MetaBatch, Rows
from sdw_core.policy import Parameters, cloning_loss

Policy = Callable[[Sequence[Tensor], Tensor], Tensor]
"""A policy without the pack dimension: (parameters, states [rows, O]) -> actions [rows, A]."""


class GenericEngine:
    """Exact hypergradients for any differentiable policy.

    The parameters come in pairs of weight and bias; both of layer l learn at alpha[l].
    """

    def __init__(self, policy: Policy) -> None:
        def inner_loss(theta: Parameters, x: Tensor, y: Tensor, r: Tensor) -> Tensor:
            return cloning_loss(policy(theta, x), y, r)

        def meta_loss(theta: Parameters, s: Tensor, target: Tensor, weight: Tensor) -> Tensor:
            return cloning_loss(policy(theta, s), target, weight / weight.shape[-1])

        def update(theta: Parameters, x: Tensor, y: Tensor, r: Tensor, alpha: Tensor) -> Parameters:
            gradient = grad(inner_loss)(theta, x, y, r)
            return [
                p - alpha[i // 2] * g for i, (p, g) in enumerate(zip(theta, gradient, strict=True))
            ]

        def phi(
            theta: Parameters, x: Tensor, y: Tensor, alpha: Tensor, r: Tensor, v: Parameters
        ) -> Tensor:
            u = [-alpha[i // 2] * direction for i, direction in enumerate(v)]
            derivative: Tensor = jvp(lambda at: inner_loss(at, x, y, r), (theta,), (u,))[1]
            return derivative

        self._update = vmap(update)
        self._meta_loss = vmap(grad_and_value(meta_loss))
        self._phi_gradient = vmap(grad(phi, argnums=(0, 1, 2, 3)))

    def hypergradient(
        self,
        parameters: Parameters,
        rows: Rows,
        learning_rates: Tensor,
        batch: MetaBatch,
        steps: int,
        window: int,
    ) -> Hypergradient:
        """See `Engine.hypergradient`."""
        x, y, r = rows.observations, rows.actions, rows.weights
        theta = parameters
        trajectory: list[Parameters] = []
        for t in range(steps):
            if t >= steps - window:
                trajectory.append(theta)
            theta = self._update(theta, x, y, r, learning_rates)
        v, loss = self._meta_loss(theta, batch.states, batch.targets, batch.weights)
        dx, dy, dalpha = torch.zeros_like(x), torch.zeros_like(y), torch.zeros_like(learning_rates)
        for theta in reversed(trajectory):
            step = self._phi_gradient(theta, x, y, learning_rates, r, v)
            v = [a + b for a, b in zip(v, step[0], strict=True)]
            dx, dy, dalpha = dx + step[1], dy + step[2], dalpha + step[3]
        return Hypergradient(loss, dx, dy, dalpha)
