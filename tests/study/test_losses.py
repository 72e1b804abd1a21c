"""A head that is gone, seen from the driver; real nodes are lost in tests/integration."""

import socket
import threading
from collections.abc import Iterator

import pytest

from study.losses import ClusterLost, ClusterWatch


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Listens as a head does; all takes a fraction of a second."""
    for name, seconds in (("KNOCK_EVERY", 0.01), ("SILENCE", 0.1), ("UNWINDING", 0.1)):
        monkeypatch.setattr(f"study.losses.{name}", seconds)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def watch(head: socket.socket, leave: list[str]) -> ClusterWatch:
    host, port = head.getsockname()
    return ClusterWatch(f"{host}:{port}", "go on with X", lambda: leave.append("left"))


def wait_for(watch: ClusterWatch) -> str:
    """What the watch says at last."""
    while True:
        try:
            watch.require()
        except ClusterLost as lost:
            return str(lost)


def test_a_head_that_answers_is_watched_and_one_that_is_silent_is_said_with_the_way_on(
    head: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[int] = []
    monkeypatch.setattr("os._exit", ends.append)
    left: list[str] = []
    with watch(head, left) as watched:
        accepted = [head.accept() for _ in range(20)]
        watched.require()
        head.close()
        said = wait_for(watched)
    assert len(accepted) == 20
    assert said.startswith("The head of the Ray cluster, at 127.0.0.1:")
    assert said.endswith("what is done is kept: go on with X")
    assert (ends, left) == ([], [])  # the work ended in time


def test_where_the_work_does_not_end_the_process_is_ended_with_the_same_words(
    head: socket.socket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = threading.Event()
    ends: list[int] = []
    monkeypatch.setattr("os._exit", lambda status: (ends.append(status), ended.set()))
    left: list[str] = []
    with watch(head, left) as watched:
        head.close()
        assert ended.wait(30)
        assert capsys.readouterr().err == f"sdw: {wait_for(watched)}.\n"
    assert (ends, left) == ([1], ["left"])
