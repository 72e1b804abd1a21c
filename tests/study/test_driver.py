"""A driver gives signs of life whatever happens, and leaves when another one took its place."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from time import sleep

import pytest

from sdw_core.files import read_json, write_json
from study.comparison import ComparisonFolder
from study.driver import Driven, Replaced, Seat
from study.folder import StudyFolder

OTHER = {"host": "elsewhere", "pid": 42}
OWN = {"host": socket.gethostname(), "pid": os.getpid()}


@pytest.fixture(params=[StudyFolder, ComparisonFolder])
def seat(request, tmp_path, monkeypatch) -> Seat:
    """Of a study, and of a comparison."""
    monkeypatch.setattr("study.driver.HEARTBEAT", 0.01)
    return request.param(tmp_path).seat


def until(condition: Callable[[], object]) -> None:
    while not condition():
        sleep(0.005)


def sign_of_life(note: Path) -> None:
    os.utime(note, (0, 0))
    until(lambda: note.stat().st_mtime)


def test_a_sign_that_cannot_be_given_is_tried_again(seat):
    """What a network file system does now and then: the note is gone, or cannot be read."""
    with seat.taken() as heartbeat:
        sign_of_life(seat.note)
        seat.note.unlink()
        seat.note.mkdir()
        sleep(0.1)
        seat.note.rmdir()
        until(seat.note.exists)
        assert read_json(seat.note) == OWN
        sign_of_life(seat.note)
        seat.note.write_text('{"host": ')
        until(lambda: seat.driver() == OWN)
        heartbeat.require()
    assert not seat.note.exists()


def test_a_driver_that_another_one_replaced_leaves_without_a_trace(seat):
    with seat.taken() as heartbeat:
        write_json(seat.note, OTHER)
        until(lambda: heartbeat._other)
        said = r"was taken over by process 42 on elsewhere, as .* for more than 60 s; "
        with pytest.raises(Replaced, match=said):
            heartbeat.require()
        with pytest.raises(Replaced):
            heartbeat.tell(ray_dashboard="127.0.0.1:1")
    assert read_json(seat.note) == OTHER


def test_one_that_was_silent_for_long_does_not_return_to_a_seat_that_was_taken_and_left(
    seat, monkeypatch
):
    with seat.taken() as heartbeat:
        monkeypatch.setattr("study.driver.PRESUMED_DEAD", 0.0)
        seat.note.unlink()
        until(lambda: heartbeat._other is not None)
        with pytest.raises(Replaced, match="taken over by another process"):
            heartbeat.require()
    assert not seat.note.exists()


def test_a_folder_that_is_removed_is_not_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr("study.driver.HEARTBEAT", 0.01)
    seat = StudyFolder(tmp_path / "study").seat
    seat.folder.mkdir()
    with seat.taken():
        for path in seat.folder.iterdir():
            path.unlink()
        seat.folder.rmdir()
        sleep(0.1)
        assert not seat.folder.exists()


def test_what_a_driver_says_stays_said(seat):
    with seat.taken() as heartbeat:
        heartbeat.tell(ray_dashboard="127.0.0.1:1")
        assert seat.driver() == OWN | {"ray_dashboard": "127.0.0.1:1"}
        seat.note.unlink()
        until(seat.driver)
        assert seat.driver() == OWN | {"ray_dashboard": "127.0.0.1:1"}


@pytest.mark.parametrize("text", ["", "[]"])
def test_a_damaged_note_names_nobody(seat, text):
    seat.note.write_text(text)
    assert not seat.occupied()
    with seat.taken():
        assert seat.driver() == OWN


def test_a_second_driver_is_told_who_is_there_and_what_to_do(seat):
    write_json(seat.note, OTHER)
    assert seat.occupied()
    with pytest.raises(Driven, match=rf"^{seat.driven} is .* 42 on elsewhere; {seat.advice}\.$"):
        seat.taken().__enter__()
    assert read_json(seat.note) == OTHER
