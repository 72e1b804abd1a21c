"""Studies as YAML documents, and the loader that turns them into validated `StudySpec` objects."""

from search_spaces.comparison import (
    Cell,
    ComparisonSpec,
    load_comparison,
    parse_comparison,
    shipped_comparisons,
)
from search_spaces.ranges import Choice, Distribution, FloatRange, IntRange
from search_spaces.spec import (
    Objective,
    Overrides,
    Resources,
    Source,
    StudyConfig,
    StudySpec,
    load_spec,
    parse_spec,
    shipped_specs,
    with_absolute_paths,
    with_files,
)

__all__ = [
    "Cell",
    "Choice",
    "ComparisonSpec",
    "Distribution",
    "FloatRange",
    "IntRange",
    "Objective",
    "Overrides",
    "Resources",
    "Source",
    "StudyConfig",
    "StudySpec",
    "load_comparison",
    "load_spec",
    "parse_comparison",
    "parse_spec",
    "shipped_comparisons",
    "shipped_specs",
    "with_absolute_paths",
    "with_files",
]
