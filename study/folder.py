"""The folder of a study: what lies where, and who works on it.

study.yaml         the resolved spec
sources.json       what its datasets and checkpoints held at the launch, and the method's versions
study.db           Optuna's storage; or study.journal; neither if `study.database` is a URL
slurm.sh           the script of its job, and slurm.json the job's number, if SLURM runs it
slurm-ID.log       what that job said; slurm-ID-ray.log: what its Ray said
driver.lock        held by the process that drives the study
driver.json        that process: host, pid, Ray dashboard; touched while it lives
judging.lock       held by who lets the best trials race, and exports them
edit.lock          held for a moment by who changes what the driver does
incumbent.json     the best trial so far, where others' evaluations are held against it
stop               present while the study is asked to stop; may say why
rebuilding         present while the database is rebuilt
cache              a link to the stage cache that studies share; earlier a folder of this one
trials/N/          record, progress, curves, checkpoint, rows and result of trial N
tune/              Ray Tune's own records
trackers/          what `study.trackers` were handed, and what they said
exports/           exported synthetic datasets
race.json          how the best trials were told apart on fresh seeds
report.html        the study on one page

Beside it, `.submitted/NAME` holds what `sdw submit` brought: the spec, data files, modules.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from shlex import quote
from typing import Any

import optuna
import yaml
from filelock import FileLock, Timeout
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from sdw_core.config import PipelineConfig, as_written
from sdw_core.errors import InputError, SDWError, first_line
from sdw_core.files import (
    made_folder,
    read_json,
    write_json,
    write_text,
)
from sdw_core.identity import Inventory, Sources
from sdw_core.validation import nearest
from search_spaces import StudySpec, parse_spec
from search_spaces.documents import StrictLoader
from search_spaces.spec import Configuration, read_document, with_absolute_files
from study.book import TrialBook, patience_is_over, recorded_trials
from study.driver import Driven, Heartbeat, Seat
from study.job import NOTE, SCRIPT, Job, job_of
from study.locations import CACHE, folder_with_cache
from study.outcomes import FAILED, FINAL, read_record, read_result
from study.storage import (
    begun_on_server,
    lies_in_folder,
    open_storage,
    require_unused,
    resolved,
    set_aside,
)

BROUGHT = ".submitted"
"""Where a storage keeps what submitted studies need, a folder each of the study's name."""
UNBEGUN = (
    *("study.yaml", "sources.json", "study.db", "study.db-wal", "study.db-shm", "study.journal"),
    *("stop", "driver.json", "driver.lock", "edit.lock", SCRIPT, NOTE, CACHE),
)
"""The files of a study before its first trial begins: what an undone launch removes."""


@dataclass(frozen=True)
class StudyFolder:
    """A study on disk."""

    path: Path

    @classmethod
    @contextmanager
    def launched(
        cls,
        spec: StudySpec,
        storage: Path,
        inventory: Inventory | None = None,
        cache: Path | None = None,
    ) -> Iterator["StudyFolder"]:
        """A new study; if bad input ends the block before the first trial, all of it is removed.

        Raises:
            InputError: as for `create`.
        """
        with made_folder(storage):
            folder = cls.create(spec, storage, inventory, cache)
            try:
                yield folder
            except InputError:
                folder._take_back()
                raise

    @classmethod
    def create(
        cls,
        spec: StudySpec,
        storage: Path,
        inventory: Inventory | None = None,
        cache: Path | None = None,
    ) -> "StudyFolder":
        """Make the folder of a new study, and its place in a database on a server.

        Args:
            spec: the study.
            storage: the folder to make it in.
            inventory: what its trials are to be made of; None: what the first ones will state.
            cache: the stage cache; None: that of the storage.

        Raises:
            InputError: the storage cannot be written, or the study exists; the message says how to
                go on with it.
        """
        folder = cls.require_free(spec, storage)
        database = resolved(spec.study.database, folder.path)
        study = spec.study.model_copy(update={"database": database})
        spec = spec.model_copy(update={"study": study})
        try:
            with folder_with_cache(folder.path, cache) as scratch:
                _write_spec(scratch, spec)
                if inventory:
                    write_json(scratch / "sources.json", inventory.to_json())
                if not lies_in_folder(database):
                    begun = begun_on_server(database, folder.name, _directions(spec))
                    begun.set_user_attr("identity", spec.identity)
                    begun.set_user_attr("folder", str(folder.path))
        except OSError as error:
            if folder.path.exists():  # by another launch, meanwhile
                raise InputError(folder._occupied(spec)) from None
            raise InputError(
                f"The storage folder {str(storage)!r} cannot be written ({error.strerror}); choose "
                "another `storage`."
            ) from None
        return folder

    @classmethod
    def require_free(cls, spec: StudySpec, storage: Path) -> "StudyFolder":
        """Refuse a new study whose folder or whose place in its database is taken.

        Returns:
            Its folder, which is not made.

        Raises:
            InputError: the folder exists, or the database holds a study of that name; the message
                says how to go on with what is there.
        """
        folder = cls((storage / spec.study.name).resolve())
        if folder.path.exists():
            raise InputError(folder._occupied(spec))
        require_unused(resolved(spec.study.database, folder.path), folder.name)
        return folder

    @classmethod
    def find(cls, reference: str, storage: Path) -> "StudyFolder":
        """The study of a name under the storage folder, or of a path.

        Raises:
            InputError: there is no such study; the message names the nearest.
        """
        return cls(found(reference, storage, "study"))

    def _take_back(self) -> None:
        """Remove what `create` made, if no trial was begun and no other process drives the study.

        Only what bears a name of ours goes; the folder and the cache only if they are empty then.
        """
        database, cache = self.spec().study.database, self.cache
        try:
            with self.edit_lock(), self.seat.lock().acquire(timeout=0):
                if self.seat.heard_of() or self.trials.exists():
                    return
                if not lies_in_folder(database):
                    storage = open_storage(database, self.path)
                    optuna.delete_study(study_name=self.name, storage=storage)
                for name in UNBEGUN:
                    (self.path / name).unlink(missing_ok=True)
        except Timeout:
            return
        for folder in (cache, self.path):
            with suppress(OSError):
                folder.rmdir()

    def _occupied(self, spec: StudySpec) -> str:
        if not (self.path / "study.yaml").exists():
            return (
                f"{str(self.path)!r} exists and is no study (it holds no study.yaml); choose "
                "another `name` or `storage`."
            )
        name, called = self.name, self.called
        if self.spec().identity == spec.identity:
            return (
                f"The study {name!r} exists with this very spec; go on with `{self.go_on}`, "
                f"ask for more trials with `sdw extend {called} --trials N`, or choose another "
                "`name` for a new one."
            )
        return (
            f"The study {name!r} exists with another spec; choose another `name`, or go on with "
            f"the one that is there with `{self.go_on}`."
        )

    @property
    def name(self) -> str:
        """The study's name: the folder's."""
        return self.path.name

    @property
    def called(self) -> str:
        """The study in a command that can be given in any folder, whatever the storage is."""
        return quote(str(self.path))

    @property
    def cache(self) -> Path:
        """The stage cache: a storage's studies share one, and each has a link to it."""
        return (self.path / CACHE).resolve()

    @property
    def shares_cache(self) -> bool:
        """Whether others may have results there too; studies made earlier have one of their own."""
        return (self.path / CACHE).is_symlink()

    @property
    def exports(self) -> Path:
        """Where exports go unless told otherwise."""
        return self.path / "exports"

    def exported(self, name: str) -> dict[int, Path]:
        """Trial -> its export there, of those that hold a file of that name."""
        return _numbered(self.exports.glob(f"trial-*/{name}"))

    def left(self, name: str) -> dict[int, Path]:
        """Trial -> its folder, of those that hold a file of that name."""
        return _numbered(self.trials.glob(f"*/{name}"))

    @property
    def race(self) -> Path:
        """How the best trials were told apart."""
        return self.path / "race.json"

    @property
    def report(self) -> Path:
        """The study on one page, as it was when it last ended, unless told otherwise."""
        return self.path / "report.html"

    @property
    def trials(self) -> Path:
        """The folder of the trials' folders, and of the runs that TensorBoard shows."""
        return self.path / "trials"

    @property
    def stop_flag(self) -> Path:
        """Running trials end when this file appears."""
        return self.path / "stop"

    @property
    def leaving_note(self) -> Path:
        """Where the driver says which nodes of a cluster are about to leave."""
        return self.path / "leaving.json"

    def trial(self, number: int) -> Path:
        """The folder of a trial."""
        return self.trials / str(number)

    def spec(self) -> StudySpec:
        """The resolved spec.

        Raises:
            InputError: study.yaml is missing, or holds something else.
        """
        document = read_document(self.path / "study.yaml", loader=StrictLoader)
        return parse_spec(as_written(StudySpec, document))

    def inventory(self) -> Inventory:
        """What the study's trials are made of: as the launch found it, or as their results say.

        A study of the first version has no `sources.json`.

        Raises:
            InputError: sources.json holds something else.
        """
        launched_with = self.path / "sources.json"
        try:
            return Inventory.from_json(read_json(launched_with))
        except FileNotFoundError:
            return Inventory.stated_by(self._stated())
        except (ValueError, LookupError, TypeError, AttributeError):
            raise InputError(
                f"{str(launched_with)!r} must say what the study's trials are made of, and is "
                "damaged; put it back, or remove it: their results then say so themselves."
            ) from None

    def _stated(self) -> Iterator[tuple[PipelineConfig, Sources]]:
        """What results state, until each dataset that the search can reach is among them."""
        spec = self.spec()
        missing = {config.source for config in spec.reaching()}
        for number, folder in sorted(self.left("result.json").items()):
            record = read_record(self.trials, number)
            if record is None:
                continue
            config = spec.pipeline_with(record["params"])
            left = read_result(folder)
            stated = left.made_of if left else Sources.stated_by({})
            yield config, stated
            missing -= {config.source} if stated.dataset else set()
            if not missing:
                return

    def require_same_sources(self, now: Inventory) -> None:
        """Refuse to go on with a study whose data, checkpoints or method are not what they were.

        Args:
            now: what all that the search can reach is made of now.

        Raises:
            SourceChanged: one of these changed.
        """
        begun = self.inventory()
        for config in self.spec().reaching():
            begun.sources(config).require_unchanged(now.sources(config), config)

    def extend(self, trials: int) -> int:
        """Give the study more trials; a driver that lives takes them up.

        One that `study.patience` ended gets them beyond those that it has, and its patience counts
        from there.

        Returns:
            The new number.

        Raises:
            InputError: a study cannot have so many.
        """
        with self.edit_lock():
            spec, book = self.spec(), self.book()
            rows = book.rows()
            if patience_is_over(spec, rows):
                ended = sum(row.outcome in FINAL for row in rows)
                total = len(book.settled()) + book.remaining() + trials
                self._change(spec, trials=total, patience_after=ended)
            else:
                total = spec.study.trials + trials
                self._change(spec, trials=total)
        return total

    def enqueue(self, settings: Mapping[str, Any], more: int = 0) -> int:
        """Ask for a configuration before any other: the study's driver does, of now or to come.

        Args:
            settings: searched paths and a value of each; the sampler draws the others.
            more: trials to give the study with it.

        Returns:
            The place in `study.enqueue`.

        Raises:
            InputError: no trial can have such settings, one has them, or all trials are given.
        """
        with self.edit_lock():
            spec, book = self.spec(), self.book(to_write=True)
            settings = with_absolute_files(settings)
            params = spec.params_of(settings)
            rows = book.rows()
            same = [row for row in rows if row.params == params and row.outcome != FAILED]
            if same and spec.is_whole(params):
                raise InputError(
                    f"Trial {same[0].number} of {self.name!r} has these very settings, and another "
                    f"would find the same; see `sdw status {self.called}`."
                )
            total, queue = spec.study.trials + more, [*spec.study.enqueue, settings]
            begun = len(rows) - sum(row.retry_of is not None for row in rows)
            if begun + len(queue) - book.taken() > total:
                raise InputError(
                    f"All {total} trials of {self.name!r} have begun, or have their settings; give "
                    f"it one more for these: `sdw enqueue {self.called} ... --extend`."
                )
            self._change(spec, trials=total, enqueue=queue)
        return len(queue) - 1

    @contextmanager
    def _queue(self) -> Iterator[Sequence[Configuration]]:
        """What `study.enqueue` says now; nobody adds to it, or ends, during the block."""
        with self.edit_lock():
            yield self.spec().study.enqueue

    def _change(self, spec: StudySpec, **changed: Any) -> None:
        """Write the spec anew with other values below `study`, under `edit_lock`."""
        study = spec.study.model_dump(mode="json") | changed
        _write_spec(self.path, parse_spec(spec.model_dump(mode="json") | {"study": study}))

    def ask_to_stop(self) -> None:
        """Ask the process that runs the study to stop in order; a job that waits is cancelled.

        Raises:
            InputError: no process runs the study, and no job waits to do so.
        """
        with self.edit_lock():
            if self.driven():
                self.stop_flag.touch()
                return
        job = self.job()
        if job is None:
            raise InputError(f"The study {self.name!r} is not running; there is nothing to stop.")
        job.cancel()

    def edit_lock(self) -> FileLock:
        """The lock for whoever asks something of a driver, and for a driver that comes or leaves.

        Trials are added, and a stop is asked for, under this lock; so are configurations queued,
        and trials begun, so that no trial is given twice. A driver takes its seat, looks a last
        time for more trials, and leaves under the same lock. So a driver never leaves while trials
        are being added, and never comes while a stop is being asked for.
        """
        return FileLock(self.path / "edit.lock")

    def judging(self) -> AbstractContextManager[object]:
        """The lock for whoever judges and exports the best trials: one after the other does.

        In a study that cannot be written nothing is kept, and nobody need wait.
        """
        if not os.access(self.path, os.W_OK):
            return nullcontext()
        return FileLock(self.path / "judging.lock")

    def book(self, to_write: bool = False) -> TrialBook:
        """The study's trials; the Optuna study is created on first use.

        Args:
            to_write: refuse the trials of another folder, of which this one is a copy.

        Raises:
            SDWError: the database is lost or cannot be read; the message says how to rebuild it.
            InputError: its trials were made with another spec or are another folder's, or the
                database cannot be opened.
        """
        with self.reading():
            book = self._book()
            if to_write:
                self._own(book.study)
            return book

    @contextmanager
    def reading(self) -> Iterator[None]:
        """The block reads the database.

        Raises:
            SDWError: the database is lost or cannot be read; the message says how to rebuild it.
        """
        if self._rebuilding.exists():
            raise SDWError(
                f"The database of {self.name!r} is being rebuilt, or was when that was "
                f"interrupted; if so, begin again with {self._rebuild_command}."
            )
        try:
            yield
        except (SDWError, OSError):
            raise
        except Exception as error:  # whatever a broken file makes its reader raise
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise SDWError(
                f"The database of {self.name!r} cannot be read ({reason}); "
                f"if it is damaged, rebuild it from the trials' folders with "
                f"{self._rebuild_command}."
            ) from error

    def _book(self, anew: bool = False) -> TrialBook:
        """Trials that have a record are never begun again over what they left, unless `anew`."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        spec = self.spec()
        storage = open_storage(spec.study.database, self.path)
        name = self._name_in(storage, spec)
        if name is not None:
            study = optuna.load_study(study_name=name, storage=storage)
        elif not anew and any(self.path.glob("trials/*/record.json")):
            raise SDWError(
                f"The database of {self.name!r} holds nothing of it, though its trials have "
                "folders; it was emptied, or lost: rebuild it from them with "
                f"{self._rebuild_command}."
            )
        else:
            study = optuna.create_study(
                study_name=self.name,
                storage=storage,
                directions=_directions(spec),
                load_if_exists=True,
            )
        identity = study.user_attrs.get("identity")
        if identity is None:
            study.set_user_attr("identity", spec.identity)
        elif identity != spec.identity:
            raise InputError(
                f"The trials of {self.name!r} were made with another spec than its study.yaml now "
                "holds; put the old one back, or launch the new one under another `name`."
            )
        book = TrialBook(spec, study, storage, self.trials, self.inventory, self._queue)
        book.trials()
        return book

    def _name_in(self, storage: BaseStorage, spec: StudySpec) -> str | None:
        """What the database calls the study; None if it does not hold it.

        A folder that was renamed or copied keeps the name that it was launched under there.
        """
        held = optuna.study.get_all_study_names(storage)
        if lies_in_folder(spec.study.database) and len(held) == 1:
            return held[0]
        return next((name for name in (self.name, spec.study.name) if name in held), None)

    def _own(self, study: optuna.Study) -> None:
        """Claim trials in a database on a server; a database in the folder was copied with it."""
        if lies_in_folder(self.spec().study.database):
            return
        owner = Path(study.user_attrs.get("folder", self.path))
        if (owner / "study.yaml").exists() and not owner.samefile(self.path):
            raise InputError(
                f"{str(self.path)!r} is a copy of {str(owner)!r}, and the trials of both are "
                f"{study.study_name!r} in one database; go on with `sdw resume "
                f"{quote(str(owner))}`, or launch a study of its own under another `name`."
            )
        study.set_user_attr("folder", str(self.path))

    def rebuild(self) -> tuple[TrialBook, str | None]:
        """Make the database anew from the trials' folders; what there was is kept.

        Returns:
            The trials, and what the old database is called now.

        Raises:
            InputError: a driver lives, or study.yaml is not what the trials were made with; nothing
                is touched then.
        """
        with self.driving():
            spec = self.spec()
            database = spec.study.database
            trials = recorded_trials(spec, self.trials)
            name = None
            if not lies_in_folder(database):
                storage = open_storage(database, self.path)
                name = self._name_in(storage, spec)
                if name is not None:
                    self._own(optuna.load_study(study_name=name, storage=storage))
            self._rebuilding.touch()
            mark = f"damaged-{datetime.now():%Y%m%d-%H%M%S-%f}"  # none overwrites another
            kept = set_aside(database, self.path, name or self.name, mark)
            book = self._book(anew=True)
            self._own(book.study)
            book.restore(trials)
            self._rebuilding.unlink()
        return book, kept

    @property
    def _rebuilding(self) -> Path:
        return self.path / "rebuilding"

    @property
    def _rebuild_command(self) -> str:
        return f"`sdw status {self.called} --rebuild`"

    @property
    def seat(self) -> Seat:
        """The place of the study's one driver."""
        watch = f"watch it with `sdw status {self.called}`"
        return Seat(self.path, f"The study {self.name!r}", watch)

    def driving(self) -> AbstractContextManager[Heartbeat]:
        """Be the study's one driver.

        Raises:
            Driven: another driver lives, or a job waits to be it; the message says where.
        """
        if job := self.job():
            raise Driven(
                f"The study {self.name!r} is left to SLURM, whose {job}; watch it with `sdw status "
                f"{self.called}`, or cancel the job with `sdw stop {self.called}`."
            )
        return self.seat.taken()

    def job(self) -> Job | None:
        """The job in the queue of SLURM that is to run the study; none once its driver runs."""
        return None if self.driven() else job_of(self.path)

    @property
    def go_on(self) -> str:
        """The command that goes on with the study once nothing runs it."""
        if (self.path / SCRIPT).exists():
            return f"sdw slurm {self.called} --resume"
        if (self.path.parent / BROUGHT / self.name).exists():
            return f"sdw submit {self.called} --resume"
        return f"sdw resume {self.called}"

    def driven(self) -> bool:
        """Whether a driver is alive, on whatever host."""
        return self.seat.occupied()

    def driver(self) -> dict[str, Any]:
        """What a driver wrote of itself; see `Seat.driver`."""
        return self.seat.driver()


def _numbered(files: Iterator[Path]) -> dict[int, Path]:
    """Trial -> folder of its file; what has another name, such as a copy, is none of the study."""
    folders = {path.parent.name.removeprefix("trial-"): path.parent for path in files}
    return {int(number): folder for number, folder in folders.items() if number.isdecimal()}


def found(reference: str, storage: Path, *kinds: str) -> Path:
    """The folder of a study, or a comparison, of a name under the storage folder, or of a path.

    Args:
        reference: the name or the path.
        storage: the folder of studies and comparisons.
        kinds: `study` or `comparison`, whose folder holds a YAML file of that name, or both.

    Raises:
        InputError: there is no such folder; the message names the nearest.
    """
    places = (storage / reference, Path(reference))
    for candidate in places:
        if any((candidate / f"{kind}.yaml").is_file() for kind in kinds):
            return candidate.resolve()
    for other in {"study", "comparison"} - {*kinds}:
        for candidate in places:
            if (candidate / f"{other}.yaml").is_file():
                raise InputError(
                    f"{reference!r} is a {other}, and a {kinds[0]} is asked for; name one, or see "
                    f"how far the {other} is with `sdw list`, and what came of it with `sdw report "
                    f"{quote(str(candidate))}`."
                )
    what = " or ".join(kinds)
    known = [path.parent.name for kind in kinds for path in storage.glob(f"*/{kind}.yaml")]
    hint = nearest(reference, known) if known else f"{str(storage)!r} holds no {what} yet."
    raise InputError(f"There is no {what} {reference!r} in {str(storage)!r}: {hint}")


def _write_spec(folder: Path, spec: StudySpec) -> None:
    text = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False)
    write_text(folder / "study.yaml", text)


def _directions(spec: StudySpec) -> list[StudyDirection]:
    return [
        StudyDirection.MAXIMIZE if objective.mode == "max" else StudyDirection.MINIMIZE
        for objective in spec.study.objectives
    ]
