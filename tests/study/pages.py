"""A real `sdw dashboard`, and what it serves."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

from study.folder import StudyFolder

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium")
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
SDW = Path(sys.executable).with_name("sdw")


@contextmanager
def dashboard(folder: StudyFolder, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, once it serves, and what it has said."""
    process = subprocess.Popen(
        [SDW, "dashboard", folder.path, *options], stderr=subprocess.PIPE, text=True
    )
    said = ""
    try:
        while "Ctrl-C" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        yield process, said
    finally:
        process.kill()
        process.communicate()


def addresses(said: str) -> list[str]:
    return re.findall(r"http://127\.0\.0\.1:\d+/", said)


def read(address: str) -> str:
    with urlopen(address, timeout=60) as answer:
        return answer.read().decode()


@contextmanager
def browsing() -> Iterator["Page"]:
    """A page of a browser; what it says on its console as an error fails the block at its end."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=30_000)
    errors: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.on("response", lambda got: errors.append(got.url) if got.status >= 400 else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
        browser.close()
    assert not errors, errors
