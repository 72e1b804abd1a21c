"""One trial: the whole pipeline in a Ray worker, on the settings that the search proposed.

A trial leaves everything in its own folder and reports only scalars: `progress.json` while it runs,
`checkpoint.safetensors` while it distils, then `rows.safetensors` and, last, `result.json`. The
result is written before it is reported, so a worker that dies in between loses nothing: the next
attempt finds the result and returns it.
"""

import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from time import monotonic, time
from typing import Any

import torch
from safetensors.torch import save_file

from sdw_core.config import PipelineConfig
from sdw_core.errors import DivergenceError, InputError, SDWError, StopRequested
from sdw_core.files import read_json, replaced_atomically, sha256_of_json, write_json
from sdw_core.pipeline import Pipeline, PipelineResult

COMPLETE, FAILED, STOPPED = "COMPLETE", "FAILED", "STOPPED"
PROGRESS_EVERY = 0.5
"""Seconds between two writes of a trial's progress."""


def run_trial(
    number: int,
    config: PipelineConfig,
    folder: Path,
    cache: Path,
    stop_flag: Path,
    threads: int,
) -> dict[str, Any]:
    """Run a trial to an outcome; no exception leaves here.

    Args:
        number: the trial's Optuna number.
        config: the settings.
        folder: the trial's own.
        cache: the study's stage cache.
        stop_flag: a file whose appearance ends the trial; it goes on from its checkpoint later.
        threads: torch threads.

    Returns:
        `outcome`, `reason`, and for a COMPLETE trial the metrics: scalars only.
    """
    finished = folder / "result.json"
    if finished.exists():
        document: dict[str, Any] = read_json(finished)
        return document
    torch.set_num_threads(threads)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.safetensors"
    begun = monotonic()
    try:
        pipeline = Pipeline(
            config, cache, _Progress(folder), checkpoint, _throttled(stop_flag.exists)
        )
        result = pipeline.run()
        _write_rows(result, folder / "rows.safetensors")
        document = _complete(number, result, monotonic() - begun)
    except StopRequested as stop:
        return {"number": number, "outcome": STOPPED, "reason": str(stop)}
    except Exception as error:
        trace = traceback.format_exc()
        (folder / "error.txt").write_text(trace, encoding="utf-8")
        document = {
            "number": number,
            "outcome": FAILED,
            "reason": f"{_reason_class(error)}: {_first_line(error)}",
            "seconds": monotonic() - begun,
            "stages": {},
        }
    write_json(finished, document)
    checkpoint.unlink(missing_ok=True)
    return document


def _complete(number: int, result: PipelineResult, seconds: float) -> dict[str, Any]:
    document = result.to_json()
    return {
        "number": number,
        "outcome": COMPLETE,
        "reason": None,
        "seconds": seconds,
        "stages": result.seconds,
        "metrics": {
            "normalized_return": result.summary.mean,
            "iqm": result.summary.iqm,
            "synthetic_size": result.config.distill.synthetic_size,
            "seconds": seconds,
        },
        "normalized_return": document["normalized_return"],
        "expert": document["expert"],
        "effective_sample_size_percent": document["effective_sample_size_percent"],
        "log_likelihood": document["log_likelihood"],
        "best": result.best,
        "distillation_seeds": list(result.seeds),
        "config_hash": sha256_of_json(result.config.model_dump(mode="json")),
        "node": socket.gethostname(),
        "dataset": result.dataset,
        "learning_rates": [list(recipe.learning_rates) for recipe in result.recipes],
    }


def _write_rows(result: PipelineResult, path: Path) -> None:
    rows = {"observations": result.observations, "actions": result.actions, "losses": result.losses}
    with replaced_atomically(path) as scratch:
        save_file({name: tensor.contiguous() for name, tensor in rows.items()}, scratch)


class _Progress:
    """Writes where a trial is, at most every half second and at every new stage."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "progress.json"
        self._begun = time()
        self._stage = ""
        self._written = 0.0

    def __call__(self, stage: str, fraction: float) -> None:
        if stage == self._stage and monotonic() - self._written < PROGRESS_EVERY:
            return
        self._stage, self._written = stage, monotonic()
        write_json(
            self._path,
            {"stage": stage, "fraction": fraction, "begun": self._begun, "pid": os.getpid()},
        )


def _throttled(ask: Callable[[], bool], every: float = 1.0) -> Callable[[], bool]:
    """The answer of at most `every` seconds ago: a network file system is not asked each step."""
    asked = monotonic()
    answer = ask()

    def latest() -> bool:
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


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
