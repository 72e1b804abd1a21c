"""The dashboard's pages in a real browser, on a desk and on a phone."""

import re
from pathlib import Path

import pytest

from study.folder import StudyFolder
from study.search import StudySearch
from tests.study.conftest import small_spec
from tests.study.pages import CHROMIUM, DESK, PHONE, addresses, browsing, dashboard
from tests.study.reports import report, run_trials, thousand_trials

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
expect, Page = sync_api.expect, sync_api.Page
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"),
]


def created(storage: Path, name: str = "quickstart") -> StudyFolder:
    return StudyFolder.create(small_spec("study.name=seen", name=name), storage)


def none_finished(storage: Path) -> StudyFolder:
    folder = created(storage)
    StudySearch(folder.book()).suggest("a")
    return folder


def all_failed(storage: Path) -> StudyFolder:
    folder = created(storage)
    search = StudySearch(folder.book())
    for name in "ab":
        search.suggest(name)
        search.on_trial_complete(name, report("FAILED"))
    return folder


def one_trial(storage: Path) -> StudyFolder:
    folder = created(storage)
    run_trials(folder)
    return folder


def two_objectives(storage: Path) -> StudyFolder:
    folder = created(storage, "pareto")
    search = StudySearch(folder.book())
    for name, value, size in (("a", 50.0, 10), ("b", 60.0, 20), ("c", 40.0, 30)):
        search.suggest(name)
        search.on_trial_complete(name, report(normalized_return=value, synthetic_size=size))
    return folder


@pytest.mark.parametrize(
    ("state", "answer", "points"),
    [
        (none_finished, "No trial has completed yet", 0),
        (all_failed, "No trial has completed yet", 0),
        (one_trial, "Best: trial 0", 1),
        (two_objectives, "2 trials on the Pareto front", 3),
        (thousand_trials, "Best: trial 197", 1000),
    ],
)
def test_each_state_is_answered_first_and_a_click_shows_the_settings(
    state, answer, points, tmp_path
):
    with dashboard(state(tmp_path), "--port", "0") as (_, said), browsing() as page:
        home = addresses(said)[0]
        for size in (DESK, PHONE):
            page.set_viewport_size(size)
            page.goto(home)
            expect(page.get_by_role("heading", name=answer)).to_be_in_viewport()
            page.goto(f"{home}dashboard/studies/0")
            expect(page.get_by_text("Study User Attributes")).to_be_visible()
            if points:
                plotted = page.locator(".js-plotly-plot").first.locator(".scatterlayer .point")
                expect(plotted).to_have_count(points)
                click_last(page, plotted)
                expect(page).to_have_url(re.compile(r"/trials\?numbers=\d+"))
                number = page.url.rpartition("=")[2]
                expect(page.get_by_role("heading", name=f"Trial {number} (")).to_be_in_viewport()
                expect(page.get_by_text("weighting.temperature 0")).to_be_visible()
                assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]


def click_last(page, plotted) -> None:
    place = plotted.last.bounding_box()
    page.mouse.move(place["x"], place["y"])
    page.mouse.click(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)


def test_the_first_page_shows_the_best_trials_pictures(tmp_path):
    with dashboard(one_trial(tmp_path), "--port", "0") as (_, said), browsing() as page:
        page.goto(addresses(said)[0])
        for name in ("learning-curve.png", "states.png"):
            page.wait_for_function(
                f"document.querySelector('img[alt=\"{name}\"]')?.naturalWidth > 0"
            )


def test_tensorboard_shows_the_curves_and_the_settings_of_every_trial(tmp_path):
    folder = created(tmp_path)
    run_trials(folder, 2)
    with dashboard(folder, "--port", "0") as (_, said), browsing() as page:
        board = addresses(said)[1]
        for size in (DESK, PHONE):
            page.set_viewport_size(size)
            page.goto(f"{board}#hparams")
            for number in (0, 1):  # the best among them
                expect(page.get_by_text(f"trial {number}", exact=True)).to_be_in_viewport()
        page.set_viewport_size(DESK)
        expect(page.get_by_text("weighting.temperature").first).to_be_in_viewport()
        page.goto(f"{board}#timeseries")
        page.reload()
        groups = page.get_by_role("button", name="group")  # to expand or to collapse
        for name in ("density", "distill", "expert", "return", "trial"):
            expect(groups.filter(has_text=name)).to_be_attached()


def test_a_study_that_is_written_to_is_shown_as_it_grows(tmp_path):
    folder = created(tmp_path)
    search = StudySearch(folder.book())
    with folder.seat.lock(), dashboard(folder, "--port", "0") as (_, said), browsing() as page:
        page.set_viewport_size(PHONE)
        page.goto(addresses(said)[0])
        expect(page.get_by_role("heading", name="No trial has completed yet")).to_be_in_viewport()
        search.suggest("a")
        search.on_trial_complete("a", report(normalized_return=41.25))
        expect(page.get_by_role("heading", name="return 41.25")).to_be_in_viewport()


def test_the_page_offers_nothing_that_is_refused(tmp_path):
    folder = one_trial(tmp_path)
    StudySearch(folder.book()).suggest("b")
    with folder.seat.lock(), dashboard(folder, "--port", "0") as (_, said), browsing() as page:
        home = addresses(said)[0]
        for path, seen, hidden in (
            ("", "Best:", "EditIcon"),
            ("dashboard/studies/0", "Best Trial (number=0)", "UploadFileIcon"),
            ("dashboard/studies/0/trials?numbers=1", "Trial 1 runs", "StopCircleIcon"),
        ):
            page.goto(f"{home}{path}")
            expect(page.get_by_text(seen).first).to_be_visible()
            expect(page.get_by_test_id(hidden)).to_have_count(1)  # or it is called otherwise now
            expect(page.get_by_test_id(hidden)).to_be_hidden()
        page.locator("header a").click()
        expect(page.get_by_text("0. seen")).to_be_visible()
        for hidden in ("DeleteIcon", "DriveFileRenameOutlineIcon", "AddBoxIcon"):
            expect(page.get_by_test_id(hidden)).to_have_count(1)
            expect(page.get_by_test_id(hidden)).to_be_hidden()
