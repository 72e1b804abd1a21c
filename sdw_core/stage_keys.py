"""Under which keys the stage cache holds what a run shares with others: its density, its expert."""

from sdw_core.cache import StageCache, entry_name
from sdw_core.config import PipelineConfig, identifying
from sdw_core.identity import METHOD


def needs_density(config: PipelineConfig) -> bool:
    """Whether anything asks for log d(s)."""
    return config.weighting.temperature > 0 or config.distill.initial_states == "density"


def density_key(config: PipelineConfig, content_hash: str) -> str:
    """What the density depends on, the dataset by its content."""
    settings = identifying(config.density)
    version = METHOD["density"]
    return StageCache.key("density", version, settings, content_hash, str(config.seed))


def expert_key(config: PipelineConfig, content_hash: str, checkpoint: str | None = None) -> str:
    """What the expert depends on, the dataset and a checkpoint by their content.

    Args:
        config: the settings.
        content_hash: of the dataset.
        checkpoint: SHA-256 of the checkpoint; None where there is none.
    """
    settings = identifying(config.expert)
    if checkpoint is not None:
        settings["path"] = checkpoint
    version = METHOD["expert"]
    return StageCache.key("expert", version, settings, content_hash, str(config.seed))


def cache_entries(
    config: PipelineConfig, content_hash: str, checkpoint: str | None = None
) -> set[str]:
    """Names of the files of a stage cache that a run uses; see `expert_key`."""
    used = {entry_name("expert", expert_key(config, content_hash, checkpoint))}
    if needs_density(config):
        used.add(entry_name("density", density_key(config, content_hash)))
    return used
