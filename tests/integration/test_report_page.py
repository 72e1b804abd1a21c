"""Pages of studies and comparisons in a real browser, without a network."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from benchmarks.report import made
from study import Comparison, Study
from study.comparison import ComparisonFolder
from study.export import export
from study.folder import StudyFolder
from study.search import StudySearch
from tests.study.comparisons import all_results, small_comparison
from tests.study.conftest import small_spec
from tests.study.reports import report, run_trials

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"),
    pytest.mark.slow,
]
DESK, PHONE = (1280, 800), (390, 844)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu"]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two real trials, of which one is exported, and of many that were only told."""
    spec = small_spec("study.trials=14")
    folder = StudyFolder.create(spec, tmp_path_factory.mktemp("storage"))
    run_trials(folder, 2)
    search = StudySearch(folder.book())
    for index in range(12):
        search.suggest(str(index))
        told = report(normalized_return=-100.0 - index) if index % 4 else report("FAILED")
        search.on_trial_complete(str(index), told)
    export(folder, folder.book().best())
    return Study(folder).report()


@contextmanager
def shown(browser: Browser, path: Path, size: tuple[int, int], scheme: str) -> Iterator[Page]:
    """The page once its figures are drawn; whatever it complains of or asks for fails the test."""
    width, height = size
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-drawn]", timeout=60_000)
    yield page
    assert [each for each in wrong if each != path.as_uri()] == []
    context.close()


def in_view(page: Page, what: Locator) -> bool:
    box, size = what.bounding_box(), page.viewport_size
    return bool(box and size and box["y"] >= 0 and box["y"] + box["height"] <= size["height"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE])
def test_the_best_is_in_view_and_nothing_runs_off_the_side(browser, study, size, scheme):
    with shown(browser, study, size, scheme) as page:
        assert in_view(page, page.locator(".score"))
        assert in_view(page, page.locator(".settings"))
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        drawn = page.locator(".plot .main-svg").count()
        assert drawn >= page.locator("figure .plot").count() > 6
        ink, ground = (
            sum(
                map(int, page.evaluate(f"getComputedStyle(document.body).{which}")[4:-1].split(","))
            )
            for which in ("color", "backgroundColor")
        )
        assert (ink > ground) == (scheme == "dark")
        label = page.locator(".plot .xtitle").first.evaluate("e => getComputedStyle(e).fill")
        assert label == page.evaluate("getComputedStyle(document.body).color")


def test_a_point_shows_its_trial_and_its_row(browser, study):
    with shown(browser, study, DESK, "light") as page:
        plot = page.locator(".plot").first
        plot.scroll_into_view_if_needed()
        plot.locator(".trace:last-child .points path, .points path").first.click(force=True)
        panel = page.locator("#panel")
        panel.wait_for(state="visible")
        title = panel.locator("h2").inner_text()
        said = panel.inner_text()
        assert title.startswith("Trial ")
        assert "weighting.temperature" in said
        assert "distill.synthetic_size" in said
        row = page.locator("tr.shown")
        assert row.get_attribute("data-title") == title
        panel.locator("a").click()
        assert in_view(page, row)


def test_the_keyboard_opens_a_trial_and_comes_back(browser, study):
    with shown(browser, study, PHONE, "dark") as page:
        button = page.locator("#trial-1 button")
        button.focus()
        page.keyboard.press("Enter")
        assert page.locator("#panel h2").inner_text().startswith("Trial 1")
        assert page.evaluate("document.activeElement.closest('#panel') !== null")
        page.keyboard.press("Escape")
        assert not page.locator("#panel").is_visible()
        assert button.evaluate("e => document.activeElement === e")


def test_figures_take_the_colours_of_a_scheme_that_changes(browser, study):
    with shown(browser, study, DESK, "light") as page:
        title = page.locator(".plot .xtitle").first
        before = title.evaluate("e => getComputedStyle(e).fill")
        page.emulate_media(color_scheme="dark")
        page.wait_for_function(
            "before => getComputedStyle(document.querySelector('.plot .xtitle')).fill !== before",
            arg=before,
        )


def test_a_comparison_in_view(browser, tmp_path):
    spec = small_comparison(tmp_path)
    page_at = Comparison(ComparisonFolder(tmp_path), spec, all_results(spec)).report()
    for size in (DESK, PHONE):
        with shown(browser, page_at, size, "light") as page:
            assert in_view(page, page.locator(".score"))
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    with shown(browser, page_at, DESK, "light") as page:
        page.locator("#datasets ~ .figures .points path").first.click(force=True)
        assert "a/one-v0" in page.locator("#panel").inner_text()


def test_a_thousand_trials_are_shown_and_fit_into_six_megabytes(browser, tmp_path):
    written = Study(made(tmp_path, trials=1000, computed=2)).report()
    assert written.stat().st_size < 6_000_000
    with shown(browser, written, PHONE, "light") as page:
        assert in_view(page, page.locator(".score"))
        assert page.locator("tbody tr[id]").count() == 1000


def test_an_empty_study_and_failures_alone_are_shown(browser, tmp_path):
    folder = StudyFolder.create(small_spec(), tmp_path)
    with shown(browser, Study(folder).report(), PHONE, "light") as page:
        assert in_view(page, page.get_by_text("No trial has begun yet."))
    search = StudySearch(folder.book())
    search.suggest("a")
    search.on_trial_complete("a", report("FAILED"))
    with shown(browser, Study(folder).report(), PHONE, "light") as page:
        assert in_view(page, page.get_by_text("1 FAILED, and why stands below."))
