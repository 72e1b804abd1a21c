"""The dashboard's page in a real browser."""

import shutil
import subprocess
from pathlib import Path

import pytest

from study.folder import StudyFolder
from study.search import StudySearch
from tests.study.conftest import small_spec
from tests.study.pages import addresses, dashboard
from tests.study.reports import report

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")


def page(address: str, profile: Path) -> str:
    """The document after its scripts have run."""
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *(f"--user-data-dir={profile}", "--virtual-time-budget=20000", "--dump-dom", address),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_the_page_shows_the_study_and_its_trials(tmp_path):
    folder = StudyFolder.create(small_spec("study.name=seen-in-a-browser"), tmp_path)
    search = StudySearch(folder.book())
    search.suggest("a")
    search.on_trial_complete("a", report(normalized_return=41.25))
    with dashboard(folder, "--port", "0") as (_, said):
        home = addresses(said)[0]
        assert "seen-in-a-browser" in page(f"{home}dashboard", tmp_path / "one")
        trial = page(f"{home}dashboard/studies/0/trials", tmp_path / "two")
    assert "Complete" in trial
    assert "41.25" in trial
    assert "weighting.temperature" in trial
