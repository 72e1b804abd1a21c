"""From the log density of a state to its weight w(s) in the distillation loss."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdw_core.config import WeightingConfig
from sdw_core.errors import InputError
from sdw_core.registry import WEIGHTINGS

Floats = NDArray[np.floating[Any]]


def state_weights(log_density: Floats, config: WeightingConfig) -> NDArray[np.float64]:
    """Weights that grow as the density falls: `[N]` to `[N]` float64, mean 1.

    With tau = `temperature` and the rarity r_i of a state, which `scheme` makes of the densities,

        w_i = exp(tau * r_i) / mean

    computed in log space; tau = 0 gives exactly 1 everywhere.

    Args:
        log_density: natural log density of each state, `[N]`, nats; -inf is legal.
        config: scheme, temperature and clip.

    Raises:
        InputError: a log density is nan or +inf (the row is named), or none is finite; or the
            rarity is not.

    >>> log_density = np.log([0.5, 0.25, 0.25])
    >>> state_weights(log_density, WeightingConfig(temperature=1.0)).round(2).tolist()
    [0.6, 1.2, 1.2]
    """
    log_density = np.asarray(log_density, np.float64)
    illegal = np.flatnonzero(np.isnan(log_density) | np.isposinf(log_density))
    if illegal.size:
        row = illegal[0]
        raise InputError(
            f"row {row} of the log densities is {log_density[row]}: each must be finite or -inf."
        )
    if not np.isfinite(log_density).any():
        raise InputError(f"none of the {len(log_density)} log densities is finite.")
    found = WEIGHTINGS.make(config.scheme, config.options, log_density=log_density, config=config)
    rarity = WEIGHTINGS.numbers(config.scheme, "a rarity", found, log_density.shape).numpy()
    weights = np.exp(config.temperature * (rarity - rarity.max()))
    return np.asarray(weights / weights.mean())


def reciprocal(log_density: NDArray[np.float64], config: WeightingConfig) -> NDArray[np.float64]:
    """-max(log d_i, q-quantile of the finite log d), with q = `clip_quantile`: [N] to [N].

    The weight of State Diversity Matters in Offline Behavior Distillation
    (https://arxiv.org/abs/2512.06692); without the clip a handful of states takes all of it.
    """
    finite = log_density[np.isfinite(log_density)]
    return -np.maximum(log_density, np.quantile(finite, config.clip_quantile))


def rank(log_density: NDArray[np.float64], config: WeightingConfig) -> NDArray[np.float64]:
    """-log max(u_i, q), with u_i = (rank of d_i, ties averaged) / N: [N] to [N].

    It depends on the order of the densities alone, so it is robust to their scale.
    """
    return -np.log(np.maximum(_quantile_ranks(log_density), config.clip_quantile))


def effective_sample_size_percent(weights: Floats) -> float:
    """ESS% = 100 (sum w)^2 / (N sum w^2) of weights `[N]`.

    It is 100 where all weights are equal, 100 / N where one state has all the weight, and 0 where
    none has any.

    >>> effective_sample_size_percent(np.array([1.0, 1.0, 0.0, 0.0]))
    50.0
    """
    weights = np.asarray(weights, np.float64)
    squares = len(weights) * np.square(weights).sum()
    return float(100 * weights.sum() ** 2 / squares) if squares else 0.0


def _quantile_ranks(values: Floats) -> NDArray[np.float64]:
    """Rank from 1 (least) to N, ties averaged, divided by N: in (0, 1]."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    average_rank = np.cumsum(counts) - (counts - 1) / 2
    return np.asarray(average_rank[index] / len(values))
