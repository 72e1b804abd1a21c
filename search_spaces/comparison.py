"""Comparisons: methods x datasets, each cell a pipeline of its own."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from sdw_core.config import Config, PipelineConfig, Seed
from sdw_core.errors import InputError
from sdw_core.validation import nearest, parse, shown
from search_spaces.paths import Document, absolute_paths
from search_spaces.spec import (
    SHIPPED,
    Overrides,
    Resources,
    Source,
    StudyName,
    document_of,
    place,
    settings_of,
)

PREFIX = "compare-"
"""Shipped files whose name begins so are comparisons, the others are studies."""
SECTIONS = "`comparison`, `datasets`, `pipeline` and `methods`"
"""What a comparison's document holds."""


class Method(Config):
    """A row of the table."""

    pipeline: Document = Field(
        default_factory=dict, description="what differs from the comparison's `pipeline`"
    )
    candidates: tuple[Document, ...] = Field(
        (),
        description="settings to choose from, dataset by dataset, in a search on other seeds; each "
        "a part of a `pipeline`",
    )
    judged: Literal["rows", "expert"] = Field(
        "rows",
        description="`rows`: fresh policies trained on the rows; `expert`: the expert itself; with "
        "`fraction: 1` that is behavioural cloning of all the data",
    )


class ComparisonConfig(Config):
    """How a comparison runs."""

    name: StudyName
    seed: Seed = Field(0, description="root seed of the cells of the table")
    search_seed: Seed = Field(
        1000, description="root seed of the searches; no cell of the table uses it"
    )
    search: Document = Field(
        default_factory=dict,
        description="what differs in a search from the comparison's `pipeline`: a smaller budget",
    )
    ours: str = Field(description="the method whose improvement is asked for")
    over: str = Field(description="the method that it is compared with, seed by seed")
    resources: Resources = Resources()


class ComparisonSpec(Config):
    """Methods x datasets over one pipeline."""

    comparison: ComparisonConfig
    datasets: dict[str, Document | None] = Field(
        min_length=1,
        description="datasets, each with what differs there from `pipeline`, or null; a `dataset` "
        "among it is what is loaded, and the key is then no more than a name for the tables",
    )
    pipeline: Document = Field(
        description="the settings that all cells share, without `dataset` and `seed`"
    )
    methods: dict[str, Method] = Field(min_length=1, description="the rows of the table, by name")

    @property
    def size(self) -> int:
        """Cells that a whole run takes, searches included."""
        rows = sum(1 + len(method.candidates) for method in self.methods.values())
        return rows * len(self.datasets)

    def cell(self, method: str, dataset: str, candidate: int | None = None) -> "Cell":
        """A cell of the table; of a method with candidates, with the one that was chosen."""
        return self._cell(method, dataset, candidate, {"seed": self.comparison.seed})

    def search_cells(self, method: str, dataset: str) -> "list[Cell]":
        """What a method's candidates are judged by on a dataset; none if it has no candidates."""
        budget = _merged({"seed": self.comparison.search_seed}, self.comparison.search)
        candidates = range(len(self.methods[method].candidates))
        return [self._cell(method, dataset, i, budget) for i in candidates]

    def _cell(
        self, method: str, dataset: str, candidate: int | None, last: Mapping[str, Any]
    ) -> "Cell":
        settings = self.methods[method]
        chosen = {} if candidate is None else settings.candidates[candidate]
        document: Document = {"dataset": dataset}
        for part in (self.pipeline, self.datasets[dataset], settings.pipeline, chosen, last):
            document = _merged(document, part or {})
        where = f"the pipeline of {shown(method)} on {shown(dataset)}"
        try:
            given = parse(PipelineConfig, document, "pipeline")
            config = parse(PipelineConfig, absolute_paths(document), "pipeline")
        except InputError as error:
            raise InputError(f"In {where}: {error}") from None
        return Cell(method, dataset, candidate, settings.judged, config, given)

    def with_absolute_paths(self) -> "ComparisonSpec":
        """The same comparison, readable from other folders: its tables name the same datasets."""
        datasets = {
            name: absolute_paths({"dataset": name, **(part or {})})
            for name, part in self.datasets.items()
        }
        methods = {
            name: method.model_copy(
                update={
                    "pipeline": absolute_paths(method.pipeline),
                    "candidates": tuple(map(absolute_paths, method.candidates)),
                }
            )
            for name, method in self.methods.items()
        }
        search = {"search": absolute_paths(self.comparison.search)}
        return self.model_copy(
            update={
                "comparison": self.comparison.model_copy(update=search),
                "datasets": datasets,
                "pipeline": absolute_paths(self.pipeline),
                "methods": methods,
            }
        )

    def all_cells(self) -> "Iterator[Cell]":
        """Every cell that could run, whatever the searches choose."""
        for dataset in self.datasets:
            for method, settings in self.methods.items():
                yield from self.search_cells(method, dataset)
                for candidate in range(len(settings.candidates)) or [None]:
                    yield self.cell(method, dataset, candidate)


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        method, dataset: its row and its column.
        candidate: index of the method's candidate; None for a method without.
        judged: see `Method`.
        config: all settings, files by absolute paths.
        given: the same with paths as the spec has them, by which the first version named cells.
    """

    method: str
    dataset: str
    candidate: int | None
    judged: str
    config: PipelineConfig = field(hash=False)  # whose options are mappings
    given: PipelineConfig = field(compare=False)

    @property
    def ensemble(self) -> int:
        """Networks of each policy that is judged, E; an expert is one policy."""
        return self.config.evaluation.ensemble if self.judged == "rows" else 1


def shipped_comparisons() -> dict[str, Path]:
    """The comparisons that come with the project, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob(f"{PREFIX}*.yaml"))}


def load_comparison(spec: Source, overrides: Overrides = ()) -> ComparisonSpec:
    """Read a comparison, apply overrides, and validate every cell of it.

    Args:
        spec: a YAML file's path, the name of a shipped comparison, a document, or a spec.
        overrides: as for `load_spec`.

    Raises:
        InputError: one sentence with the rule, what was received and the way out.
    """
    document = document_of(spec, shipped_comparisons(), "comparison", SECTIONS)
    for key, value in settings_of(overrides).items():
        place(document, key, value)
    return parse_comparison(document)


def parse_comparison(document: Document) -> ComparisonSpec:
    """Validate a comparison's document, and every cell of it.

    Raises:
        InputError: one sentence with the rule, what was received and the way out.
    """
    spec = parse(ComparisonSpec, document, "")
    for key in ("ours", "over"):
        name = getattr(spec.comparison, key)
        if name not in spec.methods:
            raise InputError(
                f"`comparison.{key}` must be one of the methods, not {shown(name)}: "
                f"{nearest(name, spec.methods)}"
            )
    for key in ("dataset", "seed"):
        if key in spec.pipeline:
            raise InputError(
                f"`pipeline.{key}` is not for a comparison to set; name `datasets`, and "
                "`comparison.seed`."
            )
    if spec.comparison.search_seed == spec.comparison.seed:
        raise InputError(
            "`comparison.search_seed` must differ from `comparison.seed`, and both are "
            f"{spec.comparison.seed}: what is chosen on a seed must not be judged on it."
        )
    for _ in spec.all_cells():  # a setting that is not valid is found here
        pass
    return spec


def _merged(document: Mapping[str, Any], part: Mapping[str, Any]) -> Document:
    """`part` laid over `document`, section by section."""
    merged = deepcopy(dict(document))
    for key, value in part.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = _merged(below, value)
        else:
            merged[key] = deepcopy(value)
    return merged
