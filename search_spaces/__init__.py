"""Studies as YAML documents, and the loader that turns them into validated `StudySpec` objects."""

from search_spaces.spec import (
    Choice,
    Distribution,
    FloatRange,
    IntRange,
    Objective,
    Resources,
    StudyConfig,
    StudySpec,
    load_spec,
    parse_spec,
    shipped_specs,
)

__all__ = [
    "Choice",
    "Distribution",
    "FloatRange",
    "IntRange",
    "Objective",
    "Resources",
    "StudyConfig",
    "StudySpec",
    "load_spec",
    "parse_spec",
    "shipped_specs",
]
