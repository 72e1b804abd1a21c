"""What a person sees of a study: its running trials, the best, the time left."""

import io
import os
import pty
import re
import sys
import termios
import threading
from dataclasses import replace
from time import sleep, time

import pytest

from sdw_core.console import Console
from sdw_core.files import write_json
from study import display
from study.api import Study
from study.console import quiet
from study.display import Display, view, watch
from study.folder import StudyFolder
from study.search import StudySearch
from study.snapshot import Snapshot, minutes, settings
from study.tables import trial_table
from tests.study.conftest import small_spec
from tests.study.reports import report


def console(terminal: bool, width: int = 80) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)


def shown(console: Console) -> str:
    return console.file.getvalue()


@pytest.fixture
def study(folder: StudyFolder) -> StudyFolder:
    """One trial COMPLETE, one FAILED, one distilling, one that has said nothing yet."""
    search = StudySearch(folder.book())
    for name in "abcd":
        search.suggest(name)
    search.on_trial_complete("a", report(normalized_return=41.26))
    search.on_trial_complete("b", report("FAILED"))
    said = {"stage": "distill", "fraction": 0.5, "begun": time(), "pid": 1, "expert": 92.51}
    write_json(folder.trial(2) / "progress.json", said)
    return folder


def seen(folder: StudyFolder, width: int = 80) -> str:
    """What the live view of a terminal holds at this moment."""
    terminal = console(terminal=True, width=width)
    with folder.driving():
        terminal.print(view(Snapshot.of(folder)))
    return shown(terminal)


def test_a_terminal_shows_each_running_trial_with_its_stage_and_a_bar(study):
    lines = seen(study).splitlines()
    assert re.search(r"running on .* 2 under way: dataset 1, distill 1$", lines[0])
    (distilling,) = [line for line in lines if "distill (" in line]
    assert re.search(r"\b2\b.*distill \(5/6\).*━", distilling)
    assert re.search(r"temperature 0\.\d+", distilling)
    (silent,) = [line for line in lines if "dataset (1/6)" in line]
    assert re.search(r"\b3\b", silent)


def test_a_wide_terminal_shows_the_expert_and_a_narrow_one_no_settings(study):
    assert re.search(r"distill \(5/6\).*92\.5 +temperature", seen(study, 120))
    narrow = seen(study, 50)
    assert re.search(r"\b2 +distill \(5/6\) +━", narrow)
    assert "temperature" not in narrow


def test_nodes_are_named_where_there_are_several(study):
    for number, node in ((2, "node-a"), (3, "node-b")):
        said = {"stage": "distill", "fraction": 0.5, "node": node}
        write_json(study.trial(number) / "progress.json", said)
    text = seen(study)
    assert "distill 2; node-a 1, node-b 1" in text
    assert re.search(r"distill \(5/6\).*node-b", text)


WAITS = {"trials": [3], "need": {"cpu": 1, "gpu": 0}, "free": {"cpu": 0, "gpu": 0}}
WAITS |= {"node": "node-a", "nodes": 2, "starting": {}, "failed": {}}
WAITING = "WAITING (trial 3) for 1 CPU on a node; most is free on node-a of 2 nodes: 0 CPU"


def test_a_trial_that_waits_for_a_node_is_not_shown_as_running(study):
    terminal = console(terminal=True, width=100)
    with study.driving() as driver:
        driver.tell(waiting=WAITS)
        terminal.print(view(Snapshot.of(study)))
    text = shown(terminal)
    assert "1 under way: distill 1" in text
    assert "dataset (1/6)" not in text
    assert WAITING in text
    assert "2 of 16 trials, 1 FAILED, 1 WAITING, best" in text


def test_a_pipe_says_once_that_trials_wait(study, monkeypatch):
    monkeypatch.setattr(display, "REFRESH", 0.01)
    pipe = console(terminal=False, width=100)
    with study.driving() as driver, Display(study, pipe):
        driver.tell(waiting=WAITS)
        while WAITING not in shown(pipe):
            sleep(0.01)
        sleep(0.1)
    assert shown(pipe).count("WAITING") == 1


def test_a_terminal_shows_how_far_the_study_is_and_its_best(study):
    text = seen(study)
    assert f"2 of {study.spec().study.trials} trials" in text
    assert "best in the search 41.3 (trial 0)" in text
    assert "FAILED (trial 1) why" in text


def test_a_study_that_is_asked_to_stop_says_so(study):
    study.stop_flag.touch()
    assert "stopping: running trials write a checkpoint" in seen(study)


def test_elsewhere_each_trial_that_ends_is_one_line_and_told_once(folder):
    search = StudySearch(folder.book())
    for name in "abc":
        search.suggest(name)
    search.on_trial_complete("a", report(normalized_return=1.0))
    pipe = console(terminal=False, width=20)
    with Display(folder, pipe):
        search.on_trial_complete("b", report(normalized_return=41.26))
        search.on_trial_complete("c", report("FAILED"))
    assert shown(pipe).splitlines() == [
        f"study {folder.name} in {folder.path}",
        "trial 1: COMPLETE 41.26",
        "trial 2: FAILED why",
    ]


def test_a_pipe_gets_a_line_a_minute(study, monkeypatch):
    monkeypatch.setattr(display, "REFRESH", 0.01)
    monkeypatch.setattr(display, "A_LINE", 0.05)
    pipe = console(terminal=False)
    with study.driving(), Display(study, pipe):
        while "left" not in shown(pipe):
            sleep(0.01)
    assert "\n2 of 16 trials, 1 FAILED, best in the search 41.3 (trial 0), about" in shown(pipe)


def test_what_is_done_before_the_first_trial_is_said(folder, monkeypatch):
    monkeypatch.setattr(display, "REFRESH", 0.05)
    pipe, terminal = console(terminal=False), console(terminal=True)
    for each in (pipe, terminal):
        with Display(folder, each) as showing:
            showing.say("starting Ray")
            while "starting Ray" not in shown(each):
                sleep(0.01)
    refused = console(terminal=False)
    with Display(folder, refused) as showing:
        showing.say("connecting")
    assert shown(refused) == ""
    StudySearch(folder.book()).suggest("a")
    with folder.driving(), Display(folder, terminal) as showing:
        showing.say("ending")
    assert "ending" not in shown(terminal)


class Terminal:
    """A real pseudo-terminal, on which a study is watched in a thread."""

    def __init__(self, folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keyboard, device = pty.openpty()
        monkeypatch.setattr(display, "REFRESH", 0.05)
        monkeypatch.setattr(sys, "stdin", os.fdopen(device, "r"))
        self.before = termios.tcgetattr(device)
        self.console = console(terminal=True)
        self.ended: list[bool] = []
        self._thread = threading.Thread(
            target=lambda: self.ended.append(watch(folder, self.console))
        )
        self._thread.start()

    def press(self, key: str) -> None:
        os.write(self.keyboard, key.encode())

    def wait_for(self, text: str) -> None:
        while text not in shown(self.console):
            assert self._thread.is_alive()
            sleep(0.01)

    def leave(self) -> bool:
        """Whether the study was seen to its end; the terminal is as it was before then."""
        self._thread.join()
        assert termios.tcgetattr(sys.stdin.fileno()) == self.before
        os.close(self.keyboard)
        sys.stdin.close()
        return self.ended[0]


def test_the_key_q_leaves_and_the_study_goes_on(study, monkeypatch):
    with study.driving():
        terminal = Terminal(study, monkeypatch)
        terminal.wait_for("q leaves, s stops the study")
        terminal.press("x")
        terminal.press("q")
        assert not terminal.leave()
    assert not study.stop_flag.exists()


def test_the_key_s_stops_the_study_after_it_has_asked(study, monkeypatch):
    with study.driving():
        terminal = Terminal(study, monkeypatch)
        terminal.wait_for("q leaves, s stops the study")
        terminal.press("s")
        terminal.wait_for("stop the study? y or n")
        terminal.press("n")
        terminal.press("s")
        assert not study.stop_flag.exists()
        terminal.press("y")
        terminal.wait_for("stopping: running trials write a checkpoint")
        assert study.stop_flag.exists()
    assert terminal.leave()


def test_a_study_that_ends_ends_the_watching(study, monkeypatch):
    monkeypatch.setattr(display, "REFRESH", 0.01)
    pipe, terminal = console(terminal=False), console(terminal=True)
    assert watch(study, pipe)
    said = f"{study.name}: stopped, 2 of 16 trials, 1 FAILED, best in the search 41.3"
    assert shown(pipe).startswith(said)
    assert watch(study, terminal)
    assert "q leaves" not in shown(terminal)


def test_no_trial_and_a_thousand_are_seen(pareto, study):
    wide = console(terminal=True)
    wide.print(view(Snapshot.of(pareto)))
    with study.driving():
        now = Snapshot.of(study)
    rows = [replace(now.trials[0], number=number) for number in range(1000)]
    under_way = now.under_way * 20
    wide.print(view(replace(now, trials=rows, under_way=under_way)))
    text = shown(wide)
    assert "0 of 16 trials" in text.splitlines()[2]
    assert "1000 of 16 trials" in text
    assert "and 32 more" in text
    assert len(text.splitlines()) <= 24


def test_on_a_quiet_console_nothing_is_followed(folder):
    with Display(folder, quiet) as showing:
        assert not showing._thread.is_alive()


def test_a_fixed_ensemble_is_named_wherever_its_returns_are_shown(tmp_path):
    fixed = StudyFolder.create(small_spec("pipeline.evaluation.ensemble=10"), tmp_path)
    search = StudySearch(fixed.book())
    search.suggest("a")
    pipe = console(terminal=False)
    with Display(fixed, pipe):
        search.on_trial_complete("a", report(normalized_return=41.26))
    assert shown(pipe).splitlines()[1:] == ["trial 0: COMPLETE 41.26, ensembles of 10"]
    assert "best in the search 41.3 (trial 0, ensembles of 10)" in seen(fixed)
    narrow = console(terminal=True)
    narrow.print(trial_table(Snapshot.of(fixed)))
    assert "ensembles of 10" in shown(narrow)
    (row,) = Study(fixed).status()["trials"]
    assert row["ensemble"] == 10
    assert "stopped, ensembles of 10" in Study(fixed)._repr_html_()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (75, "1 min 15 s")]
)
def test_times_are_minutes_and_seconds(seconds, text):
    assert minutes(seconds) == text


def test_settings_are_short():
    params = {"weighting.temperature": 0.012345, "distill.synthetic_size": 64}
    assert settings(params) == "temperature 0.0123, synthetic_size 64"
    assert small_spec().search.keys() == params.keys()
