"""Signals end a command in one line, or ask a study to stop; nothing half-written is left."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from study.folder import StudyFolder
from study.search import StudySearch
from study.signals import (
    ENDING,
    TO_THE_GROUP,
    Ended,
    children_deaf,
    ending,
    going_on_with,
    handlers_kept,
    stopping,
)
from study.trial import run_trial
from tests.sdw_core.processes import ROOT
from tests.study.commands import sdw
from tests.study.conftest import small_spec

COMMAND = """
import sys, time
from pathlib import Path
from sdw_core.files import created_folder
from study.cli.app import app, main

@app.command()
def dawdle() -> None:
    with created_folder(Path("whole")) as scratch:
        (scratch / "half").touch()
        try:
            print("begun", flush=True)
            time.sleep(60)
        finally:
            if "slowly" in sys.argv[-1]:
                print("cleans up", flush=True)
                time.sleep(1)

sys.argv = ["sdw", "dawdle"]
main()
"""


def begun(
    folder: Path, code: str = COMMAND, before: Callable[[], object] = lambda: None
) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "HOME": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )
    assert process.stdout.readline() == "begun\n", process.communicate()
    return process


@pytest.mark.parametrize("number", ENDING)
def test_a_command_that_a_signal_ends_says_so_in_a_line_and_leaves_nothing_half_written(
    tmp_path, number
):
    process = begun(tmp_path)
    process.send_signal(number)
    out, err = process.communicate()
    assert (process.returncode, out, err.count("\n")) == (128 + number, "", 1)
    assert err.startswith(f"sdw: Ended by {number.name}; ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("first", "second"), [(signal.SIGHUP, signal.SIGTERM), (signal.SIGINT, signal.SIGINT)]
)
def test_a_second_signal_does_not_end_the_clean_up(tmp_path, first, second):
    process = begun(tmp_path, COMMAND.replace('"slowly" in sys.argv[-1]', "True"))
    process.send_signal(first)
    assert process.stdout.readline() == "cleans up\n"
    process.send_signal(second)
    assert process.communicate()[1].startswith(f"sdw: Ended by {first.name}; ")
    assert list(tmp_path.iterdir()) == []


def test_what_nohup_ignores_stays_ignored(tmp_path):
    process = begun(tmp_path, before=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGTERM)
    assert "Ended by SIGTERM" in process.communicate()[1]


def test_handlers_are_those_of_before_in_the_end(tmp_path):
    before = {number: signal.getsignal(number) for number in ENDING}
    with ending(), stopping(tmp_path / "stop"):
        assert all(signal.getsignal(number) != before[number] for number in ENDING)
    assert {number: signal.getsignal(number) for number in ENDING} == before


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_asks_a_study_to_stop_and_only_a_second_interrupt_ends_its_driver(
    tmp_path, number
):
    flag = tmp_path / "stop"
    with stopping(flag):
        signal.raise_signal(number)
        assert flag.exists()
        for other in ENDING[1:]:
            signal.raise_signal(other)
        if number != signal.SIGINT:
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(Ended):
            signal.raise_signal(signal.SIGINT)


def interrupted_library() -> None:
    """What Ray makes of a second Ctrl-C, while a third comes as Ray's processes are ended."""
    signal.raise_signal(signal.SIGINT)
    try:
        signal.raise_signal(signal.SIGINT)
    except Ended as ended:
        signal.raise_signal(signal.SIGINT)
        raise SystemError("returned a result with an exception set") from ended


def test_what_a_library_makes_of_a_second_interrupt_is_the_end_of_the_driver(tmp_path):
    with pytest.raises(Ended, match="SIGINT"), stopping(tmp_path / "stop"):
        interrupted_library()


def interrupted_once() -> None:
    signal.raise_signal(signal.SIGINT)
    raise SystemError("not of a signal")


def test_an_error_after_one_interrupt_is_that_error(tmp_path):
    with pytest.raises(SystemError), stopping(tmp_path / "stop"):
        interrupted_once()


def test_the_innermost_says_how_to_go_on():
    with (
        pytest.raises(Ended, match=r"^Ended by SIGTERM; go on with this\.$"),
        ending(),
        going_on_with("go on with that"),
        going_on_with("go on with this"),
    ):
        signal.raise_signal(signal.SIGTERM)


def test_a_library_that_sets_handlers_takes_no_signal_away(tmp_path):
    """As Ray and Tune do."""
    flag = tmp_path / "stop"
    with stopping(flag):
        with handlers_kept():
            for number in ENDING:
                signal.signal(number, signal.SIG_IGN)
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
            signal.raise_signal(signal.SIGUSR1)
            assert flag.exists()
        assert signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
        flag.unlink()
        signal.raise_signal(signal.SIGTERM)
        assert flag.exists()


def test_what_is_started_to_be_deaf_hears_no_signal_of_the_group(tmp_path):
    flag = tmp_path / "stop"
    code = "import signal; print(*signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    with stopping(flag):
        with children_deaf():
            started = subprocess.run(
                [sys.executable, "-c", code], check=True, capture_output=True, text=True
            )
            signal.raise_signal(signal.SIGHUP)
        assert flag.exists()
    assert {int(number) for number in started.stdout.split()} == TO_THE_GROUP
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


# A study's command, outside the study's own rounds


def test_a_signal_during_the_preflight_leaves_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "study.preflight.check_study", lambda spec: signal.raise_signal(signal.SIGTERM)
    )
    status, out, err = sdw(capsys, "launch", "quickstart")
    assert (status, out, err.count("\n")) == (128 + signal.SIGTERM, "", 1)
    assert "the same command can be given again" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_signal_during_the_export_leaves_no_half_of_it_and_resume_goes_on(
    capsys, tmp_path, monkeypatch
):
    """All trials are done: only the winner's confirmation and export are left."""
    folder = StudyFolder.create(small_spec("study.trials=1"), tmp_path)
    search = StudySearch(folder.book())
    config = folder.spec().pipeline_with(search.suggest("a")["params"])
    result = run_trial(0, config, folder.trial(0), folder.cache, folder.stop_flag, 1)
    search.on_trial_complete("a", {"document": json.dumps(result.to_json())})
    with monkeypatch.context() as ended:
        ended.setattr(
            "sdw_core.artifact.write_card", lambda *given: signal.raise_signal(signal.SIGUSR1)
        )
        status, out, err = sdw(capsys, "resume", str(folder.path))
    assert (status, out) == (128 + signal.SIGUSR1, "")
    assert err == f"sdw: Ended by SIGUSR1; go on with `sdw resume {folder.path}`.\n"
    assert not folder.exports.exists() or list(folder.exports.iterdir()) == []
    status, out, err = sdw(capsys, "resume", str(folder.path), "--json")
    assert status == 0, err
    assert [Path(path).name for path in json.loads(out)["exports"]] == ["trial-0"]


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("command", [["launch", "quickstart"], ["compare", "compare-quick"]])
def test_whoever_asks_to_stop_may_end_rays_processes_while_they_start(
    capsys, monkeypatch, tmp_path, command, asked
):
    def init(**told: object) -> None:
        if asked:
            signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("the dashboard died")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ray.init", init)
    status, _, err = sdw(capsys, *command, "--name", "mine")
    last = err.splitlines()[-1]
    if asked:
        assert (status, last.startswith("stopped")) == (0, True), err
    else:
        assert (status, last) == (
            1,
            "sdw: Ray cannot be started on this machine: the dashboard died.",
        )
