"""The folder of a study: what lies where, and who works on it.

study.yaml         the resolved spec
study.db           Optuna's storage, unless `study.database` is a URL
driver.lock        held by the process that drives the study
driver.json        that process: host, pid, Ray dashboard
stop               present while the study is asked to stop
cache/             stage results that trials share
trials/N/          progress, checkpoint, rows and result of trial N
tune/              Ray Tune's own records, for TensorBoard
exports/           exported synthetic datasets
"""

import shutil
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from filelock import FileLock, Timeout
from optuna.study import StudyDirection
from sqlalchemy import event

from sdw_core.config import nearest
from sdw_core.errors import InputError
from sdw_core.files import created_folder, read_json, write_json, write_text
from search_spaces import StudySpec, parse_spec
from study.book import TrialBook


@dataclass(frozen=True)
class StudyFolder:
    """A study on disk."""

    path: Path

    @classmethod
    def create(cls, spec: StudySpec, storage: Path) -> "StudyFolder":
        """Make the folder of a new study.

        Raises:
            InputError: the storage cannot be written, or the study exists; the message says how to
                go on with it.
        """
        folder = cls((storage / spec.study.name).resolve())
        if folder.path.exists():
            raise InputError(folder._occupied(spec))
        _require_unused(spec.study.database, folder.name)
        try:
            with created_folder(folder.path) as scratch:
                text = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False)
                write_text(scratch / "study.yaml", text)
        except OSError as error:
            raise InputError(
                f"The storage folder {str(storage)!r} cannot be written ({error.strerror}); choose "
                "another with `--storage`."
            ) from None
        return folder

    @classmethod
    def find(cls, reference: str, storage: Path) -> "StudyFolder":
        """The study of a name under the storage folder, or of a path.

        Raises:
            InputError: there is none; the message names the nearest.
        """
        for candidate in (storage / reference, Path(reference)):
            if (candidate / "study.yaml").is_file():
                return cls(candidate.resolve())
        known = [path.parent.name for path in storage.glob("*/study.yaml")]
        hint = nearest(reference, known) if known else f"{str(storage)!r} holds no study yet."
        raise InputError(f"There is no study {reference!r} in {str(storage)!r}: {hint}")

    def remove_if_untouched(self) -> None:
        """Take back a folder in which no trial was begun."""
        if not (self.path / "trials").exists():
            optuna.delete_study(study_name=self.name, storage=self.book().study._storage)
            shutil.rmtree(self.path)

    def _occupied(self, spec: StudySpec) -> str:
        try:
            same = self.spec().identity == spec.identity
        except (InputError, OSError):
            return (
                f"{str(self.path)!r} exists and is no study; choose another `--name`, or remove it."
            )
        name = self.path.name
        if same:
            return (
                f"The study {name!r} exists with this very spec; go on with `sdw resume {name}`, "
                "or choose another `--name` for a new one."
            )
        return (
            f"The study {name!r} exists with another spec; choose another `--name`, or go on with "
            f"the one that is there with `sdw resume {name}`."
        )

    @property
    def name(self) -> str:
        """The study's name: the folder's."""
        return self.path.name

    @property
    def cache(self) -> Path:
        """The stage cache that trials share."""
        return self.path / "cache"

    @property
    def exports(self) -> Path:
        """Where exports go unless told otherwise."""
        return self.path / "exports"

    @property
    def tune(self) -> Path:
        """Ray Tune's records."""
        return self.path / "tune"

    @property
    def stop_flag(self) -> Path:
        """Running trials end when this file appears."""
        return self.path / "stop"

    def trial(self, number: int) -> Path:
        """The folder of a trial."""
        return self.path / "trials" / str(number)

    def spec(self) -> StudySpec:
        """The resolved spec."""
        document = yaml.safe_load((self.path / "study.yaml").read_text(encoding="utf-8"))
        return parse_spec(document)

    def optuna_storage(self) -> optuna.storages.BaseStorage:
        """The database that is the truth about trials."""
        url = self.spec().study.database
        if url != "auto":
            return _opened(url)
        path = self.path / "study.db"
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}}
        )

        @event.listens_for(storage.engine, "connect")
        def _relaxed(connection: sqlite3.Connection, record: Any) -> None:
            connection.execute("PRAGMA synchronous=NORMAL")

        storage.engine.dispose()  # the connection that it was made with has no such setting
        return storage

    def book(self) -> TrialBook:
        """The study's trials; the Optuna study is created on first use."""
        spec, storage = self.spec(), self.optuna_storage()
        directions = [
            StudyDirection.MAXIMIZE if o.mode == "max" else StudyDirection.MINIMIZE
            for o in spec.study.objectives
        ]
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            study_name=self.name, storage=storage, directions=directions, load_if_exists=True
        )
        identity = study.user_attrs.get("identity")
        if identity is None:
            study.set_user_attr("identity", spec.identity)
        elif identity != spec.identity:
            raise InputError(
                f"The trials of {self.name!r} were made with another spec than its study.yaml now "
                "holds; put the old one back, or launch the new one under another `--name`."
            )
        return TrialBook(spec, study, storage)

    def driver_lock(self) -> FileLock:
        """The lock that a study's driver holds while it lives."""
        return FileLock(self.path / "driver.lock", timeout=0)

    def driven(self) -> bool:
        """Whether a driver is alive; meaningful on the driver's host."""
        try:
            with self.driver_lock():
                return False
        except Timeout:
            return True

    def driver(self) -> dict[str, Any]:
        """What the last driver wrote of itself."""
        try:
            document: dict[str, Any] = read_json(self.path / "driver.json")
        except FileNotFoundError:
            return {}
        return document

    def write_driver(self, document: dict[str, Any]) -> None:
        """Say who drives the study."""
        write_json(self.path / "driver.json", document)


def _opened(url: str) -> optuna.storages.RDBStorage:
    try:
        return optuna.storages.RDBStorage(url)
    except Exception as error:  # a driver may raise anything
        raise InputError(
            f"`study.database` cannot be opened ({type(error).__name__}); give `auto`, or the URL "
            "of a server that runs, like postgresql://USER@HOST/NAME, with its driver installed."
        ) from None


def _require_unused(database: str, name: str) -> None:
    """A shared database must not hold the trials of another study of the same name."""
    if database == "auto":
        return
    if name in optuna.study.get_all_study_names(_opened(database)):
        raise InputError(
            f"`study.database` holds a study named {name!r} already; choose another `--name`."
        )


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written.

    Raises:
        InputError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"The folder {str(folder)!r} cannot be written ({error.strerror}); choose another."
        ) from None
