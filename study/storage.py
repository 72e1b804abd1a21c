"""Where Optuna keeps a study's trials: SQLite, a journal file, or a server by its URL.

SQLite corrupts on network file systems, whose locks it cannot trust; there, a journal file is
written: one JSON line an operation, appended under a lock that network file systems can hold: a
file that is made exclusively, which NFS can do from version 3 on.
"""

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import optuna
import psutil
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from sqlalchemy import make_url, text
from sqlalchemy.exc import ArgumentError

from sdw_core.errors import InputError, first_line

NETWORK_FILE_SYSTEMS = (
    *("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "afs", "9p"),
    *("orangefs", "pvfs", "wekafs", "fuse"),
)
"""What their types begin with; of `fuse` no type can be trusted, so all count."""

FILES = {"sqlite": "study.db", "journal": "study.journal"}
"""Databases that are a file of the study's folder."""
STALE_LOCK = 30
"""Seconds after which a journal's lock, a file of its own, is that of a process which died."""
TROUBLES = {
    "resolve|translate host|name or service": "its host is not known; correct the host's name",
    "refused|no such file": "no server listens there; start it, or correct the host and the port",
    "timeout|timed out|unreachable|no route": "its server does not answer; look at the network and "
    "the firewall, or correct the host and the port",
    "no password supplied": "it wants a password; keep it in ~/.pgpass or the environment variable "
    "PGPASSWORD, or write ${NAME} into the URL and set that variable",
    "authentication failed|access denied": "it does not take the user or the password; correct "
    "them, where they are: in the URL, the variable that it names, PGPASSWORD or ~/.pgpass",
    'role ".*" does not exist': "it knows no such user; correct the user in the URL",
    'database ".*" does not exist|unknown database': "its server has no database of that name; "
    "create it, for PostgreSQL with `createdb`, or correct the name",
    "permission denied": "its user may not make tables there; let the owner of the database grant "
    "that, or name another database",
}
"""Words of a driver's error -> what is wrong, and the way out."""


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


def lies_in_folder(database: str) -> bool:
    """Whether a study's database is a file in its folder, of that study alone."""
    return database in FILES


def open_storage(database: str, folder: Path) -> BaseStorage:
    """The storage of a study; it can only be read where the folder or its file cannot be written.

    Args:
        database: `sqlite`, `journal` or a URL.
        folder: the study's, where the first two keep their file.

    Raises:
        InputError: the URL cannot be opened, or a folder that cannot be written has no database.
    """
    if not lies_in_folder(database):
        return _server(database)
    path = folder / FILES[database]
    writable = os.access(folder, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))
    if not writable and not path.exists():
        raise InputError(
            f"{str(folder)!r} cannot be written and holds no database: the study in it was never "
            "begun, or the database was lost; make the folder writable."
        )
    return (_sqlite if database == "sqlite" else _journal)(path, writable)


def require_unused(database: str, name: str) -> None:
    """Refuse a database that a new study of this name cannot use.

    Raises:
        InputError: the URL shows a password, cannot be opened, or names another database when it is
            read from another folder; or its database holds a study of that name.
    """
    if lies_in_folder(database):
        return
    if _password(database):
        raise InputError(
            "`study.database` holds a password, which would lie open in study.yaml; leave it out "
            "and keep it in ~/.pgpass or the environment variable PGPASSWORD, or write ${NAME} in "
            "its place and set that variable."
        )
    if _is_to_be_made(database):
        return
    if name in optuna.study.get_all_study_names(_server(database)):
        raise InputError(_used(name))


def _is_to_be_made(url: str) -> bool:
    """Whether a URL names an SQLite file that is not there yet, which looking at it would make.

    Raises:
        InputError: the URL names no database, or names another one from another folder.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # no URL; it is refused for that
        return False
    if not parsed.drivername.startswith("sqlite"):
        return False
    file = Path(parsed.database or "")
    if not file.is_absolute() or parsed.query:
        raise InputError(
            "`study.database` must name one database wherever it is read: an SQLite file by its "
            f"whole path, without `?`, as in sqlite:////home/me/studies.db, not {url!r}; or give "
            "`sqlite`, which is a file in the study's folder."
        )
    return not file.exists() and os.access(file.parent, os.W_OK)


def begun_on_server(database: str, name: str, directions: list[StudyDirection]) -> optuna.Study:
    """A new Optuna study in a database of several.

    Raises:
        InputError: the database holds a study of that name, or cannot be opened.
    """
    try:
        return optuna.create_study(
            study_name=name, storage=_server(database), directions=directions
        )
    except optuna.exceptions.DuplicatedStudyError:
        raise InputError(_used(name)) from None


def _used(name: str) -> str:
    return f"`study.database` holds a study named {name!r} already; choose another `name`."


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
    if not lies_in_folder(database):
        with _server(database).engine.begin() as connection:
            renamed = connection.execute(
                text("UPDATE studies SET study_name = :kept WHERE study_name = :name"),
                {"kept": f"{name}.{mark}", "name": name},
            )
        return f"{name}.{mark}" if renamed.rowcount else None
    path = folder / FILES[database]
    kept = path.with_name(f"{path.name}.{mark}")
    for suffix in ("-wal", "-shm", ""):  # SQLite looks for its log under its database's name
        companion = Path(f"{path}{suffix}")
        if companion.exists():
            companion.rename(f"{kept}{suffix}")
    return str(kept) if kept.exists() else None


def _sqlite(path: Path, writable: bool) -> RDBStorage:
    """A database by its path: within a URL, characters of the path would have another meaning."""

    def connect() -> sqlite3.Connection:
        if writable:
            connection = sqlite3.connect(path, timeout=60, check_same_thread=False)
            connection.execute("PRAGMA synchronous=NORMAL")
            return connection
        # A log says that somebody has the database open, or died; without one nothing will change.
        state = "mode=ro" if Path(f"{path}-wal").exists() else "immutable=1"
        return sqlite3.connect(
            f"{path.absolute().as_uri()}?{state}", uri=True, timeout=60, check_same_thread=False
        )

    if writable:
        if not path.exists():
            path.touch()  # by the umask; SQLite itself makes files of mode 0644 at most
        with closing(connect()) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    return RDBStorage("sqlite:///study.db", engine_kwargs={"creator": connect})


def _journal(path: Path, writable: bool) -> JournalStorage:
    lock = JournalFileOpenLock(str(path), STALE_LOCK)
    backend = JournalFileBackend(str(path), lock)
    if writable:
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
        raise InputError(f"`study.database` cannot be opened: {_trouble(error)}.") from None


def _trouble(error: Exception) -> str:
    """What is wrong with a database, and the way out.

    Drivers tell their errors apart by words alone. Nothing of the URL is repeated, for a password
    that is not quoted as a URL wants it is taken for a part of the host.
    """
    if isinstance(error, ImportError):
        return (
            f"its driver is not installed ({first_line(error)}); install it, for PostgreSQL with "
            "`pip install 'sdw-obd[postgres]'`"
        )
    if isinstance(error, ArgumentError | ValueError | LookupError):
        return (
            "it is no URL of a database; give `auto`, or a URL like postgresql://USER@HOST/NAME, "
            "with each special character of a password quoted"
        )
    said = str(getattr(error, "orig", error))
    for words, trouble in TROUBLES.items():
        if re.search(words, said, re.IGNORECASE):
            return trouble
    reason = first_line(getattr(error, "orig", error)).rstrip(".") or type(error).__name__
    return f"{reason}; give `auto`, or the URL of a server that runs"


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
    except (ArgumentError, ValueError):  # no URL; it is refused for that
        return False
    password = parsed.password or parsed.query.get("password")
    return bool(password) and not re.fullmatch(r"(\$\{\w+\})+", str(password))
