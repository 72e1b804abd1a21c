"""What the tests with real processes share."""

from collections.abc import Iterator
from functools import partial

import pytest

from tests.integration.hosts import Hosts, hosts_of, missing
from tests.integration.processes import TINY, Sdw, World
from tests.study import commands


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    here = World()
    yield here
    here.end()


@pytest.fixture(scope="module")
def hosts(world: World) -> Iterator[Hosts]:
    """Hosts to be added, as many as a test needs."""
    if lacks := missing():
        pytest.skip(lacks)
    with hosts_of(world) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def spec(world: World) -> str:
    """The file of a study whose trials take a second."""
    path = world.path / "tiny.yaml"
    path.write_text(TINY)
    return str(path)


@pytest.fixture
def sdw(world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Sdw:
    """`sdw ARGUMENTS` in this process, in the world's home and folder; for what starts no Ray."""
    monkeypatch.chdir(world.path)
    monkeypatch.setenv("HOME", world.env["HOME"])
    return partial(commands.sdw, capsys)
