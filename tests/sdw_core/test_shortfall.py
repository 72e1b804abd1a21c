"""An expert beside the data that it comes from."""

import numpy as np
import pytest

from sdw_core.config import CalQLConfig, CheckpointConfig, OwnExpertConfig, PercentBCConfig
from sdw_core.environment import Environment
from sdw_core.expert.shortfall import shortfall
from sdw_core.offline_dataset import OfflineDataset
from sdw_core.statistics import ReturnSummary, summarize


def dataset(*returns: float) -> OfflineDataset:
    """Episodes of ten rows with these normalised returns."""
    episodes = len(returns)
    rows, last = np.zeros((10 * episodes, 2), np.float32), np.arange(10 * episodes) % 10 == 9
    return OfflineDataset(
        name="my/data-v0",
        environment=Environment("Toy-v0"),
        observations=rows,
        final_observations=rows[:episodes],
        actions=rows[:, :1],
        rewards=np.repeat(np.array(returns, np.float32), 10),
        terminated=last,
        truncated=np.zeros_like(last),
        episode_ends=np.arange(10, 10 * episodes + 1, 10),
        action_low=np.array([-1], np.float32),
        action_high=np.array([1], np.float32),
        reference_scores=(0.0, 1000.0),
    )


def judged(*returns: float) -> ReturnSummary:
    return summarize(np.array(returns)[:, None], seed=0)


DATA = dataset(101, 99, *[10] * 8)
BEST, ALL = PercentBCConfig(fraction=0.2), PercentBCConfig(fraction=1.0)


def test_a_useless_clone_is_told_with_what_to_change() -> None:
    said = shortfall(BEST, judged(-6, -7, -6.2), DATA)
    assert said is not None
    assert "normalised return is -6.4 (95 % interval -7.0 to -6.0), far below the 100.0 of " in said
    assert "the episodes that it was cloned from: raise `pipeline.expert.steps`" in said
    assert "`pipeline.expert.fraction`" in said
    assert "`pipeline.dataset` come from Toy-v0" in said
    assert said.endswith(".")
    assert len(said.splitlines()) == 1
    of_a_range = shortfall(PercentBCConfig(episodes=(0.8, 1)), judged(-6, -7, -6.2), DATA)
    assert of_a_range == said.replace("expert.fraction", "expert.episodes")


@pytest.mark.parametrize("returns", [(51, 51, 51), (90, 95, 3), (150, 150), (100, 0)])
def test_an_expert_that_is_near_its_data_or_may_be_is_none(returns: tuple[float, ...]) -> None:
    assert shortfall(BEST, judged(*returns), DATA) is None


def test_a_clone_is_compared_with_what_it_was_cloned_from() -> None:
    """All episodes average 28; an expert of 20 is poor beside the best of them only."""
    expert = judged(20, 20, 20)
    assert shortfall(ALL, expert, DATA) is None
    assert shortfall(BEST, expert, DATA) is not None


@pytest.mark.parametrize(
    ("config", "remedy"),
    [
        (CalQLConfig(method="cal_ql"), "raise `pipeline.expert.steps`, or"),
        (OwnExpertConfig(method="my_expert:Mine"), "mend `my_expert:Mine`, or"),
        (
            CheckpointConfig(method="checkpoint", path="a.pt"),
            "choose another `pipeline.expert.path`",
        ),
    ],
)
def test_another_expert_is_compared_with_all_episodes(
    config: CalQLConfig | CheckpointConfig | OwnExpertConfig, remedy: str
) -> None:
    assert shortfall(config, judged(20, 20, 20), DATA) is None
    said = shortfall(config, judged(2, 2, 2), DATA)
    assert said is not None
    assert "the 28.0 of the dataset's episodes" in said
    assert remedy in said


@pytest.mark.parametrize(("data", "poor", "fair"), [(-40.0, -61.0, -59.0), (2.0, -3.5, -2.9)])
def test_data_no_better_than_a_random_policy_have_an_expert_like_them(
    data: float, poor: float, fair: float
) -> None:
    assert shortfall(ALL, judged(poor, poor), dataset(data, data)) is not None
    assert shortfall(ALL, judged(fair, fair), dataset(data, data)) is None
