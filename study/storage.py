"""Where Optuna keeps a study's trials: SQLite, a journal file, or a server by its URL.

SQLite corrupts on network file systems, whose locks it cannot trust; there, a journal file is
written: one JSON line an operation, appended under a lock that network file systems can hold: a
file that is made exclusively, which NFS can do from version 3 on.
"""

import os
import re
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
import psutil
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy import event, make_url, text
from sqlalchemy.exc import ArgumentError

from sdw_core.errors import InputError

NETWORK_FILE_SYSTEMS = (
    *("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "afs", "9p"),
    *("orangefs", "pvfs", "wekafs", "fuse"),
)
"""What their types begin with; of `fuse` no type can be trusted, so all count."""


STALE_LOCK = 30
"""Seconds after which a journal's lock, a file of its own, is that of a process which died."""


def resolved(database: str, folder: Path) -> str:
    """`auto` as what it means for a study folder at this place; anything else as it is."""
    if database != "auto":
        return database
    return "journal" if on_network(folder) else "sqlite"


def on_network(path: Path) -> bool:
    """Whether a path, which need not exist yet, lies on a network file system."""
    path = path.resolve()
    mounts = {mount.mountpoint: mount.fstype for mount in psutil.disk_partitions(all=True)}
    holding = next((mounts[str(at)] for at in (path, *path.parents) if str(at) in mounts), "")
    return holding.startswith(NETWORK_FILE_SYSTEMS)


def open_storage(database: str, folder: Path) -> BaseStorage:
    """The storage of a study.

    Args:
        database: `sqlite`, `journal` or a URL.
        folder: the study's, where the first two keep their file.

    Raises:
        InputError: the URL cannot be opened.
    """
    if database == "sqlite":
        return _sqlite(folder / "study.db")
    if database == "journal":
        return _journal(folder / "study.journal")
    return _server(database)


def require_unused(database: str, name: str) -> None:
    """Refuse a URL that cannot be opened, shows a password, or holds a study of that name.

    Raises:
        InputError: it is so.
    """
    if database in ("sqlite", "journal"):
        return
    if _password(database):
        raise InputError(
            "`study.database` holds a password, which would lie open in study.yaml; leave it out "
            "and keep it in ~/.pgpass or the environment variable PGPASSWORD, or write ${NAME} in "
            "its place and set that variable."
        )
    if name in optuna.study.get_all_study_names(_server(database)):
        raise InputError(
            f"`study.database` holds a study named {name!r} already; choose another `--name`."
        )


def set_aside(database: str, folder: Path, name: str, mark: str) -> str | None:
    """Move what is stored of a study out of the way: renamed, never deleted.

    Args:
        database: as for `open_storage`.
        folder: the study's.
        name: the study's.
        mark: appended to the name of what is kept.

    Returns:
        What it is called now: a file, or a study in the server's database; None if there was none.
    """
    if database not in ("sqlite", "journal"):
        with _server(database).engine.begin() as connection:
            renamed = connection.execute(
                text("UPDATE studies SET study_name = :kept WHERE study_name = :name"),
                {"kept": f"{name}.{mark}", "name": name},
            )
        return f"{name}.{mark}" if renamed.rowcount else None
    path = folder / ("study.db" if database == "sqlite" else "study.journal")
    kept = path.with_name(f"{path.name}.{mark}")
    for suffix in ("-wal", "-shm", ""):  # SQLite looks for its log under its database's name
        companion = Path(f"{path}{suffix}")
        if companion.exists():
            companion.rename(f"{kept}{suffix}")
    return str(kept) if kept.exists() else None


def _sqlite(path: Path) -> RDBStorage:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    storage = RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})

    @event.listens_for(storage.engine, "connect")
    def _relaxed(connection: sqlite3.Connection, record: Any) -> None:
        connection.execute("PRAGMA synchronous=NORMAL")

    storage.engine.dispose()  # the connection that it was made with has no such setting
    return storage


def _journal(path: Path) -> JournalStorage:
    lock = JournalFileOpenLock(str(path), STALE_LOCK)
    backend = JournalFileBackend(str(path), lock)
    lock.acquire()
    try:
        cut_torn_line(path)
    finally:
        lock.release()
    return JournalStorage(backend)


def cut_torn_line(path: Path) -> None:
    """Drop what follows the last newline: a line whose writer died, which would spoil the next.

    Call it under the journal's lock, so that nobody is writing that line.
    """
    with path.open("r+b") as file:
        written = file.read()
        if not written.endswith(b"\n"):
            file.truncate(written.rfind(b"\n") + 1)


def _server(url: str) -> RDBStorage:
    try:
        return RDBStorage(_expanded(url), engine_kwargs={"pool_pre_ping": True})
    except InputError:
        raise
    except Exception as error:  # a driver may raise anything
        raise InputError(
            f"`study.database` cannot be opened ({type(error).__name__}); give `auto`, or the URL "
            "of a server that runs, like postgresql://USER@HOST/NAME, with its driver installed "
            "(`pip install 'sdw-obd[postgres]'`)."
        ) from None


def _expanded(url: str) -> str:
    """`${NAME}` replaced by that environment variable, quoted as a URL wants it."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in os.environ:
            raise InputError(
                f"`study.database` names the environment variable {name}, which is not set; set it."
            )
        return quote(os.environ[name], safe="")

    return re.sub(r"\$\{(\w+)\}", value, url)


def _password(url: str) -> bool:
    """Whether a URL holds a password that is no `${NAME}`."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        return False
    password = parsed.password or parsed.query.get("password")
    return bool(password) and not re.fullmatch(r"(\$\{\w+\})+", str(password))
