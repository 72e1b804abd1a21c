"""A real PostgreSQL server for a test: its own folder and port, gone afterwards."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PASSWORD = "p@ss/word:1"
"""One that a URL must quote."""
BIN = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
USER = "postgres" if os.getuid() == 0 else None
"""The server refuses to run as root."""


@contextmanager
def server() -> Iterator[str]:
    """The URL of an empty database, with `${SDW_TEST_PASSWORD}` for its password."""
    home = Path(tempfile.mkdtemp(prefix="sdwpg", dir="/tmp"))
    data, secret = home / "data", home / "password"
    secret.write_text(PASSWORD)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if USER:
        for path in (home, secret):
            shutil.chown(path, USER)

    def run(*command: object) -> None:
        subprocess.run(
            [*map(str, command)], user=USER, cwd=home, check=True, stdout=subprocess.DEVNULL
        )

    control = (BIN / "pg_ctl", "-D", data, "-w", "-l", home / "log")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -k {home} -c fsync=off"
    try:
        run(BIN / "initdb", "-D", data, "-U", "sdw", "-A", "scram-sha-256", f"--pwfile={secret}")
        run(*control, "-o", options, "start")
        try:
            yield f"postgresql://sdw:${{SDW_TEST_PASSWORD}}@127.0.0.1:{port}/postgres"
        finally:
            run(*control, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(home)
