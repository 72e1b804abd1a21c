"""A dataset as the stage cache keeps it: read and checked once, and mapped by every run after that.

What is derived from the arrays and takes as much memory, or as much time, is kept with them. Of the
arrays themselves only what a run touches is in memory: not the observations in environment units.
"""

from dataclasses import fields
from typing import Any

import numpy as np
import torch

from sdw_core.cache import StageResult
from sdw_core.environment import Environment
from sdw_core.offline_dataset import OfflineDataset
from sdw_core.units import Units

SAID = ("name", "reference_scores", "reference_source", "license", "loaded_by")
"""Fields that a JSON document holds as they are."""
DERIVED = ("content_hash", "zero_is_arbitrary")
"""What a JSON document holds of that which takes time."""
UNITS = "units/"
"""What the names of the normaliser's arrays begin with."""


def to_keep(dataset: OfflineDataset) -> StageResult:
    """All of a dataset."""
    arrays = {field.name: getattr(dataset, field.name) for field in fields(dataset)}
    arrays = {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}
    arrays["states"] = dataset.states
    if dataset.unit_actions is not dataset.actions:
        arrays["unit_actions"] = dataset.unit_actions
    arrays |= {f"{UNITS}{name}": array for name, array in vars(dataset.units).items()}
    document = {name: getattr(dataset, name) for name in (*SAID, *DERIVED)}
    return StageResult(
        {name: torch.from_numpy(array) for name, array in arrays.items()},
        document | {"environment": dataset.environment.to_json()},
    )


def kept(result: StageResult) -> OfflineDataset:
    """The dataset that `to_keep` was given."""
    known: dict[str, Any] = {name: tensor.numpy() for name, tensor in result.tensors.items()}
    units = {name: known.pop(name) for name in [*known] if name.startswith(UNITS)}
    known |= result.document
    known["units"] = Units(**{name.removeprefix(UNITS): array for name, array in units.items()})
    known["environment"] = Environment.of_json(result.document["environment"])
    if scores := known["reference_scores"]:
        known["reference_scores"] = (scores[0], scores[1])
    return OfflineDataset.trusted(known)
