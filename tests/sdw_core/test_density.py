"""One conformance suite for every density model, on closed-form densities and on real states."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from sdw_core import density
from sdw_core.config import DensityConfig
from sdw_core.density import FittedDensity, fit_density
from sdw_core.errors import DivergenceError, InputError
from sdw_core.registry import DENSITIES
from sdw_core.units import Units

MODELS = list(DENSITIES.builtin)
ROOT = Path(__file__).parents[2]
BUNDLED = ROOT / "sdw_core/data/sdw/hopper-replay-mini-v0/data/main_data.hdf5"
HOPPER = ROOT.parent / "shared/data/minari/sdw/hopper-medium-replay-v0/data/main_data.hdf5"

# An equal mixture of two Gaussians: two-dimensional, correlated, skewed.
COMPONENTS = [
    ([-1.0, 0.3], [[0.3, 0.2], [0.2, 0.9]]),
    ([1.0, -0.3], [[0.6, -0.3], [-0.3, 0.4]]),
]


def sample_mixture(count, seed):
    rng = np.random.default_rng(seed)
    states = [rng.multivariate_normal(*component, count) for component in COMPONENTS]
    return np.where(rng.random((count, 1)) < 0.5, *states).astype(np.float32)


def mixture_log_prob(states):
    log_probs = [multivariate_normal(*component).logpdf(states) for component in COMPONENTS]
    return logsumexp(log_probs, axis=0, b=0.5)


def quick(model, **settings):
    settings = {"transforms": 2, "hidden_features": 32, "batch_size": 256, **settings}
    return DensityConfig(model=model, **settings)


def real_states(path):
    with h5py.File(path) as file:
        episodes = [file[f"episode_{i}"]["observations"][:-1] for i in range(len(file))]
    observations = np.concatenate(episodes)
    no_actions = np.empty(0, np.float32)
    return Units.fit(observations, no_actions, no_actions).normalized_states(observations)


@pytest.fixture(params=MODELS)
def model(request):
    return request.param


@pytest.fixture(scope="module")
def fitted():
    """Each model fitted to 8,000 states of the mixture."""
    states = sample_mixture(8000, seed=0)
    settings = {"transforms": 3, "learning_rate": 5e-3, "steps": 300}
    return {model: fit_density(states, quick(model, **settings), seed=0) for model in MODELS}


def test_integrates_to_one(fitted, model):
    axis = np.linspace(-9, 9, 401, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    area = float(axis[1] - axis[0]) ** 2
    assert np.exp(fitted[model].log_prob(grid).astype(float)).sum() * area == pytest.approx(
        1, abs=5e-3
    )


@pytest.mark.parametrize(("model", "margin"), [("maf", 0.06), ("nsf", 0.06), ("gaussian", 0.3)])
def test_comes_near_the_true_density_and_not_above(fitted, model, margin):
    states = sample_mixture(20_000, seed=1)
    excess = fitted[model].log_prob(states) - mixture_log_prob(states)
    error = excess.std() / np.sqrt(len(excess))
    assert -margin < excess.mean() < 3 * error


def test_held_out_log_likelihood_predicts_that_of_new_states(fitted, model):
    log_prob = fitted[model].log_prob(sample_mixture(20_000, seed=1))
    error = log_prob.std() / np.sqrt(800)
    assert fitted[model].held_out_log_likelihood == pytest.approx(log_prob.mean(), abs=3 * error)


def test_save_and_load(fitted, model, tmp_path):
    config = quick(model, transforms=3)
    save_file(fitted[model].state(), tmp_path / "density.safetensors")
    state = load_file(tmp_path / "density.safetensors")
    states = sample_mixture(100, seed=2)
    for array in (states, *state.values()):
        array.setflags(write=False)
    loaded = FittedDensity.from_state(config, state)
    np.testing.assert_array_equal(loaded.log_prob(states), fitted[model].log_prob(states))
    assert loaded.held_out_log_likelihood == fitted[model].held_out_log_likelihood


def test_batches_do_not_show(fitted, model, monkeypatch):
    states = sample_mixture(100, seed=2)
    expected = fitted[model].log_prob(states)
    monkeypatch.setattr(density, "_CHUNK", 7)
    np.testing.assert_allclose(fitted[model].log_prob(states), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_prob_keeps_the_dtype(fitted, model, dtype):
    log_prob = fitted[model].log_prob(np.zeros((5, 2), dtype))
    assert (log_prob.shape, log_prob.dtype) == ((5,), dtype)


def test_far_states_have_no_density_and_raise_no_error(fitted, model):
    log_prob = fitted[model].log_prob(np.array([[0, 0], [6, 6], [1e3, 1e3], [1e25, 1e25]], "f4"))
    assert np.isfinite(log_prob[:3]).all()
    assert (np.diff(log_prob) < 0).all()
    assert log_prob[3] == -np.inf


def test_constant_dimensions_are_left_out(model):
    states = sample_mixture(500, seed=0)
    padded = np.insert(states, [0, 1], [[3.7, -1e-3]], axis=1).astype(np.float32)
    config = quick(model, steps=8)
    expected, received = fit_density(states, config, 0), fit_density(padded, config, 0)
    np.testing.assert_array_equal(received.varying, [False, True, False, True])
    assert received.held_out_log_likelihood == expected.held_out_log_likelihood
    padded[:, 0] = 99
    np.testing.assert_array_equal(received.log_prob(padded), expected.log_prob(states))


@pytest.mark.parametrize("count", [2, 3, 50])
@pytest.mark.parametrize("width", [1, 2])
def test_small_data(model, count, width):
    states = sample_mixture(count, seed=0)[:, :width]
    fitted = fit_density(states, quick(model, steps=16), seed=0)
    assert np.isfinite(fitted.log_prob(states)).all()
    assert np.isfinite(fitted.held_out_log_likelihood)


def log_probs(seed):
    states = sample_mixture(600, seed=0)
    return {
        model: fit_density(states, quick(model, steps=16), seed).log_prob(states[:20]).tolist()
        for model in MODELS
    }


def test_same_seed_gives_the_same_density_in_a_fresh_process():
    torch.manual_seed(11)
    before = torch.get_rng_state()
    here = log_probs(seed=3)
    torch.testing.assert_close(torch.get_rng_state(), before)
    other = log_probs(seed=4)
    assert all(here[model] != other[model] for model in MODELS)
    script = (
        f"import json, runpy; test = runpy.run_path({str(Path(__file__))!r});"
        "print(json.dumps(test['log_probs'](seed=3)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(output) == here


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_states(model, count):
    with pytest.raises(InputError, match=rf"at least two states, not {count}"):
        fit_density(np.zeros((count, 2), np.float32), quick(model), seed=0)


def test_all_constant(model):
    with pytest.raises(InputError, match="all 3 state dimensions are constant"):
        fit_density(np.ones((10, 3), np.float32), quick(model), seed=0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_states_name_the_row(fitted, model, value):
    states = sample_mixture(10, seed=0)
    states[4, 1] = value
    with pytest.raises(InputError, match="row 4 of the states is not finite"):
        fit_density(states, quick(model), seed=0)
    with pytest.raises(InputError, match="row 4 of the states is not finite"):
        fitted[model].log_prob(states)


@pytest.mark.parametrize("shape", [(5, 3), (2,)])
def test_wrong_width_names_both(fitted, model, shape):
    with pytest.raises(InputError, match=rf"\[N, 2\], not \[{shape[0]}"):
        fitted[model].log_prob(np.zeros(shape, np.float32))


def test_progress_rises_to_one(model):
    seen = []
    fit_density(sample_mixture(600, seed=0), quick(model), seed=0, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[0] > 0
    assert seen[-1] == 1


@pytest.mark.parametrize("width", [1, 3])
def test_gaussian_is_the_closed_form(width):
    rng = np.random.default_rng(0)
    states = (rng.normal(size=(2000, width)) @ rng.normal(size=(width, width))).astype(np.float32)
    fitted = fit_density(states, DensityConfig(model="gaussian", holdout=1e-9), seed=0)
    mean, covariance = states.mean(0, dtype=float), np.cov(states.T.astype(float), bias=True)
    expected = multivariate_normal(mean, covariance).logpdf(states)
    np.testing.assert_allclose(fitted.log_prob(states), expected, atol=0.02)  # one row held out


def test_gaussian_survives_collinear_dimensions():
    states = sample_mixture(2000, seed=0)
    twice = np.concatenate([states, states[:, :1], states.sum(1, keepdims=True)], 1)
    fitted = fit_density(twice, DensityConfig(model="gaussian"), seed=0)
    single = fit_density(states, DensityConfig(model="gaussian"), seed=0)
    log_prob, expected = fitted.log_prob(twice), single.log_prob(states)
    np.testing.assert_allclose(log_prob - log_prob[0], expected - expected[0], atol=1e-2)


@pytest.mark.parametrize(("patience", "steps"), [(1, 400), (3, 400), (3, 20)])
def test_early_stopping_keeps_the_best_weights(monkeypatch, patience, steps):
    scores = []

    def recorded(model, states):
        scores.append(mean_log_prob(model, states))
        return scores[-1]

    mean_log_prob = density._mean_log_prob
    monkeypatch.setattr(density, "_mean_log_prob", recorded)
    config = quick("maf", batch_size=16, learning_rate=0.05, steps=steps, patience=patience)
    fitted = fit_density(sample_mixture(100, seed=0), config, seed=0)
    *by_scoring, kept = scores
    assert kept == fitted.held_out_log_likelihood == max(by_scoring)
    assert len(by_scoring) == min(int(np.argmax(by_scoring)) + 1 + patience, density.SCORINGS)


def test_a_diverged_flow_is_an_error():
    config = quick("maf", learning_rate=1e30)
    with pytest.raises(DivergenceError, match=r"diverged.*density.learning_rate"):
        fit_density(sample_mixture(600, seed=0), config, seed=0)


@pytest.mark.slow
def test_flow_beats_gaussian_on_the_bundled_states():
    states = real_states(BUNDLED)
    flow = fit_density(states, DensityConfig(), seed=0)
    gaussian = fit_density(states, DensityConfig(model="gaussian"), seed=0)
    assert flow.held_out_log_likelihood > gaussian.held_out_log_likelihood + 2


@pytest.mark.slow
@pytest.mark.skipif(not HOPPER.exists(), reason="needs ../shared")
def test_target_on_hopper():
    states = real_states(HOPPER)
    assert states.shape == (199_745, 11)
    fitted = fit_density(states, DensityConfig(), seed=0)
    assert fitted.held_out_log_likelihood > -6.4
    assert np.isfinite(fitted.log_prob(states)).all()
