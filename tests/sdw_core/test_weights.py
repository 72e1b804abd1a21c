import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import rankdata

from sdw_core.config import WeightingConfig
from sdw_core.errors import InputError
from sdw_core.registry import WEIGHTINGS
from sdw_core.weights import effective_sample_size_percent, state_weights

SCHEMES = list(WEIGHTINGS.builtin)

log_densities = arrays(
    np.float64,
    st.integers(1, 30),
    elements=st.floats(-500, 100) | st.sampled_from([-7.2e6, -np.inf, 0.0]),
).filter(lambda values: np.isfinite(values).any())
configs = st.builds(
    WeightingConfig,
    scheme=st.sampled_from(SCHEMES),
    temperature=st.floats(0, 2),
    clip_quantile=st.floats(0, 0.5),
)


def reciprocal_twin(log_density, tau, quantile):
    """Straight from the formula, in extended precision, for densities that do not overflow it."""
    finite = log_density[np.isfinite(log_density)]
    clipped = np.maximum(log_density, np.quantile(finite, quantile)).astype(np.longdouble)
    weights = np.exp(clipped) ** -tau
    return weights / weights.mean()


def rank_twin(log_density, tau, quantile):
    weights = np.maximum(rankdata(log_density) / len(log_density), quantile) ** -tau
    return weights / weights.mean()


@pytest.mark.parametrize(
    ("scheme", "twin"), [("reciprocal", reciprocal_twin), ("rank", rank_twin)], ids=SCHEMES
)
@pytest.mark.parametrize("tau", [0.01, 0.1, 1.0, 2.5])
@pytest.mark.parametrize("quantile", [0.0, 0.01, 0.3])
def test_equals_twin(scheme, twin, tau, quantile):
    log_density = np.random.default_rng(0).normal(-8.5, 9.9, 1000).round(1)  # with ties
    log_density[::50] = -np.inf
    config = WeightingConfig(scheme=scheme, temperature=tau, clip_quantile=quantile)
    weights = state_weights(log_density, config)
    assert weights.dtype == np.float64
    np.testing.assert_allclose(weights, twin(log_density, tau, quantile).astype(float), rtol=1e-10)


@given(log_densities, configs)
def test_mean_is_one(log_density, config):
    weights = state_weights(log_density, config)
    assert weights.shape == log_density.shape
    assert (weights >= 0).all()
    assert weights.mean() == pytest.approx(1)


@given(log_densities, configs)
def test_lower_density_never_gets_lower_weight(log_density, config):
    weights = state_weights(log_density, config)[np.argsort(log_density, kind="stable")]
    assert (weights[1:] <= weights[:-1] * (1 + 1e-12)).all()


@given(log_densities, configs, st.floats(-1e3, 1e3))
def test_invariant_to_the_unit_of_density(log_density, config, constant):
    shifted = log_density + constant
    collapsed = len(np.unique(shifted)) != len(np.unique(log_density))  # rounding made a tie
    if config.scheme == "reciprocal" or not collapsed:
        np.testing.assert_allclose(
            state_weights(shifted, config), state_weights(log_density, config), rtol=1e-5, atol=1e-8
        )


@given(
    arrays(np.float64, st.integers(1, 30), elements=st.integers(-100, 100)),
    st.floats(0, 2),
    st.floats(0, 0.5),
)
def test_rank_depends_on_the_order_alone(log_density, tau, quantile):
    config = WeightingConfig(scheme="rank", temperature=tau, clip_quantile=quantile)
    expected = state_weights(log_density, config)
    for increasing in (lambda x: 1e4 * x - 3, lambda x: x**3, np.arctan):
        np.testing.assert_array_equal(state_weights(increasing(log_density), config), expected)


@given(log_densities, configs)
def test_no_temperature_is_exactly_one(log_density, config):
    weights = state_weights(log_density, config.model_copy(update={"temperature": 0.0}))
    np.testing.assert_array_equal(weights, 1)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("log_density", [[-3.0], [-7.2e6], [2.0] * 7], ids=str)
def test_equal_densities_get_equal_weights(scheme, log_density):
    config = WeightingConfig(scheme=scheme, temperature=1.0)
    np.testing.assert_array_equal(state_weights(np.array(log_density), config), 1)


def test_minus_infinity_counts_as_the_clip():
    log_density = np.array([-np.inf, -2.0, 0.0])
    weights = state_weights(log_density, WeightingConfig(temperature=1.0, clip_quantile=0.0))
    assert weights[0] == weights[1]
    np.testing.assert_allclose(weights[1] / weights[2], np.exp(2))


def test_ties_share_their_average_rank():
    config = WeightingConfig(scheme="rank", temperature=1.0, clip_quantile=0.0)
    weights = state_weights(np.array([-np.inf, -np.inf, 5.0, 7.0]), config)
    np.testing.assert_allclose(weights / weights[3], [8 / 3, 8 / 3, 4 / 3, 1])


def test_huge_magnitudes_stay_finite():
    log_density = np.array([-7.2e6, -50.0, -4.1, 30.0], np.float32)
    weights = state_weights(log_density, WeightingConfig(temperature=1.0, clip_quantile=0.0))
    np.testing.assert_array_equal(weights, [4, 0, 0, 0])


def test_the_clip_keeps_the_effective_sample_size():
    log_density = np.random.default_rng(0).normal(-8.5, 9.9, 100_000)
    log_density[:3] = -7.2e6
    clipped = state_weights(log_density, WeightingConfig(temperature=0.1, clip_quantile=0.01))
    unclipped = state_weights(log_density, WeightingConfig(temperature=0.1, clip_quantile=0.0))
    assert effective_sample_size_percent(clipped) > 30
    assert effective_sample_size_percent(unclipped) < 0.01


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_illegal_density_names_the_row(scheme, value):
    with pytest.raises(InputError, match=rf"row 2 of the log densities is {value}"):
        state_weights(np.array([0.0, -np.inf, value, 1.0]), WeightingConfig(scheme=scheme))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("log_density", [[-np.inf, -np.inf], []])
def test_no_finite_density_is_an_error(scheme, log_density):
    with pytest.raises(InputError, match=rf"none of the {len(log_density)} log densities"):
        state_weights(np.array(log_density), WeightingConfig(scheme=scheme))


def test_effective_sample_size():
    assert effective_sample_size_percent(np.full(8, 3.0)) == 100
    assert effective_sample_size_percent(np.array([5.0, 0, 0, 0])) == 25
    assert effective_sample_size_percent(np.zeros(4)) == 0
    weights = np.random.default_rng(0).exponential(size=500)
    expected = 100 / (1 + weights.var() / weights.mean() ** 2)
    assert effective_sample_size_percent(weights) == pytest.approx(expected)
