"""What a trial's curves cost it: the share of its time that is spent on them.

    python -m benchmarks.curves [--trials 3] [--json]

Real trials of the quickstart, one after another in this process, as in a worker. All that is done
within `DistillCurves` and `TrialCurves` is timed; of the first trial, that includes the import of
TensorBoard's writer. The first also fits the density and the expert, which the others find.
"""

import argparse
import inspect
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from benchmarks import machine
from sdw_core.distill.curves import DistillCurves
from search_spaces import load_spec
from study.curves import EVENTS, HParams, TrialCurves
from study.trial import run_trial

TARGETS = {"percent_of_a_trial": 1}
SEARCHED = {"weighting.temperature": 0.1, "distill.synthetic_size": 64}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measured(arguments.trials)
    document = {"machine": machine.describe(torch.device("cpu")), **found, "targets": TARGETS}
    print(json.dumps(document, indent=2) if arguments.json else text(document))


def measured(trials: int) -> dict[str, Any]:
    """Seconds of each trial, and those within its curves."""
    spec = load_spec("quickstart")
    config = spec.pipeline_with(SEARCHED).model_copy(update={"device": "cpu"})
    seconds, in_curves = [], []
    with tempfile.TemporaryDirectory() as storage, timed(DistillCurves, TrialCurves) as clock:
        folder = Path(storage)
        for number in range(trials):
            before = sum(clock)
            result = run_trial(
                number,
                config,
                folder / str(number),
                folder / "cache",
                folder / "stop",
                1,
                hparams=HParams(spec, number, SEARCHED),
            )
            assert result.outcome == "COMPLETE", result.reason
            seconds.append(result.seconds)
            in_curves.append(sum(clock) - before)
        files = [folder / "0" / "curves.json", *folder.glob(f"0/{EVENTS}*")]
        kilobytes = sum(path.stat().st_size for path in files) / 1000
    return {
        "seconds": seconds,
        "seconds_in_curves": in_curves,
        "percent_of_a_trial": 100 * sum(in_curves) / sum(seconds),
        "kilobytes_of_curves": kilobytes,
    }


@contextmanager
def timed(*classes: type) -> Iterator[list[float]]:
    """Seconds of each call of the classes' methods from outside of them."""
    clock: list[float] = []
    within = False

    def timing(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*given: Any, **named: Any) -> Any:
            nonlocal within
            if within:
                return method(*given, **named)
            begun, within = perf_counter(), True
            try:
                return method(*given, **named)
            finally:
                clock.append(perf_counter() - begun)
                within = False

        return call

    methods = [
        (each, name, method)
        for each in classes
        for name, method in vars(each).items()
        if inspect.isfunction(method) and not inspect.isgeneratorfunction(inspect.unwrap(method))
    ]
    for each, name, method in methods:
        setattr(each, name, timing(method))
    try:
        yield clock
    finally:
        for each, name, method in methods:
            setattr(each, name, method)


def text(document: dict[str, Any]) -> str:
    each = ", ".join(
        f"{1000 * spent:.0f} ms of {whole:.1f} s"
        for spent, whole in zip(document["seconds_in_curves"], document["seconds"], strict=True)
    )
    return (
        f"curves take {document['percent_of_a_trial']:.2f} % of the trials' time ({each}) and "
        f"{document['kilobytes_of_curves']:.0f} kB a trial"
    )


if __name__ == "__main__":
    main()
