"""`sdw list` and `sdw watch`: looking on from outside, with nothing but the folder."""

import json
import logging
from inspect import signature
from time import time

from sdw_core.files import write_json
from sdw_core.identity import Sources
from search_spaces import load_comparison
from study.cli.common import shows_progress
from study.comparison import ComparisonFolder
from study.console import log, logged, show
from study.folder import StudyFolder
from study.listing import listed
from study.outcomes import COMPLETE, TrialResult, config_hash
from study.search import StudySearch
from tests.study.commands import sdw
from tests.study.conftest import small_spec
from tests.study.reports import report

COMPARISON = {
    "comparison": {"name": "both", "ours": "PBC", "over": "random"},
    "datasets": {"sdw/hopper-replay-mini-v0": None},
    "pipeline": {"weighting": {"temperature": 0}},
    "methods": {
        "random": {"pipeline": {"distill": {"outer_steps": 0}}},
        "PBC": {"pipeline": {"distill": {"objective": "pbc"}}},
    },
}


def completed(folder: StudyFolder, *returns: float) -> None:
    search = StudySearch(folder.book())
    for index, found in enumerate(returns):
        size = search.suggest(str(index))["params"]["distill.synthetic_size"]
        search.on_trial_complete(str(index), report(normalized_return=found, synthetic_size=size))


def test_studies_are_listed_with_state_trials_and_best(folder, pareto, tmp_path):
    completed(folder, 3.0, 41.5)
    completed(pareto, 3.0)
    broken = StudyFolder.create(small_spec("study.name=broken"), tmp_path)
    (broken.path / "study.db").write_bytes(b"no database")
    with folder.driving():
        found = {each.name: each for each in listed(tmp_path)}
    assert found.keys() == {"hopper-quickstart", "hopper-pareto", "broken"}
    one = found["hopper-quickstart"]
    assert (one.kind, one.state, one.done, one.total) == ("study", "running", 2, 16)
    assert (one.best, one.of) == (41.5, "trial 1")
    assert 0 <= time() - one.begun < 600
    front = found["hopper-pareto"]
    assert (front.state, front.best, front.of) == ("stopped", None, "front of 1 trials")
    assert found["broken"].state == "unreadable"
    assert "cannot be read" in found["broken"].reason


def test_a_comparison_is_listed_by_what_its_cells_left(capsys, tmp_path):
    spec = load_comparison(COMPARISON)
    with ComparisonFolder.opened(spec, tmp_path) as folder:
        pass
    (before,) = listed(tmp_path)
    assert (before.kind, before.state, before.done) == ("comparison", "stopped", 0)
    for index, method in enumerate(spec.methods):
        cell = spec.cell(method, "sdw/hopper-replay-mini-v0")
        metrics = {"normalized_return": 10.0 + index}
        hashed = config_hash(cell.config)
        result = TrialResult(outcome=COMPLETE, config_hash=hashed, metrics=metrics)
        write_json(folder.cell(cell, Sources()) / "result.json", result.to_json())
    (after,) = listed(tmp_path)
    assert (after.state, after.done, after.total) == ("finished", 2, 2)
    assert (after.best, after.of) == (11.0, "PBC")
    status, out, err = sdw(capsys, "watch", "both", "--storage", tmp_path)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "how far the comparison is with `sdw list`, and what came of it with `sdw report" in err


def test_the_list_is_a_table_or_a_document(capsys, folder, tmp_path):
    completed(folder, 0.0)
    assert "0.0  trial 0, in its search" in sdw(capsys, "list", "--storage", tmp_path)[1]
    completed(folder, 41.5)
    status, out, err = sdw(capsys, "list", "--storage", tmp_path, "--json")
    (document,) = json.loads(out)
    assert document["metric"] == "normalized_return"
    assert (status, err, document["name"], document["best"]) == (0, "", folder.name, 41.5)
    status, out, _ = sdw(capsys, "list", "--storage", tmp_path)
    assert status == 0
    assert "2 of 16" in out
    assert "41.5  trial 1, in its search" in out
    broken = StudyFolder.create(small_spec("study.name=broken"), tmp_path)
    (broken.path / "study.db").write_bytes(b"no database")
    _, out, _ = sdw(capsys, "list", "--storage", tmp_path)
    assert "broken: The database of 'broken' cannot be read" in out.splitlines()[-1]
    (row,) = [each.split() for each in out.splitlines()[:-1] if each.startswith("broken")]
    assert row[:3] == ["broken", "study", "unreadable"]
    assert "of" not in row
    (tmp_path / "empty").mkdir()
    status, out, _ = sdw(capsys, "list", "--storage", tmp_path / "empty")
    assert status == 0
    assert "holds no study and no comparison yet" in out
    status, out, err = sdw(capsys, "list", "--storage", tmp_path / "none")
    assert (status, out) == (2, "")
    assert "must be a folder" in err


def test_a_quiet_command_prints_results_warnings_and_errors_alone(capsys):
    logger = logging.getLogger("study")

    @shows_progress
    def command(words: str, as_json: bool = False) -> None:
        """Says how far it is, what it did, and what to mind."""
        assert (words, as_json) == ("given", False)
        logger.info("done")
        logger.warning("mind")
        log.print("doing" if log.progress else "")

    for options, said in (
        ({"quiet": False, "no_progress": False}, ["done", "warning: mind", "doing"]),
        ({"quiet": False, "no_progress": True}, ["done", "warning: mind", ""]),
        ({"quiet": True, "no_progress": False}, ["warning: mind", ""]),
    ):
        with logged():
            command(words="given", as_json=False, **options)
        assert capsys.readouterr().err.splitlines() == said
    assert [*signature(command).parameters] == ["words", "as_json", "quiet", "no_progress"]
    show(progress=True, messages=True)


def test_a_study_is_watched_from_outside(capsys, folder, tmp_path):
    completed(folder, 41.5)
    place = "--storage", tmp_path
    status, out, err = sdw(capsys, "watch", folder.name, *place)
    assert (status, err) == (0, "")
    assert out == "hopper-quickstart: stopped, 1 of 16 trials, best in the search 41.5 (trial 0)\n"
    _, watched, _ = sdw(capsys, "watch", folder.name, *place, "--json")
    _, document, _ = sdw(capsys, "status", folder.name, *place, "--json")
    assert json.loads(watched) == json.loads(document)
    status, out, err = sdw(capsys, "watch", "no-such-study", *place)
    assert (status, out, err.count("\n")) == (2, "", 1)
