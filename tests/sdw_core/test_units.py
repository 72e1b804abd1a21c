"""Units: states, actions and returns as networks and tables have them, and back."""

import numpy as np
import pytest

from sdw_core.errors import InputError
from sdw_core.units import Units

BOUNDS = np.array([[-1, 2], [3, 4]], np.float32)
"""The low and the high of two action dimensions."""


def fit(observations):
    return Units.fit(observations, *BOUNDS)


@pytest.fixture
def observations():
    rng = np.random.default_rng(0)
    return rng.normal([3.0, -200.0, 7.0], [0.5, 40.0, 0.0], (1000, 3)).astype(np.float32)


def test_divides_by_sigma_plus_a_thousandth(observations):
    units = fit(observations)
    twin = observations.astype(np.float64)
    np.testing.assert_allclose(units.observation_mean, twin.mean(0), rtol=1e-6)
    np.testing.assert_allclose(units.observation_scale, twin.std(0) + 1e-3, rtol=1e-6)
    expected = (twin - twin.mean(0)) / (twin.std(0) + 1e-3)
    np.testing.assert_allclose(units.normalized_states(observations), expected, atol=1e-4)


def test_inverse_inverts(observations):
    units = fit(observations)
    np.testing.assert_allclose(
        units.environment_states(units.normalized_states(observations)),
        observations,
        rtol=1e-5,
        atol=1e-4,
    )


def test_bounds_are_mapped_element_by_element_and_back(observations):
    units = fit(observations)
    unit = np.array([[-1, -1], [0, 0], [1, 1], [0.5, -0.5]], np.float32)
    expected = np.array([[-1, 2], [1, 3], [3, 4], [2, 2.5]], np.float32)
    np.testing.assert_allclose(units.environment_actions(unit), expected)
    np.testing.assert_allclose(units.unit_actions(expected), unit)
    assert units.unit_actions(unit).dtype == units.environment_actions(unit).dtype == np.float32


def test_unit_bounds_change_no_bit(observations):
    ones = np.ones(3, np.float32)
    units = Units.fit(observations, -ones, ones)
    actions = np.random.default_rng(0).uniform(-1, 1, (50, 3)).astype(np.float32)
    np.testing.assert_array_equal(units.environment_actions(actions), actions)
    np.testing.assert_array_equal(units.unit_actions(actions), actions)


@pytest.mark.parametrize("shape", [(3,), (5, 3), (4, 5, 3), (0, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_keeps_shape_and_dtype(observations, shape, dtype):
    units = fit(observations)
    normalized = units.normalized_states(np.zeros(shape, dtype))
    assert (normalized.shape, normalized.dtype) == (shape, dtype)
    assert units.observation_mean.dtype == units.observation_scale.dtype == np.float32


def test_constant_dimension_becomes_zero():
    units = fit(np.full((200_000, 1), 1.1, np.float32))
    np.testing.assert_array_equal(units.normalized_states(np.full((2, 1), 1.1, np.float32)), 0)
    np.testing.assert_allclose(units.observation_scale, 1e-3)


def test_moments_are_accumulated_in_float64():
    observations = np.full((300_000, 1), 1e4, np.float32)
    observations[::2] += 1
    units = fit(observations)
    assert units.observation_mean[0] == np.float32(10000.5)
    np.testing.assert_allclose(units.observation_scale, 0.501, rtol=1e-6)


@pytest.mark.parametrize("method", ["normalized_states", "environment_states"])
def test_wrong_width_names_both(observations, method):
    with pytest.raises(InputError, match=r"width 3; these are 4 wide"):
        getattr(fit(observations), method)(np.zeros((2, 4), np.float32))
