"""Under which keys the stage cache holds what runs share: their dataset, density and expert."""

from collections.abc import Mapping

from sdw_core.cache import StageCache, entry_name
from sdw_core.config import PipelineConfig, identifying
from sdw_core.distill.selection import WITHOUT_DENSITY
from sdw_core.identity import METHOD

DATASET = 1
"""Version of what is kept of a dataset: `sdw_core/dataset/kept.py`."""


def dataset_key(config: PipelineConfig, content_hash: str) -> str:
    """What a dataset is, as a run sees it: its content, and what it is called."""
    return StageCache.key("dataset", DATASET, config.source, content_hash)


def needs_density(config: PipelineConfig) -> bool:
    """Whether anything asks for log d(s)."""
    return config.weighting.temperature > 0 or config.distill.initial_states not in WITHOUT_DENSITY


def density_key(config: PipelineConfig, content_hash: str, code: Mapping[str, str] = {}) -> str:
    """What the density depends on, the dataset and a user's own model by their content.

    Args:
        config: the settings.
        content_hash: of the dataset.
        code: see `Sources.code`.
    """
    inputs = content_hash, str(config.seed), *_code(code, config.density.model)
    return StageCache.key("density", METHOD["density"], identifying(config.density), *inputs)


def expert_key(
    config: PipelineConfig,
    content_hash: str,
    checkpoint: str | None = None,
    code: Mapping[str, str] = {},
) -> str:
    """What the expert depends on: the dataset, a checkpoint, a user's own by their content.

    Args:
        config: the settings.
        content_hash: of the dataset.
        checkpoint: SHA-256 of the checkpoint; None where there is none.
        code: see `Sources.code`.
    """
    settings = identifying(config.expert)
    if checkpoint is not None:
        settings["path"] = checkpoint
    inputs = content_hash, str(config.seed), *_code(code, config.expert.method)
    return StageCache.key("expert", METHOD["expert"], settings, *inputs)


def judged_key(config: PipelineConfig, expert: str, stage: str) -> str:
    """What the returns of an expert, judged as rows are, depend on.

    Args:
        config: the settings.
        expert: its key.
        stage: name of the random stream.
    """
    size = config.evaluation.policies, config.evaluation.episodes
    return StageCache.key("judged", METHOD["evaluate"], [*size, stage], expert)


def cache_entries(
    config: PipelineConfig,
    content_hash: str,
    checkpoint: str | None = None,
    code: Mapping[str, str] = {},
) -> set[str]:
    """Names of the files of a stage cache that a run uses; see `expert_key`."""
    used = {
        entry_name("dataset", dataset_key(config, content_hash)),
        entry_name("expert", expert_key(config, content_hash, checkpoint, code)),
    }
    if needs_density(config):
        used.add(entry_name("density", density_key(config, content_hash, code)))
    return used


def judged_entries(config: PipelineConfig, content_hash: str, stage: str) -> set[str]:
    """Names of the files of a cloned expert, and of its returns in a stage; see `judged_key`."""
    expert = expert_key(config, content_hash)
    judged = judged_key(config, expert, stage)
    return {entry_name("expert", expert), entry_name("judged", judged)}


def _code(code: Mapping[str, str], name: str) -> list[str]:
    return [code[name]] if name in code else []
