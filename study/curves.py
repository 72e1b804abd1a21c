"""What a trial measures as it goes, in its folder.

curves.json               `curves`: name -> steps and values, for all that look at a study;
                          `config_hash`: of the settings
events.out.tfevents.NNNN  the same for TensorBoard, and at the end what its HParams tab shows

An attempt begins both anew, for it is told all of its trial's curves (see `Measured`): so they have
no gap and no point twice, wherever it goes on from. The first event of an event file tells
TensorBoard to forget what it has read of earlier attempts.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, Any, NamedTuple

from sdw_core.files import read_whole, write_text
from sdw_core.progress import Points
from search_spaces import Choice, Distribution, FloatRange, StudySpec
from study.outcomes import COMPLETE, FAILED, TrialResult, returns_at_rungs

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

WRITE_EVERY = 5.0
"""Seconds between two writes."""
EVENTS = "events.out.tfevents."
"""What the name of an event file begins with; an attempt's number ends it."""
METRICS = ("normalized_return", "iqm", "effective_sample_size_percent", "seconds")
"""What the HParams tab shows of a trial's result, beside the objectives."""


class Curve(NamedTuple):
    """A scalar by step."""

    steps: list[int]
    values: list[float]


def read_curves(folder: Path) -> dict[str, Curve]:
    """The curves of a trial, by name; none where it has told none yet."""
    document = read_whole(folder / "curves.json") or {}
    with suppress(LookupError, TypeError, AttributeError):  # else something else wrote it
        return {name: Curve(**curve) for name, curve in document["curves"].items()}
    return {}


def final_scalars(result: TrialResult) -> dict[str, float]:
    """What a trial found in the end, by name; nothing of one that did not complete."""
    found: dict[str, float | None] = {
        **result.metrics,
        "expert_return": result.expert.mean if result.expert else None,
        "effective_sample_size_percent": result.effective_sample_size_percent,
    }
    return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class HParams:
    """A trial in TensorBoard's HParams tab.

    Attributes:
        spec: of its study.
        number: the trial's.
        params: what the search proposed.
    """

    spec: StudySpec
    number: int
    params: Mapping[str, Any]

    def summaries(self, failed: bool) -> "list[Summary]":
        """What is searched and measured in the study, the trial's values, and how it ended."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import api_pb2, metadata, summary_v2
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

        objectives = [objective.metric for objective in self.spec.study.objectives]
        experiment = summary_v2.hparams_config_pb(
            [summary_v2.HParam(path, self._domain(path)) for path in self.spec.search],
            [
                summary_v2.Metric(f"trial/{name}", display_name=name)
                for name in dict.fromkeys((*objectives, *METRICS))
            ],
        )
        values = {
            path: value_in_hparams(self.spec.search[path], value)
            for path, value in self.params.items()
        }
        begun = summary_v2.hparams_pb(values, trial_id=f"trial {self.number}")
        status = api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS
        data = HParamsPluginData(
            session_end_info=SessionEndInfo(status=status, end_time_secs=time())
        )
        ended = Summary()
        ended.value.add(
            tag=metadata.SESSION_END_INFO_TAG,
            metadata=metadata.create_summary_metadata(data),
            tensor=metadata.NULL_TENSOR,
        )
        return [experiment, begun, ended]

    def _domain(self, path: str) -> Any:
        from tensorboard.plugins.hparams import summary_v2

        distribution = self.spec.search[path]
        if isinstance(distribution, Choice):
            values = [value_in_hparams(distribution, param) for param in distribution.params]
            return summary_v2.Discrete(dict.fromkeys(values))
        if isinstance(distribution, FloatRange):
            return summary_v2.RealInterval(distribution.low, distribution.high)
        return summary_v2.IntInterval(distribution.low, distribution.high)


def value_in_hparams(distribution: Distribution, param: Any) -> float | str:
    """A parameter as the HParams tab takes it: a number, or text where a choice is not of numbers.

    >>> value_in_hparams(Choice(type="categorical", choices=(1, None)), 1)
    '1'
    """
    if isinstance(distribution, Choice) and not all(
        isinstance(each, int | float) and not isinstance(each, bool) for each in distribution.params
    ):
        return param if isinstance(param, str) else json.dumps(param)
    return float(param)


class TrialCurves:
    """The curves of an attempt at a trial; nothing is written before there is a point.

    Args:
        folder: the trial's.
        config_hash: of its settings.
        hparams: what TensorBoard's HParams tab shows of the trial; None: nothing.
    """

    def __init__(
        self, folder: Path, config_hash: str | None = None, hparams: HParams | None = None
    ) -> None:
        self._folder, self._config_hash, self._hparams = folder, config_hash, hparams
        self._curves: dict[str, Curve] = {}
        self._new: dict[tuple[str, int], dict[str, float]] = {}
        self._written = monotonic()

    def __call__(self, curve: str, points: Points) -> None:
        """See `Measured`; what is not finite is left out."""
        known = self._curves.setdefault(curve, Curve([], []))
        stage = curve.partition("/")[0]
        for step, value in points.items():
            if isfinite(value) and (not known.steps or step > known.steps[-1]):
                known.steps.append(step)
                known.values.append(float(f"{value:.6g}"))
                self._new.setdefault((stage, step), {})[curve] = value
        if monotonic() - self._written >= WRITE_EVERY:
            self.write()

    def write(self) -> None:
        """Write what was told since the last time."""
        self._written = monotonic()
        if not self._new:
            return
        self._earlier  # noqa: B018 (read before it is written over)
        for stage, step in sorted(self._new):
            self._events.add_scalars(step, self._new[stage, step])
        self._events.flush()
        self._new.clear()
        curves = {name: curve._asdict() for name, curve in self._curves.items() if curve.steps}
        document = {"config_hash": self._config_hash, "curves": curves}
        write_text(self._folder / "curves.json", json.dumps(document, separators=(",", ":")) + "\n")

    def end(self, result: TrialResult) -> None:
        """The trial has its outcome: show what it found in the end."""
        if result.outcome == COMPLETE:
            for name, value in final_scalars(result).items():
                self(f"trial/{name}", {0: value})
        self._write_rest()
        if self._hparams:
            for summary in self._hparams.summaries(failed=result.outcome == FAILED):
                self._events.add(summary)

    def close(self) -> None:
        """The attempt is over, with an outcome or without one."""
        self._write_rest()
        if "_events" in vars(self):
            self._events.close()

    def _write_rest(self) -> None:
        """With the curves of an earlier attempt that this one did not come to."""
        for name, curve in self._earlier.items():
            if name not in self._curves:
                self(name, dict(zip(*curve, strict=True)))
        self.write()

    @cached_property
    def _earlier(self) -> dict[str, Curve]:
        document = read_whole(self._folder / "curves.json") or {}
        same = document.get("config_hash") == self._config_hash
        return read_curves(self._folder) if same else {}

    @cached_property
    def _events(self) -> "_EventFile":
        return _EventFile(self._folder)


class _EventFile:
    """The event file of an attempt, for which TensorBoard forgets those of earlier ones.

    They stay: a TensorBoard that is reading a file that is removed reads nothing more of the trial.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        earlier = (path.name.removeprefix(EVENTS) for path in folder.glob(f"{EVENTS}*"))
        number = 1 + max((int(each) for each in earlier if each.isdecimal()), default=0)
        self._file = (folder / f"{EVENTS}{number:04}").open("xb")
        self._records = RecordWriter(self._file)
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(session_log=SessionLog(status=SessionLog.START)))  # forget what was read

    def add_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=scalars[name]) for name in scalars]
        self.add(Summary(value=values), step)

    def add(self, summary: "Summary", step: int = 0) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._write(Event(step=step, summary=summary))

    def _write(self, event: "Event") -> None:
        event.wall_time = time()
        self._records.write(event.SerializeToString())

    def flush(self) -> None:
        self._records.flush()

    def close(self) -> None:
        self._file.close()


@contextmanager
def followed(
    folder: Path, config_hash: str | None, hparams: HParams | None
) -> Iterator[TrialCurves]:
    """The curves of an attempt at a trial, in whose folder rung returns of earlier ones may lie."""
    curves = TrialCurves(folder, config_hash, hparams)
    curves("return/rung", {int(step): value for step, value in returns_at_rungs(folder).items()})
    try:
        yield curves
    finally:
        with suppress(OSError):  # the attempt ends as it ends
            curves.close()
