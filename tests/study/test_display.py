"""What a person sees of a study: its running trials, the best, the time left."""

import io
import re
from time import time

import pytest

from sdw_core.console import Console
from sdw_core.files import write_json
from study.api import Study
from study.display import Display, view
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


def seen(folder: StudyFolder) -> str:
    """What the live view of a terminal holds at this moment."""
    terminal = console(terminal=True)
    with folder.driving():
        terminal.print(view(Snapshot.of(folder)))
    return shown(terminal)


def test_a_terminal_shows_each_running_trial_with_its_stage_and_a_bar(study):
    lines = seen(study).splitlines()
    (distilling,) = [line for line in lines if "distill" in line]
    assert re.search(r"\b2\b.*distill \(5/6\).*━", distilling)
    assert re.search(r"92\.5 +temperature 0\.\d+", distilling)
    (silent,) = [line for line in lines if "dataset (1/6)" in line]
    assert re.search(r"\b3\b", silent)


def test_a_terminal_shows_how_far_the_study_is_and_its_best(study):
    text = seen(study)
    assert f"2 of {study.spec().study.trials} trials" in text
    assert "best 41.3 (trial 0)" in text


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


def test_without_a_console_nothing_is_followed(folder):
    with Display(folder, None):
        pass


def test_a_fixed_ensemble_is_named_wherever_its_returns_are_shown(tmp_path):
    fixed = StudyFolder.create(small_spec("pipeline.evaluation.ensemble=10"), tmp_path)
    search = StudySearch(fixed.book())
    search.suggest("a")
    pipe = console(terminal=False)
    with Display(fixed, pipe):
        search.on_trial_complete("a", report(normalized_return=41.26))
    assert shown(pipe).splitlines()[1:] == ["trial 0: COMPLETE 41.26, ensembles of 10"]
    assert "best 41.3 (trial 0, ensembles of 10)" in seen(fixed)
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
