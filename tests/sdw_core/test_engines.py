"""One conformance suite for every hypergradient engine."""

import dataclasses
import weakref

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sdw_core.distill.engine import Engine, Hypergradient, MetaBatch, Rows
from sdw_core.distill.fused import FusedEngine, Shape, memory_bytes, operations
from sdw_core.distill.generic import GenericEngine
from sdw_core.policy import MLP, Parameters
from tests.sdw_core.oracles import DoubleBackward

Problem = tuple[Parameters, Rows, Tensor, MetaBatch]
NAMES = ("loss", "observations", "actions", "learning_rates")
ENGINES = {"generic": GenericEngine, "fused": FusedEngine}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
POLICY = MLP((5, 9, 8, 3))


def problem(
    policy: MLP,
    problems: int = 1,
    rows: int = 7,
    states: int = 11,
    dtype: torch.dtype = torch.float64,
    scale: float = 1.0,
    seed: int = 0,
    device: str = "cpu",
) -> Problem:
    """Random inputs with biases, unequal row weights and unequal rates: nothing is degenerate."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    def give(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype)

    inputs, outputs = policy.sizes[0], policy.sizes[-1]
    generators = [torch.Generator().manual_seed(seed + i) for i in range(problems)]
    theta = [p + 0.1 * normal(*p.shape) for p in policy.initial_parameters(generators)]
    weights = normal(problems, rows).abs() + 0.1
    rates = 0.05 + 0.1 * normal(problems, policy.layers).abs()
    return (
        [give(p) for p in theta],
        Rows(
            give(scale * normal(problems, rows, inputs)),
            give(normal(problems, rows, outputs).tanh()),
            give(weights / weights.sum(1, keepdim=True)),
        ),
        give(rates),
        MetaBatch(
            give(scale * normal(problems, states, inputs)),
            give(normal(problems, states, outputs).tanh()),
            give(normal(problems, states).abs()),
        ),
    )


def differences(one: Hypergradient, other: Hypergradient) -> dict[str, float]:
    """Relative error of every part, by its largest element."""
    pairs = {name: (getattr(one, name).cpu(), getattr(other, name).cpu()) for name in NAMES}
    tiny = 1e-300
    return {
        n: ((a - b).abs().max() / b.abs().max().clamp_min(tiny)).item()
        for n, (a, b) in pairs.items()
    }


def agree(one: Hypergradient, other: Hypergradient, tolerance: float) -> None:
    for name in NAMES:
        assert getattr(one, name).shape == getattr(other, name).shape, name
        assert getattr(one, name).dtype == getattr(other, name).dtype, name
    worst = differences(one, other)
    assert max(worst.values()) <= tolerance, worst


def select(inputs: Problem, index: int, rows: int | None = None) -> Problem:
    """One problem of a pack, without its padding."""
    at = slice(index, index + 1)
    theta, data, rates, batch = inputs
    return (
        [p[at] for p in theta],
        Rows(data.observations[at, :rows], data.actions[at, :rows], data.weights[at, :rows]),
        rates[at],
        MetaBatch(batch.states[at], batch.targets[at], batch.weights[at]),
    )


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param](POLICY)


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("squash", [True, False], ids=["tanh", "linear"])
@pytest.mark.parametrize("layers", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("problems", [1, 3])
def test_equals_double_backward(kind: str, squash: bool, layers: int, problems: int) -> None:
    policy = MLP.build(5, 3, layers, 8, squash)
    inputs = problem(policy, problems)
    expected = DoubleBackward(policy).hypergradient(*inputs, 6, 6)
    agree(ENGINES[kind](policy).hypergradient(*inputs, 6, 6), expected, 1e-10)


@pytest.mark.parametrize(
    ("steps", "window"), [(0, 0), (0, 3), (1, 0), (1, 1), (6, 0), (6, 1), (6, 4), (6, 6), (6, 9)]
)
def test_steps_and_windows(engine: Engine, steps: int, window: int) -> None:
    inputs = problem(POLICY, 2)
    got = engine.hypergradient(*inputs, steps, window)
    agree(got, DoubleBackward(POLICY).hypergradient(*inputs, steps, min(window, steps)), 1e-10)
    if not min(steps, window):
        assert not any(getattr(got, name).any() for name in NAMES[1:])


def test_saturated_and_switching(engine: Engine) -> None:
    """Large inputs and steps: some tanh are 1 to rounding, and units switch along the unroll."""
    theta, rows, rates, batch = problem(POLICY, 2, rows=40, scale=3.0)
    inputs = ([2 * p for p in theta], rows, 2 * rates, batch)
    assert (POLICY(inputs[0], rows.observations).abs() > 0.999).any()
    before = POLICY(theta, rows.observations)
    assert before.isfinite().all()
    agree(
        engine.hypergradient(*inputs, 12, 12),
        DoubleBackward(POLICY).hypergradient(*inputs, 12, 12),
        1e-10,
    )


@pytest.mark.parametrize("steps", [3, 25])
def test_float32(engine: Engine, steps: int) -> None:
    exact = engine.hypergradient(*problem(POLICY, 2), steps, steps)
    got = engine.hypergradient(*problem(POLICY, 2, dtype=torch.float32), steps, steps)
    assert got.loss.dtype == torch.float32
    assert max(differences(got, exact).values()) < 1e-4


def test_finite_differences(engine: Engine) -> None:
    """Each part against central differences of the loss."""
    inputs = problem(POLICY, 2)
    theta, rows, rates, batch = inputs
    got = engine.hypergradient(*inputs, 5, 5)
    step = 1e-6

    def loss(x: Tensor, y: Tensor, alpha: Tensor) -> Tensor:
        moved = dataclasses.replace(rows, observations=x, actions=y)
        return engine.hypergradient(theta, moved, alpha, batch, 5, 0).loss

    point = (rows.observations, rows.actions, rates)
    for part, name in enumerate(NAMES[1:]):
        direction = torch.randn(point[part].shape, generator=torch.Generator().manual_seed(part))
        moved = step * direction.double()
        up, down = (
            loss(*(p + sign * moved if i == part else p for i, p in enumerate(point)))
            for sign in (1, -1)
        )
        slope = (getattr(got, name) * direction).flatten(1).sum(1)
        torch.testing.assert_close((up - down) / (2 * step), slope, rtol=1e-6, atol=1e-9)


def test_pack_equals_single_problems(engine: Engine) -> None:
    """A pack of three sizes, padded with garbage rows of no weight."""
    sizes = (7, 4, 1)
    theta, rows, rates, batch = problem(POLICY, 3)
    kept = torch.stack([torch.arange(7) < size for size in sizes])
    weights = torch.where(kept, rows.weights, 0.0)
    rows = dataclasses.replace(rows, weights=weights / weights.sum(1, keepdim=True))
    pack = engine.hypergradient(theta, rows, rates, batch, 6, 4)
    for index, size in enumerate(sizes):
        single = engine.hypergradient(*select((theta, rows, rates, batch), index, size), 6, 4)
        part = Hypergradient(
            pack.loss[index : index + 1],
            pack.observations[index : index + 1, :size],
            pack.actions[index : index + 1, :size],
            pack.learning_rates[index : index + 1],
        )
        agree(part, single, 1e-12)
        assert not pack.observations[index, size:].any()
        assert not pack.actions[index, size:].any()


def test_a_diverging_problem_leaves_the_others_alone(engine: Engine) -> None:
    theta, rows, rates, batch = problem(POLICY, 3)
    healthy = engine.hypergradient(theta, rows, rates, batch, 6, 6)
    theta = [p.clone() for p in theta]
    theta[0][1] = float("inf")
    got = engine.hypergradient(theta, rows, rates, batch, 6, 6)
    assert not got.loss[1].isfinite()
    for name in NAMES:
        assert torch.equal(getattr(got, name)[::2], getattr(healthy, name)[::2]), name


def test_calls_do_not_touch_inputs_or_earlier_results(engine: Engine) -> None:
    """The same answer when called again, and when other shapes came between."""
    inputs = problem(POLICY, 2)
    theta, rows, rates, batch = inputs
    tensors = [*theta, *vars(rows).values(), rates, *vars(batch).values()]
    copies = [t.clone() for t in tensors]
    first = engine.hypergradient(*inputs, 6, 4)
    kept = {name: getattr(first, name).clone() for name in NAMES}
    for other in (
        engine.hypergradient(*problem(POLICY, 2, seed=1), 6, 4),
        engine.hypergradient(*problem(POLICY, 3, rows=9, states=4, seed=2), 3, 3),
        engine.hypergradient(*inputs, 9, 4),
    ):
        assert not torch.equal(other.loss[:2], first.loss)
    again = engine.hypergradient(*inputs, 6, 4)
    for name in NAMES:
        assert torch.equal(getattr(again, name), kept[name]), name
        assert torch.equal(getattr(first, name), kept[name]), name
    assert all(torch.equal(t, copy) for t, copy in zip(tensors, copies, strict=True))


def test_results_take_part_in_autograd(engine: Engine) -> None:
    """They are tensors like any other, whatever mode the engine works in."""
    got = engine.hypergradient(*problem(POLICY), 3, 2)
    factor = torch.ones((), dtype=torch.float64, requires_grad=True)
    for name in NAMES:
        result = getattr(got, name)
        assert not result.requires_grad
        (slope,) = torch.autograd.grad((factor * result).sum(), factor)
        assert slope == result.sum()
        result.add_(1)


def test_the_mode_of_the_caller_does_not_matter(engine: Engine) -> None:
    """Parameters that require gradients, and inference mode at the first call or a later one."""
    theta, rows, rates, batch = problem(POLICY, 2)
    expected = engine.hypergradient(theta, rows, rates, batch, 5, 3)
    tracked = [p.clone().requires_grad_() for p in theta]
    agree(engine.hypergradient(tracked, rows, rates, batch, 5, 3), expected, 0)
    fresh = ENGINES["fused" if isinstance(engine, FusedEngine) else "generic"](POLICY)
    with torch.inference_mode():
        agree(fresh.hypergradient(theta, rows, rates, batch, 5, 3), expected, 0)
    agree(fresh.hypergradient(theta, rows, rates, batch, 5, 3), expected, 0)


def test_learning_rate_zero(engine: Engine) -> None:
    """A layer that does not move still has a derivative."""
    theta, rows, rates, batch = problem(POLICY, 2)
    rates[0, 1] = 0
    got = engine.hypergradient(theta, rows, rates, batch, 4, 4)
    agree(got, DoubleBackward(POLICY).hypergradient(theta, rows, rates, batch, 4, 4), 1e-10)
    assert got.learning_rates[0, 1] != 0


@pytest.mark.parametrize("policy", [POLICY, MLP((4, 2)), MLP((3, 1)), MLP((17, 256, 256, 6))])
@pytest.mark.parametrize("window", [0, 1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_memory_is_what_was_said(policy: MLP, window: int, dtype: torch.dtype) -> None:
    engine = FusedEngine(policy)
    engine.hypergradient(*problem(policy, 3, dtype=dtype), 5, window)
    shape = Shape(problems=3, rows=7, states=11, window=window, dtype=dtype)
    assert engine._program is not None
    assert engine._program.shape == shape
    assert engine._program.memory.untyped_storage().nbytes() == memory_bytes(policy, shape)
    assert engine.memory_bytes(shape) == memory_bytes(policy, shape)


def test_memory_at_the_papers_size() -> None:
    policy = MLP.build(17, 6, layers=4, width=256)
    full, fifth = (memory_bytes(policy, Shape(1, 256, 2560, window)) for window in (100, 20))
    assert full < 250e6
    assert fifth < full / 3


@needs_cuda
@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("problems", [1, 3])
@pytest.mark.parametrize(("steps", "window"), [(6, 6), (6, 4), (6, 0), (0, 0)])
def test_cuda_equals_cpu(kind: str, problems: int, steps: int, window: int) -> None:
    expected = DoubleBackward(POLICY).hypergradient(*problem(POLICY, problems), steps, window)
    engine = ENGINES[kind](POLICY)
    for _ in range(3):  # called, captured, replayed
        got = engine.hypergradient(*problem(POLICY, problems, device="cuda"), steps, window)
        agree(got, expected, 1e-10)


@needs_cuda
@pytest.mark.parametrize("tf32", [False, True])
def test_cuda_products(tf32: bool) -> None:
    """With 10 bits of mantissa, units switch that do not in float32, and gradients jump there."""
    policy = MLP.build(17, 6, 4, 128)
    exact = DoubleBackward(policy).hypergradient(*problem(policy, 2, 64, 256), 10, 10)
    inputs = problem(policy, 2, 64, 256, dtype=torch.float32, device="cuda")
    precision = torch.get_float32_matmul_precision()
    engine = FusedEngine(policy, tf32=tf32)
    for _ in range(3):  # called, captured, replayed
        worst = differences(engine.hypergradient(*inputs, 10, 10), exact)
        if not tf32:
            assert max(worst.values()) < 1e-4
        else:
            assert worst.pop("loss") < 2e-2
            assert max(worst.values()) < 0.5
            if torch.cuda.get_device_capability() >= (8, 0):
                assert max(worst.values()) > 1e-3
    assert torch.get_float32_matmul_precision() == precision


@needs_cuda
def test_cuda_engines_do_not_share_what_one_of_them_frees() -> None:
    one, other = FusedEngine(POLICY), FusedEngine(POLICY)
    inputs = problem(POLICY, 2, device="cuda")
    for engine in (one, other):
        for _ in range(3):
            expected = engine.hypergradient(*inputs, 6, 4)
    del one, engine
    torch.cuda.empty_cache()
    filled = torch.full((2**24,), float("nan"), device="cuda")
    agree(other.hypergradient(*inputs, 6, 4), expected, 0)
    del filled


@needs_cuda
def test_cuda_never_waits_for_the_host() -> None:
    """Once captured, a hypergradient is queued without a synchronisation."""
    inputs = problem(POLICY, 2, dtype=torch.float32, device="cuda")
    engine = FusedEngine(POLICY)
    engine.hypergradient(*inputs, 6, 4)
    first = engine.hypergradient(*inputs, 6, 4)
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = engine.hypergradient(*inputs, 6, 4)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(getattr(first, name), getattr(again, name)) for name in NAMES)


def test_a_program_is_freed_as_soon_as_another_takes_its_place() -> None:
    engine = FusedEngine(POLICY)
    theta, rows, rates, batch = problem(POLICY)
    engine.hypergradient(theta, rows, rates, batch, 3, 2)
    old = weakref.ref(engine._program)
    engine.hypergradient(theta, rows, rates, batch, 3, 1)
    assert old() is None


@pytest.mark.parametrize(("rows", "states", "steps", "window"), [(32, 128, 9, 4), (200, 64, 5, 5)])
def test_the_operations_of_a_hypergradient_are_those_that_torch_counts(
    rows: int, states: int, steps: int, window: int
) -> None:
    policy = MLP.build(11, 3, 3, 64)
    given = problem(policy, 2, rows, states, torch.float32)
    with FlopCounterMode(display=False) as counted:
        FusedEngine(policy).hypergradient(*given, steps, window)
    shape = Shape(2, rows, states, window, torch.float32, torch.device("cpu"))
    assert operations(policy, shape, steps) == pytest.approx(counted.get_total_flops(), rel=0.1)
