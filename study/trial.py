"""One trial: the whole pipeline in a Ray worker, on the settings that the search proposed.

A trial leaves everything in its own folder and reports only scalars: `progress.json` and its curves
while it runs, `checkpoint.safetensors` while it distils, then `rows.safetensors` and, last,
`result.json`. The result is written before it is reported, so a worker that dies in between loses
nothing: the next attempt finds the result and returns it.
"""

import errno
import math
import os
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic, time
from typing import TypeVar

import torch
from filelock import FileLock
from safetensors.torch import save_file

from sdw_core.config import STAGES, PipelineConfig
from sdw_core.errors import (
    DivergenceError,
    InputError,
    SDWError,
    SourceChanged,
    StopRequested,
    first_line,
)
from sdw_core.files import replaced_atomically, write_json, write_text
from sdw_core.identity import Sources
from sdw_core.pipeline import Batches, Pipeline, Rungs
from sdw_core.result import PipelineResult
from sdw_core.waiting import GoOn, Waiting, holding
from study.clock import TrialClock
from study.curves import HParams, followed
from study.early_stopping import Judging, TrialPruned
from study.outcomes import (
    COMPLETE,
    FAILED,
    PRUNED,
    STOPPED,
    TrialResult,
    config_hash,
    finished_result,
    returns_at_rungs,
)
from study.preflight import storage_trouble

PROGRESS_EVERY, PROGRESS_LATER = 0.5, 5.0
"""Seconds between two writes of a trial's progress: at first, and once it has run for long."""
Answer = TypeVar("Answer")


def placed(config: PipelineConfig, gpu: float) -> PipelineConfig:
    """`auto` is the CPU for a trial that was given no GPU: a GPU that is there is for others."""
    if config.device == "auto" and not gpu:
        return config.model_copy(update={"device": "cpu"})
    return config


def distil_rows(pipeline: Pipeline, folder: Path, progress: "_ProgressFile") -> TrialResult:
    """The work of a study's trial: run the pipeline, keep its rows in the folder."""
    prepared = pipeline.prepare()
    progress.expert = prepared.expert_summary.mean
    progress.warnings = list(prepared.warnings)
    result = pipeline.finish(prepared)
    progress.warnings = list(result.warnings)
    _write_rows(result, folder / "rows.safetensors")
    summary = result.summary
    return TrialResult(
        outcome=COMPLETE,
        stages=result.seconds,
        metrics={
            "normalized_return": summary.mean,
            "iqm": summary.iqm,
            "synthetic_size": result.config.distill.synthetic_size,
            "seconds": result.seconds["distill"] + result.seconds["evaluate"],
        },
        normalized_return=summary,
        curve={str(step): returns.mean(axis=1).tolist() for step, returns in result.curve.items()},
        expert=result.expert_summary,
        effective_sample_size_percent=result.effective_sample_size_percent,
        density_effective_sample_size_percent=result.density_effective_sample_size_percent,
        log_likelihood=result.log_likelihood,
        best=result.best,
        distillation_seeds=list(result.seeds),
        dataset=result.source,
        learning_rates=[list(recipe.learning_rates) for recipe in result.recipes],
    )


Work = Callable[[Pipeline, Path, "_ProgressFile"], TrialResult]
"""Of a pipeline, a folder to keep things in, and where to tell progress: what was found."""


def run_trial(
    number: int,
    config: PipelineConfig,
    folder: Path,
    cache: Path,
    stop_flag: Path,
    threads: int,
    timeout: float | None = None,
    rungs: Rungs | None = None,
    judging: Judging | None = None,
    sources: Sources = Sources(),  # noqa: B008 (frozen)
    work: Work = distil_rows,
    hparams: HParams | None = None,
    leaves: Callable[[], bool] = lambda: False,
) -> TrialResult:
    """Run a trial to an outcome.

    Whatever goes wrong inside the trial is an outcome. A folder that cannot be written, or a
    dataset that is not what earlier trials were made of, is no fault of the trial: the trial is
    STOPPED then, with the reason. Where the trial still runs elsewhere, because its driver died,
    that process holds the folder's lock: this call waits for the lock, and then finds the result.
    The time that a trial waits for another process is no part of its running time.

    Args:
        number: the trial's Optuna number.
        config: the settings.
        folder: the trial's own.
        cache: the study's stage cache.
        stop_flag: a file whose appearance ends the trial; it goes on from its checkpoint later.
        threads: torch threads.
        timeout: seconds over all attempts, after which the trial has failed.
        rungs: where the trial is judged on its way.
        judging: how it is judged at its end; None: by all policies at once.
        sources: what the trial must be made of, as far as that is known.
        work: what is done with the pipeline.
        hparams: what TensorBoard's HParams tab shows of the trial.
        leaves: whether its node is about to leave, which ends the trial as `stop_flag` does.

    Returns:
        What `result.json` keeps; a STOPPED trial keeps none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stopped = TrialResult(
        number=number,
        config_hash=config_hash(config),
        node=socket.gethostname(),
        outcome=STOPPED,
    )

    def asked() -> bool:
        return stop_flag.exists() or leaves()

    with ExitStack() as held:
        try:
            held.enter_context(holding(FileLock(folder / "lock"), _unless(throttled(asked))))
        except StopRequested as stop:
            return replace(stopped, reason=str(stop))
        finished = finished_result(folder, config, sources)
        if finished is not None:
            return finished
        torch.set_num_threads(threads)
        checkpoint = folder / "checkpoint.safetensors"
        clock = TrialClock(folder, timeout)
        stopping = throttled(lambda: asked() or clock.over())
        progress = _ProgressFile(folder, stopping, clock)
        curves = held.enter_context(followed(folder, stopped.config_hash, hparams))
        pipeline: Pipeline | None = None
        try:
            with clock:
                pipeline = Pipeline(
                    config,
                    cache,
                    progress,
                    checkpoint,
                    stopping,
                    rungs,
                    progress.waiting,
                    sources,
                    curves,
                    Batches(judging.size, judging.enough) if judging else None,
                )
                result = work(pipeline, folder, progress)
                if judging:
                    result = judging.told(result, config.evaluation.policies)
            if not math.isfinite(result.metrics["normalized_return"]):
                raise DivergenceError("the return of the trained policies is not finite.")
        except StopRequested as stop:
            progress.write()
            if not clock.over():
                return replace(stopped, reason=str(stop))
            result = TrialResult(outcome=FAILED, reason=_timeout_reason(clock))
        except SourceChanged as changed:  # not this trial's fault either
            return replace(stopped, reason=str(changed), sources_changed=True)
        except TrialPruned as pruned:
            result = TrialResult(outcome=PRUNED, reason=str(pruned), rung=pruned.step)
        except Exception as error:
            trouble = storage_trouble(folder) or _full_disk(error)
            if trouble:  # not this trial's fault: it goes on when the study does
                return replace(stopped, reason=trouble)
            write_text(folder / "error.txt", traceback.format_exc())
            reason = f"{_reason_class(error)}: {first_line(error)}"
            result = TrialResult(outcome=FAILED, reason=reason)
        made_of = pipeline.sources if pipeline else sources
        result = replace(
            result,
            number=stopped.number,
            config_hash=stopped.config_hash,
            node=stopped.node,
            seconds=clock.seconds(),
            warnings=progress.warnings,
            rungs=returns_at_rungs(folder),
            sources=made_of,
            identity=made_of.identity(config),
        )
        curves.end(result)
        write_json(folder / "result.json", result.to_json())
        checkpoint.unlink(missing_ok=True)
        return result


def _timeout_reason(clock: TrialClock) -> str:
    how = " and hung; hung.txt in its folder says where" if clock.hung() else ""
    return f"timeout: the trial ran for more than {clock.timeout:g} s (`study.trial_timeout`){how}"


def _write_rows(result: PipelineResult, path: Path) -> None:
    """Rows as they were distilled, with the units that they are to be read in."""
    rows = {
        "observations": result.observations,
        "actions": result.actions,
        "losses": result.losses,
        **{name: torch.as_tensor(array) for name, array in vars(result.arena.units).items()},
    }
    with replaced_atomically(path) as scratch:
        save_file({name: tensor.contiguous() for name, tensor in rows.items()}, scratch)


class _ProgressFile:
    """Writes where a trial is, every half second at most, later every few, and at a new stage.

    It also ends a trial that is asked to stop, except in the stages that write a checkpoint first
    and end themselves.

    Attributes:
        expert: normalised return of the expert, once it is known.
        warnings: of the pipeline, as far as they are known.
    """

    expert: float | None = None

    def __init__(self, folder: Path, stopping: Callable[[], bool], clock: TrialClock) -> None:
        self.warnings: list[str] = []
        self._stopping = stopping
        self._clock = clock
        self._path = folder / "progress.json"
        self._begun = time()
        self._stage, self._fraction = STAGES[0], 0.0
        self._distilled_from: tuple[float, float] | None = None
        self._distilling: float | None = None
        self._waits = False
        self._written = 0.0

    def __call__(self, stage: str, fraction: float) -> None:
        if stage not in ("expert", "distill") and self._stopping():
            raise StopRequested(f"Stopped in the stage {stage!r}.")
        if stage == "distill" and fraction:
            self._note_pace(fraction)
        new = stage != self._stage
        self._stage, self._fraction = stage, fraction
        if new or self._is_due():
            self.write()

    def _is_due(self) -> bool:
        """Of long trials on many nodes, a shared folder takes fewer writes."""
        every = min(max(PROGRESS_EVERY, self._clock.seconds() / 50), PROGRESS_LATER)
        return monotonic() - self._written >= every

    def _note_pace(self, fraction: float) -> None:
        """How long the whole distillation takes, from where this attempt began: at a checkpoint."""
        now = self._clock.seconds()
        begun, first = self._distilled_from = self._distilled_from or (now, fraction)
        if fraction - first > 0.01:
            self._distilling = (now - begun) / (fraction - first)

    @contextmanager
    def waiting(self) -> Iterator[GoOn]:
        """A wait for another process, which the trial's clock leaves out."""
        with self._clock.paused():
            self._waits = True
            self.write()
            try:
                yield self._go_on
            finally:
                self._waits = False

    def _go_on(self) -> None:
        if self._stopping():
            raise StopRequested(f"Stopped while it waited in the stage {self._stage!r}.")
        if self._is_due():
            self.write()

    def write(self) -> None:
        """Write where the trial is, and its running time so far."""
        self._written = monotonic()
        write_json(
            self._path,
            {
                "stage": self._stage,
                "fraction": self._fraction,
                "waiting": self._waits,
                "seconds": self._clock.seconds(),
                "begun": self._begun,
                "pid": os.getpid(),
                "expert": self.expert,
                "node": socket.gethostname(),
                "distilling": self._distilling,
            },
        )


def _unless(asked: Callable[[], bool]) -> Waiting:
    """A wait before the trial's work, which a request to stop ends."""

    @contextmanager
    def waiting() -> Iterator[GoOn]:
        def go_on() -> None:
            if asked():
                raise StopRequested("Stopped while another process ran the trial.")

        yield go_on

    return waiting


def throttled(ask: Callable[[], Answer], every: float = 1.0) -> Callable[[], Answer]:
    """The answer of at most `every` seconds ago: a network file system is not asked each step."""
    asked = monotonic()
    answer = ask()

    def latest() -> Answer:
        nonlocal asked, answer
        if monotonic() - asked > every:
            asked, answer = monotonic(), ask()
        return answer

    return latest


def _reason_class(error: Exception) -> str:
    if isinstance(error, InputError):
        return "configuration"
    if isinstance(error, DivergenceError):
        return "divergence"
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "out of memory"
    return "failure" if isinstance(error, SDWError) else type(error).__name__


def _full_disk(error: Exception) -> str | None:
    """The words of the system, which libraries pass on in errors of their own."""
    full = os.strerror(errno.ENOSPC)
    return full if full in str(error) else None
