"""What the tests with real processes share."""

from collections.abc import Iterator

import pytest

from tests.integration.processes import World


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    here = World()
    yield here
    here.end()
