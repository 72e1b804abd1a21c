"""What a shell completes: names of studies and of specs, and keys of `--set`."""

from collections.abc import Iterator
from pathlib import Path

import typer
from pydantic import BaseModel

from sdw_core.config import PipelineConfig
from sdw_core.validation import submodels
from search_spaces import ComparisonSpec, StudySpec, shipped_comparisons, shipped_specs
from search_spaces.documents import StrictLoader
from search_spaces.spec import read_document
from study.locations import STUDIES


def specs(incomplete: str) -> list[str]:
    """Shipped specs; the shell adds files by itself."""
    return [name for name in shipped_specs() if name.startswith(incomplete)]


def comparisons(incomplete: str) -> list[str]:
    """Shipped comparisons."""
    return [name for name in shipped_comparisons() if name.startswith(incomplete)]


def studies(ctx: typer.Context, incomplete: str) -> list[str]:
    """Studies under the storage folder that the command line names so far."""
    return _under_storage(ctx, incomplete, "study.yaml")


def studies_and_comparisons(ctx: typer.Context, incomplete: str) -> list[str]:
    """Both, under that folder."""
    return _under_storage(ctx, incomplete, "study.yaml", "comparison.yaml")


def _under_storage(ctx: typer.Context, incomplete: str, *files: str) -> list[str]:
    storage = Path(ctx.params.get("storage") or STUDIES)
    found = sorted(path.parent.name for file in files for path in storage.glob(f"*/{file}"))
    return [name for name in found if name.startswith(incomplete)]


def keys(incomplete: str) -> list[str]:
    """Settings of a study's spec, each with the `=` before its value."""
    return _beginning([*_keys(StudySpec), *_keys(PipelineConfig, "search.")], incomplete)


def searched(ctx: typer.Context, incomplete: str) -> list[str]:
    """What the study that the command line names searches."""
    storage, study = Path(ctx.params.get("storage") or STUDIES), str(ctx.params.get("study"))
    for folder in (storage / study, Path(study)):
        if (folder / "study.yaml").is_file():
            document = read_document(folder / "study.yaml", loader=StrictLoader)
            return _beginning([*document["search"]], incomplete)
    return []


def comparison_keys(incomplete: str) -> list[str]:
    """Settings of a comparison's spec."""
    return _beginning([*_keys(ComparisonSpec), *_keys(PipelineConfig, "pipeline.")], incomplete)


def _beginning(paths: list[str], incomplete: str) -> list[str]:
    return [f"{path}=" for path in dict.fromkeys(paths) if path.startswith(incomplete)]


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The paths of all that a document of this model can state."""
    for name, field in model.model_fields.items():
        below = submodels(field.annotation)
        for each in below:
            yield from _keys(each, f"{prefix}{name}.")
        if not below:
            yield f"{prefix}{name}"
