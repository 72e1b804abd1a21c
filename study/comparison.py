"""A comparison on disk, and its cells: what each finds lies in a folder of its own.

comparison.yaml    the resolved spec; no folder without it is taken for a comparison's
driver.lock, driver.json, stop  as in a study
cache/             stage results that cells share
cells/             a folder a cell, as a study's trial has one, named by a hash of its settings, the
                   content of its data, and the versions of the method
results.csv, results.parquet, searches.csv, configs.json, identities.json, table.md, returns.png,
curves.png, report.html

A cell that has its result is not run again, so that the same command goes on after an interruption,
and a method or a dataset that is added to the spec costs only its own cells. After an edit of a
dataset or a checkpoint, or by another version of the method, it is another cell: the old one is
left alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml
from filelock import Timeout

from sdw_core.dataset import OfflineDataset, load_datasets
from sdw_core.errors import InputError
from sdw_core.feasibility import check_fit, resolve_device
from sdw_core.files import made_folder, write_text
from sdw_core.identity import Inventory, Sources
from sdw_core.labels import named
from sdw_core.pipeline import Pipeline
from sdw_core.statistics import summarize
from search_spaces import Cell, ComparisonSpec, parse_comparison
from search_spaces.documents import StrictLoader
from search_spaces.spec import read_document
from study.driver import Seat
from study.folder import found
from study.locations import CACHE, folder_with_cache
from study.outcomes import (
    COMPLETE,
    TrialResult,
    config_hash,
    finished_result,
    read_result,
)
from study.preflight import check_writable
from study.trial import distil_rows, placed, run_trial

UNBEGUN = ("comparison.yaml", "stop", "driver.json", "driver.lock", CACHE)
"""The files of a comparison before its first cell begins: what an undone start removes."""
Results = dict[Cell, TrialResult]
"""What cells that have ended found."""


@dataclass(frozen=True)
class ComparisonFolder:
    """A comparison on disk."""

    path: Path

    @classmethod
    @contextmanager
    def opened(
        cls, spec: ComparisonSpec, storage: Path, cache: Path | None = None
    ) -> Iterator["ComparisonFolder"]:
        """The comparison of that name, or a new one.

        Of a new one nothing stays if bad input ends it before a cell was begun.

        Raises:
            InputError: a folder of that name is no comparison, or it cannot be written.
        """
        folder = cls((storage / spec.comparison.name).resolve())
        check_writable(folder.path, "storage")
        with made_folder(storage):
            made = not folder.path.exists()
            if made:
                try:
                    with folder_with_cache(folder.path, cache) as scratch:
                        write_spec(scratch, spec)
                except OSError:
                    if not folder.path.exists():
                        raise
                    made = False  # by another process, meanwhile
            if not (folder.path / "comparison.yaml").is_file():
                raise InputError(
                    f"{str(folder.path)!r} exists and is no comparison (it holds no "
                    "comparison.yaml); choose another `name` or `storage`."
                )
            try:
                yield folder
            except InputError:
                if made:
                    folder._take_back()
                raise

    @classmethod
    def find(cls, reference: str, storage: Path) -> "ComparisonFolder":
        """The comparison of a name under the storage folder, or of a path.

        Raises:
            InputError: there is no such comparison; the message names the nearest.
        """
        return cls(found(reference, storage, "comparison"))

    def spec(self) -> ComparisonSpec:
        """The resolved spec.

        Raises:
            InputError: comparison.yaml is missing, or holds something else.
        """
        path = self.path / "comparison.yaml"
        return parse_comparison(read_document(path, loader=StrictLoader))

    def _take_back(self) -> None:
        """Remove what was made, if no cell was begun and no other process runs the comparison.

        Only what bears a name of ours goes; the folder and the cache only if they are empty then.
        """
        cache = self.cache
        try:
            with self.seat.lock().acquire(timeout=0):
                if self.seat.heard_of() or (self.path / "cells").exists():
                    return
                for name in UNBEGUN:
                    (self.path / name).unlink(missing_ok=True)
        except Timeout:
            return
        for folder in (cache, self.path):
            with suppress(OSError):
                folder.rmdir()

    @property
    def seat(self) -> Seat:
        """The place of the one process that runs the comparison."""
        wait = "wait for it, or choose another `name`"
        return Seat(self.path, f"The comparison in {str(self.path)!r}", wait)

    @property
    def cache(self) -> Path:
        """The stage cache that cells share with the storage's studies, through a link."""
        return (self.path / CACHE).resolve()

    @property
    def report(self) -> Path:
        """The comparison on one page, unless told otherwise."""
        return self.path / "report.html"

    @property
    def stop_flag(self) -> Path:
        """Running cells end when this file appears."""
        return self.path / "stop"

    @property
    def leaving_note(self) -> Path:
        """Where the driver says which nodes of a cluster are about to leave."""
        return self.path / "leaving.json"

    def cell(self, cell: Cell, sources: Sources) -> Path:
        """The folder of a cell; equal settings on equal sources share one."""
        return self.path / "cells" / f"{cell.judged}-{sources.identity(cell.config)[:16]}"

    def results(self, spec: ComparisonSpec, inventory: Inventory) -> Results:
        """What lies in the folders of the cells."""
        found: Results = {}
        for cell in spec.all_cells():
            sources = inventory.sources(cell.config)
            folder = self.cell(cell, sources)
            result = finished_result(folder, cell.config, sources)
            result = result or self._of_first_version(cell, sources)
            if result is not None:
                found[cell] = result
        return found

    def _of_first_version(self, cell: Cell, sources: Sources) -> TrialResult | None:
        """What a cell named by its settings alone found, if it says that its data were these."""
        folder = self.path / "cells" / f"{cell.judged}-{config_hash(cell.given)[:16]}"
        result = finished_result(folder, cell.given, sources)
        if result is None or result.made_of.dataset is None:
            return None
        return replace(result, sources=sources, identity=sources.identity(cell.config))

    def stated(self, spec: ComparisonSpec) -> Inventory:
        """What the cells' results say that they were made of: no dataset need be at hand.

        After an edit of a dataset the youngest result decides, so that no others are mixed in.
        """
        left = sorted(self._left(spec), key=lambda each: -each[0].stat().st_mtime)
        return Inventory.stated_by((cell.config, result.made_of) for _, cell, result in left)

    def unused(self, spec: ComparisonSpec, inventory: Inventory) -> int:
        """How many results of the very settings were made of something else, or do not say."""
        count = 0
        for _, cell, result in self._left(spec):
            stated, now = result.made_of, inventory.sources(cell.config)
            count += stated.dataset is None or bool(stated.changed(now, cell.config))
        return count

    def _left(self, spec: ComparisonSpec) -> Iterator[tuple[Path, Cell, TrialResult]]:
        """The files of results of the very settings, whatever they were made of."""
        cells = {
            config_hash(c): cell for cell in spec.all_cells() for c in (cell.given, cell.config)
        }
        for path in self.path.glob("cells/*/result.json"):
            result = read_result(path.parent)
            cell = cells.get(result.config_hash or "") if result else None
            if result and cell:
                yield path, cell, result


def needed(spec: ComparisonSpec, results: Results) -> Iterator[Cell]:
    """The cells that the table takes, as far as is known: searches, and what they chose."""
    for dataset in spec.datasets:
        for method in spec.methods:
            search = spec.search_cells(method, dataset)
            yield from search
            if all(cell in results for cell in search):
                final = final_cell(spec, method, dataset, results)
                if final is not None:
                    yield final


def ready(spec: ComparisonSpec, results: Results) -> Iterator[Cell]:
    """The cells that can run now and have not."""
    return (cell for cell in needed(spec, results) if cell not in results)


def final_cell(spec: ComparisonSpec, method: str, dataset: str, results: Results) -> Cell | None:
    """A method's cell of the table, with its best candidate; None while, or if, none is known."""
    search = spec.search_cells(method, dataset)
    if not search:
        return spec.cell(method, dataset)
    scores = {
        cell.candidate: results[cell].metrics["normalized_return"]
        for cell in search
        if cell in results and results[cell].outcome == COMPLETE
    }
    return spec.cell(method, dataset, max(scores, key=lambda i: scores[i])) if scores else None


def check_comparison(spec: ComparisonSpec) -> tuple[Inventory, dict[str, OfflineDataset]]:
    """Refuse, before any work, what could not run.

    Returns:
        What the cells are made of, and `PipelineConfig.source` -> dataset.

    Raises:
        InputError: a dataset is not there, or a cell's settings do not fit it.
    """
    configs = [cell.config for cell in spec.all_cells()]
    datasets = load_datasets(configs)
    for config in configs:
        check_fit(config, datasets[config.source])
    resolve_device(configs[0].device)
    return Inventory.of(configs, datasets), datasets


def write_spec(folder: Path, spec: ComparisonSpec) -> None:
    """Keep what is compared."""
    resolved = spec.with_absolute_paths().model_dump(mode="json")
    write_text(folder / "comparison.yaml", yaml.safe_dump(resolved, sort_keys=False))


def run_cell(
    folder: ComparisonFolder,
    cell: Cell,
    sources: Sources,
    threads: int,
    gpu: float,
    leaves: Callable[[], bool] = lambda: False,
) -> TrialResult:
    """Run a cell to an outcome; see `run_trial`."""
    return run_trial(
        number=0,
        config=placed(cell.config, gpu),
        folder=folder.cell(cell, sources),
        cache=folder.cache,
        stop_flag=folder.stop_flag,
        threads=threads,
        sources=sources,
        work=judge_experts if cell.judged == "expert" else distil_rows,
        leaves=leaves,
    )


def judge_experts(pipeline: Pipeline, folder: Path, progress: object) -> TrialResult:
    """As many experts as there are distillation seeds, each as many episodes as their policies."""
    config = pipeline.config
    seeds, evaluation = config.distill.seeds, config.evaluation
    experts = [pipeline.reseeded(config.seed + s) for s in range(seeds)]
    episodes = evaluation.policies * evaluation.episodes
    returns = np.concatenate([expert.expert_returns(episodes) for expert in experts])
    summary = summarize(returns, config.seed, seeds)
    return TrialResult(
        outcome=COMPLETE,
        stages=pipeline.seconds,
        metrics={"normalized_return": summary.mean, "iqm": summary.iqm},
        normalized_return=summary,
        curve={"0": returns.mean(axis=1).tolist()},
        distillation_seeds=list(range(seeds)),
    )


def title(spec: ComparisonSpec, cell: Cell) -> str:
    """A cell in a line."""
    searched = cell.config.seed == spec.comparison.search_seed
    chosen = "" if cell.candidate is None else f", candidate {cell.candidate}"
    name = f"{cell.method} on {cell.dataset}{chosen}{' (search)' if searched else ''}"
    return named(name, cell.ensemble)
