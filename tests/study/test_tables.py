"""The tables of a study: what they show, and what they leave out where there is little room."""

import io
import json
import shutil

import pytest

from sdw_core.console import Console, Table
from study.api import Study
from study.folder import StudyFolder
from study.search import StudySearch
from study.snapshot import Snapshot
from study.tables import doubt, trial_table
from tests.study.commands import sdw
from tests.study.conftest import small_spec
from tests.study.reports import report, run_trials


def console(terminal: bool, width: int = 80) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)


def shown(console: Console) -> str:
    return console.file.getvalue()


REASON = "divergence: " + "the hypergradient became non-finite at outer step 40; " * 3
THREE = "search.distill.state_noise={type: float, low: 0.1, high: 0.6, log: true}"


def failing(step: int) -> dict[str, object]:
    document = json.loads(report("FAILED")["document"])
    return {"document": json.dumps(document | {"reason": f"{REASON}step {step}"})}


def complete(value: float) -> dict[str, object]:
    document = json.loads(report(normalized_return=value)["document"])
    interval = {"mean": value, "iqm": value, "low": 12.3, "high": 98.7, "per_policy": [value]}
    return {"document": json.dumps(document | {"normalized_return": interval})}


@pytest.fixture
def study(folder: StudyFolder) -> StudyFolder:
    """Two trials COMPLETE, the second the best; two FAILED for one reason; one that waits."""
    search = StudySearch(folder.book())
    for name in "abcde":
        search.suggest(name)
    ends = {"a": complete(41.26), "d": complete(90.0), "b": failing(40), "c": failing(50)}
    for name, document in ends.items():
        search.on_trial_complete(name, document)
    return folder


def printed(folder: StudyFolder, width: int = 80, terminal: bool = True) -> list[str]:
    page = console(terminal, width)
    page.print(trial_table(Snapshot.of(folder)))
    return [line.rstrip() for line in shown(page).splitlines()]


def test_the_table_has_all_where_there_is_room(study):
    above, below, *rows = printed(study, 84)
    assert (above.split(), below.split()) == (
        ["synthetic", "normalised", "95", "%", "trial"],
        ["trial", "temperature", "size", "return", "interval", "seconds", "outcome"],
    )
    assert [row.split()[0] for row in rows] == ["0", "1", "2", "3", "4"]
    assert rows[0].split()[3:] == ["41.3", "12.3", "to", "98.7", "2", "COMPLETE"]
    assert rows[1].split()[3:] == ["2", "FAILED", "divergence"]
    assert rows[3].split()[3:] == ["90.0", "12.3", "to", "98.7", "2", "COMPLETE", "best"]


@pytest.mark.parametrize(
    ("more", "kept"),
    [
        ((), {(120, True): 2, (83, True): 2, (80, True): 1, (60, True): 0, (20, False): 2}),
        ((THREE,), {(100, True): 2, (80, True): 1, (60, True): 0, (20, False): 2}),
    ],
    ids=["two are searched", "three are searched"],
)
def test_where_there_is_little_room_the_interval_goes_first_and_the_outcome_never(
    tmp_path, more, kept
):
    folder = StudyFolder.create(small_spec(*more), tmp_path)
    search = StudySearch(folder.book())
    for name, document in (("a", complete(3.5)), ("b", failing(40))):
        search.suggest(name)
        search.on_trial_complete(name, document)
    for (width, terminal), spared in kept.items():
        lines = printed(folder, width, terminal)
        assert not terminal or max(map(len, lines)) <= width
        text = "\n".join(lines)
        assert ("interval" in text, "seconds" in text) == (spared > 1, spared > 0), width
        assert "COMPLETE best" in text
        assert "FAILED divergence" in text


def test_a_table_is_narrowed_for_its_page_alone():
    table = Table()
    for spare in (2, 0, 1):
        table.add_column(f"{spare}" * 8, spare=spare)
    table.add_row("a", "b", "c")
    seen = []
    for width in (30, 20, 10, 30):
        page = console(terminal=True, width=width)
        page.print(table)
        seen.append(shown(page).splitlines()[0].split())
    all_three = ["2" * 8, "0" * 8, "1" * 8]
    assert seen == [all_three, all_three[:2], all_three[1:2], all_three]


@pytest.mark.parametrize("recipe", ["", "_ensemble"])
def test_rows_that_do_not_beat_random_ones_are_doubted(recipe):
    def scores(low: float) -> dict[str, dict[str, float]]:
        better = {"synthetic": {"mean": 90.0, "low": 80.0}, "random_subset": {"high": 5.0}}
        return better | {
            f"synthetic{recipe}": {"mean": low + 1, "low": low, "high": low + 2},
            f"random_subset{recipe}": {"mean": 3.0, "low": 2.0, "high": 5.0},
        }

    assert doubt(scores(5.1)) is None
    said = doubt(scores(4.9))
    assert said is not None
    assert "cannot be told from as many random rows (5.9 against 3.0" in said


def test_an_objective_that_is_searched_has_one_column(pareto):
    search = StudySearch(pareto.book())
    size = search.suggest("a")["params"]["distill.synthetic_size"]
    search.on_trial_complete("a", report(normalized_return=3.5, synthetic_size=size))
    narrow = console(terminal=True)
    narrow.print(trial_table(Snapshot.of(pareto)))
    *_, row = shown(narrow).rstrip().splitlines()
    assert row.split().count(str(size)) == 1


def test_a_searched_ensemble_has_a_column(tmp_path):
    choices = "search.evaluation.ensemble={type: categorical, choices: [1, 10]}"
    searched = StudyFolder.create(small_spec(choices), tmp_path)
    search = StudySearch(searched.book())
    ensembles = [search.suggest(name)["params"]["evaluation.ensemble"] for name in "abcdef"]
    assert set(ensembles) == {1, 10}
    search.on_trial_complete("a", report(normalized_return=3.5))
    wide = console(terminal=True, width=120)
    snapshot = Snapshot.of(searched)
    wide.print(trial_table(snapshot))
    _, headings, *lines = shown(wide).rstrip().splitlines()
    assert "ensemble" in headings.split()
    assert "ensembles" not in shown(wide)
    column = headings.split().index("ensemble")
    assert [line.split()[column] for line in lines] == [str(n) for n in ensembles]
    assert [row.ensemble for row in snapshot.trials] == ensembles


@pytest.mark.usefixtures("own_folder")
def test_reasons_are_told_once_below_the_table_in_whole_lines(study, capsys):
    _, out, _ = sdw(capsys, "status", study.path)
    reasons = [line for line in out.splitlines() if "non-finite" in line]
    assert reasons == [f"2 trials FAILED (1, 2): {REASON}step 40"]


@pytest.mark.usefixtures("own_folder")
def test_status_names_the_best_what_lies_where_and_what_to_do_next(study, capsys):
    _, out, _ = sdw(capsys, "status", study.path)
    lines = out.splitlines()
    assert any(
        line.startswith("best in the search: trial 3, normalised return 90 (95 % 12.3")
        for line in lines
    )
    assert sum(line.startswith("  ") and " sdw " in line for line in lines) == 3
    assert "  report " not in out
    assert "COMPLETE best" in out
    (study.path / "report.html").touch()
    _, out, _ = sdw(capsys, "status", study.path)
    assert f"  report            {study.path / 'report.html'}" in out.splitlines()


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    """A Pareto study of two trials, as workers run them, exported."""
    folder = StudyFolder.create(
        small_spec("study.trials=2", name="pareto"), tmp_path_factory.mktemp("studies")
    )
    run_trials(folder, 2)
    Study(folder).export()
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("own_folder")
def test_a_pareto_study_shows_its_front_on_fresh_seeds(front, capsys, tmp_path):
    copy = StudyFolder(shutil.copytree(front.path, tmp_path / front.name))
    status, out, _ = sdw(capsys, "status", copy.path)
    best = Snapshot.of(copy).best
    assert status == 0
    assert sum("COMPLETE front" in line for line in out.splitlines()) == len(best)
    table = out.partition("Pareto front: ")[2].splitlines()[3 : 3 + len(best)]
    sizes = []
    for line in table:
        number, size, mean = line.split()[:3]
        manifest = json.loads((copy.exports / f"trial-{number}" / "manifest.json").read_text())
        assert mean == f"{manifest['scores']['synthetic']['mean']:.1f}"
        sizes.append(int(size))
    assert sizes == sorted(sizes)
    assert len(sizes) == len(best)
