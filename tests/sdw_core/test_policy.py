"""Packs of policies: their draw, their forward pass and their cloning."""

from collections.abc import Callable
from math import sqrt

import numpy as np
import pytest
import torch
from torch import Tensor

from sdw_core.policy import MLP, Parameters, by_qr, by_reflections, clone, cloning_loss
from sdw_core.seeds import torch_generator

POLICY = MLP((5, 16, 4, 3))


def initial(count: int, policy: MLP = POLICY) -> Parameters:
    return policy.initial_parameters([torch_generator(0, "test", k) for k in range(count)])


def normal(*size: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype)


def forward_twin(policy: MLP, theta: list[np.ndarray], x: np.ndarray) -> list[np.ndarray]:
    """Every layer's output before its nonlinearity, in float64 numpy."""
    products = []
    for layer in range(policy.layers):
        products.append(x @ theta[2 * layer] + theta[2 * layer + 1])
        x = np.maximum(products[-1], 0)
    return products


def gradient_twin(
    policy: MLP, theta: list[np.ndarray], x: np.ndarray, y: np.ndarray, r: np.ndarray
) -> list[np.ndarray]:
    """grad of sum_i r_i (1/A) |tanh(h(x_i)) - y_i|^2, derived by hand."""
    products = forward_twin(policy, theta, x)
    output = np.tanh(products[-1])
    delta = 2 / y.shape[1] * r[:, None] * (output - y) * (1 - output**2)
    gradient: list[np.ndarray] = []
    for layer in reversed(range(policy.layers)):
        before = np.maximum(products[layer - 1], 0) if layer else x
        gradient = [before.T @ delta, delta.sum(0, keepdims=True), *gradient]
        if layer:
            delta = delta @ theta[2 * layer].T * (products[layer - 1] > 0)
    return gradient


def test_sizes_count_every_layer_and_parameter() -> None:
    policy = MLP.build(5, 3, layers=4, width=7)
    assert policy.sizes == (5, 7, 7, 7, 3)
    assert policy.layers == 4
    assert policy.size == sum(p.numel() for p in initial(1, policy))
    assert [tuple(p.shape) for p in initial(2, policy)][:2] == [(2, 5, 7), (2, 1, 7)]
    assert MLP.build(5, 3, layers=1, width=7).sizes == (5, 3)


@pytest.mark.parametrize("policy", [POLICY, MLP.build(11, 3, 4, 64)], ids=["small", "wide"])
def test_a_draw_does_not_depend_on_its_pack(policy: MLP) -> None:
    pack = initial(6, policy)
    for k in range(6):
        alone = policy.initial_parameters([torch_generator(0, "test", k)])
        assert all(torch.equal(one[0], many[k]) for one, many in zip(alone, pack, strict=True))
    assert not torch.equal(pack[0][0], pack[0][1])


@pytest.mark.parametrize("policy", [POLICY, MLP((3, 1)), MLP((1, 5, 1))])
def test_weights_are_orthogonal_with_their_gain_and_biases_zero(policy: MLP) -> None:
    parameters = initial(3, policy)
    for layer in range(policy.layers):
        weight, bias = parameters[2 * layer], parameters[2 * layer + 1]
        gain = 1.0 if layer == policy.layers - 1 else sqrt(2)
        wide = weight.shape[1] < weight.shape[2]
        gram = weight @ weight.mT if wide else weight.mT @ weight
        expected = (gain**2 * torch.eye(gram.shape[-1])).expand_as(gram)
        torch.testing.assert_close(gram, expected, atol=1e-5, rtol=0)
        assert not bias.any()


@pytest.mark.parametrize("draw", [by_qr, by_reflections])
@pytest.mark.parametrize("shape", [(1, 1), (7, 1), (5, 5), (9, 4), (128, 128)])
def test_columns_are_orthonormal(draw: Callable[[Tensor], Tensor], shape: tuple[int, int]) -> None:
    q = draw(normal(3, *shape))
    eye = torch.eye(shape[1], dtype=torch.float64).expand(3, -1, -1)
    torch.testing.assert_close(q.mT @ q, eye, rtol=0, atol=1e-12)
    single = draw(normal(3, *shape).float())
    torch.testing.assert_close(single.double(), q, rtol=0, atol=2e-3)


def test_reflections_take_a_draw_of_zeros() -> None:
    given = normal(2, 8, 8)
    given[0, -1, -1] = 0
    given[1, :, 3] = 0
    q = by_reflections(given)
    torch.testing.assert_close(q.mT @ q, torch.eye(8).double().expand(2, -1, -1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("problems", "width"), [(1, 128), (9, 128), (9, 520)])
def test_reflections_on_cuda(problems: int, width: int) -> None:
    given = normal(problems, width, width, dtype=torch.float32)
    q = by_reflections(given.cuda()).cpu()
    torch.testing.assert_close(q, by_reflections(given), rtol=0, atol=1e-4)


@pytest.mark.parametrize("draw", [by_qr, by_reflections])
def test_orthogonal_matrices_are_uniform_over_the_group(draw: Callable[[Tensor], Tensor]) -> None:
    """By moments of the Haar measure that a wrong choice of signs misses by far (n = 4)."""
    n, count = 4, 40_000
    q = draw(normal(count, n, n))
    trace = q.diagonal(dim1=1, dim2=2).sum(1)
    moments = {
        "trace": (trace, 0.0),
        "trace^2": (trace**2, 1.0),
        "trace^4": (trace**4, 3.0),
        "determinant": (torch.linalg.det(q), 0.0),
        "q_11^4": (q[:, 0, 0] ** 4, 3 / (n * (n + 2))),
        "q_44^4": (q[:, 3, 3] ** 4, 3 / (n * (n + 2))),
        "q_11^2 q_44^2": (
            (q[:, 0, 0] * q[:, 3, 3]) ** 2,
            (n + 1) / (n * (n - 1) * (n + 2)),
        ),
        "q_34": (q[:, 2, 3], 0.0),
    }
    for name, (values, expected) in moments.items():
        error = values.std() / count**0.5
        assert abs(values.mean() - expected) < 4 * error, name


def test_reflections_equal_their_product_one_by_one() -> None:
    for rows, columns in ((6, 6), (7, 3), (2, 1)):
        given = normal(2, rows, columns)
        made = by_reflections(given)
        for k in range(2):
            product = np.eye(rows)
            for column in range(columns):
                direction = given[k, :, column].numpy().copy()
                direction[:column] = 0
                sign = -1 if direction[column] < 0 else 1
                v = direction.copy()
                v[column] += sign * np.linalg.norm(direction)
                product = product @ (np.eye(rows) - 2 * np.outer(v, v) / (v @ v))
                product[:, column] *= -sign  # so that it is `direction`, seen through the others
            np.testing.assert_allclose(made[k].numpy(), product[:, :columns], atol=1e-12)


@pytest.mark.parametrize("squash", [True, False])
def test_forward_equals_its_twin(squash: bool) -> None:
    policy = MLP(POLICY.sizes, squash)
    pack = [p.double() + 0.1 * normal(*p.shape) for p in initial(3)]
    x = 2 * normal(3, 9, 5)
    outputs = policy(pack, x)
    for k in range(3):
        expected = forward_twin(policy, [p[k].numpy() for p in pack], x[k].numpy())[-1]
        expected = np.tanh(expected) if squash else expected
        np.testing.assert_allclose(outputs[k].numpy(), expected, rtol=1e-12, atol=1e-14)
        single = policy([p[k] for p in pack], x[k])
        torch.testing.assert_close(single, outputs[k], rtol=1e-12, atol=1e-14)


def test_clone_equals_gradient_descent_by_hand() -> None:
    pack = [p.double() + 0.1 * normal(*p.shape) for p in initial(3)]
    x, y = normal(3, 9, 5, seed=1), normal(3, 9, 3, seed=2).tanh()
    r = normal(3, 9, seed=3).abs()
    r = r / r.sum(1, keepdim=True)
    rates = 0.1 + normal(3, 3, seed=4).abs()  # each network and each layer its own
    trained = clone(POLICY, pack, x, y, r, rates, 12)
    for k in range(3):
        theta = [p[k].numpy().copy() for p in pack]
        start = theta
        for _ in range(12):
            gradient = gradient_twin(POLICY, theta, x[k].numpy(), y[k].numpy(), r[k].numpy())
            theta = [
                p - rates[k, i // 2].item() * g
                for i, (p, g) in enumerate(zip(theta, gradient, strict=True))
            ]
        for mine, twin, before in zip(trained, theta, start, strict=True):
            np.testing.assert_allclose(mine[k].numpy(), twin, rtol=1e-9, atol=1e-12)
            assert np.abs(twin - before).max() > 1e-3


def test_clone_lowers_the_loss_and_leaves_its_inputs_alone() -> None:
    pack = initial(2)
    kept = [p.clone() for p in pack]
    x, y = normal(2, 8, 5, dtype=torch.float32), normal(2, 8, 3, dtype=torch.float32).tanh()
    r, rates = torch.full((2, 8), 1 / 8), torch.full((2, 3), 0.2)
    trained = clone(POLICY, pack, x, y, r, rates, 60)
    before, after = (cloning_loss(POLICY(p, x), y, r) for p in (pack, trained))
    assert (after < 0.5 * before).all()
    assert all(torch.equal(p, k) for p, k in zip(pack, kept, strict=True))
    assert not any(p.requires_grad for p in (*pack, *trained))
    untrained = clone(POLICY, pack, x, y, r, rates, 0)
    assert all(torch.equal(p, k) for p, k in zip(untrained, kept, strict=True))


def test_padding_rows_weigh_nothing() -> None:
    pack = [p.double() for p in initial(1)]
    x, y, r = normal(1, 6, 5), normal(1, 6, 3).tanh(), torch.full((1, 6), 1 / 6).double()
    rates = torch.full((1, 3), 0.3).double()
    padded_x, padded_y = (torch.cat([t, 1e3 * normal(1, 4, t.shape[2])], 1) for t in (x, y))
    padded_r = torch.cat([r, torch.zeros(1, 4).double()], 1)
    alone = clone(POLICY, pack, x, y, r, rates, 10)
    padded = clone(POLICY, pack, padded_x, padded_y, padded_r, rates, 10)
    for one, other in zip(alone, padded, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_a_layer_learns_at_its_own_rate() -> None:
    pack = initial(2)
    x, y = normal(2, 8, 5, dtype=torch.float32), normal(2, 8, 3, dtype=torch.float32).tanh()
    rates = torch.tensor([[0.0, 0.1, 0.1], [0.1, 0.1, 0.0]])
    trained = clone(POLICY, pack, x, y, torch.full((2, 8), 1 / 8), rates, 5)
    moved = [[(p[k] != t[k]).any() for p, t in zip(pack, trained, strict=True)] for k in (0, 1)]
    assert moved == [[False, False, True, True, True, True], [True, True, True, True, False, False]]


def test_the_loss_is_a_mean_over_rows_and_action_dimensions() -> None:
    actions, targets = torch.zeros(1, 2, 4), torch.tensor([[[1.0, 0, 0, 0], [2.0, 2.0, 2.0, 2.0]]])
    assert cloning_loss(actions, targets, torch.tensor([[0.5, 0.5]])).item() == 0.5 * (0.25 + 4)
