"""The parts of docs/extending.md, as the document has them, and a small run for them."""

import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from sdw_core import registry
from sdw_core.config import PipelineConfig
from sdw_core.validation import parse

DOCUMENT = Path(__file__).parents[2] / "docs" / "extending.md"
_BLOCK = re.compile(r"```python\n# (my_\w+)\.py\n(.*?)```\n\n```yaml\n(.*?)```", re.DOTALL)


def parts() -> dict[str, tuple[str, dict[str, Any]]]:
    """Module -> its text, and the part of a pipeline's settings that names it."""
    found = _BLOCK.findall(DOCUMENT.read_text(encoding="utf-8"))
    return {module: (text, yaml.safe_load(settings)) for module, text, settings in found}


@contextmanager
def fresh_imports() -> Iterator[None]:
    """Modules of the tests are found where they lie now, and leave nothing behind."""
    kept = [(places, [*places]) for places in (sys.path, registry._FOLDERS, registry._ROOTS)]
    importlib.invalidate_caches()
    yield
    for places, before in kept:
        places[:] = before
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


def write_parts(folder: Path) -> None:
    """The modules, as files."""
    for module, (text, _) in parts().items():
        (folder / f"{module}.py").write_text(text, encoding="utf-8")


TINY: dict[str, dict[str, Any]] = {
    "density": {"model": "gaussian"},
    "weighting": {"temperature": 0.1},
    "expert": {"layers": 2, "width": 16, "steps": 20, "value_steps": 20},
    "distill": {
        "objective": "av_pbc",
        "synthetic_size": 10,
        "layers": 2,
        "width": 8,
        "inner_steps": 4,
        "outer_steps": 3,
        "meta_batch_size": 32,
    },
    "evaluation": {"policies": 2, "episodes": 1},
}


def tiny(**changes: dict[str, Any]) -> PipelineConfig:
    """With sections laid over those of `TINY`; an expert takes the whole section."""
    document: dict[str, Any] = {"dataset": "sdw/hopper-replay-mini-v0", **TINY}
    for section, content in changes.items():
        below = {} if section == "expert" else document.get(section, {})
        document[section] = {**below, **content}
    return parse(PipelineConfig, document, "pipeline")
