"""Running a comparison: every cell is a task on Ray, and what it found lies in a folder of its own.

comparison.yaml    the resolved spec; no folder without it is taken for a comparison's
driver.lock, driver.json, stop  as in a study
cache/             stage results that cells share
cells/             a folder a cell, named by a hash of its settings, as a study's trial has one
results.csv, results.parquet, searches.csv, configs.json, table.md, returns.png, curves.png

A cell that has its result is not run again, so that the same command goes on after an interruption,
and a method or a dataset that is added to the spec costs only its own cells.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from filelock import Timeout

from sdw_core.dataset import OfflineDataset, load_dataset
from sdw_core.errors import InputError, SDWError
from sdw_core.files import created_folder, made_folder, write_text
from sdw_core.pipeline import Pipeline, check_fit, resolve_device
from sdw_core.statistics import summarize
from search_spaces import Cell, ComparisonSpec
from study.console import Console
from study.driver import Heartbeat, Seat
from study.outcomes import (
    COMPLETE,
    FAILED,
    STOPPED,
    WORKER_DEATHS,
    config_hash,
    finished_result,
)
from study.preflight import check_writable, require_resources
from study.runner import (
    LOOK_FOR_NODE,
    NodeDied,
    own_node,
    ray_session,
    require_node,
)
from study.signals import stopping
from study.trial import distil_rows, placed, run_trial

UNBEGUN = ("comparison.yaml", "stop", "driver.json", "driver.lock")
"""What lies in the folder of a comparison of which no cell was begun."""
Results = dict[Cell, dict[str, Any]]
"""What cells that have ended found: their `result.json`."""


@dataclass(frozen=True)
class ComparisonFolder:
    """A comparison on disk."""

    path: Path

    @classmethod
    @contextmanager
    def opened(cls, spec: ComparisonSpec, storage: Path) -> Iterator["ComparisonFolder"]:
        """The comparison of that name, or a new one.

        Of a new one nothing stays if bad input ends it before a cell was begun.

        Raises:
            InputError: a folder of that name is no comparison, or it cannot be written.
        """
        folder = cls((storage / spec.comparison.name).resolve())
        check_writable(folder.path, "--storage")
        with made_folder(storage):
            made = not folder.path.exists()
            if made:
                try:
                    with created_folder(folder.path) as scratch:
                        write_spec(scratch, spec)
                except OSError:
                    if not folder.path.exists():
                        raise
                    made = False  # by another process, meanwhile
            if not (folder.path / "comparison.yaml").is_file():
                raise InputError(
                    f"{str(folder.path)!r} exists and is no comparison (it holds no "
                    "comparison.yaml); choose another `--name` or `--storage`."
                )
            try:
                yield folder
            except InputError:
                if made:
                    folder._take_back()
                raise

    def _take_back(self) -> None:
        """Remove what was made, if no cell was begun and no other process runs the comparison.

        Only what bears a name of ours goes, and the folder only if it is empty then.
        """
        try:
            with self.seat.lock().acquire(timeout=0):
                if self.seat.heard_of() or (self.path / "cells").exists():
                    return
                for name in UNBEGUN:
                    (self.path / name).unlink(missing_ok=True)
        except Timeout:
            return
        with suppress(OSError):
            self.path.rmdir()

    @property
    def seat(self) -> Seat:
        """The place of the one process that runs the comparison."""
        wait = "wait for it, or choose another `--name`"
        return Seat(self.path, f"The comparison in {str(self.path)!r}", wait)

    @property
    def cache(self) -> Path:
        """The stage cache that cells share."""
        return self.path / "cache"

    @property
    def stop_flag(self) -> Path:
        """Running cells end when this file appears."""
        return self.path / "stop"

    def cell(self, cell: Cell) -> Path:
        """The folder of a cell; equal settings share one."""
        return self.path / "cells" / f"{cell.judged}-{config_hash(cell.config)[:16]}"

    def results(self, spec: ComparisonSpec) -> Results:
        """What lies in the folders of the cells."""
        found = ((c, finished_result(self.cell(c), c.config)) for c in spec.all_cells())
        return {cell: result for cell, result in found if result is not None}


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
        cell.candidate: results[cell]["metrics"]["normalized_return"]
        for cell in search
        if results.get(cell, {}).get("outcome") == COMPLETE
    }
    return spec.cell(method, dataset, max(scores, key=lambda i: scores[i])) if scores else None


def check_comparison(spec: ComparisonSpec) -> list[OfflineDataset]:
    """Refuse, before any work, what could not run.

    Returns:
        Its datasets.

    Raises:
        InputError: a dataset is not there, or a cell's settings do not fit it.
    """
    datasets: dict[str, OfflineDataset] = {}
    for cell in spec.all_cells():
        if cell.dataset not in datasets:
            datasets[cell.dataset] = load_dataset(cell.config)
        check_fit(cell.config, datasets[cell.dataset])
    resolve_device(next(spec.all_cells()).config.device)
    return list(datasets.values())


def run_comparison(
    folder: ComparisonFolder,
    spec: ComparisonSpec,
    address: str | None,
    console: Console,
    retry_failed: bool = False,
) -> Results:
    """Run every cell that has no result yet, or as many as there is time for until it is stopped.

    Args:
        folder: where results are, and go.
        spec: what to compare.
        address: of a Ray cluster; None starts Ray on this machine.
        console: told when a cell ends.
        retry_failed: forget the results of cells that failed.

    Returns:
        The results; some are missing if the comparison was asked to stop.

    Raises:
        InputError: another process runs it, the cluster cannot be reached, or this machine holds
            no cell.
        SDWError: a cell could not write, Ray cannot be started, its node died, or another process
            took the comparison over.
    """
    if address is None:
        require_resources(spec.comparison.resources, "comparison")
    with folder.seat.taken() as heartbeat:
        folder.stop_flag.unlink(missing_ok=True)
        results = folder.results(spec)
        if retry_failed:
            results = {c: r for c, r in results.items() if r["outcome"] != FAILED}
            for cell in spec.all_cells():
                if cell not in results:
                    (folder.cell(cell) / "result.json").unlink(missing_ok=True)
        if any(ready(spec, results)):
            with stopping(folder.stop_flag), ray_session(address):
                write_spec(folder.path, spec)
                try:
                    _run(folder, spec, results, console, heartbeat)
                except NodeDied as error:
                    if not folder.stop_flag.exists():  # whoever asked for it ended Ray's as well
                        raise SDWError(f"{error} give the same command again.") from error
        return results


def write_spec(folder: Path, spec: ComparisonSpec) -> None:
    """Keep what is compared."""
    text = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False)
    write_text(folder / "comparison.yaml", text)


def _run(
    folder: ComparisonFolder,
    spec: ComparisonSpec,
    results: Results,
    console: Console,
    heartbeat: Heartbeat,
) -> None:
    """Add to the results what the cells find that have none."""
    import ray

    resources = spec.comparison.resources
    task = ray.remote(num_cpus=resources.cpu, num_gpus=resources.gpu, max_retries=WORKER_DEATHS)(
        run_cell
    )
    running: dict[Any, Cell] = {}
    stopped: str | None = None
    while True:
        heartbeat.require()
        under_way = {folder.cell(cell) for cell in running.values()}
        for cell in ready(spec, results):
            if folder.cell(cell) not in under_way and not stopped:
                under_way.add(folder.cell(cell))
                running[task.remote(str(folder.path), cell, resources.cpu, resources.gpu)] = cell
        if not running:
            break
        ended, _ = ray.wait(list(running), num_returns=1, timeout=LOOK_FOR_NODE)
        if not ended:
            require_node()
            continue
        (reference,) = ended
        cell = running.pop(reference)
        try:
            result = ray.get(reference)
        except ray.exceptions.LocalRayletDiedError as error:  # of all cells that wait
            raise NodeDied(own_node()) from error
        except ray.exceptions.RayError:  # kept nowhere: the same command tries again
            result = {"outcome": FAILED, "reason": "infrastructure: the worker died"}
        if result["outcome"] == STOPPED:
            stopped = result["reason"]
            continue
        results[cell] = result
        done = sum(each in results for each in needed(spec, results))
        line = f"{done} of {spec.size} {describe(spec, cell)}: {_told(result)}"
        console.print(line)
    if stopped and not folder.stop_flag.exists():  # nobody asked: a cell could not write
        raise SDWError(
            f"The storage {str(folder.path)!r} cannot be written ({stopped}); what is done is "
            "kept: mend that, and give the same command again."
        )


def run_cell(path: str, cell: Cell, threads: int, gpu: float) -> dict[str, Any]:
    """What a Ray worker runs."""
    folder = ComparisonFolder(Path(path))
    work = judge_experts if cell.judged == "expert" else distil_rows
    return run_trial(
        number=0,
        config=placed(cell.config, gpu),
        folder=folder.cell(cell),
        cache=folder.cache,
        stop_flag=folder.stop_flag,
        threads=threads,
        work=work,
    )


def judge_experts(pipeline: Pipeline, folder: Path, progress: object) -> dict[str, Any]:
    """As many experts as there are distillation seeds, each as many episodes as their policies."""
    config = pipeline.config
    seeds, evaluation = config.distill.seeds, config.evaluation
    experts = [pipeline.reseeded(config.seed + s) for s in range(seeds)]
    episodes = evaluation.policies * evaluation.episodes
    returns = np.concatenate([expert.expert_returns(episodes) for expert in experts])
    summary = summarize(returns, config.seed, seeds)
    return {
        "stages": pipeline.seconds,
        "metrics": {"normalized_return": summary.mean, "iqm": summary.iqm},
        "normalized_return": summary.to_json(),
        "curve": {"0": returns.mean(axis=1).tolist()},
        "distillation_seeds": list(range(seeds)),
    }


def describe(spec: ComparisonSpec, cell: Cell) -> str:
    """A cell in a line."""
    searched = cell.config.seed == spec.comparison.search_seed
    chosen = "" if cell.candidate is None else f", candidate {cell.candidate}"
    return f"{cell.method} on {cell.dataset}{chosen}{' (search)' if searched else ''}"


def _told(result: Mapping[str, Any]) -> str:
    if result["outcome"] == FAILED:
        return f"FAILED {result['reason']}"
    summary = result["normalized_return"]
    return f"{summary['mean']:.1f} ({summary['low']:.1f} to {summary['high']:.1f})"
