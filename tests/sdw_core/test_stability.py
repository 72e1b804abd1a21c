"""Whether a meta-loss that rises for good is noticed: the measure, and what a run says."""

import math
from itertools import count
from pathlib import Path

import pytest
import torch

from sdw_core.config import DistillConfig
from sdw_core.distill.loop import distill
from sdw_core.distill.stability import risen, rises, smoothed
from sdw_core.errors import StopRequested
from tests.sdw_core.small import SMALL, changed, small_task

WILD = changed(SMALL, outer_steps=300, seeds=12, rate_lr=0.5)
"""Inner learning rates run off: on every root seed that was tried half of the seeds rise."""


@pytest.fixture(scope="module")
def wild() -> torch.Tensor:
    """Meta-losses [12, 300]."""
    return distill(small_task(), WILD, 0).losses


def told(config: DistillConfig, losses: torch.Tensor) -> str | None:
    return risen(config, losses, range(config.seeds))


def plainly(losses: list[float]) -> tuple[float, float, int]:
    """The largest ratio, the last one, and the steps done at the lowest, in plain loops."""
    steps = len(losses)
    length = max(50, steps // 50)
    means, ends = [], []
    end = steps
    while end >= length:
        means.insert(0, sum(losses[end - length : end]) / length)
        ends.insert(0, end)
        end -= length
    largest, lowest, lowest_at = 0.0, math.inf, 0
    for mean, end in zip(means, ends, strict=True):
        if mean < lowest:
            lowest, lowest_at = mean, end
        largest = max(largest, mean / lowest)
    return largest, means[-1] / lowest, lowest_at


@pytest.mark.parametrize("steps", [50, 99, 100, 512, 2500, 2550, 5000, 7777])
def test_rise_is_that_of_a_plain_twin(steps: int) -> None:
    generator = torch.Generator().manual_seed(steps)
    noise = torch.rand(3, steps, generator=generator, dtype=torch.float64)
    losses = noise + torch.linspace(5, 0, steps) ** 2 + torch.linspace(0, 2, 3)[:, None]
    for row, rise in zip(losses, rises(losses), strict=True):
        largest, final, lowest_at = plainly(row.tolist())
        assert (rise.largest, rise.final) == pytest.approx((largest, final), rel=1e-12)
        assert rise.lowest_at == lowest_at


def test_a_rise_that_falls_again_is_no_rise_at_the_end() -> None:
    falls = torch.cat([torch.full((100,), value) for value in (8.0, 1.0, 6.0, 1.25)])
    stays = torch.cat([torch.full((100,), value) for value in (8.0, 1.0, 6.0, 6.25)])
    fell, stayed = rises(torch.stack([falls, stays]))
    assert (fell.largest, fell.final, fell.lowest_at) == (6, 1.25, 150)
    assert (stayed.largest, stayed.final, stayed.lowest_at) == (6.25, 6.25, 150)


def test_there_are_fifty_stretches_at_most_and_the_first_steps_are_left_out() -> None:
    assert smoothed(torch.ones(2, 400)).shape == (2, 8)
    assert smoothed(torch.ones(2, 100_000)).shape == (2, 50)
    assert smoothed(torch.arange(60.0)[None]).tolist() == [[34.5]]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0, 0.0])
def test_a_loss_that_is_not_finite_or_not_positive_has_no_ratio(bad: float) -> None:
    losses = torch.ones(2, 150)
    losses[1] = bad
    sound, rise = rises(losses)
    assert (sound.largest, sound.final) == (1, 1)
    assert math.isnan(rise.largest)
    assert math.isnan(rise.final)


def test_a_run_that_blows_up_is_told_of_and_a_sound_one_is_not(wild: torch.Tensor) -> None:
    found = rises(wild)
    high = [seed for seed, rise in enumerate(found) if rise.final > 1.5]
    worst = max(high, key=lambda seed: found[seed].final)
    assert found[worst].final > 2
    sentence = told(WILD, wild)
    assert sentence is not None
    assert sentence.startswith(
        f"The meta-loss of {len(high)} of 12 distillation seeds rose and stayed up, that of seed "
        f"{worst} at {found[worst].final:.1f} times its lowest, which it had at outer step "
        f"{found[worst].lowest_at} of 300: choose `pipeline.distill.outer_schedule: cosine` and "
    )
    sound = changed(WILD, rate_lr=0.01, outer_schedule="cosine")
    assert told(sound, distill(small_task(), sound, 0).losses) is None


def test_it_is_told_alike_after_an_interruption(wild: torch.Tensor, tmp_path: Path) -> None:
    asked, checkpoint = count(1), tmp_path / "checkpoint"
    with pytest.raises(StopRequested):
        distill(
            small_task(), WILD, 0, checkpoint=checkpoint, should_stop=lambda: next(asked) >= 233
        )
    resumed = distill(small_task(), WILD, 0, checkpoint=checkpoint).losses
    assert told(WILD, resumed) == told(WILD, wild) is not None


def test_what_is_told_fits_the_run() -> None:
    """The seeds are those that are left, and what is chosen already is not advised."""
    losses = torch.cat([torch.full((3, 100), value) for value in (2.0, 1.0, 1.0)], 1)
    losses[2, 200:] = 1.6
    careful = changed(SMALL, outer_steps=300, outer_schedule="cosine", max_gradient_ratio=2)
    assert risen(careful, losses, [0, 2, 5]) == (
        "The meta-loss of 1 of 3 distillation seeds rose and stayed up, that of seed 5 at 1.6 "
        "times its lowest, which it had at outer step 150 of 300: lower "
        "`pipeline.distill.outer_lr` or `pipeline.distill.rate_lr`."
    )
    losses[2, 200:] = 1.5
    assert risen(careful, losses, [0, 2, 5]) is None


@pytest.mark.parametrize("steps", [0, 49])
def test_a_run_that_is_too_short_has_nothing_to_tell(steps: int) -> None:
    assert risen(changed(SMALL, outer_steps=steps), torch.rand(2, steps), [0, 1]) is None
