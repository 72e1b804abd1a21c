"""Which recipe an evaluation trains by, given the rows' own."""

from typing import Any

import numpy as np
import pytest

from sdw_core.config import EvaluationConfig
from sdw_core.errors import InputError
from sdw_core.evaluate import Recipe
from sdw_core.protocols import applied, grid

OWN = Recipe(4, 128, 50, (0.7, 0.2, 0.05, 0.03))


def recipe(own: Recipe = OWN, **changes: Any) -> Recipe:
    return applied(EvaluationConfig(**changes), own)


def test_without_a_change_it_is_the_rows_own() -> None:
    assert recipe() == OWN
    assert recipe(policies=3, ensemble=7) == OWN
    assert recipe(layers=4, architecture="mlp", optimizer="sgd", steps=50) == OWN


def test_a_change_changes_what_it_names_only() -> None:
    assert recipe(steps=7) == Recipe(4, 128, 7, OWN.learning_rates)
    assert recipe(architecture="residual") == Recipe(4, 128, 50, OWN.learning_rates, "residual")
    assert recipe(learning_rate=0.4) == Recipe(4, 128, 50, (0.4,) * 4)
    assert recipe(optimizer="adam") == Recipe(4, 128, 50, (0.001,) * 4, "mlp", "adam")
    changed = recipe(optimizer="adamw", layers=2, learning_rate=0.02)
    assert changed == Recipe(2, 128, 50, (0.02, 0.02), "mlp", "adamw")


def test_momentum_takes_a_tenth_of_the_rates() -> None:
    """0.9 + 0.81 + ... of each gradient is still to come."""
    rates = recipe(optimizer="momentum").learning_rates
    np.testing.assert_allclose(rates, np.array(OWN.learning_rates) / 10)
    assert recipe(optimizer="momentum", learning_rate=0.1).learning_rates == (0.1,) * 4


@pytest.mark.parametrize(
    ("own", "layers", "rates"),
    [
        (OWN.learning_rates, 1, (0.03,)),
        (OWN.learning_rates, 2, (0.7, 0.03)),
        (OWN.learning_rates, 3, (0.7, 0.1, 0.03)),
        (OWN.learning_rates, 6, (0.7, 0.1, 0.1, 0.1, 0.1, 0.03)),
        ((0.8, 0.2), 3, (0.8, 0.4, 0.2)),
        ((0.5,), 3, (0.5, 0.5, 0.5)),
    ],
)
def test_rates_at_another_depth(
    own: tuple[float, ...], layers: int, rates: tuple[float, ...]
) -> None:
    changed = recipe(Recipe(len(own), 128, 50, own), layers=layers)
    np.testing.assert_allclose(changed.learning_rates, rates)
    assert changed.layers == layers
    by_adam = recipe(Recipe(len(own), 128, 50, own), layers=layers, optimizer="adam")
    assert by_adam.learning_rates == (0.001,) * layers


@pytest.mark.parametrize(("own", "layers"), [(4, 2), (4, 1), (2, None)])
def test_a_residual_network_without_a_layer_to_skip_is_refused(
    own: int, layers: int | None
) -> None:
    with pytest.raises(InputError, match=r"at least 3 layers, and has \d; raise `layers`"):
        recipe(Recipe(own, 8, 5, (0.1,) * own), architecture="residual", layers=layers)


@pytest.mark.parametrize("layers", [1, 2, 4, 9])
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_the_grid_changes_one_thing_at_a_time(layers: int, steps: int) -> None:
    own = Recipe(layers, 16, steps, (0.1,) * layers)
    protocols = grid(own, 3, 2)
    assert all((p.policies, p.episodes) == (3, 2) for p in protocols.values())
    assert applied(next(iter(protocols.values())), own) == own
    recipes = [(applied(protocol, own), protocol.ensemble) for protocol in protocols.values()]
    distinct = {(r.layers, r.architecture, r.optimizer, r.steps, e) for r, e in recipes}
    assert len(distinct) == len(protocols)
    assert {r.layers for r, _ in recipes} == {2, 3, 4, 5, 6, layers}
    assert {r.optimizer for r, _ in recipes} == {"sgd", "momentum", "adam", "adamw"}
    assert {e for _, e in recipes} == {1, 10}
    assert {r.steps for r, _ in recipes} == {steps // 2 or steps, steps, 2 * steps}
