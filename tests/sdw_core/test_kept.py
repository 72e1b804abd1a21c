"""A dataset in the stage cache: the same to every run, read from its source by the first alone."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from sdw_core.cache import StageCache
from sdw_core.config import PipelineConfig
from sdw_core.dataset import load
from sdw_core.dataset.kept import kept, to_keep
from sdw_core.dataset.loading import BUNDLED as FOLDER
from sdw_core.errors import SourceChanged
from sdw_core.identity import Sources
from sdw_core.offline_dataset import OfflineDataset
from sdw_core.pipeline import Pipeline
from sdw_core.validation import parse

BUNDLED = "sdw/hopper-replay-mini-v0"
UNUSUAL = "Pendulum-v1&max_episode_steps=50&g=9.81"


def tiny(dataset: str = BUNDLED) -> PipelineConfig:
    sizes = {"synthetic_size": 8, "layers": 2, "width": 8, "inner_steps": 4, "window": 3}
    document = {
        "dataset": dataset,
        "density": {"model": "gaussian"},
        "weighting": {"temperature": 0.1},
        "expert": {"layers": 2, "width": 16, "steps": 20, "value_steps": 20},
        "distill": {**sizes, "objective": "av_pbc", "outer_steps": 3, "meta_batch_size": 64},
        "evaluation": {"policies": 2, "episodes": 1},
    }
    return parse(PipelineConfig, document, "pipeline")


def pendulum() -> OfflineDataset:
    """Actions beyond [-1, 1], rewards below 0, an environment that is not plain."""
    generator = np.random.default_rng(0)
    arrays = {
        "observations": generator.normal(size=(100, 3)),
        "actions": generator.uniform(-2, 2, size=(100, 1)),
        "rewards": -generator.uniform(size=100),
        "terminals": np.zeros(100),
        "timeouts": np.arange(100) % 50 == 49,
    }
    return load(arrays, environment=UNUSUAL, reference_scores=(-100.5, 0.25))


@pytest.mark.parametrize("dataset", [load(BUNDLED), pendulum()], ids=["hopper", "pendulum"])
def test_a_dataset_comes_back_as_it_was(dataset: OfflineDataset, tmp_path: Path) -> None:
    found = kept(StageCache(tmp_path).result("dataset", "0" * 64, lambda: to_keep(dataset)))
    for field in dataclasses.fields(OfflineDataset):
        one, other = getattr(dataset, field.name), getattr(found, field.name)
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other
    for name in ("states", "unit_actions", "next_observations"):
        one, other = getattr(dataset, name), getattr(found, name)
        assert (one == other).all()
        assert one.dtype == other.dtype
    assert found.content_hash == dataset.content_hash
    again = dataclasses.replace(found)  # nothing derived is taken over
    assert again.content_hash == dataset.content_hash
    assert again.zero_is_arbitrary == found.zero_is_arbitrary == dataset.zero_is_arbitrary


def test_runs_that_know_their_data_read_them_once(tmp_path: Path) -> None:
    """Bit for bit what a run makes that reads the source itself."""
    shutil.copytree(FOLDER / BUNDLED, tmp_path / "own")
    config = tiny(dataset=str(tmp_path / "own"))
    alone = Pipeline(config).run()
    sources = alone.sources
    first = Pipeline(config, tmp_path / "cache", sources=sources).run()
    shutil.rmtree(tmp_path / "own")
    second = Pipeline(config, tmp_path / "cache", sources=sources).run()
    for found in (first, second):
        assert found.sources == sources
        assert found.observations.equal(alone.observations)
        assert found.actions.equal(alone.actions)
        assert np.array_equal(found.returns, alone.returns)


def test_what_is_not_what_it_must_be_is_not_kept(tmp_path: Path) -> None:
    dataset = load(BUNDLED)
    for known in (Sources("other"), Sources(dataset.content_hash, (0.0, 1.0))):
        with pytest.raises(SourceChanged):
            Pipeline(tiny(), tmp_path, sources=known).prepare()
    assert StageCache(tmp_path).entries() == []
