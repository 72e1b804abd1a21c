"""Small studies for the tests of this folder."""

from dataclasses import replace
from pathlib import Path

import pytest

from sdw_core.identity import Inventory
from search_spaces import StudySpec, load_spec
from study.folder import StudyFolder

SMALL = (
    "pipeline.density.model=gaussian",
    "pipeline.expert.steps=20",
    "pipeline.expert.value_steps=20",
    "pipeline.expert.width=16",
    "pipeline.distill.outer_steps=6",
    "pipeline.distill.inner_steps=5",
    "pipeline.distill.window=3",
    "pipeline.distill.layers=4",
    "pipeline.distill.width=16",
    "pipeline.evaluation.policies=2",
    "pipeline.evaluation.episodes=1",
    "study.bc_steps=20",
    "study.defaults_first=false",
    "search.distill.synthetic_size.high=24",
)
"""Seconds instead of minutes: the whole pipeline, real in every part."""


def small_spec(*overrides: str, name: str = "quickstart") -> StudySpec:
    return load_spec(name, [*SMALL, *overrides])


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder.create(small_spec(), tmp_path)


@pytest.fixture
def pareto(tmp_path: Path) -> StudyFolder:
    return StudyFolder.create(small_spec(name="pareto"), tmp_path)


def by_another_method(inventory: Inventory, stage: str) -> Inventory:
    """The same data and checkpoints, where a later version raised a stage's number."""
    datasets = {
        name: replace(sources, method={**sources.method, stage: 99})
        for name, sources in inventory.datasets.items()
    }
    return Inventory(datasets, inventory.checkpoints)
