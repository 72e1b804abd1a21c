"""What the process that starts `sdw` may lack: a home, a folder to stand in, a temporary folder."""

import io
import os
import sys
import tempfile
from pathlib import Path

from sdw_core.errors import InputError

HOMELESS = "/nonexistent"
"""The home of a user who has none, by the custom of Unix: nothing is found or written there."""
LONGEST = 107 - len("/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store.0")
"""Bytes of the path of a temporary folder below which Ray's sockets find room."""


def make_ready() -> None:
    """Settle what libraries, and the workers that inherit this process's environment, rely on.

    Raises:
        InputError: the current folder was removed.
    """
    for stream in (sys.stdout, sys.stderr):  # None where the caller closed it
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what its encoding lacks is spelled out
    try:
        Path.cwd()
    except FileNotFoundError:
        raise InputError(
            "The current folder does not exist any more; change to one that does, as with `cd`."
        ) from None
    try:
        Path.home()
    except RuntimeError:  # neither HOME nor an entry in the list of users
        os.environ["HOME"] = HOMELESS
    datasets = os.environ.get("MINARI_DATASETS_PATH")
    if datasets:  # workers may stand elsewhere
        os.environ["MINARI_DATASETS_PATH"] = str(Path(datasets).absolute())


def ray_folder() -> str:
    """A folder for what Ray keeps of a session: RAY_TMPDIR, else TMPDIR, else /tmp.

    Raises:
        InputError: no such path is short enough for the names of Ray's sockets.
    """
    named = os.environ.get("RAY_TMPDIR")
    folders = [named] if named else [tempfile.gettempdir(), "/tmp"]
    for folder in folders:
        if len(os.fsencode(folder)) <= LONGEST and (named or os.access(folder, os.W_OK | os.X_OK)):
            return folder
    raise InputError(
        f"Ray's temporary folder must have a path of {LONGEST} bytes at most, or its sockets find "
        f"no room, and {folders[0]!r} is longer; name a shorter one in RAY_TMPDIR."
    )
