"""Samplers: who proposes the values of a trial. All are Optuna's own, made anew for each trial."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from sdw_core.seeds import derive_seed
from search_spaces import Choice, StudySpec
from study.book import optuna_distribution

Make = Callable[[int], BaseSampler]
"""A sampler of a seed."""


def sampler_of(spec: StudySpec) -> BaseSampler:
    """The sampler that `study.sampler` names."""
    settings = spec.study
    make: dict[str, Callable[[int, int], BaseSampler]] = {
        "tpe": _tpe,
        "gp": _gp,
        "nsga2": _nsga2,
        "random": lambda seed, _: optuna.samplers.RandomSampler(seed),
        "grid": lambda seed, _: _grid(seed),
    }
    named = make[settings.sampler]
    first = as_it_stands(spec) if settings.defaults_first else {}
    return Reseeded(lambda seed: named(seed, settings.startup_trials), settings.seed, first)


def as_it_stands(spec: StudySpec) -> dict[str, Any]:
    """The parameters of a trial that is the pipeline without a search, of ranges that hold them."""
    found: dict[str, Any] = {}
    for path, searched in spec.search.items():
        value: Any = spec.pipeline.model_dump()
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(searched, Choice):
            held = [p for c, p in zip(searched.choices, searched.params, strict=True) if c == value]
        else:
            number = isinstance(value, int | float)
            held = [value] if number and optuna_distribution(searched)._contains(value) else []
        if held:
            found[path] = held[0]
    return found


def _tpe(seed: int, startup_trials: int) -> BaseSampler:
    return optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=startup_trials, constant_liar=True
    )


def _gp(seed: int, startup_trials: int) -> BaseSampler:
    """The noise of its values is one number, which it fits; see docs/design.md."""
    return optuna.samplers.GPSampler(
        seed=seed, n_startup_trials=startup_trials, warn_independent_sampling=False
    )


def _nsga2(seed: int, startup_trials: int) -> BaseSampler:
    """Its first generation is what is drawn at random."""
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(2, startup_trials))


def _grid(seed: int) -> BaseSampler:
    """Goes by the values that trials have, so that a trial that is asked again takes no place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return optuna.samplers.BruteForceSampler(seed=seed)


class Reseeded(BaseSampler):
    """A sampler that is made anew for each trial, seeded by (study seed, trial number).

    A driver that goes on with a study does not repeat the draws of the one before it. What trials
    have found is in the storage, and nowhere else. `after_trial` is nobody's: the samplers would
    only end a study there whose grid is done, and a study ends by its number of trials.

    Args:
        make: the sampler of a seed.
        seed: of the study.
        first: parameters of the first trial; others are drawn.
    """

    def __init__(self, make: Make, seed: int, first: Mapping[str, Any]) -> None:
        self._make = make
        self._seed = seed
        self._first = first
        self._current = self._looking = make(0)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Called by `ask`, before anything is drawn."""
        self._current = self._make(derive_seed(self._seed, "sampler", trial.number) % 2**32)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """What is drawn together, which is no matter of seeds.

        One sampler is asked it every time, for it remembers which trials it has seen.
        """
        return self._looking.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See `optuna.samplers.BaseSampler`."""
        return self._current.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """See `optuna.samplers.BaseSampler`; of the first trial nothing is drawn together."""
        if trial.number == 0 and param_name in self._first:
            return self._first[param_name]
        return self._current.sample_independent(study, trial, param_name, param_distribution)
