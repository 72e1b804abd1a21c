"""Whether an expert is worth distilling: its own return beside that of the data it comes from."""

from sdw_core.config import ExpertConfig, PercentBCConfig
from sdw_core.expert.percent_bc import best_episodes
from sdw_core.offline_dataset import OfflineDataset
from sdw_core.statistics import ReturnSummary

FAR, LEAST = 0.5, 5.0
"""An expert falls short if its normalised return is below its data's by this part of it, and by so
many points at least. Clones of the best tenth of a dataset often stay a third below it."""
REMEDIES = {
    "cal_ql": "raise `pipeline.expert.steps`",
    "checkpoint": "choose another `pipeline.expert.path`",
}


def shortfall(config: ExpertConfig, expert: ReturnSummary, dataset: OfflineDataset) -> str | None:
    """A sentence where an expert is far below its data, by more than the noise of its episodes.

    A clone is compared with the episodes that it was cloned from; any other expert, which may be
    better than each of them, with the mean of all episodes.

    Args:
        config: how the expert is extracted.
        expert: its own normalised return.
        dataset: what it is extracted from; with reference scores.
    """
    returns, source = dataset.episode_returns(), "the dataset's episodes"
    remedy = REMEDIES.get(config.method, f"mend `{config.method}`")  # which is the user's own
    if isinstance(config, PercentBCConfig):
        skipped, fraction = config.cloned
        returns = returns[best_episodes(returns, dataset.episode_ends, fraction, skipped)]
        source = "the episodes that it was cloned from"
        chosen_by = "episodes" if config.episodes else "fraction"
        remedy = f"raise `pipeline.expert.steps`, change `pipeline.expert.{chosen_by}`"
    mean = float(dataset.normalized(returns).mean())
    if mean - expert.high <= max(FAR * abs(mean), LEAST):
        return None
    return (
        f"The expert's normalised return is {expert.mean:.1f} (95 % interval {expert.low:.1f} to "
        f"{expert.high:.1f}), far below the {mean:.1f} of {source}: {remedy}, or "
        f"check that the data of `pipeline.dataset` come from {dataset.environment} as it is here, "
        "with its units of actions and rewards."
    )
