import numpy as np
import pytest

from sdw_core.errors import InputError
from sdw_core.normalizer import Normalizer


@pytest.fixture
def observations():
    rng = np.random.default_rng(0)
    return rng.normal([3.0, -200.0, 7.0], [0.5, 40.0, 0.0], (1000, 3)).astype(np.float32)


def test_divides_by_sigma_plus_a_thousandth(observations):
    normalizer = Normalizer.fit(observations)
    twin = observations.astype(np.float64)
    np.testing.assert_allclose(normalizer.mean, twin.mean(0), rtol=1e-6)
    np.testing.assert_allclose(normalizer.scale, twin.std(0) + 1e-3, rtol=1e-6)
    expected = (twin - twin.mean(0)) / (twin.std(0) + 1e-3)
    np.testing.assert_allclose(normalizer(observations), expected, atol=1e-4)


def test_inverse_inverts(observations):
    normalizer = Normalizer.fit(observations)
    np.testing.assert_allclose(
        normalizer.inverse(normalizer(observations)), observations, rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("shape", [(3,), (5, 3), (4, 5, 3), (0, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_keeps_shape_and_dtype(observations, shape, dtype):
    normalizer = Normalizer.fit(observations)
    normalized = normalizer(np.zeros(shape, dtype))
    assert (normalized.shape, normalized.dtype) == (shape, dtype)
    assert normalizer.mean.dtype == normalizer.scale.dtype == np.float32


def test_constant_dimension_becomes_zero():
    normalizer = Normalizer.fit(np.full((200_000, 1), 1.1, np.float32))
    np.testing.assert_array_equal(normalizer(np.full((2, 1), 1.1, np.float32)), 0)
    np.testing.assert_allclose(normalizer.scale, 1e-3)


def test_moments_are_accumulated_in_float64():
    observations = np.full((300_000, 1), 1e4, np.float32)
    observations[::2] += 1
    normalizer = Normalizer.fit(observations)
    assert normalizer.mean[0] == np.float32(10000.5)
    np.testing.assert_allclose(normalizer.scale, 0.501, rtol=1e-6)


@pytest.mark.parametrize("method", ["__call__", "inverse"])
def test_wrong_width_names_both(observations, method):
    with pytest.raises(InputError, match=r"width 3; these are 4 wide"):
        getattr(Normalizer.fit(observations), method)(np.zeros((2, 4), np.float32))
