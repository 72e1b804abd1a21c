"""Lists of numbers among the choices of a search: one value each, from the spec to the export."""

import io
import json
import shutil
from pathlib import Path

import pytest
from optuna.trial import TrialState
from rich.console import Console

from sdw_core.artifact import read_artifact
from sdw_core.files import read_json
from search_spaces import load_spec
from study import Study
from study.export import export
from study.folder import StudyFolder
from study.outcomes import config_hash, finished_result
from study.search import StudySearch
from study.snapshot import Snapshot
from study.tables import trial_table
from tests.study.commands import sdw
from tests.study.conftest import SMALL
from tests.study.reports import report, run_trials

RANGES = {"[0.9, 1]", "[0.5, 1]", "[0, 0.5]", "[0, 0.3]", "[0, 1]"}
SMALLER = [
    *(each for each in SMALL if "search" not in each and "expert.steps" not in each),
    "search.expert.steps={type: categorical, choices: [20]}",
    "pipeline.distill.synthetic_size=8",
    "study.startup_trials=2",
    "study.trials=2",
]


def launched(storage: Path, *overrides: str) -> StudyFolder:
    return StudyFolder.create(load_spec("teachers", [*SMALLER, *overrides]), storage)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """Two trials, as workers run them."""
    folder = launched(tmp_path_factory.mktemp("studies"))
    run_trials(folder, 2)
    return folder


@pytest.fixture
def finished(made: StudyFolder, tmp_path: Path) -> StudyFolder:
    """A copy."""
    return StudyFolder(shutil.copytree(made.path, tmp_path / made.name))


def test_a_trial_runs_with_the_list_and_is_recorded_by_its_text(finished: StudyFolder) -> None:
    spec, rows = finished.spec(), finished.book().rows()
    assert [row.outcome for row in rows] == ["COMPLETE"] * 2, [row.reason for row in rows]
    for row in rows:
        said = row.params["expert.episodes"]
        config = spec.pipeline_with(row.params)
        assert config.expert.episodes == tuple(json.loads(said))
        folder = finished.trial(row.number)
        assert read_json(folder / "record.json")["params"] == row.params
        result = finished_result(folder, config, finished.inventory().sources(config))
        assert result is not None
        assert result.config_hash == config_hash(config)


def test_its_text_is_shown_and_printed(
    finished: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    said = [row.params["expert.episodes"] for row in finished.book().rows()]
    status, out, err = sdw(capsys, "status", str(finished.path), "--json")
    assert status == 0, err
    assert [trial["params"]["expert.episodes"] for trial in json.loads(out)["trials"]] == said
    assert Study(finished).frame()["expert.episodes"].tolist() == said
    page = Console(file=io.StringIO(), width=160)
    page.print(trial_table(Snapshot.of(finished)))
    lines = page.file.getvalue().rstrip().splitlines()[-2:]
    assert all(text in line for text, line in zip(said, lines, strict=True))


def test_an_export_states_the_list_and_is_known_again(finished: StudyFolder) -> None:
    (row, *_) = finished.book().rows()
    (target,) = export(finished, [0])
    config = read_artifact(target).evidence["config"]
    assert config["expert"]["episodes"] == json.loads(row.params["expert.episodes"])
    assert config["distill"]["states"] == row.params["distill.states"]
    assert export(finished, [0]) == [target]


@pytest.mark.parametrize("database", ["sqlite", "journal"])
def test_a_search_over_lists_is_gone_on_with_and_made_anew(tmp_path: Path, database: str) -> None:
    folder = launched(tmp_path, f"study.database={database}", "study.trials=12")
    search = StudySearch(folder.book())
    asked = [search.suggest(str(number))["params"]["expert.episodes"] for number in range(8)]
    assert set(asked) <= RANGES
    assert len(set(asked)) > 1
    for number in range(6):
        search.on_trial_complete(str(number), report(normalized_return=float(number)))
    search.on_trial_complete("6", report("FAILED"))
    folder.book().retry_failed()
    before = [(t.number, t.params, t.values) for t in folder.book().trials()]
    book, _ = folder.rebuild()
    after = [(t.number, t.params, t.values) for t in book.trials()]
    assert after == before
    assert [t.number for t in book.trials(TrialState.WAITING)] == [7, 8]
    later = StudySearch(folder.book())
    again = [later.suggest(name)["params"]["expert.episodes"] for name in ("a", "b", "c")]
    assert again[:2] == [asked[7], asked[6]]
    assert again[2] in RANGES
