"""How trials end, and what they leave: light to import, for all that only looks at a study."""

import re
from pathlib import Path
from typing import Any

from sdw_core.config import PipelineConfig, identifying
from sdw_core.files import read_whole, sha256_of_json, write_json
from sdw_core.identity import Sources

COMPLETE, PRUNED, FAILED, STOPPED = "COMPLETE", "PRUNED", "FAILED", "STOPPED"
"""Of a trial's result; a STOPPED trial leaves none and goes back to the queue."""
FINAL = (COMPLETE, PRUNED, FAILED)
WORKER_DEATHS = 3
"""How often a trial whose process died is started again before it counts as failed."""


def config_hash(config: PipelineConfig) -> str:
    """Hash of a trial's settings as they are written, without the device that they run on."""
    document = identifying(config)
    del document["device"]
    return sha256_of_json(document)


def finished_result(
    folder: Path, config: PipelineConfig, sources: Sources
) -> dict[str, Any] | None:
    """What a trial left as its result, if it was computed with these settings, from these sources.

    What is not known of the sources, on either side, is not held against the result.
    """
    document = read_whole(folder / "result.json")
    if document is None:
        return None
    stated = Sources.stated_by(document)
    if "identity" in document:
        same = document["identity"] == stated.identity(config)
    else:  # of the first version
        same = document.get("config_hash") == config_hash(config)
    return document if same and not stated.changed(sources, config) else None


def without_numbers(sentence: str) -> str:
    """What sentences have in common that differ in their numbers only.

    >>> without_numbers("trial 3: -1.5 of 7")
    'trial : of'
    """
    return " ".join(re.sub(r"-?\d[\d.]*", "", sentence).split())


ANSWERS = "rungs.json"
"""In a trial's folder: outer step -> `return`, and `reason`, null where the trial goes on."""


def rung_answers(folder: Path) -> dict[str, Any]:
    """What a trial was answered at the rungs that it came by."""
    return read_whole(folder / ANSWERS) or {}


def returns_at_rungs(folder: Path) -> dict[str, float]:
    """Outer step -> return, of the rungs that a trial came by."""
    return {step: answer["return"] for step, answer in rung_answers(folder).items()}


def write_record(folders: Path, record: dict[str, Any]) -> None:
    """Keep what the database says of a trial in its folder; the driver alone writes it.

    Args:
        folders: the folder of the trials' folders.
        record: number, params, outcome (None without one), values, reason, identity of the spec
            and what else there is.
    """
    write_json(folders / str(record["number"]) / "record.json", record)


def read_record(folders: Path, number: int) -> dict[str, Any] | None:
    """The record of a trial; None if there is none, or none that is whole."""
    return read_whole(folders / str(number) / "record.json")
