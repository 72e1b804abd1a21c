"""Constraints: bounds of what a trial measures; a trial beyond one is never the best."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import Field

from sdw_core.config import STAGES, Config
from sdw_core.errors import InputError
from sdw_core.validation import nearest

MEASURED = (
    *("normalized_return", "iqm", "synthetic_size", "seconds"),
    *(f"seconds.{stage}" for stage in STAGES),
    *("expert", "effective_sample_size_percent", "density_effective_sample_size_percent"),
)
"""What every COMPLETE trial measures; settings of the pipeline that are numbers count too."""


class Constraint(Config):
    """Bounds of a metric."""

    metric: str = Field(
        description="of objectives; or `seconds.STAGE`, seconds of a stage; `expert`, normalised "
        "return of the expert; `effective_sample_size_percent`, of the distillation's weights; "
        "`density_effective_sample_size_percent`, of the density weights; or a setting of the "
        "pipeline that is a number, by its path"
    )
    max: float | None = Field(None, description="the largest value that the best may have")
    min: float | None = Field(None, description="the smallest one")

    def beyond(self, value: float) -> dict[str, float]:
        """By how much a value lies beyond each bound; 0 or less where it does not.

        >>> Constraint(metric="seconds", max=60).beyond(71.5)
        {'seconds <= 60': 11.5}
        """
        said = {}
        if self.max is not None:
            said[f"{self.metric} <= {self.max:.10g}"] = value - self.max
        if self.min is not None:
            said[f"{self.metric} >= {self.min:.10g}"] = self.min - value
        return said


def check_constraints(
    constraints: Sequence[Constraint], values: Callable[[str], Sequence[Any]], paths: Sequence[str]
) -> None:
    """Refuse constraints of what no trial measures, without a bound, or that nothing satisfies.

    Args:
        constraints: of a study.
        values: which its trials can have of a setting.
        paths: of all settings that there are.

    Raises:
        InputError: one sentence with the rule, what was received and the way out.
    """
    for index, constraint in enumerate(constraints):
        at, metric = f"study.constraints.{index}", constraint.metric
        if metric in paths and not all(map(is_number, values(metric))):
            raise InputError(
                f"`{at}.metric` must be a number, and `pipeline.{metric}` need be none here; "
                f"constrain something else, such as {', '.join(f'`{each}`' for each in MEASURED)}."
            )
        if metric not in (*MEASURED, *paths):
            raise InputError(
                f"`{at}.metric` cannot be {metric!r}: it is one of "
                f"{', '.join(f'`{each}`' for each in MEASURED)}, or a setting of the pipeline that "
                f"is a number; {nearest(metric, [*MEASURED, *paths])}"
            )
        low, high = constraint.min, constraint.max
        if low is None and high is None:
            raise InputError(f"`{at}` must have a `max`, a `min` or both, as in `max: 60`.")
        if low is not None and high is not None and low > high:
            raise InputError(f"`{at}` needs min <= max, not min {low:g} and max {high:g}.")
        if metric in [each.metric for each in constraints[:index]]:
            raise InputError(
                f"`{at}` is a second constraint of `{metric}`; write both bounds into one."
            )
        setting = "distill.synthetic_size" if metric == "synthetic_size" else metric
        if setting in paths:
            can = values(setting)
            if (high is not None and min(can) > high) or (low is not None and max(can) < low):
                ends = " to ".join(f"{end:g}" for end in dict.fromkeys((min(can), max(can))))
                raise InputError(
                    f"`{at}` is satisfied by no trial, for `{metric}` is {ends} here; change the "
                    f"bound, or `search.{setting}`."
                )


def setting_at(document: Mapping[str, Any], path: str) -> Any:
    """A setting by its path; None where the pipeline has none of that name."""
    value: Any = document
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def is_number(value: Any) -> bool:
    """Whether a setting's value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)
