"""Evaluation protocols: rows judged by other policies and trainings than they were distilled for.

An `EvaluationConfig` says what differs from the rows' own recipe, and learning rates follow these
rules, unless it states one, which then holds for every layer:

    the recipe's own depth, sgd    the rows' own rates, learned ones included
    another depth                  the first and the last layer keep their rates; each hidden layer
                                   takes the geometric mean of the hidden ones (of all, if none is)
    momentum                       (1 - 0.9) times the rates of sgd: in the long run the same step
    adam, adamw                    0.001 for every layer: their steps do not scale with the gradient
"""

from collections.abc import Iterable
from math import exp, log
from typing import Any

from sdw_core.config import DistillConfig, EvaluationConfig
from sdw_core.errors import InputError
from sdw_core.evaluate import Recipe
from sdw_core.policy import MOMENTUM

ADAM_RATE = 1e-3
DEPTHS = (2, 3, 4, 5, 6)
ENSEMBLE = 10


def own_recipe(config: DistillConfig, rates: Iterable[float] = ()) -> Recipe:
    """What rows are distilled for, with the learned rates, or else `inner_lr` for every layer."""
    rates = tuple(rates) or (config.inner_lr,) * config.layers
    return Recipe(config.layers, config.width, config.inner_steps, rates)


def applied(evaluation: EvaluationConfig, own: Recipe) -> Recipe:
    """The recipe that policies are trained by: the rows' own with what the evaluation changes.

    Raises:
        InputError: a residual network of fewer than three layers.
    """
    layers = evaluation.layers or own.layers
    architecture = evaluation.architecture or own.architecture
    optimizer = evaluation.optimizer or own.optimizer
    if architecture == "residual" and layers < 3:
        raise InputError(
            f"A residual network needs a hidden layer to skip, so at least 3 layers, and has "
            f"{layers}; raise `layers` or choose the architecture `mlp`."
        )
    rates = _rates_at_depth(own.learning_rates, layers)
    if optimizer == "momentum":
        rates = tuple((1 - MOMENTUM) * rate for rate in rates)
    if optimizer in ("adam", "adamw"):
        rates = (ADAM_RATE,) * layers
    if evaluation.learning_rate:
        rates = (evaluation.learning_rate,) * layers
    steps = evaluation.steps or own.steps
    return Recipe(layers, own.width, steps, rates, architecture, optimizer)


def _rates_at_depth(own: tuple[float, ...], layers: int) -> tuple[float, ...]:
    if layers == len(own):
        return own
    between = own[1:-1] or own
    hidden = exp(sum(map(log, between)) / len(between))
    return (own[0], *[hidden] * (layers - 2), own[-1]) if layers > 1 else own[-1:]


def grid(own: Recipe, policies: int, episodes: int) -> dict[str, EvaluationConfig]:
    """The protocols of the field, one change of the rows' own recipe at a time, by name.

    Other depths and a residual network, other optimisers, ensembles, half and twice the steps.
    """
    changes: dict[str, dict[str, Any]] = {"the rows' own recipe": {}}
    changes |= {f"{n} layers": {"layers": n} for n in DEPTHS if n != own.layers}
    residual = {"architecture": "residual"} | ({"layers": 3} if own.layers < 3 else {})
    changes[f"residual, {residual.get('layers', own.layers)} layers"] = residual
    changes |= {name: {"optimizer": name} for name in ("momentum", "adam", "adamw")}
    changes[f"ensembles of {ENSEMBLE}"] = {"ensemble": ENSEMBLE}
    changes |= {f"{n} steps": {"steps": n} for n in (own.steps // 2, 2 * own.steps) if n}
    size = {"policies": policies, "episodes": episodes}
    return {name: EvaluationConfig(**size, **change) for name, change in changes.items()}
