"""What a process may lack that runs commands or studies: a stream, a home, a folder to use."""

import io
import logging
import os
import secrets
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from sdw_core.errors import InputError

HOMELESS = "/nonexistent"
"""The home of a user who has none, by the custom of Unix: nothing is found or written there."""
LONGEST = 107 - len("/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store.0")
"""Bytes of the path of a temporary folder in which Ray's sockets find room."""


def make_ready() -> None:
    """Settle what a command may lack: its streams, and what `settle_environment` settles.

    Raises:
        InputError: the current folder was removed.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # else the next file that is opened takes its place, and what is printed
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for stream in (sys.stdout, sys.stderr):  # None where the caller closed it
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what its encoding lacks is spelled out
    settle_environment()
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # commands say what they do
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it says where it caches instead


def settle_environment() -> None:
    """Settle what libraries rely on, and the workers that inherit this process's environment.

    Raises:
        InputError: the current folder was removed.
    """
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


def keep_ray_token() -> None:
    """Where the home cannot take the token of a Ray of one's own, keep it in the environment."""
    token = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):
        token.parent.mkdir(parents=True, exist_ok=True)
        if token.exists() or os.access(token.parent, os.W_OK | os.X_OK):
            return
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def make_room_for_sockets() -> None:
    """Settle TMPDIR and RAY_TMPDIR, where Ray and Python put sockets: /tmp for what is too long.

    Raises:
        InputError: no such path is short enough.
    """
    named = os.environ.get("RAY_TMPDIR")
    if named and not _fits(named):
        raise InputError(_too_long("RAY_TMPDIR", named))
    folders = (tempfile.gettempdir(), "/tmp")
    short = [each for each in folders if _fits(each) and os.access(each, os.W_OK | os.X_OK)]
    if not short:
        raise InputError(_too_long("TMPDIR", folders[0]))
    os.environ["TMPDIR"] = short[0]
    os.environ.setdefault("RAY_TMPDIR", short[0])


def _fits(folder: str) -> bool:
    return len(os.fsencode(folder)) <= LONGEST


def _too_long(variable: str, folder: str) -> str:
    return (
        f"The temporary folder's path may have {LONGEST} bytes, or Ray's sockets find no room, and "
        f"{folder!r} has {len(os.fsencode(folder))}; name a shorter one in {variable}."
    )
