"""Real processes for tests: fresh interpreters, and what is left when one is killed."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start(code: str, *arguments: object, cwd: Path = ROOT) -> subprocess.Popen[str]:
    """Run `code` in a fresh interpreter, on one thread, with `arguments` in sys.argv."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(code: str, *arguments: object, cwd: Path = ROOT, timeout: float = 120) -> str:
    """The output of `code`, which must end well."""
    process = start(code, *arguments, cwd=cwd)
    output, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, errors
    return output


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL: no handler, no `finally`, no flush."""
    process.kill()
    process.communicate()
    assert process.returncode == -9
