"""Optuna's own conformance suite for samplers, passed by those that a study can name.

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

from study.samplers import sampler_of
from tests.study.conftest import small_spec


@pytest.fixture(autouse=True, scope="module")
def quietly() -> Iterator[None]:
    """Optuna would log a line for each of a thousand trials."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(verbosity)


def named(name: str, startup_trials: int) -> Callable[[], BaseSampler]:
    settings = f"study.sampler={name}", f"study.startup_trials={startup_trials}"
    return lambda: sampler_of(small_spec(*settings))


class TestAtRandom(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    """Every value is drawn at random, as the first ones of every sampler but `grid` are."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return named("random", 1000)


class TestTPE(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    """Every value after the first trial's comes from the densities of good and of bad trials."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return named("tpe", 1)


class TestNSGA2(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    """Generations of two."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return named("nsga2", 2)


@pytest.mark.slow
class TestGP(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    """Every value after the first trial's comes from a Gaussian process."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return named("gp", 1)


class TestGrid:
    """What the suite asks of finite ranges: no study has a grid of others."""

    test_int = BasicSamplerTestCase.test_int
    test_categorical = BasicSamplerTestCase.test_categorical
    test_sample_single_distribution = BasicSamplerTestCase.test_sample_single_distribution

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return named("grid", 1)
