"""A real `sdw dashboard`, and what it serves."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from study.folder import StudyFolder

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
