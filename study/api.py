"""Studies and comparisons from Python: what the commands of the same names do.

    study = Study.launch("quickstart", trials=20)
    study.frame()
    study.export("best")
    Study.open("mine").resume()

A call that runs trials returns when they have ended. It starts Ray on this machine, or connects to
a cluster, and ends what it started. In the main thread Ctrl-C, or a notebook's interrupt, stops a
study in order, as it stops the command. Nothing is printed unless `progress=True`; what happens is
logged under the name `study`.

What is slow to import (torch, ray, optuna, pandas) is imported by the methods that need it.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import TYPE_CHECKING, Any

from sdw_core.config import Count, Seconds
from sdw_core.console import Console
from sdw_core.errors import InputError, SDWError, first_line
from sdw_core.labels import named
from sdw_core.validation import checked
from search_spaces import (
    ComparisonSpec,
    Overrides,
    Source,
    StudySpec,
    load_comparison,
    load_spec,
)
from search_spaces.spec import settings_of
from study.console import log, quiet
from study.job import Allocation
from study.locations import cache_folder, storage_folder
from study.signals import going_on_with

if TYPE_CHECKING:
    import pandas as pd

    from sdw_core.artifact import Artifact
    from sdw_core.bucket import Bucket
    from sdw_core.dataset import OfflineDataset
    from study.book import TrialRow
    from study.comparison import ComparisonFolder, Results
    from study.folder import StudyFolder
    from study.snapshot import Snapshot
    from study.stage_cache import CacheEntry
    from study.standings import Standings
    from study.submit import Submission

logger = logging.getLogger(__name__)

WarmFrom = Path | str | Sequence[Path | str]
"""One earlier study or several."""


class WorkFailed(SDWError):
    """A study or a comparison ran, and nothing came of it; what it wrote is kept.

    Attributes:
        ran: the `Study` or the `Comparison`.
    """

    def __init__(self, sentence: str, ran: Any) -> None:
        super().__init__(sentence, ran)  # both, or no other process could be told
        self.ran = ran

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, repr=False)
class Study:
    """A study on disk, which is run here or looked at.

    Attributes:
        folder: what lies where.
    """

    folder: "StudyFolder"

    # Begin, or find

    @classmethod
    def launch(
        cls,
        spec: Source,
        name: str | None = None,
        storage: Path | str | None = None,
        address: str | None = None,
        trials: int | None = None,
        overrides: Overrides = (),
        progress: bool = False,
        warm_from: WarmFrom = (),
        cache: Path | str | None = None,
    ) -> "Study":
        """Run a new study to its end and export its best rows.

        Args:
            spec: a YAML file's path, the name of a shipped spec, a document, or a `StudySpec`.
            name: of the study; None: the spec's.
            storage: the folder to make it in; None: SDW_STORAGE, or
                `sdw-studies`.
            address: of a Ray cluster, `auto` or HOST:PORT; None: this machine.
            trials: how many; None: as many as the spec says.
            overrides: single settings, such as `{"pipeline.distill.outer_steps": 100}`.
            progress: show the trials meanwhile, on stderr.
            warm_from: earlier studies, by name or path, whose best configurations are asked first;
                they may be of another dataset.
            cache: where what is computed once for a dataset is kept; None: SDW_CACHE, or `cache`
                in the storage.

        Returns:
            The study, which `status` calls stopped if somebody asked the study to stop.

        Raises:
            InputError: the spec could not run; nothing is written then.
            WorkFailed: no trial completed, or too many failed for one reason.
            SDWError: Ray cannot be started, or the storage cannot be written.
        """
        with _checking(progress):
            from sdw_core.identity import Inventory
            from study.folder import StudyFolder
            from study.preflight import check_writable, require_launchable

            storage = storage_folder(storage)
            loaded = read_study(spec, overrides, name, trials, warm_from, storage)
            datasets, _ = require_launchable(loaded, storage, address)
            cache = cache_folder(storage, cache)
            check_writable(cache, "cache")
            warned(datasets.values())
            inventory = Inventory.of(loaded.reaching(), datasets)
        with StudyFolder.launched(loaded, storage, inventory, cache) as folder:
            return cls(folder)._run(address, progress)

    @classmethod
    def slurm(
        cls,
        spec: Source,
        asked: Allocation = Allocation(),  # noqa: B008, it is frozen
        name: str | None = None,
        storage: Path | str | None = None,
        trials: int | None = None,
        overrides: Overrides = (),
        submit: bool = True,
        progress: bool = False,
        warm_from: WarmFrom = (),
    ) -> "tuple[Study, str]":
        """Run a new study as a job of SLURM, with a Ray of its own on the job's nodes.

        Args:
            spec: this and the others are those of `launch`.
            asked: what the job asks for.
            name: of the study.
            storage: where the study will be, on a file system that the nodes see.
            trials: how many.
            overrides: single settings.
            submit: else nothing is written, and the study is not there.
            progress: as for `launch`.
            warm_from: earlier studies.

        Returns:
            The study, which is queued, and the job's script.

        Raises:
            InputError: there is no SLURM, the study could not run, nodes cannot hold a trial, or
                SLURM refuses; nothing is written then.
        """
        with _checking(progress):
            from study.slurm import launch, prepared

            storage = storage_folder(storage)
            loaded = read_study(spec, overrides, name, trials, warm_from, storage)
            folder, text, datasets = prepared(loaded, storage, asked, submit)
            warned(datasets.values())
        if submit:
            number = launch(loaded, storage, text, datasets)
            logger.info(f"{folder.name} waits for its turn as job {number}")
        return cls(folder), text

    @staticmethod
    def submit(
        spec: Source,
        address: str,
        name: str | None = None,
        storage: str | None = None,
        trials: int | None = None,
        overrides: Overrides = (),
        resume: bool = False,
    ) -> "Submission":
        """Run a study on a cluster from a machine outside of it, as a job of Ray on the head.

        The cluster has it from then on. `lines()` of what is returned follows its log.

        Args:
            spec: as for `launch`; to go on with a study, its name on the cluster.
            address: of the head's job server, `http://HEAD:8265`.
            name: of the study.
            storage: the folder of studies on the cluster, by its whole path; None: the SDW_STORAGE
                of the head's Ray.
            trials: how many.
            overrides: single settings.
            resume: go on with a study that is there.

        Raises:
            InputError: the spec is not valid, or the job server does not let this process in;
                nothing is submitted then.
            SDWError: the job server does not take the job.
        """
        from study.submit import submitted

        if resume:
            return submitted(address, checked(spec, str, "spec"), storage, None)
        loaded = read_study(spec, overrides, name, trials)
        return submitted(address, loaded.study.name, storage, loaded)

    @staticmethod
    def validate(
        spec: Source,
        name: str | None = None,
        storage: Path | str | None = None,
        address: str | None = None,
        trials: int | None = None,
        overrides: Overrides = (),
        cluster: Path | str | None = None,
        warm_from: WarmFrom = (),
    ) -> dict[str, Any]:
        """What `launch` would run, as a document; nothing is written.

        Args:
            spec: this and the others are those of `launch`.
            name: of the study.
            storage: where it would be.
            address: which is not connected to.
            trials: how many.
            overrides: single settings.
            cluster: a file of a cluster that the study is to fit, for Ray's launcher or KubeRay.
            warm_from: earlier studies.

        Raises:
            InputError: `launch` would refuse the spec.
        """
        from study.manifests import read_cluster
        from study.preflight import plan, require_launchable

        storage = storage_folder(storage)
        loaded = read_study(spec, overrides, name, trials, warm_from, storage)
        elsewhere = str(cluster) if cluster else address
        datasets, need = require_launchable(loaded, storage, elsewhere)
        document = plan(loaded, datasets, need, warned(datasets.values()))
        if cluster:
            described = read_cluster(Path(cluster))
            holds = described.require_fit(loaded.study.resources, need.memory_per_trial)
            said = {"cluster": str(cluster), "cluster_for": described.reads_it}
            document |= said | {"cluster_holds": holds}
            for sentence in described.warned(loaded.study.concurrency, holds):
                logger.warning(sentence)
                document["warnings"].append(sentence)
        return document

    @staticmethod
    def plan(
        spec: Source,
        overrides: Overrides = (),
        storage: Path | str | None = None,
        cpus: int | None = None,
        gpus: int | None = None,
        cluster: Path | str | None = None,
        price: float | None = None,
        from_study: Path | str | None = None,
    ) -> dict[str, Any]:
        """What a study will cost, as a document; nothing is written.

        Args:
            spec: see `launch`.
            overrides: single settings.
            storage: where `from_study` is.
            cpus: cores of a node; None: this machine's.
            gpus: GPUs of a node.
            cluster: a file that describes the nodes instead.
            price: of an hour of a node.
            from_study: whose trials' times are taken; None: a short trial is timed here.

        Raises:
            InputError: the settings do not fit, or a trial cannot be timed or placed.
            SDWError: the short trial failed.
        """
        from study.plan import planned

        file = Path(cluster) if cluster else None
        earlier = Study.open(from_study, storage).folder if from_study else None
        return planned(read_study(spec, overrides), cpus, gpus, file, price, earlier)

    @classmethod
    def open(cls, reference: Path | str, storage: Path | str | None = None) -> "Study":
        """The study of a name under the storage folder, or of a path.

        Raises:
            InputError: there is no such study.
        """
        from study.folder import StudyFolder

        return cls(StudyFolder.find(str(reference), storage_folder(storage)))

    # Go on

    def resume(self, address: str | None = None, progress: bool = False) -> "Study":
        """Go on with a study that was interrupted: trials keep their numbers and checkpoints.

        Args:
            address: as for `launch`.
            progress: as for `launch`.

        Raises:
            Driven: another process runs the study.
            InputError: the study could not go on.
            WorkFailed: no trial completed, or too many failed for one reason.
        """
        with _checking(progress):
            from study.preflight import require_runnable

            self._require_writable()
            require_runnable(self.folder, address)
        return self._run(address, progress)

    def resume_on_slurm(self, asked: Allocation = Allocation()) -> None:  # noqa: B008
        """Go on with a study as a job of SLURM, by the script in its folder if there is one.

        Args:
            asked: the job; what it says counts more than the script.

        Raises:
            Driven: a process or another job runs the study.
            InputError: there is no SLURM, nothing is left to run, the study could not go on, or
                SLURM refuses.
        """
        from study.slurm import resume

        self._require_writable()
        number = resume(self.folder, asked)
        logger.info(f"{self.name} waits for its turn as job {number}")

    def extend(self, trials: int, address: str | None = None, progress: bool = False) -> "Study":
        """Give the study more trials: taken up by the process that runs it, or else run here.

        Args:
            trials: how many more.
            address: as for `launch`.
            progress: as for `launch`.

        Raises:
            InputError: the trials could not be run; the study stays as it was.
            WorkFailed: no trial completed, or too many failed for one reason.
        """
        trials = checked(trials, Count, "trials")
        with _checking(progress):
            self._require_writable()
            self._require_room_for(trials, address, progress)
        total = self.folder.extend(trials)
        logger.info(f"{self.name} now has {total} trials")
        return self._run_unless_driven(address, progress)

    def retry_failed(self, address: str | None = None, progress: bool = False) -> "Study":
        """Ask again for the trials that FAILED: the same settings, each under a new number.

        Args:
            address: as for `launch`.
            progress: as for `launch`.

        Raises:
            InputError: no trial FAILED, or the trials could not be run; the study stays as it was.
            WorkFailed: no trial completed, or too many failed for one reason.
        """
        self._require_writable()
        failed = len(self.folder.book().failed())
        if not failed:
            raise InputError(
                f"The study {self.name!r} has no FAILED trial that was not asked again; see `sdw "
                f"status {self.folder.called}`."
            )
        with _checking(progress):
            self._require_room_for(failed, address, progress)
        with self.folder.edit_lock():
            retries = self.folder.book(to_write=True).retry_failed()
        for number, new in retries.items():
            logger.info(f"trial {number} is asked again as trial {new}")
        return self._run_unless_driven(address, progress)

    def enqueue(self, settings: Overrides, extend: bool = False) -> int:
        """Ask for a configuration before any other, while the study runs or waits.

        The process that runs the study begins it as soon as a trial ends; where none does, it is
        the first that `resume` begins. It is one of the study's trials.

        Args:
            settings: searched settings, such as `{"distill.synthetic_size": 64}`, or `key=value`
                each; the sampler draws the others.
            extend: give the study one more trial for it.

        Returns:
            Its place in `study.enqueue`.

        Raises:
            InputError: no trial can have such settings, one has them, or all trials are given.
        """
        from study.driver import process
        from study.snapshot import settings as in_short

        self._require_writable()
        place = self.folder.enqueue(settings_of(settings), int(extend))
        if self.folder.driven():
            who = f"{process(self.folder.driver())} begins it next"
        elif job := self.folder.job():
            who = f"job {job.id} begins it first"
        else:
            who = f"begin it with `{self.folder.go_on}`"
        logger.info(f"{self.name} asks for {in_short(settings_of(settings))}: {who}")
        return place

    def stop(self) -> None:
        """Ask the process that runs the study to stop, and wait until it and its job have ended.

        Raises:
            InputError: no process runs the study, and no job waits to do so.
        """
        self._require_writable()
        self.folder.ask_to_stop()
        with going_on_with(f"the study stops all the same; see `sdw status {self.folder.called}`"):
            while self.folder.driven():
                sleep(0.5)
            while job := self.folder.job():
                if job.state == "PENDING":  # its time was over at this very moment
                    job.cancel()
                sleep(0.5)
        logger.info(f"stopped; go on with `{self.folder.go_on}`")

    def rebuild(self) -> dict[str, Any]:
        """Make the study's database anew from its trials' folders; what there was is kept.

        Returns:
            `outcomes`, the number of trials of each; `kept`, what the old database is called now.

        Raises:
            InputError: a process runs the study, or study.yaml is not what its trials were made
                with.
        """
        self._require_writable()
        book, kept = self.folder.rebuild()
        outcomes = Counter(row.outcome for row in book.rows())
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
        logger.info(f"rebuilt from the trials' folders: {counts or 'no trials'}")
        logger.info(f"what was there is kept as {kept}" if kept else "there was no database")
        return {"outcomes": dict(outcomes), "kept": kept}

    # Look

    @property
    def name(self) -> str:
        """The study's name."""
        return self.folder.name

    @property
    def spec(self) -> StudySpec:
        """What it searches, over which pipeline, towards which objectives."""
        return self.folder.spec()

    def snapshot(self) -> "Snapshot":
        """The study at this moment: its trials by state, stage and node, the best, failures."""
        from study.snapshot import Snapshot

        return Snapshot.of(self.folder)

    def watch(self, every: float = 1.0) -> "Iterator[Snapshot]":
        """A snapshot every so many seconds, from any process that sees the folder.

        The last is of a study that runs no longer.

        Args:
            every: seconds.
        """
        from study.snapshot import Snapshot

        every = checked(every, Seconds, "every")
        book = self.folder.book()
        while True:
            yield (snapshot := Snapshot.of(self.folder, book))
            if not snapshot.goes_on:
                return
            sleep(every)

    def status(self) -> dict[str, Any]:
        """What `sdw status --json` prints: state, driver, trials, the best, warnings."""
        return self.snapshot().to_json()

    def trials(self) -> "list[TrialRow]":
        """Every trial, by number."""
        return self.snapshot().trials

    def frame(self) -> "pd.DataFrame":
        """One row a trial: number, outcome, reason, parameters, objectives and seconds."""
        return self.snapshot().frame()

    def best(self, top: int = 1) -> "list[TrialRow]":
        """The best COMPLETE trials, best first; of a study of two objectives, the Pareto front.

        Those that have raced on fresh seeds come first, in the order that they came in.
        """
        from study.race import raced, ranked

        book = self.folder.book()
        numbers = ranked(book, raced(self.folder, book), checked(top, Count, "top"))
        rows = book.rows()
        return [rows[number] for number in numbers]

    @property
    def exports(self) -> list[Path]:
        """The folders that a study's end exported its best rows to; none before that."""
        return self.snapshot().exports

    def __repr__(self) -> str:
        try:
            snapshot = self.snapshot()
            known = f"{snapshot.state}, {len(snapshot.settled)} of {snapshot.total} trials"
        except (SDWError, OSError) as error:
            known = str(error)
        return f"<study {self.name!r}: {known}>"

    def _repr_html_(self) -> str:
        snapshot = self.snapshot()
        table = snapshot.frame().to_html(index=False, max_rows=60)
        kinds = (trial.ensemble for trial in snapshot.trials)
        heading = named(f"study {self.name}: {snapshot.state}", *kinds)
        best = ", ".join(map(str, snapshot.best)) or "none yet"
        return f"<b>{escape(heading)}</b>{table}best: {best}"

    # Take

    def rows(self, number: int | None = None) -> "Artifact":
        """A trial's rows, judged on fresh seeds, as they would be exported.

        Args:
            number: a COMPLETE trial; None: the best.

        Raises:
            InputError: the trial has no result, or its dataset changed.
        """
        from sdw_core.dataset import load_dataset
        from study.confirm import cache_of, confirm, found_by

        if number is None:
            best = self.best()
            if not best:
                raise InputError(f"The study {self.name!r} has no COMPLETE trial yet; resume it.")
            number = best[0].number
        number = checked(number, int, "number")
        config, _, _ = found_by(self.folder, number)
        with cache_of(self.folder) as cache:
            return confirm(self.folder, number, load_dataset(config), cache).artifact

    def export(
        self,
        to: Path | str | None = None,
        top: int | None = None,
        pareto: bool = False,
        license: str | None = None,
        film: bool = False,
        progress: bool = False,
        formats: Iterable[str] = (),
    ) -> "Sequence[Path | Bucket]":
        """Judge the best trials on fresh seeds and write their rows, a folder each, `to/trial-N`.

        Args:
            to: where, a folder or a place in a bucket such as `s3://bucket/path`; None: the study's
                own `exports`.
            top: how many, of a study of one objective; None: 1.
            pareto: refuse a study that has no Pareto front; one of two objectives always exports
                its front.
            license: of the exports, such as cc-by-4.0; None: the source's.
            film: make a film of each one's policies; see `sdw_core.render`.
            progress: tell on stderr what is being done.
            formats: `npz`, `csv`, `minari`, beside safetensors and parquet.

        Returns:
            The folders.

        Raises:
            InputError: there is nothing to export, or a folder cannot be written or exists.
        """
        from sdw_core.formats import require_formats
        from sdw_core.licenses import require_license
        from study.confirm import ON_FRESH_SEEDS
        from study.export import export
        from study.preflight import check_writable

        several = len(self.spec.study.objectives) > 1
        if pareto and not several:
            raise InputError(
                f"`pareto` needs a study of two objectives, and {self.name!r} has one; use `top`."
            )
        if several and top is not None:
            raise InputError(
                f"`top` needs a study of one objective, and {self.name!r} has two, so that no "
                "trial is the best; use `pareto`."
            )
        license = None if license is None else require_license(license)
        formats = require_formats(formats)
        top = 1 if top is None else checked(top, Count, "top")
        bucket = bucket_at(to)
        where = checked(to, Path, "to") if to and not bucket else None
        if where:
            check_writable(where, "to")
        filming = None
        if film:
            from sdw_core.film import render

            filming = partial(render, cache=self.folder.cache)
        with self.folder.judging():
            numbers = self._raced(top, progress)
            places = [bucket.below(f"trial-{number}") for number in numbers] if bucket else []
            for place in places:
                place.require_new()
            with _shown(progress).working(ON_FRESH_SEEDS) as say, TemporaryDirectory() as scratch:
                given = Path(scratch) if bucket else where, license, filming, say, formats
                folders = export(self.folder, numbers, *given)
                if not bucket:
                    return folders
                say(f"writing to {bucket}")
                return [p.create(f) for p, f in zip(places, folders, strict=True)]

    def report(self, to: Path | str | None = None) -> "Path | Bucket":
        """Write the study as one HTML page that loads nothing else, the answer first.

        Args:
            to: a new file, here or in a bucket, such as `s3://bucket/report.html`; None:
                report.html in the study's folder, which is written anew.

        Returns:
            The file, or its place in the bucket.

        Raises:
            InputError: the file exists, or cannot be written.
        """
        from study.html.study import study_page

        return _written(lambda: study_page(self.folder), self.folder.report, to)

    # Look after

    def cache(self) -> "list[CacheEntry]":
        """The stage results that the study's trials share."""
        from study.stage_cache import contents

        return contents(self.folder)

    def prune(self, everything: bool = False) -> dict[str, Any]:
        """Remove stage results that no unfinished trial needs; what is in use stays.

        Args:
            everything: also what unfinished trials would compute again.

        Returns:
            `removed` files, `in_use` files that stayed for that reason, and `bytes_freed`.
        """
        from study.stage_cache import prune

        self._require_writable()
        return prune(self.folder, everything)

    # How it runs

    def _require_writable(self) -> None:
        from study.preflight import check_writable

        self.folder.spec()  # of a folder that is gone nothing is made
        check_writable(self.folder.path, "storage")

    def _require_room_for(self, trials: int, address: str | None, progress: bool) -> None:
        """Refuse, before they are written, more trials that could not be run."""
        from study.preflight import require_runnable
        from study.runner import require_cluster

        require_runnable(self.folder, address, trials)
        if not self.folder.driven() and not self.folder.job():
            show = _shown(progress).print
            require_cluster(address, self.spec.study.resources, self.folder.seat, show)

    def _run_unless_driven(self, address: str | None, progress: bool) -> "Study":
        """Run new trials, or leave them to the process that runs the study."""
        from study.driver import Driven, process

        with suppress(Driven):
            return self._run(address, progress)
        if job := self.folder.job():
            logger.info(f"job {job.id} takes them up")
            return self
        does = "takes them up"
        if self.folder.stop_flag.exists():
            does = f"is stopping; go on with `{self.folder.go_on}`"
        logger.info(f"{process(self.folder.driver())} {does}")
        return self

    def _raced(self, top: int, progress: bool) -> list[int]:
        """Numbers of the best trials, once those that are to race have raced."""
        from study.confirm import hold_race
        from study.race import ranked

        book = self.folder.book()
        with _shown(progress).working("racing the best trials on fresh seeds"):
            race = hold_race(self.folder, book)
        return ranked(book, race, top)

    def _run(self, address: str | None, progress: bool) -> "Study":
        """Run the study to its end; confirm and export the winner."""
        from study.confirm import ON_FRESH_SEEDS
        from study.display import Display
        from study.export import export
        from study.runner import drive
        from study.trackers import tracked

        folder, way_on = self.folder, f"go on with `{self.folder.go_on}`"
        with going_on_with(way_on), tracked(folder):
            given_up = drive(folder, address, Display(folder, _shown(progress)))
            book = folder.book()
            winners, remaining = book.best(), book.remaining()
            if winners and not remaining:
                with folder.judging():
                    best = self._raced(1, progress)
                    with _shown(progress).working(ON_FRESH_SEEDS) as say:
                        export(folder, best, say=say)
            _reported(self, progress)
        if given_up and remaining:
            called, count = folder.called, book.spec.study.max_identical_failures
            raise WorkFailed(
                f"{count} trials in a row FAILED for one reason, so the study was stopped: "
                f"{given_up}; mend that, then go on with `{folder.go_on}` and `sdw "
                f"retry-failed {called}`.",
                self,
            )
        if remaining:
            why = folder.stop_flag.read_text() if folder.stop_flag.exists() else ""
            because = f", as {why}" if why else ""
            logger.info(f"stopped with {remaining} trials to go{because}; {way_on}")
        elif not winners and (unsatisfied := self.snapshot().unsatisfied):
            raise WorkFailed(unsatisfied, self)
        elif not winners:
            reasons = sorted({row.reason for row in book.rows() if row.reason})
            raise WorkFailed(f"No trial completed: {'; '.join(reasons)}", self)
        return self


@dataclass(frozen=True, repr=False)
class Comparison:
    """Methods x datasets on disk, run here or looked at.

    Attributes:
        folder: what lies where.
        spec: what is compared.
        results: what the cells found that have ended.
    """

    folder: "ComparisonFolder"
    spec: ComparisonSpec
    results: "Results"

    @classmethod
    def run(
        cls,
        spec: Source,
        name: str | None = None,
        storage: Path | str | None = None,
        address: str | None = None,
        retry_failed: bool = False,
        overrides: Overrides = (),
        progress: bool = False,
        cache: Path | str | None = None,
    ) -> "Comparison":
        """Run methods x datasets, and write their table, statistics and figures; go on if begun.

        Args:
            spec: a YAML file's path, the name of a shipped comparison, a document, or a
                `ComparisonSpec`.
            name: of the comparison; None: the spec's.
            storage: the folder to make it in; None: SDW_STORAGE, or
                `sdw-studies`.
            address: of a Ray cluster, `auto` or HOST:PORT; None: this machine.
            retry_failed: run the cells again that failed.
            overrides: single settings.
            progress: tell on stderr when a cell ends.
            cache: of a new one, as for `Study.launch`.

        Returns:
            The comparison, which is not `finished` if somebody asked it to stop.

        Raises:
            InputError: the spec could not run; nothing is written then.
            WorkFailed: no cell completed.
            SDWError: Ray cannot be started, or the storage cannot be written.
        """
        with _checking(progress):
            from study.comparison import ComparisonFolder, check_comparison, write_spec
            from study.figures import draw

            given = {"comparison.name": name} if name is not None else {}
            loaded = load_comparison(spec, settings_of(overrides) | given)
            inventory, datasets = check_comparison(loaded)
            warned(datasets.values())
        from study.comparing import run_comparison  # imports Ray: bad input is told before

        console = _shown(progress)
        storage = storage_folder(storage)
        with ComparisonFolder.opened(loaded, storage, cache_folder(storage, cache)) as folder:
            results = run_comparison(folder, loaded, inventory, address, console, retry_failed)
        comparison = cls(folder, loaded, results)
        if not comparison.finished:
            logger.info("stopped; give the same command again, and it goes on where it was")
            return comparison
        write_spec(folder.path, loaded)  # a spec that shrank has no cell to run
        comparison.standings.write(folder.path)
        draw(comparison.standings, folder.path)
        _reported(comparison, progress)
        if comparison.frame().empty:
            reasons = sorted(set(comparison.standings.failed.values()))
            raise WorkFailed(f"No cell completed: {'; '.join(reasons)}", comparison)
        return comparison

    @classmethod
    def open(cls, reference: Path | str, storage: Path | str | None = None) -> "Comparison":
        """The comparison of a name under the storage folder, or of a path, as it was found.

        Its datasets need not be at hand.

        Raises:
            InputError: there is no such comparison.
        """
        from study.comparison import ComparisonFolder

        folder = ComparisonFolder.find(str(reference), storage_folder(storage))
        spec = folder.spec()
        return cls(folder, spec, folder.results(spec, folder.stated(spec)))

    @property
    def finished(self) -> bool:
        """Whether every cell has ended."""
        from study.comparison import ready

        return not any(ready(self.spec, self.results))

    @cached_property
    def standings(self) -> "Standings":
        """Table, aggregates, improvement and figures, of the cells that have ended."""
        from study.standings import Standings

        return Standings.of(self.spec, self.results)

    def frame(self) -> "pd.DataFrame":
        """One row a policy and evaluation: method, dataset, seed, policy, return, outer steps."""
        return self.standings.frame

    def report(self, to: Path | str | None = None) -> "Path | Bucket":
        """Write the comparison as one HTML page that loads nothing else, the answer first.

        Args:
            to: a new file, here or in a bucket, such as `s3://bucket/report.html`; None:
                report.html in the comparison's folder, which is written anew.

        Returns:
            The file, or its place in the bucket.

        Raises:
            InputError: the file exists, or cannot be written.
        """
        from study.html.comparison import comparison_page

        state = "finished"
        if not self.finished:
            state = f"not finished: {len(self.results)} of {self.spec.size} cells ended"
        path = self.folder.path
        return _written(
            lambda: comparison_page(self.standings, path, state), self.folder.report, to
        )

    def to_json(self) -> dict[str, Any]:
        """What `sdw compare --json` prints."""
        where = {"finished": self.finished, "folder": str(self.folder.path)}
        return self.standings.to_json() | where

    def __repr__(self) -> str:
        state = "finished" if self.finished else "not finished"
        return f"<comparison {self.folder.path.name!r}: {state}, {len(self.results)} cells ended>"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.standings.markdown())}</pre>"


def _shown(progress: bool) -> Console:
    """Where work shows how far it is, if it does."""
    return log if progress and log.progress else quiet


def _checking(progress: bool) -> AbstractContextManager[object]:
    """What is done before any work, importing what the work needs included."""
    return _shown(progress).working("checking the settings and the data")


def open_either(reference: Path | str, storage: Path | str | None = None) -> "Study | Comparison":
    """The study or the comparison of a name under the storage folder, or of a path.

    Raises:
        InputError: there is neither.
    """
    from study.folder import found

    path = found(str(reference), storage_folder(storage), "study", "comparison")
    return Study.open(path) if (path / "study.yaml").is_file() else Comparison.open(path)


def _written(page: Callable[[], str], own: Path, to: Path | str | None) -> "Path | Bucket":
    """Make a page once it is known that its place can be written, and put it there."""
    from sdw_core.files import write_text
    from study.html.page import require_new, write_new
    from study.preflight import check_writable

    if to is None:
        check_writable(own.parent, "to")
        write_text(own, page())
        return own
    if bucket := bucket_at(to):
        bucket.require_new()
        with TemporaryDirectory() as scratch:
            file = Path(scratch) / own.name
            file.write_text(page(), encoding="utf-8")
            return bucket.put(file)
    new: Path = checked(to, Path, "to")
    require_new(new)
    write_new(page(), new)
    return new


def bucket_at(to: Path | str | None) -> "Bucket | None":
    """The place in a bucket, which can be written, that an argument names; None: it names none.

    Raises:
        InputError: it is no address of one, or the bucket cannot be written.
    """
    from sdw_core.remote import is_address

    if to is None or not is_address(to):
        return None
    from sdw_core.bucket import Bucket

    bucket = Bucket.at(str(to))
    bucket.require_writable()
    return bucket


def _reported(ran: "Study | Comparison", progress: bool) -> None:
    """Write the page of what has just run, which fails for no page's sake."""
    try:
        with _shown(progress).working("writing the report"):
            ran.report()
    except Exception as error:
        logger.warning(f"the report was not written: {type(error).__name__}: {first_line(error)}")


def read_study(
    spec: Source,
    overrides: Overrides | None = None,
    name: str | None = None,
    trials: int | None = None,
    warm_from: WarmFrom = (),
    storage: Path | None = None,
) -> StudySpec:
    """A study's spec, with what a call gives in the place of what it says.

    Args:
        spec: this and the others are those of `Study.launch`.
        overrides: single settings.
        name: of the study.
        trials: how many.
        warm_from: earlier studies.
        storage: the folder of studies.

    Raises:
        InputError: one sentence with the rule, what was received and the way out.
    """
    given = {"study.name": name, "study.trials": trials}
    given = {key: value for key, value in given.items() if value is not None}
    loaded = load_spec(spec, settings_of(overrides or ()) | given)
    for remark in loaded.remarks:
        logger.info(remark)
    if not warm_from:
        return loaded
    from study.warm import warmed

    earlier = [warm_from] if isinstance(warm_from, str | Path) else warm_from
    return warmed(loaded, earlier, storage_folder(storage))


def warned(datasets: "Iterable[OfflineDataset]") -> list[str]:
    """Warn of datasets that seem to come from another environment; returns what was said."""
    from sdw_core.dataset import check

    found = [sentence for dataset in datasets if (sentence := check(dataset).warning)]
    for sentence in found:
        logger.warning(sentence)
    return found
