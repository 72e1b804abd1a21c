"""Studies and comparisons as Python calls them: what is refused, what is kept, what is shown."""

import logging
import math
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import yaml

from sdw_core.artifact import read_artifact
from sdw_core.errors import InputError
from sdw_core.files import read_json, write_json
from search_spaces import load_comparison
from search_spaces.spec import SHIPPED
from study import Comparison, Study, WorkFailed
from study.comparison import ComparisonFolder, check_comparison, ready, run_cell
from study.folder import StudyFolder
from study.runner import ray_session
from study.search import StudySearch
from study.signals import ENDING, handlers_kept, stopping
from tests.study.conftest import SMALL, small_spec
from tests.study.reports import report, run_trials

pytestmark = pytest.mark.usefixtures("own_folder")
QUICKSTART = SHIPPED / "quickstart.yaml"


def test_importing_it_loads_nothing_that_is_slow():
    code = (
        "import sys; from study import Comparison, Study\n"
        "print({'ray', 'torch', 'optuna', 'minari', 'pandas', 'typer'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_name_that_is_not_there_is_no_attribute():
    with pytest.raises(ImportError, match="nothing"):
        from study import nothing  # noqa: F401


# Specs


def test_a_spec_may_be_a_name_a_path_a_document_or_a_spec():
    document = yaml.safe_load(QUICKSTART.read_text())
    overrides = {"study.trials": 3, "pipeline.density": {"model": "gaussian"}}
    given = ["quickstart", QUICKSTART, document, small_spec()]
    plans = [Study.validate(spec, overrides=overrides) for spec in given]
    assert plans[0]["study"]["trials"] == 3
    assert plans[0]["pipeline"]["density"]["model"] == "gaussian"
    assert plans[1:3] == plans[:1] * 2
    assert plans[3]["pipeline"]["distill"]["outer_steps"] == 6
    assert document == yaml.safe_load(QUICKSTART.read_text())


def test_overrides_are_those_of_the_command_line():
    words = Study.validate("quickstart", trials=3, overrides=SMALL)
    settings = dict(setting.split("=") for setting in SMALL)
    values = {key: yaml.safe_load(value) for key, value in settings.items()}
    assert Study.validate("quickstart", trials=3, overrides=values) == words


def test_overrides_may_be_numbers_of_numpy_and_are_not_changed():
    overrides = {
        "study.trials": np.int64(3),
        "pipeline.weighting": {"scheme": "rank"},
        "pipeline.weighting.clip_quantile": np.float64(0.25),
    }
    given = deepcopy(overrides)
    found = Study.validate("quickstart", overrides=overrides)
    assert (found["study"]["trials"], found["pipeline"]["weighting"]["scheme"]) == (3, "rank")
    assert overrides == given


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ({"overrides": 3}, "`overrides` must be a mapping"),
        ({"overrides": "study.trials=3"}, "`overrides` must be a mapping"),
        ({"overrides": ["study.trials=3", 4]}, "given as key=value, not as 4"),
        ({"overrides": {"study.trials": {3}}}, "`study.trials` must be a whole number"),
        ({"overrides": {"study.trials": math.nan}}, "`study.trials` must be a finite number"),
        ({"overrides": {"study.name": Path("a")}}, "`study.name` must be text"),
        ({"trials": 2.5}, "`study.trials` must be a whole number"),
        ({"storage": 3}, "`storage` must be a path"),
    ],
)
def test_arguments_of_a_wrong_kind_are_refused_in_a_sentence(tmp_path, argument, said):
    with pytest.raises(InputError, match=said):
        Study.validate("quickstart", **argument)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("quikstart", "`quickstart`"),
        ({"study": {"name": "a"}}, "pipeline"),
        ({"study": {"name": "a", "trails": 2}, "pipeline": {"dataset": "a/b-v0"}}, "`trials`"),
        (Path("none.yaml"), "none.yaml"),
    ],
)
def test_a_launch_that_is_refused_leaves_nothing(tmp_path, spec, said):
    with pytest.raises(InputError, match=said):
        Study.launch(spec)
    assert list(tmp_path.iterdir()) == []


def test_a_connection_to_ray_that_is_somebodys_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.shutdown", lambda: pytest.fail("it was ended"))
    with pytest.raises(InputError, match=r"`ray\.shutdown\(\)`"):
        Study.launch(small_spec())
    with pytest.raises(InputError, match=r"`ray\.shutdown\(\)`"):
        Comparison.run("compare-quick")
    assert list(tmp_path.iterdir()) == []


def test_a_study_that_cannot_connect_to_ray_is_given_no_trials(study, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    before = study.status()
    for call in (lambda: study.extend(1), study.retry_failed):
        with pytest.raises(InputError, match=r"`ray\.shutdown\(\)`"):
            call()
    assert study.status() == before
    assert study.spec.study.trials == small_spec().study.trials


def test_two_threads_do_not_share_a_connection_to_ray(monkeypatch):
    """The first one's is neither used nor ended by the second one."""
    monkeypatch.setattr("study.runner._connection", lambda *given: nullcontext("its own"))
    with ray_session(None, "begin again") as first:
        with pytest.raises(InputError, match="has one already"), ray_session(None, "begin again"):
            pytest.fail("it was shared")
        assert first == "its own"
    with ray_session(None, "begin again"):
        pass


# Looking


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Four trials: two complete, one failed, one whose process is gone."""
    folder = StudyFolder.create(small_spec(), tmp_path / "sdw-studies")
    search = StudySearch(folder.book())
    for name, ending in (
        ("a", report(normalized_return=3.0)),
        ("b", report("FAILED")),
        ("c", report(normalized_return=5.0)),
        ("d", None),
    ):
        search.suggest(name)
        if ending:
            search.on_trial_complete(name, ending)
    return Study(folder)


def test_a_study_is_opened_by_its_name_or_its_path(study, tmp_path, monkeypatch):
    assert Study.open(study.name) == study == Study.open(study.folder.path)
    monkeypatch.setenv("SDW_STORAGE", str(tmp_path / "elsewhere"))
    with pytest.raises(InputError, match="elsewhere"):
        Study.open(study.name)
    assert Study.open(study.name, tmp_path / "sdw-studies") == study


def test_the_frame_has_a_row_a_trial(study):
    frame = study.frame()
    assert list(frame["outcome"]) == ["COMPLETE", "FAILED", "COMPLETE", "WAITING"]
    assert list(frame["normalized_return"].dropna()) == [3.0, 5.0]
    assert {"weighting.temperature", "distill.synthetic_size", "trial_seconds"} <= set(frame)
    assert [asdict(trial) for trial in study.trials()] == study.status()["trials"]


def test_the_best_come_first(study):
    assert [trial.number for trial in study.best(3)] == [2, 0]
    (best,) = study.best()
    assert (best.values, set(best.params)) == ([5.0], set(study.spec.search))


def test_a_notebook_shows_the_table_and_no_markup_of_a_reason(study):
    search = StudySearch(study.folder.book())
    search.suggest("e")
    reason = "<script>alert(1)</script>"
    search.on_trial_complete("e", {"document": f'{{"outcome": "FAILED", "reason": "{reason}"}}'})
    page = study._repr_html_()
    assert f"study {study.name}: stopped" in page
    assert "best: 2" in page
    assert ("COMPLETE" in page, "<script" in page) == (True, False)


# Going on


def test_calls_are_quiet_and_what_happens_is_logged(study, capsys, caplog):
    write_json(study.folder.seat.note, {"host": "elsewhere", "pid": 42})
    with caplog.at_level(logging.INFO, "study"):
        study.extend(2).retry_failed()
    assert study.spec.study.trials == small_spec().study.trials + 2
    assert [trial.retry_of for trial in study.trials()] == [None] * 4 + [1]
    assert caplog.messages == [
        f"{study.name} now has {study.spec.study.trials} trials",
        "process 42 on elsewhere takes them up",
        "trial 1 is asked again as trial 4",
        "process 42 on elsewhere takes them up",
    ]
    assert capsys.readouterr() == ("", "")


def test_what_there_is_nothing_to_do_for_is_refused(study):
    with pytest.raises(InputError, match="nothing to stop"):
        study.stop()
    with pytest.raises(InputError, match=r"`pareto` needs a study of two objectives"):
        study.export(pareto=True)


@pytest.mark.parametrize("trials", [0, -1, 1.5, math.nan, "x", None, 10**9, 10**30])
def test_a_study_that_cannot_have_so_many_trials_stays_as_it_was(study, trials):
    write_json(study.folder.seat.note, {"host": "elsewhere", "pid": 42})  # which takes them up
    before = (study.folder.path / "study.yaml").read_bytes()
    with pytest.raises(InputError, match="trials` must be"):
        study.extend(trials)
    assert (study.folder.path / "study.yaml").read_bytes() == before


@pytest.mark.parametrize("top", [0, -1, 1.5, math.nan, "x"])
def test_the_best_are_one_or_more(study, top):
    for call in (study.best, lambda top: study.export("to", top=top)):
        with pytest.raises(InputError, match="`top` must be"):
            call(top)


def test_an_export_of_a_wrong_kind_is_refused(study):
    with pytest.raises(InputError, match="`to` must be a path, not 3"):
        study.export(3)
    with pytest.raises(InputError, match="not 3: give such an id"):
        study.export(license=3)
    with pytest.raises(InputError, match=r"A format of an export is one of .*, not 'xls'"):
        study.export(formats=["xls"])
    with pytest.raises(InputError, match="`number` must be a finite number"):
        study.rows(math.nan)
    with pytest.raises(InputError, match="`every` must be a finite number"):
        next(study.watch(math.nan))


def test_of_a_study_that_is_gone_nothing_is_made(study):
    shutil.rmtree(study.folder.path)
    for call in (study.stop, study.resume, study.retry_failed, study.rebuild, study.prune):
        with pytest.raises(InputError, match="no spec file"):
            call()
    assert "no spec file" in repr(study)
    assert not study.folder.path.exists()


def test_a_study_says_its_name_its_state_and_its_trials(study):
    assert repr(study) == f"<study {study.name!r}: stopped, 3 of {study.spec.study.trials} trials>"


@pytest.mark.parametrize("number", [1, 3, 99])
def test_a_trial_that_is_not_complete_has_no_rows(study, number):
    with pytest.raises(InputError, match=f"trial {number} of .* is none"):
        study.rows(number)


def test_a_rebuild_says_what_it_found(study):
    kept = study.status()
    rebuilt = study.rebuild()
    assert rebuilt["outcomes"] == {"COMPLETE": 2, "FAILED": 1, "WAITING": 1}
    assert Path(rebuilt["kept"]).exists()
    assert study.status() == kept


def test_a_study_of_which_nothing_came_says_so_and_is_kept(tmp_path):
    folder = StudyFolder.create(small_spec("study.trials=1"), tmp_path / "sdw-studies")
    search = StudySearch(folder.book())
    search.suggest("a")
    search.on_trial_complete("a", report("FAILED"))
    with pytest.raises(WorkFailed, match="No trial completed: why") as failed:
        Study(folder).resume()
    assert failed.value.ran == Study(folder)
    told = pickle.loads(pickle.dumps(failed.value))  # as a pool of processes does
    assert (str(told), told.ran) == (str(failed.value), Study(folder))
    with pytest.raises(InputError, match="no COMPLETE trial"):
        Study(folder).rows()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """One trial, as a worker runs it."""
    storage = tmp_path_factory.mktemp("studies")
    folder = StudyFolder.create(small_spec("study.trials=1"), storage)
    run_trials(folder)
    return Study(folder)


def test_what_ends_a_study_exports_its_best_rows(finished, capsys):
    """All trials are done, so that no Ray is started."""
    assert finished.resume() == finished
    assert capsys.readouterr() == ("", "")
    (exported,) = finished.exports
    assert exported == finished.folder.exports / "trial-0"
    assert finished.status()["state"] == "finished"
    artifact = finished.rows()
    assert artifact.evidence["scores"] == read_artifact(exported).evidence["scores"]
    given = {"license": "mit", "formats": ["csv"]}
    assert finished.export(Path("to"), **given) == [Path("to/trial-0")]
    assert read_artifact(Path("to/trial-0")).evidence["source"]["license"] == "mit"
    assert len(Path("to/trial-0/synthetic.csv").read_text().splitlines()) == 1 + len(
        artifact.observations
    )
    with pytest.raises(InputError, match="never overwrites"):
        finished.export(formats=["csv"])


@pytest.mark.parametrize(
    "damage",
    [{"normalized_return": {"mean": 1}}, {"normalized_return": 3}, {"expert": []}, {"sources": 3}],
)
def test_a_result_that_is_not_whole_is_none(finished, damage):
    path = finished.folder.trial(0) / "result.json"
    kept = path.read_text()
    write_json(path, read_json(path) | damage)
    try:
        with pytest.raises(InputError, match="does not hold the result of trial 0 any more"):
            finished.rows()
    finally:
        path.write_text(kept)


def test_the_cache_of_a_finished_study_can_go(finished):
    needed = {entry.stage: entry.needed for entry in finished.cache()}
    assert needed.keys() >= {"density", "expert"}
    assert not any(needed.values())
    assert len(finished.prune()["removed"]) >= 2
    assert finished.cache() == []


# Comparisons

COMPARISON = {
    "comparison": {"name": "c", "ours": "PBC", "over": "random"},
    "datasets": {"sdw/hopper-replay-mini-v0": None},
    "pipeline": {
        "weighting": {"temperature": 0},
        "expert": {"layers": 2, "width": 16, "steps": 20, "value_steps": 20},
        "distill": {
            "layers": 2, "width": 8, "synthetic_size": 8, "inner_steps": 4, "outer_steps": 2,
            "window": 3, "meta_batch_size": 64,
        },
        "evaluation": {"policies": 1, "episodes": 1},
    },
    "methods": {
        "PBC": {"pipeline": {"distill": {"objective": "pbc"}}},
        "random": {"pipeline": {"distill": {"outer_steps": 0}}},
    },
}  # fmt: skip


def test_a_comparison_is_run_opened_and_shown(tmp_path):
    """Its cells are run as workers run them, so that no Ray is started."""
    spec = load_comparison(COMPARISON)
    inventory, _ = check_comparison(spec)
    with ComparisonFolder.opened(spec, tmp_path / "sdw-studies") as folder:
        begun = Comparison.open("c")
        assert (begun.finished, len(begun.frame())) == (False, 0)
        for cell in ready(spec, {}):
            run_cell(folder, cell, inventory.sources(cell.config), 1, 0)
    found = Comparison.run(COMPARISON)
    assert found.finished
    assert set(found.frame()["method"]) == {"PBC", "random"}
    assert (folder.path / "table.md").read_text() == found.standings.markdown()
    opened = Comparison.open(folder.path)
    assert opened.to_json() == found.to_json()
    assert (repr(begun), repr(opened)) == (
        "<comparison 'c': not finished, 0 cells ended>",
        "<comparison 'c': finished, 2 cells ended>",
    )
    assert "| PBC |" in opened._repr_html_()
    with pytest.raises(InputError, match="There is no comparison 'd'"):
        Comparison.open("d")


# Threads


def test_another_thread_leaves_signals_as_they_are(tmp_path):
    before = [signal.getsignal(number) for number in ENDING]
    within: list[object] = []

    def run() -> None:
        with stopping(tmp_path / "stop"), handlers_kept():
            within.extend(signal.getsignal(number) for number in ENDING)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert within == before == [signal.getsignal(number) for number in ENDING]
