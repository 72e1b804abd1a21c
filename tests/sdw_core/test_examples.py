"""The method in one look, `examples/plain_loop.py`, is the method that the engines compute."""

import importlib.util
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from sdw_core.distill.engine import MetaBatch, Rows
from sdw_core.distill.fused import FusedEngine
from sdw_core.distill.generic import GenericEngine
from sdw_core.policy import MLP
from tests.sdw_core.processes import ROOT, run

PLAIN_LOOP = ROOT / "examples" / "plain_loop.py"


@pytest.fixture(scope="module")
def plain_loop() -> ModuleType:
    found = importlib.util.spec_from_file_location("plain_loop", PLAIN_LOOP)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture
def float64() -> Iterator[None]:
    """Networks and draws are in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("engine", [GenericEngine, FusedEngine])
def test_its_hypergradient_is_that_of_the_engines(plain_loop: ModuleType, engine: type) -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = plain_loop.network()
    for p in policy.parameters():
        p.data += 0.1 * normal(*p.shape)
    x, y, steps = normal(64, 11), normal(64, 3).tanh(), 20
    states, targets, weights = normal(200, 11), normal(200, 3).tanh(), normal(200).abs()

    loss, dx, dy = plain_loop.hypergradient(policy, x, y, steps, states, targets, weights)

    theta = [
        tensor[None]
        for layer in policy
        if isinstance(layer, torch.nn.Linear)
        for tensor in (layer.weight.detach().T.contiguous(), layer.bias.detach()[None])
    ]
    expected = engine(MLP.of(theta)).hypergradient(
        theta,
        Rows(x[None], y[None], torch.full((1, 64), 1 / 64)),
        torch.full((1, 4), plain_loop.RATE),
        MetaBatch(states[None], targets[None], weights[None]),
        steps,
        steps,
    )
    pairs = ((loss, expected.loss), (dx, expected.observations), (dy, expected.actions))
    for own, its in pairs:
        assert own.dtype == torch.float64
        assert ((own - its[0]).abs().max() / its.abs().max()).item() < 1e-10


def test_it_runs_from_the_data_to_a_return() -> None:
    """The whole of it, with fewer steps."""
    code = "from plain_loop import main; main(outer_steps=2, expert_steps=2, episodes=1)"
    output = run(f"import sys; sys.path.insert(0, sys.argv[1]); {code}", PLAIN_LOOP.parent)
    steps, last = output.strip().splitlines()[-2:]
    assert "outer step 2: meta-loss 0." in steps
    assert float(last.removeprefix("normalised return ")) == pytest.approx(0, abs=40)


def test_it_can_be_read_in_one_look() -> None:
    assert len(PLAIN_LOOP.read_text().splitlines()) <= 90
