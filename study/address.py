"""Which Ray cluster an address means, and whether this process may connect to it."""

import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from sdw_core.errors import InputError, first_line
from sdw_core.validation import shown

logger = logging.getLogger(__name__)

ON_THE_HEAD = (
    "give the command on the head, as with `ray attach`, `kubectl exec` or `ssh`, with the address "
    "`auto`"
)
GIVE_TOKEN = (
    "give the cluster's own, which `ray get-auth-token` prints on its head, in RAY_AUTH_TOKEN or "
    "~/.ray/auth_token"
)
REACH = 10.0
"""Seconds to reach the head: Ray itself would try for minutes."""


def settled(address: str) -> str:
    """HOST:PORT of the cluster that an address means.

    `auto` is what RAY_ADDRESS names, or else the Ray that runs on this machine: one of this user
    before one of others.

    Raises:
        InputError: it is no such address, or `auto` finds no Ray, or cannot tell which is meant.
    """
    named = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    if named in ("", "auto"):
        return _chosen(_running(), _last_started(), psutil.Process().username())
    if "://" in named:
        raise InputError(
            f"The address of a cluster is `auto` or HOST:PORT of its head's Ray, not {shown(named)}"
            ": a study's driver is a process on a node of the cluster and no client from outside; "
            f"{ON_THE_HEAD}."
        )
    host, _, port = named.rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(
            f"There is no Ray cluster at {named!r} (it names no port); give HOST:PORT, or leave "
            "`address` out to run on this machine."
        )
    return named


def _chosen(running: Mapping[str, str], last: str | None, me: str) -> str:
    """The address that `auto` means.

    Args:
        running: address -> user, of each Ray that has a node on this machine.
        last: where `ray start` last started a head here, or joined one.
        me: this process's user.
    """
    mine = [address for address, user in running.items() if user == me] or list(running)
    if last in mine:
        return str(last)
    if not mine:
        raise InputError(
            "There is no Ray cluster at 'auto' (no Ray runs on this machine, and RAY_ADDRESS names "
            "none); start one with `ray start --head`, give HOST:PORT, or leave `address` out."
        )
    if len(mine) > 1:
        found = ", ".join(f"{address} of {running[address]}" for address in sorted(mine))
        raise InputError(
            f"The address `auto` could mean any of {len(mine)} Rays on this machine ({found}); "
            "give HOST:PORT, or name one in RAY_ADDRESS."
        )
    return mine[0]


def _running() -> dict[str, str]:
    """Address -> user, of each Ray that has a node on this machine."""
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, LookupError):
            if process.name() == "raylet":
                (given,) = {
                    word.partition("=")[2]
                    for word in process.cmdline()
                    if word.startswith("--gcs-address=")
                }
                found[given] = process.username()
    return found


def _last_started() -> str | None:
    from ray._private.utils import read_ray_address

    with suppress(OSError):
        return str(read_ray_address() or "") or None
    return None


def say_connected() -> None:
    """Say, in a line, which cluster this process is connected to."""
    import ray

    logger.info(f"connected to the Ray cluster at {ray.get_runtime_context().gcs_address}")


def knock(host: str, port: int, patience: float) -> None:
    """Raises OSError if nobody listens there within so many seconds."""
    socket.create_connection((host, port), timeout=patience).close()


@contextmanager
def let_in(address: str) -> Iterator[None]:
    """The block can connect to the cluster at HOST:PORT: with a token, if the cluster asks for one.

    A driver with a token on a cluster without loses its workers, as one without a token is not let
    in where one is asked for; so the cluster decides, and RAY_AUTH_MODE is as it was afterwards.

    Raises:
        InputError: nobody listens there, the token is missing or wrong, or no Ray runs here.
    """
    host, _, port = address.rpartition(":")
    try:
        knock(host, int(port), REACH)
    except (OSError, OverflowError) as error:
        raise unreachable(address, first_line(error) or type(error).__name__) from None
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    before = os.environ.get("RAY_AUTH_MODE")
    try:
        if not _opens(address, "disabled"):
            tokens = AuthenticationTokenLoader.instance()
            tokens.reset_cache()
            if not tokens.has_token(ignore_auth_mode=True):
                said = f"The Ray cluster at {address} asks for a token, and there is none here"
                raise InputError(f"{said}; {GIVE_TOKEN}.")
            if not _opens(address, "token"):
                said = f"The Ray cluster at {address} does not take the token of {_source()}"
                raise InputError(f"{said}; {GIVE_TOKEN}.")
        _require_node(address)
        yield
    finally:
        del os.environ["RAY_AUTH_MODE"]
        if before is not None:
            os.environ["RAY_AUTH_MODE"] = before
        Config.initialize("")


def _opens(address: str, mode: str) -> bool:
    """Whether a cluster lets this process in, with RAY_AUTH_MODE as given from now on.

    Raises:
        InputError: it is no Ray cluster.
    """
    from ray._raylet import Config, GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError

    os.environ["RAY_AUTH_MODE"] = mode
    Config.initialize("")  # as Ray does where it sets the mode itself
    try:
        with _silence():
            GcsClient(address=address)
    except AuthenticationError:
        return False
    except Exception as error:  # whatever Ray makes of a port that is not its own
        raise unreachable(address, first_line(error)) from None
    return True


def _require_node(address: str) -> None:
    """Refuse a machine on which no Ray runs: Ray itself would wait a minute for one to begin."""
    if not _running():
        raise InputError(
            f"This machine is no node of the Ray cluster at {address}, and a study's driver is a "
            f"process on one; {ON_THE_HEAD}."
        )


def _source() -> str:
    """Where Ray has found its token, in its own order."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    return os.environ.get("RAY_AUTH_TOKEN_PATH") or str(Path.home() / ".ray" / "auth_token")


def unreachable(address: str, why: str) -> InputError:
    """A cluster that cannot be connected to, and what is known of the reason."""
    return InputError(
        f"There is no Ray cluster at {address!r} ({why.rstrip('.')}); give HOST:PORT, or leave "
        "`address` out to run on this machine."
    )


def unconnected(address: str, error: Exception) -> InputError:
    """What Ray says when it does not connect to a cluster that is there."""
    said = " ".join(str(error).split())
    ours = re.findall(r"Ray: (\S+) Python: (\S+)", said)
    if "Version mismatch" in said and len(ours) == 2:
        there, here = (f"Ray {ray} on Python {python}" for ray, python in ours)
        return InputError(
            f"The Ray cluster at {address} runs {there}, and this process {here}; give the command "
            "in the environment that the cluster's nodes have."
        )
    return unreachable(address, first_line(error) or type(error).__name__)


@contextmanager
def _silence() -> Iterator[None]:
    """The C++ of Ray writes what it then raises to stderr, too."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
