"""Optuna's own conformance suite for samplers, passed by the sampler of the studies.

The suite asks what a study may ask of a sampler: legal values of plain types from every
distribution, search spaces that change between trials, outcomes that are not numbers, several
objectives, two threads.
"""

from collections.abc import Callable, Iterator

import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)

from study.search import SeededTPE


@pytest.fixture(autouse=True, scope="module")
def quietly() -> Iterator[None]:
    """Optuna would log a line for each of a thousand trials."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(verbosity)


class TestWhileStartingUp(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    """Every value is drawn at random."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: SeededTPE(seed=0, startup_trials=1000)


class TestWithAModel(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    """Every value after the first trial's comes from the densities of good and of bad trials."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: SeededTPE(seed=0, startup_trials=0)
