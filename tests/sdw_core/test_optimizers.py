"""Architectures and optimisers of a cloning, against `torch.nn` and `torch.optim` in float64."""

from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from sdw_core.config import Architecture, Optimizer
from sdw_core.policy import ARCHITECTURES, Parameters, clone
from sdw_core.seeds import torch_generator

RATES = torch.tensor([[0.3, 0.1, 0.2, 0.05, 0.1], [0.02, 0.3, 0.1, 0.1, 0.2], [0.1] * 5])
"""Of three networks of five layers each; a tenth of it for the optimisers that take less."""
STEPS = 15


class Twin(nn.Module):
    """The network as one would write it with `torch.nn`."""

    def __init__(self, architecture: Architecture, parameters: list[Tensor]) -> None:
        super().__init__()
        self.residual = architecture == "residual"
        self.linears = nn.ModuleList()
        for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
            linear = nn.Linear(*weight.shape, dtype=torch.float64)
            linear.weight.data, linear.bias.data = weight.T.clone(), bias[0].clone()
            self.linears.append(linear)

    def forward(self, states: Tensor) -> Tensor:
        first, *between, last = self.linears
        hidden = nn.functional.relu(first(states))
        for linear in between:
            added = nn.functional.relu(linear(hidden))
            hidden = hidden + added if self.residual else added
        return torch.tanh(last(hidden))

    def parameters_in_order(self) -> list[Tensor]:
        pairs = ((linear.weight.T, linear.bias[None]) for linear in self.linears)
        return [parameter.detach().clone() for pair in pairs for parameter in pair]


def optimizer_of(name: Optimizer, twin: Twin, rates: list[float]) -> torch.optim.Optimizer:
    groups = [
        {"params": linear.parameters(), "lr": rate}
        for linear, rate in zip(twin.linears, rates, strict=True)
    ]
    return {
        "sgd": lambda: torch.optim.SGD(groups),
        "momentum": lambda: torch.optim.SGD(groups, momentum=0.9),
        "adam": lambda: torch.optim.Adam(groups),
        "adamw": lambda: torch.optim.AdamW(groups),
    }[name]()


def trajectory(
    architecture: Architecture,
    optimizer: Optimizer,
    start: list[Tensor],
    x: Tensor,
    y: Tensor,
    rates: list[float],
    rebuilt: bool = False,
) -> list[list[Tensor]]:
    """Parameters after every step; `rebuilt`: by an optimiser that forgets its state."""
    twin = Twin(architecture, start)
    descent, after = optimizer_of(optimizer, twin, rates), []
    for _ in range(STEPS):
        if rebuilt:
            descent = optimizer_of(optimizer, twin, rates)
        descent.zero_grad()
        (twin(x) - y).square().mean().backward()
        descent.step()
        after.append(twin.parameters_in_order())
    return after


def problem(
    architecture: Architecture, optimizer: Optimizer
) -> tuple[Parameters, Tensor, Tensor, Tensor]:
    """Three networks of five layers, their rows and their rates."""
    network = ARCHITECTURES[architecture].build(4, 2, 5, 6)
    pack = network.initial_parameters([torch_generator(0, "test", k) for k in range(3)])
    generator = torch.Generator().manual_seed(1)
    shift = [0.1 * torch.randn(p.shape, generator=generator) for p in pack]
    x = torch.randn(3, 9, 4, generator=generator).double()
    y = torch.randn(3, 9, 2, generator=generator).double().tanh()
    rates = RATES.double() * (1 if optimizer == "sgd" else 0.1)
    return [(p + s).double() for p, s in zip(pack, shift, strict=True)], x, y, rates


def cloned(
    architecture: Architecture, optimizer: Optimizer, pack: Parameters, *rest: Tensor, steps: int
) -> Parameters:
    x, y, rates = rest
    network = ARCHITECTURES[architecture].build(4, 2, 5, 6)
    equal = torch.full(x.shape[:2], 1 / 9, dtype=torch.float64)
    return clone(network, pack, x, y, equal, rates, steps, optimizer)


@pytest.mark.parametrize("architecture", get_args(Architecture))
@pytest.mark.parametrize("optimizer", get_args(Optimizer))
def test_every_step_is_that_of_torch(architecture: Architecture, optimizer: Optimizer) -> None:
    pack, x, y, rates = problem(architecture, optimizer)
    twins = [
        trajectory(architecture, optimizer, [p[k] for p in pack], x[k], y[k], rates[k].tolist())
        for k in range(3)
    ]
    for step in range(STEPS):
        trained = cloned(architecture, optimizer, pack, x, y, rates, steps=step + 1)
        for k in range(3):
            for mine, twin in zip(trained, twins[k][step], strict=True):
                torch.testing.assert_close(mine[k], twin, rtol=1e-9, atol=1e-11)
    moved = [(end[0] - p[0]).abs().max() for end, p in zip(trained, pack, strict=True)]
    assert min(moved) > 1e-3


@pytest.mark.parametrize("architecture", get_args(Architecture))
@pytest.mark.parametrize("optimizer", get_args(Optimizer))
def test_a_network_of_a_pack_is_trained_as_it_is_alone(
    architecture: Architecture, optimizer: Optimizer
) -> None:
    pack, x, y, rates = problem(architecture, optimizer)
    together = cloned(architecture, optimizer, pack, x, y, rates, steps=STEPS)
    for k in range(3):
        one = slice(k, k + 1)
        rest = (x[one], y[one], rates[one])
        alone = cloned(architecture, optimizer, [p[one] for p in pack], *rest, steps=STEPS)
        for mine, single in zip(together, alone, strict=True):
            torch.testing.assert_close(mine[one], single, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["momentum", "adam", "adamw"])
def test_the_state_of_an_optimiser_lasts(optimizer: Optimizer) -> None:
    """One that is made anew for each step takes the first step alike, and no other."""
    pack, x, y, rates = problem("mlp", optimizer)
    start = [p[0] for p in pack]
    forgetful = trajectory("mlp", optimizer, start, x[0], y[0], rates[0].tolist(), rebuilt=True)
    for step, same in ((0, True), (1, False), (STEPS - 1, False)):
        trained = cloned("mlp", optimizer, pack, x, y, rates, steps=step + 1)
        close = [
            torch.allclose(mine[0], other, rtol=1e-6, atol=1e-9)
            for mine, other in zip(trained, forgetful[step], strict=True)
        ]
        assert all(close) if same else not any(close)


def test_no_two_optimisers_or_architectures_are_the_same() -> None:
    pack, x, y, rates = problem("mlp", "adam")
    ends = [
        cloned(architecture, optimizer, pack, x, y, rates, steps=STEPS)[0]
        for architecture in get_args(Architecture)
        for optimizer in get_args(Optimizer)
    ]
    for index, one in enumerate(ends):
        assert not any(torch.allclose(one, other, rtol=1e-6) for other in ends[:index])


@pytest.mark.parametrize("layers", [1, 2, 3, 6])
@pytest.mark.parametrize("squash", [True, False])
def test_a_residual_network_is_its_twin_and_differs_from_an_mlp_from_three_layers_on(
    layers: int, squash: bool
) -> None:
    mlp, residual = (ARCHITECTURES[a].build(4, 2, layers, 6, squash) for a in ("mlp", "residual"))
    generators = [torch_generator(0, "test", k) for k in range(2)]
    pack = [p.double() for p in residual.initial_parameters(generators)]
    x = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0)).double()
    outputs = residual(pack, x)
    assert torch.allclose(outputs, mlp(pack, x)) == (layers < 3)
    if layers > 1:
        for k in range(2):
            twin = Twin("residual", [p[k] for p in pack])(x[k])
            mine = outputs[k] if squash else outputs[k].tanh()
            torch.testing.assert_close(mine, twin.detach(), rtol=1e-9, atol=1e-12)
    single = residual([p[1] for p in pack], x[1])
    torch.testing.assert_close(single, outputs[1], rtol=1e-12, atol=1e-14)
