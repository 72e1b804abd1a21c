"""Whether a meta-loss that rises for good is noticed: the measure, and what a run says."""

import math

import pytest
import torch

from sdw_core.distill.stability import rises, smoothed


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
