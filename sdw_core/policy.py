"""Packs of deterministic policies: P networks of one architecture, applied as batched products."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Self

import torch
from torch import Tensor

from sdw_core.config import Architecture, Optimizer

Parameters = list[Tensor]
"""[W_0, b_0, W_1, b_1, ...] of a pack: W_l is [P, in, out], b_l is [P, 1, out]."""
MOMENTUM = 0.9
BETAS, EPSILON, WEIGHT_DECAY = (0.9, 0.999), 1e-8, 0.01
"""Of `adam` and `adamw`: torch's defaults."""


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
    def build(cls, inputs: int, outputs: int, layers: int, width: int, squash: bool = True) -> Self:
        """A network of `layers` linear layers, the hidden ones `width` units wide."""
        return cls((inputs, *[width] * (layers - 1), outputs), squash)

    @classmethod
    def of(cls, parameters: Parameters, squash: bool = True) -> "MLP":
        """The architecture that a pack's parameters are for."""
        return cls((parameters[0].shape[-2], *[b.shape[-1] for b in parameters[1::2]]), squash)

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
            q = by_reflections(normal) if normal.is_cuda else by_qr(normal)
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


def by_qr(normal: Tensor) -> Tensor:
    """Orthonormal columns, uniform (Haar), of standard normal matrices [P, rows, columns <= rows].

    The Q of a QR decomposition whose R has a positive diagonal: without that, LAPACK's choice of
    signs favours some matrices.
    """
    q, r = torch.linalg.qr(normal)
    signed: Tensor = q * torch.diagonal(r, dim1=-2, dim2=-1).sign().unsqueeze(-2)
    return signed


def by_reflections(normal: Tensor) -> Tensor:
    """What `by_qr` draws, from other numbers: no decomposition, so that a CUDA graph can hold it.

    The product H_1 .. H_c of Householder reflections `H_k = I - 2 v_k v_k^T` is uniform where H_k
    takes e_k to a random direction of the last rows - k + 1 coordinates (Stewart, SIAM J. Numer.
    Anal. 17, 1980); those directions are the columns on and below the diagonal of `normal`. The
    product is `I - V T V^T` with T^-1 the upper triangle of V^T V, its diagonal halved (Joffrain et
    al., ACM TOMS 32, 2006): two products and a triangular solve.

    On a GPU `torch.linalg.qr` loops over cuSOLVER, which cannot be captured; on a CPU it is faster.
    """
    columns = normal.shape[-1]
    direction = normal.tril()
    diagonal = torch.diagonal(direction, dim1=-2, dim2=-1)
    sign = torch.where(diagonal < 0, -1.0, 1.0).to(normal.dtype)
    # A GPU draws an exact zero once in thirty million times: a direction of zeros counts as e_k.
    length = torch.linalg.vector_norm(direction, dim=-2).clamp_min(1e-12)
    shift = torch.diag_embed(sign * length)
    v = direction + torch.nn.functional.pad(shift, (0, 0, 0, normal.shape[-2] - columns))
    v = v / torch.linalg.vector_norm(v, dim=-2, keepdim=True)
    triangle = v.mT @ v
    triangle = triangle - 0.5 * torch.diag_embed(torch.diagonal(triangle, dim1=-2, dim2=-1))
    # One by one: for many large ones some versions of torch take MAGMA, which no graph can hold.
    pairs = zip(triangle, v[:, :columns].mT, strict=True)
    t_v = torch.stack([torch.linalg.solve_triangular(t, b, upper=True) for t, b in pairs])
    q = torch.eye(normal.shape[-2], columns, dtype=v.dtype, device=v.device) - v @ t_v
    signed: Tensor = q * -sign.unsqueeze(-2)
    return signed


@dataclass(frozen=True)
class ResidualMLP(MLP):
    """An MLP whose hidden layers add to what they get: `h_{l+1} = h_l + relu(h_l W_l + b_l)`.

    The first and the last layer change the number of units and are an MLP's, so that it takes three
    layers to differ from one. Parameters and their draw are those of the MLP of the same sizes.
    """

    def __call__(self, parameters: Sequence[Tensor], inputs: Tensor) -> Tensor:
        """See `MLP.__call__`."""
        hidden = inputs
        for layer in range(self.layers - 1):
            added = torch.relu(hidden @ parameters[2 * layer] + parameters[2 * layer + 1])
            hidden = hidden + added if layer else added
        outputs = hidden @ parameters[-2] + parameters[-1]
        return torch.tanh(outputs) if self.squash else outputs


ARCHITECTURES: dict[Architecture, type[MLP]] = {"mlp": MLP, "residual": ResidualMLP}


class Descent:
    """Steps `theta <- theta - alpha_l d` of a pack, with what an optimiser keeps between them.

        sgd       d = g
        momentum  m <- 0.9 m + g;  d = m
        adam      m <- 0.9 m + 0.1 g;  v <- 0.999 v + 0.001 g^2;
                  d = m / (1 - 0.9^t) / (sqrt(v / (1 - 0.999^t)) + 1e-8)
        adamw     adam's d + 0.01 theta

    Each is torch's optimiser of that name, element by element, so that every network of a pack and
    every layer may have a rate of its own, which `torch.optim` does not offer.

    Args:
        optimizer: which.
        rates: alpha for each of the parameters, [P, 1, 1].
    """

    def __init__(self, optimizer: Optimizer, rates: Sequence[Tensor]) -> None:
        self._optimizer, self._rates, self._step = optimizer, rates, 0
        self._first = [torch.zeros_like(rate) for rate in rates]
        self._second = [torch.zeros_like(rate) for rate in rates]

    def step(self, parameters: Parameters, gradients: Sequence[Tensor]) -> Parameters:
        """The parameters after one more step."""
        self._step += 1
        moves = [
            self._move(i, p, g) for i, (p, g) in enumerate(zip(parameters, gradients, strict=True))
        ]
        return [p - rate * d for p, rate, d in zip(parameters, self._rates, moves, strict=True)]

    def _move(self, index: int, parameter: Tensor, gradient: Tensor) -> Tensor:
        if self._optimizer == "sgd":
            return gradient
        if self._optimizer == "momentum":
            self._first[index] = MOMENTUM * self._first[index] + gradient
            return self._first[index]
        beta, gamma = BETAS
        self._first[index] = beta * self._first[index] + (1 - beta) * gradient
        self._second[index] = gamma * self._second[index] + (1 - gamma) * gradient.square()
        scale = (self._second[index] / (1 - gamma**self._step)).sqrt() + EPSILON
        move = self._first[index] / (1 - beta**self._step) / scale
        return move + WEIGHT_DECAY * parameter if self._optimizer == "adamw" else move


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
    optimizer: Optimizer = "sgd",
) -> Parameters:
    """Behavioural cloning by full-batch gradient descent, every network on its own rows.

    `theta <- theta - alpha_l * grad_theta l(theta; x, y)`, `steps` times: with `sgd`, the inner
    loop of the distillation, run forward only.

    Args:
        policy: the architecture.
        parameters: the pack's initial parameters; they are not changed.
        observations: x [P, n, O], normalised.
        actions: y [P, n, A], in [-1, 1].
        row_weights: r [P, n], summing to one.
        learning_rates: alpha [P, L], one a linear layer.
        steps: T.
        optimizer: what makes a step of a gradient; its state lasts from the first to the last.
    """
    parameters = [p.detach() for p in parameters]
    rates = [learning_rates[:, layer // 2, None, None] for layer in range(len(parameters))]
    descent = Descent(optimizer, rates)
    for _ in range(steps):
        variables = [p.requires_grad_() for p in parameters]
        with torch.enable_grad():
            loss = cloning_loss(policy(variables, observations), actions, row_weights).sum()
            gradients = torch.autograd.grad(loss, variables)
        parameters = descent.step([p.detach() for p in variables], gradients)
    return parameters
