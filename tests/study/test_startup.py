"""`sdw` where something is missing that it might count on: it works, or says why not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sdw_core.errors import InputError
from study.startup import HOMELESS, LONGEST, keep_ray_token, make_ready, make_room_for_sockets
from tests.study.conftest import SMALL

ROOT = Path(__file__).parents[2]
COMMAND = f"{sys.executable} -m study.cli"
LONG = "long-" * 30


def sdw(tmp_path: Path, line: str, **changes: str | None) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a shell's line, in which `sdw` is the command.

    `changes` are of the environment; None takes a variable out.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MINARI_DATASETS_PATH": None} | changes
    done = subprocess.run(
        ["bash", "-c", f'sdw() {{ {COMMAND} "$@"; }}; {line}'],
        cwd=tmp_path,
        env={name: value for name, value in environment.items() if value is not None},
        capture_output=True,
        timeout=280,
        check=False,
    )
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    for said in ("Traceback", "Exception ignored", "internal error"):
        assert said not in out + err, err
    return done.returncode, out, err


def refused(result: tuple[int, str, str], status: int, *words: str) -> None:
    """It is one sentence, with these words."""
    code, out, err = result
    assert (code, out, err.count("\n"), err[:5]) == (status, "", 1, "sdw: "), err
    for word in words:
        assert word in err


NOTHING: dict[str, str | None] = {
    "HOME": None,
    "TMPDIR": "/nonexistent",
    "MUJOCO_GL": "nonsense",
    "MINARI_DATASETS_PATH": "/etc/passwd",
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONIOENCODING": "ascii",
    "COLUMNS": "10",
    "NO_COLOR": "1",
    "TERM": "dumb",
}


def test_a_command_works_where_all_of_it_is_missing_at_once(tmp_path):
    code, out, err = sdw(tmp_path, "sdw data describe sdw/hopper-replay-mini-v0 <&-", **NOTHING)
    assert (code, err) == (0, "")
    assert "49,756" in out
    refused(sdw(tmp_path, "sdw status 'ü[x]'", **NOTHING), 2, "[x]'")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTHING)
def test_a_command_works_where_one_of_it_is_missing(tmp_path, name):
    code, out, err = sdw(tmp_path, "sdw data list", **{name: NOTHING[name]})
    assert (code, err) == (0, "")
    assert "sdw/hopper-replay-mini-v0" in "".join(out.split())


@pytest.mark.slow
@pytest.mark.parametrize("home", ["/nonexistent", "/proc", "/etc/passwd", "relative"])
def test_a_home_that_cannot_be_written_is_not_needed(tmp_path, home):
    code, _, err = sdw(tmp_path, "sdw validate quickstart", HOME=home)
    assert (code, err) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("gl", ["egl", "osmesa", "glfw"])
def test_nothing_is_drawn(tmp_path, gl):
    code, _, err = sdw(tmp_path, "sdw data describe sdw/hopper-replay-mini-v0", MUJOCO_GL=gl)
    assert (code, err) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("path", ["nowhere", "/proc/nowhere", "/etc/passwd/below"])
def test_a_datasets_folder_that_is_none_holds_nothing(tmp_path, path):
    code, out, err = sdw(tmp_path, "sdw data list --json", MINARI_DATASETS_PATH=path)
    assert (code, err, out.count('"id"')) == (0, "", 1)
    refused(sdw(tmp_path, "sdw data describe my/x-v0", MINARI_DATASETS_PATH=path), 2, path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "status", "word"),
    [
        ("sdw data list | head -0; exit ${PIPESTATUS[0]}", None, ""),
        ("sdw data list --json | head -0; exit ${PIPESTATUS[0]}", None, ""),
        ("sdw data list --json >&-", 0, ""),
        ("sdw data list >&-", 0, ""),
        ("sdw data list >/dev/full", 1, "No space left on device"),
        ("sdw data list --json >/dev/full", 1, "No space left on device"),
        ("sdw status nothing 2>&-", 2, ""),
        ("sdw status nothing 2>/dev/full", 2, ""),
        ("mkdir gone; cd gone; rmdir ../gone; sdw data list", 2, "current folder"),
    ],
)
def test_a_stream_or_a_folder_that_is_gone(tmp_path, line, status, word):
    code, _, err = sdw(tmp_path, line)
    assert code in ((0, 1) if status is None else (status,)), err
    assert err.count("\n") == (1 if word else 0), err
    assert word in err


@pytest.mark.slow
def test_a_study_runs_where_home_temporary_folder_and_datasets_are_odd(tmp_path):
    """TMPDIR is too long for a socket's name, the home is none, and the datasets' path relative."""
    (tmp_path / LONG).mkdir()
    sets = " ".join(f"--set {each}" for each in (*SMALL, "study.trials=1"))
    odd = {"TMPDIR": str(tmp_path / LONG), "MINARI_DATASETS_PATH": "minari"}
    line = f"sdw launch quickstart {sets} --json <&-"
    code, out, err = sdw(tmp_path, line, HOME="/proc", MUJOCO_GL="nonsense", **odd)
    assert (code, '"state": "finished"' in out) == (0, True), err


@pytest.fixture
def environment(monkeypatch):
    """What is set in it by the code under test is taken back."""
    for name in ("HOME", "TMPDIR", "RAY_TMPDIR", "RAY_AUTH_TOKEN", "MINARI_DATASETS_PATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # so that it is put back
        monkeypatch.delenv(name)
    return monkeypatch


def test_a_relative_datasets_folder_is_settled_once(tmp_path, environment):
    environment.chdir(tmp_path)
    environment.setenv("MINARI_DATASETS_PATH", "some/where")
    make_ready()
    assert os.environ["MINARI_DATASETS_PATH"] == str(tmp_path / "some" / "where")


def test_a_user_without_a_home_gets_one_that_holds_nothing(environment):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    environment.setattr(Path, "home", nowhere)
    make_ready()
    assert os.environ["HOME"] == HOMELESS


def test_sockets_find_room(tmp_path, environment):
    long = tmp_path / LONG
    long.mkdir()
    environment.setattr("tempfile.tempdir", str(long))
    make_room_for_sockets()
    assert (os.environ["TMPDIR"], os.environ["RAY_TMPDIR"]) == ("/tmp", "/tmp")
    environment.setenv("RAY_TMPDIR", str(long))
    with pytest.raises(InputError, match=rf"{LONGEST} bytes.*RAY_TMPDIR"):
        make_room_for_sockets()
    environment.setenv("RAY_TMPDIR", "/run/mine")
    environment.setattr("tempfile.tempdir", "/run")
    make_room_for_sockets()
    assert (os.environ["TMPDIR"], os.environ["RAY_TMPDIR"]) == ("/run", "/run/mine")


def test_rays_token_stays_in_the_environment_where_the_home_takes_none(tmp_path, environment):
    environment.setenv("HOME", str(tmp_path))
    keep_ray_token()
    assert "RAY_AUTH_TOKEN" not in os.environ
    environment.setenv("HOME", "/proc/nowhere")
    keep_ray_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_file_and_no_trouble(tmp_path, closed):
    """Else files take its place, and what is printed into it lies in them."""
    line = f"sdw data import sdw/hopper-replay-mini-v0 --name my/copy-v0 {closed}; echo $?"
    status, out, err = sdw(tmp_path, line, MINARI_DATASETS_PATH=str(tmp_path))
    assert (status, out.split()[-1], err) == (0, "0", "")
