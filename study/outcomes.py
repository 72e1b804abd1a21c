"""How trials end, and what they leave: light to import, for all that only looks at a study."""

from pathlib import Path
from typing import Any

from sdw_core.config import PipelineConfig
from sdw_core.files import read_json, sha256_of_json

COMPLETE, PRUNED, FAILED, STOPPED = "COMPLETE", "PRUNED", "FAILED", "STOPPED"
"""Of a trial's result; a STOPPED trial leaves none and goes back to the queue."""


def config_hash(config: PipelineConfig) -> str:
    """Hash of a trial's settings, without the device that they run on."""
    return sha256_of_json(config.model_dump(mode="json", exclude={"device"}))


def finished_result(folder: Path, config: PipelineConfig) -> dict[str, Any] | None:
    """What a trial left as its result, if it was computed with these settings."""
    try:
        document: dict[str, Any] = read_json(folder / "result.json")
    except (FileNotFoundError, ValueError):
        return None
    return document if document.get("config_hash") == config_hash(config) else None
