"""Pages of studies and comparisons: what they say, what they link to, where they are written."""

import json
import logging
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from sdw_core.statistics import ReturnSummary
from search_spaces import ComparisonSpec, IntRange, parse_spec
from study import Comparison, Study
from study.api import _reported
from study.book import TrialRow
from study.comparison import ComparisonFolder, Results
from study.export import export
from study.folder import StudyFolder
from study.html.comparison import comparison_page
from study.html.figures import grouped
from study.html.page import plain
from study.html.states import states_figure
from study.html.study import _lead, study_page
from study.outcomes import TrialResult, read_result
from study.search import StudySearch
from study.snapshot import Snapshot
from study.standings import Standings
from tests.study.commands import sdw
from tests.study.comparisons import all_results, small_comparison
from tests.study.conftest import small_spec
from tests.study.reports import report, run_trials

pytestmark = pytest.mark.usefixtures("own_folder")


class Page(HTMLParser):
    """What a browser would take from a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.words = ""
        self._script: dict[str, str | None] | None = None
        self._style = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        self.links += [given[key] for key in ("href", "src") if given.get(key)]
        self.ids += [given["id"]] if "id" in given else []
        self._style = tag == "style"
        self._script = given if tag == "script" else None

    def handle_endtag(self, tag):
        self._style, self._script = False, None

    def handle_data(self, data):
        if self._script is not None:
            self.scripts.append((self._script, data))
        elif not self._style:
            self.words += data

    @property
    def figures(self) -> list[dict[str, object]]:
        return [json.loads(text) for given, text in self.scripts if given.get("class") == "figure"]

    @property
    def said(self) -> str:
        return " ".join(self.words.split())


def validate(figures: list[dict[str, object]]) -> None:
    """plotly's own check of figures, with any colour in the place of the page's variables."""
    from plotly.graph_objects import Figure

    for figure in figures:
        Figure(json.loads(re.sub(r'"--[a-z0-9-]+"', '"#123456"', json.dumps(figure))))


def targets(figure: dict[str, object]) -> set[str]:
    """The rows that the points of a figure lead to."""
    return {each for trace in figure["data"] for each in trace.get("customdata", []) if each}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """A study of two real, small trials, whose best is exported, and one that failed."""
    overrides = (
        "study.trials=3",
        "pipeline.distill.outer_steps=100",
        "search.weighting.temperature.choices=[0.1,0.3]",
    )
    folder = StudyFolder.create(small_spec(*overrides), tmp_path_factory.mktemp("storage"))
    run_trials(folder, 2)
    search = StudySearch(folder.book())
    search.suggest("bad")
    search.on_trial_complete("bad", report("FAILED"))
    export(folder, folder.book().best())
    return folder


@pytest.fixture
def spec(tmp_path: Path) -> ComparisonSpec:
    return small_comparison(tmp_path)


def page_of(spec: ComparisonSpec, results: Results) -> Page:
    return Page(comparison_page(Standings.of(spec, results), Path("there"), "finished"))


@pytest.fixture(scope="module")
def page(ran: StudyFolder) -> Page:
    return Page(study_page(ran))


def told(search: StudySearch, name: str, outcome: str = "COMPLETE", **metrics: object) -> None:
    search.suggest(name)
    search.on_trial_complete(name, report(outcome, **metrics))


# What a page says


def test_the_answer_comes_first(ran: StudyFolder, page: Page):
    snapshot = Snapshot.of(ran)
    (best,) = snapshot.best
    confirmed = json.loads((ran.trial(best) / "confirmed.json").read_text())
    answer = page.said.partition("The best ")[2]
    assert answer.startswith(
        f"{confirmed['synthetic']['mean']:.1f} trial {best}: normalised return on fresh seeds"
    )
    temperature = snapshot.row(best).params["weighting.temperature"]
    assert f"weighting.temperature {temperature}" in answer[:300]
    assert f"random rows, as many: {confirmed['random_subset']['mean']:.1f}" in answer
    assert f"BC on all data (behavioural cloning): {confirmed['bc_all_data']['mean']:.1f}" in answer
    assert f"expert: {confirmed['expert']['mean']:.1f}" in answer
    assert "finished: 3 of 3 trials (2 COMPLETE, 1 FAILED)" in page.said
    assert "1 trial, why" in page.said
    assert "that of the study's own model (gaussian)" in page.said


def test_all_that_a_page_shows_is_in_it(page: Page):
    assert page.links
    assert all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= {*page.ids}
    assert len(page.ids) == len(set(page.ids))


def test_points_of_figures_lead_to_rows_and_numbers_stand_beside_them(page: Page):
    assert len(page.figures) == page.tags.count("figure") == page.tags.count("figcaption") > 6
    assert page.said.count(", in numbers") == len(page.figures)
    assert all(targets(figure) <= {*page.ids} for figure in page.figures)
    assert sum(bool(targets(figure)) for figure in page.figures) >= 5


def test_landmarks_and_headings_are_there_for_a_screen_reader(page: Page):
    assert [page.tags.count(tag) for tag in ("h1", "header", "main", "footer")] == [1] * 4
    headings = [int(tag[1]) for tag in page.tags if re.fullmatch("h[1-6]", tag)]
    assert all(below - above <= 1 for above, below in pairwise(headings))


@pytest.mark.slow
def test_figures_are_plotlys(page: Page, pareto: StudyFolder, spec: ComparisonSpec):
    validate(page.figures)
    search = StudySearch(pareto.book())
    for index in range(12):
        value = {"normalized_return": 5.0 * index, "synthetic_size": 8 + index % 4}
        told(search, str(index), **value)
    of_two = Page(study_page(pareto)).figures
    assert len(of_two) > 6
    validate(of_two)
    validate(page_of(spec, all_results(spec)).figures)


def test_a_film_of_the_best_is_in_its_page_unless_it_is_large(ran: StudyFolder):
    (exported,) = Snapshot.of(ran).exports
    (exported / "film.gif").write_bytes(b"GIF89a")
    (exported / "film.png").write_bytes(bytes(2_500_000))
    text = study_page(ran)
    assert 'src="data:image/gif;base64,R0lGODlh"' in text
    assert "data:image/png" not in text
    assert "film" in Page(text).ids


def test_without_the_studys_density_states_are_coloured_by_a_gaussian(ran: StudyFolder):
    for entry in ran.cache.glob("density-*.safetensors"):
        entry.unlink()
    assert "density: a Gaussian's" in states_figure(ran, 0).said


def test_rows_that_diverged_have_densities_to_read(ran: StudyFolder, tmp_path: Path):
    far = StudyFolder(shutil.copytree(ran.path, tmp_path / "far"))
    path = far.trial(0) / "rows.safetensors"
    kept = load_file(path)
    save_file(kept | {"observations": kept["observations"] * 1e30}, path)
    assert np.isneginf(float(states_figure(far, 0).table.rows[1][3]))


def test_equal_values_of_a_setting_are_in_one_part_of_its_range():
    def trial(number: int, rows: int) -> TrialRow:
        return TrialRow(number, "COMPLETE", None, {"rows": rows}, None, None, None, {}, None, [])

    trials = [trial(n, rows) for n, rows in enumerate((69, 29, 17, 29, 35))]
    parts = grouped(IntRange(type="int", low=16, high=128), "rows", trials)
    assert [(said, [row.number for row in part]) for said, part in parts] == [
        ("17 to 29", [2, 1, 3]),
        ("35 to 69", [4, 0]),
    ]


def test_a_lead_is_the_paired_difference_of_policies(ran: StudyFolder):
    one, two = (read_result(ran.trial(number)) for number in (0, 1))
    lead = _lead(one, two)
    a, b = (np.array(each.normalized_return.per_policy) for each in (one, two))
    assert lead.mean == pytest.approx((a - b).mean())
    assert lead.per_policy == pytest.approx(a - b)
    assert _lead(one, None) is None


def test_without_its_result_a_winner_is_told_from_none_and_the_page_says_why(folder: StudyFolder):
    search = StudySearch(folder.book())
    told(search, "a", normalized_return=1.0)
    told(search, "b", normalized_return=2.0)
    (folder.trial(1) / "result.json").write_text('{"outcome": "COMPL')
    said = Page(study_page(folder)).said
    assert "Whether it can be told from the next ones is not known" in said


def test_policies_that_share_no_numbers_are_no_pairs():
    def result(*returns: float, seeds: tuple[int, ...] = (0,)) -> TrialResult:
        summary = ReturnSummary(0.0, 0.0, 0.0, 0.0, returns)
        seeds_of = list(seeds)
        return TrialResult(
            outcome="COMPLETE", normalized_return=summary, distillation_seeds=seeds_of
        )

    assert _lead(result(1.0, 2.0), result(1.0, 2.0, 3.0)) is None
    assert _lead(result(1.0, 2.0, seeds=(0, 1)), result(1.0, 2.0, seeds=(0, 2))) is None
    assert _lead(result(1.0, 2.0), result(0.0, 1.0)).low == 1.0


# Studies that have little to say


def test_a_study_that_has_not_begun_says_so(folder: StudyFolder):
    page = Page(study_page(folder))
    assert "No trial has begun yet." in page.said
    assert "stopped: 0 of 16 trials." in page.said
    assert page.figures == []
    assert "plotly" not in page.ids


def test_a_study_of_failures_says_why_and_takes_no_text_for_markup(folder: StudyFolder):
    search = StudySearch(folder.book())
    reason = "failure: </script><script>alert(1)</script><img src=x>"
    for name in "ab":
        search.suggest(name)
        document = json.loads(report("FAILED")["document"]) | {"reason": reason, "node": "<b>"}
        search.on_trial_complete(name, {"document": json.dumps(document)})
    text = study_page(folder)
    page = Page(text)
    assert "No trial has completed; 2 FAILED, and why stands below." in page.said
    assert f"2 trials, {reason}" in page.said
    assert "img" not in page.tags
    assert "alert(1)</script>" not in text


def test_one_trial_alone_is_the_best_and_is_told_from_none(folder: StudyFolder):
    told(StudySearch(folder.book()), "a", normalized_return=41.25)
    page = Page(study_page(folder))
    assert "41.25 trial 0: normalised return" in page.said
    assert "expect less on fresh seeds" in page.said
    assert "There is no other trial to tell it from." in page.said
    assert "Importances take 10 COMPLETE trials." in page.said
    assert "Source and synthetic states cannot be shown" in page.said


def test_a_study_that_is_being_run_shows_what_there_is(folder: StudyFolder):
    search = StudySearch(folder.book())
    told(search, "a", normalized_return=41.25)
    search.suggest("b")
    with folder.driving():
        page = Page(study_page(folder))
    assert "running: 1 of 16 trials (1 COMPLETE, 1 RUNNING)" in page.said
    assert {"trial-0", "trial-1"} <= {*page.ids}


def test_two_objectives_have_a_front_and_no_winner(pareto: StudyFolder):
    search = StudySearch(pareto.book())
    for name, value, size in (("a", 10.0, 8), ("b", 40.0, 20), ("c", 5.0, 30)):
        told(search, name, normalized_return=value, synthetic_size=size)
    page = Page(study_page(pareto))
    assert "2 trials on the Pareto front They go from trial 0" in page.said
    assert "Pareto front" in page.said


def test_a_study_that_searches_nothing_has_a_page(tmp_path: Path):
    spec = parse_spec(small_spec().model_dump(mode="json") | {"search": {}})
    folder = StudyFolder.create(spec, tmp_path)
    told(StudySearch(folder.book()), "a", normalized_return=1.0)
    page = Page(study_page(folder))
    assert "Importances take two searched settings that every trial has." in page.said
    assert "All settings together" not in page.said


def test_a_name_is_no_markup_in_a_figure():
    assert plain("<a href=x>&</a>") == "&lt;a href=x&gt;&amp;&lt;/a&gt;"


# Comparisons


def test_a_comparison_says_who_leads_and_by_how_much(spec: ComparisonSpec):
    page = page_of(spec, all_results(spec))
    assert "SDW: mean normalised return over 2 datasets" in page.said
    assert "Higher: expert (90.0)." in page.said
    assert "Over Av-PBC: +12.5" in page.said
    assert "SDW, a/one-v0: weighting.temperature 0.5" in page.said
    assert page.said.count(", in numbers") == len(page.figures) == 6
    assert all(targets(figure) <= {*page.ids} for figure in page.figures)
    assert all(link.startswith("#") for link in page.links)


def test_a_comparison_that_has_not_begun_or_failed_says_so(spec: ComparisonSpec):
    empty = page_of(spec, {})
    assert "No cell has completed yet." in empty.said
    assert empty.figures == []
    failure = TrialResult(outcome="FAILED", reason="divergence: <b>too</b> far")
    failed = {spec.cell("Av-PBC", "a/one-v0"): failure}
    page = page_of(spec, failed)
    assert "Av-PBC, a/one-v0: divergence: <b>too</b> far" in page.said


# Where pages go


def test_a_page_goes_into_the_study_unless_told_otherwise(folder: StudyFolder, tmp_path, capsys):
    assert sdw(capsys, "report", folder.path)[:2] == (0, f"report in {folder.report}\n")
    folder.report.write_text("old")
    status, out, _ = sdw(capsys, "report", folder.path, "--json")
    assert (status, json.loads(out)) == (0, {"report": str(folder.report)})
    assert "No trial has begun yet." in folder.report.read_text()
    assert Study(folder).status()["report"] == str(folder.report)
    assert Study(folder).report(tmp_path / "mine.html").read_text()


@pytest.mark.parametrize(
    ("to", "why"),
    [("there.html", "never overwrites"), ("nowhere/page.html", "a folder that exists")],
)
def test_a_page_is_never_written_over_a_file_nor_into_no_folder(
    folder: StudyFolder, tmp_path, capsys, to, why
):
    (tmp_path / "there.html").write_text("mine")
    before = sorted(tmp_path.rglob("*.html"))
    status, out, err = sdw(capsys, "report", folder.path, "--to", to)
    assert (status, out) == (2, "")
    assert err.startswith("sdw: A report ")
    assert why in err
    assert sorted(tmp_path.rglob("*.html")) == before
    assert (tmp_path / "there.html").read_text() == "mine"


def test_a_study_or_comparison_that_is_not_there_is_named(folder: StudyFolder, capsys):
    status, out, err = sdw(capsys, "report", "hoper-quickstart", "--storage", folder.path.parent)
    assert (status, out) == (2, "")
    assert "There is no study or comparison 'hoper-quickstart'" in err
    assert "hopper-quickstart" in err


def test_a_study_does_not_fail_because_its_page_does(folder: StudyFolder, caplog):
    folder.report.mkdir()  # no file can take its place
    with caplog.at_level(logging.WARNING):
        _reported(Study(folder), progress=False)
    (line,) = caplog.messages
    assert line.startswith("the report was not written: ")
    assert list(folder.report.iterdir()) == []
    assert not list(folder.path.glob(".report.html*"))


def test_python_writes_a_comparisons_page_as_well(tmp_path, spec: ComparisonSpec):
    folder = ComparisonFolder(tmp_path)
    written = Comparison(folder, spec, all_results(spec)).report()
    assert written == folder.report == tmp_path / "report.html"
    assert "SDW" in written.read_text()
