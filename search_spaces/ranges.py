"""Where a search looks: ranges of numbers, choices, and which values lie in them."""

import json
from collections.abc import Mapping, Sequence
from math import isfinite, pi
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from sdw_core.config import Config, Number, added
from sdw_core.errors import InputError
from sdw_core.validation import shown
from search_spaces.constraints import is_number

Value = str | int | float | bool | tuple[Number, ...] | None
"""Of a searched setting."""
Param = str | int | float | bool | None
"""Of a trial: a searched value, as Optuna keeps it."""
MOST_VALUES = 2**53
"""Of a grid: real numbers lie no closer."""


class Range(Config):
    """Where a setting is looked for."""

    when: dict[str, Value | tuple[Value, ...]] | None = Field(
        None,
        json_schema_extra=added(None),
        description="the range counts only where each of these settings, by its path, has this "
        "value, or one of this list; elsewhere `pipeline` says what the setting is",
    )


class FloatRange(Range):
    """A real number in [low, high]."""

    type: Literal["float"]
    low: float = Field(description="smallest value")
    high: float = Field(description="largest value")
    log: bool = Field(False, description="uniform in the logarithm")
    step: PositiveFloat | None = Field(None, description="grid from low; not with `log`")


class IntRange(Range):
    """A whole number in [low, high]."""

    type: Literal["int"]
    low: int = Field(ge=-(2**63), le=2**63 - 1, description="smallest value")
    high: int = Field(ge=-(2**63), le=2**63 - 1, description="largest value")
    log: bool = Field(False, description="uniform in the logarithm")
    step: PositiveInt = Field(1, le=2**63 - 1, description="grid from low; not with `log`")


class Choice(Range):
    """One of several values."""

    type: Literal["categorical"]
    choices: tuple[Value, ...] = Field(
        min_length=1, description="the values; a list of numbers is one value, such as [0.5, 1]"
    )

    @property
    def params(self) -> tuple[Param, ...]:
        """What a trial's parameter is for each of the values: the value, or a list's JSON text.

        Equal lists have one text, that of the first: [0.5, 1] and [0.5, 1.0] are one value.
        """
        texts = {c: json.dumps(c) for c in reversed(self.choices) if isinstance(c, tuple)}
        return tuple(texts[c] if isinstance(c, tuple) else c for c in self.choices)


Distribution = Annotated[FloatRange | IntRange | Choice, Field(discriminator="type")]


def check_range(path: str, distribution: Distribution) -> None:
    """Refuse a range that holds no value, or has a step that makes no sense.

    Raises:
        InputError: one sentence with the rule, what was received and the way out.
    """
    if isinstance(distribution, Choice):
        return
    low, high = distribution.low, distribution.high
    if low > high:
        raise InputError(f"`search.{path}` needs low <= high, not low {low} and high {high}.")
    if distribution.log and low <= 0:
        raise InputError(f"`search.{path}` is logarithmic and needs low > 0, not {low}.")
    if distribution.step is not None and low < high and distribution.step > high - low:
        raise InputError(
            f"`search.{path}` needs a step within its range of {high - low:g}, not "
            f"{distribution.step:g}."
        )
    if distribution.step is not None and (high - low) / distribution.step > MOST_VALUES:
        raise InputError(
            f"`search.{path}` needs a step that divides its range of {high - low:g} into "
            f"{MOST_VALUES:.0e} at most, not {distribution.step:g}; leave `step` out for any value."
        )
    unstepped = type(distribution).model_fields["step"].default
    if distribution.log and distribution.step != unstepped:
        raise InputError(f"`search.{path}` can have `log` or `step`, not both; drop one.")


def param_of(path: str, distribution: Distribution, value: Any, where: str) -> Param:
    """What a trial's parameter is for a value that somebody names.

    Args:
        path: the searched setting.
        distribution: where it is looked for.
        value: the setting's; of a list among choices also its JSON text.
        where: the place of the value in a message.

    Raises:
        InputError: the value does not lie where the setting is searched.
    """
    if isinstance(distribution, Choice):
        listed = tuple(value) if isinstance(value, list) else value
        for choice, param in zip(distribution.choices, distribution.params, strict=True):
            if _same(choice, listed) or (isinstance(choice, tuple) and param == value):
                return param
    elif is_number(value) and isfinite(value) and distribution.low <= value <= distribution.high:
        steps = (value - distribution.low) / (distribution.step or 1)
        on_grid = distribution.step is None or abs(steps - round(steps)) < 1e-8
        if isinstance(distribution, FloatRange) and on_grid:
            return float(value)
        if value == int(value) and on_grid:
            return int(value)
    document = distribution.model_dump(mode="json")
    raise InputError(
        f"`{where}` must be a value that is searched ({range_in_words(document)}), not "
        f"{shown(value)}; name such a value, or change the range `search.{path}`."
    )


def _same(choice: Any, value: Any) -> bool:
    """Whether a choice is a value: 1 and 1.0 are the same, 1 and true are not."""
    return choice == value and isinstance(choice, bool) == isinstance(value, bool)


def wanted(path: str, distribution: Distribution, value: Any, where: str) -> tuple[Param, ...]:
    """The parameters of a searched setting that a condition is met by.

    Args:
        path: the setting.
        distribution: where it is looked for.
        value: the one that is wanted, or a list of several.
        where: the place of the condition in a message.

    Raises:
        InputError: a value does not lie where the setting is searched.
    """
    several = value if isinstance(value, list | tuple) else ()
    try:
        return (param_of(path, distribution, value, where),)
    except InputError:
        if not several:
            raise
    return tuple(param_of(path, distribution, each, where) for each in several)


def probes(distribution: Distribution) -> Sequence[Any]:
    """Values that are valid if all are: every choice; both ends and, of real numbers, one between.

    The one between tells a setting that takes whole numbers only.
    """
    if isinstance(distribution, Choice):
        return distribution.choices
    low, high = distribution.low, distribution.high
    if isinstance(distribution, IntRange):
        return low, high
    return low, min(low + (distribution.step or (high - low) / pi), high), high


def range_in_words(distribution: Mapping[str, Any]) -> str:
    """Where a setting is looked for.

    >>> range_in_words({"type": "int", "low": 8, "high": 1024, "log": True, "step": 1})
    'whole numbers from 8 to 1,024, evenly in the logarithm'
    >>> range_in_words({"type": "categorical", "choices": [[0.5, 1], "all", None]})
    'one of [0.5, 1], all, null'
    """
    if conditions := distribution.get("when"):
        met = " and ".join(f"{path} is {value}" for path, value in conditions.items())
        return f"{range_in_words({**distribution, 'when': None})}, where {met}"
    if distribution["type"] == "categorical":
        choices = distribution["choices"]
        return "one of " + ", ".join(c if isinstance(c, str) else json.dumps(c) for c in choices)
    whole = distribution["type"] == "int"
    low, high = (f"{distribution[end]:,{'' if whole else 'g'}}" for end in ("low", "high"))
    step = distribution["step"]
    steps = "" if step is None or (whole and step == 1) else f" in steps of {step:g}"
    evenly = ", evenly in the logarithm" if distribution["log"] else ""
    return f"{'whole ' if whole else ''}numbers from {low} to {high}{steps}{evenly}"
