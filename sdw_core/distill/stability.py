"""Whether the outer loop holds what it has reached, or its meta-loss rises for good."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdw_core.config import DistillConfig

STRETCHES, LEAST = 50, 50
"""The meta-loss of a step is that of one initialisation and one batch. It is smoothed by means over
stretches of equally many steps: so many stretches, of so many steps at least."""
FOR_GOOD = 1.5
"""A run is told of that ends above so many times its lowest. Sound ones of 5,000 steps end within
2 % of it (`benchmarks/results/stability.jsonl`)."""


@dataclass(frozen=True)
class Rise:
    """Of one distillation seed: its smoothed meta-loss over the lowest that it had had by then.

    A ratio is nan where the lowest is not above 0, as with negative weights, or not finite.

    Attributes:
        largest: ratio, over the run.
        final: ratio, of the last stretch.
        lowest_at: outer steps that were done at the end of the lowest stretch.
    """

    largest: float
    final: float
    lowest_at: int


def smoothed(losses: Tensor) -> NDArray[np.float64]:
    """Means of meta-losses [S, steps] over stretches: [S, stretches].

    The last stretch ends with the last step; steps that make up no whole stretch are the first ones
    and are left out.
    """
    seeds, steps = losses.shape
    length = stretch(steps)
    count = steps // length
    whole = losses[:, steps - count * length :].double().reshape(seeds, count, length)
    means: NDArray[np.float64] = whole.mean(2).cpu().numpy()
    return means


def rises(losses: Tensor) -> list[Rise]:
    """How far the meta-losses [S, steps] rose, a distillation seed each; steps: `LEAST` or more."""
    means, steps = smoothed(losses), losses.shape[1]
    lowest = np.minimum.accumulate(means, axis=1)
    usable = np.isfinite(lowest) & (lowest > 0)
    ratios = np.divide(means, lowest, out=np.full_like(means, np.nan), where=usable)
    ends = steps - stretch(steps) * np.arange(means.shape[1])[::-1]
    return [
        Rise(float(ratio.max()), float(ratio[-1]), int(ends[mean.argmin()]))
        for ratio, mean in zip(ratios, means, strict=True)
    ]


def risen(config: DistillConfig, losses: Tensor, seeds: Sequence[int]) -> str | None:
    """A sentence where a meta-loss rose and stayed up.

    Args:
        config: what was distilled.
        losses: meta-losses [S, steps].
        seeds: the S distillation seeds that these are of.
    """
    if losses.shape[1] < LEAST:
        return None
    found = {s: rise for s, rise in zip(seeds, rises(losses), strict=True) if rise.final > FOR_GOOD}
    if not found:
        return None
    worst = max(found, key=lambda seed: found[seed].final)
    remedy = "lower `pipeline.distill.outer_lr` or `pipeline.distill.rate_lr`"
    if config.outer_schedule == "constant" or config.max_gradient_ratio is None:
        remedy = (
            "choose `pipeline.distill.outer_schedule: cosine` and "
            f"`pipeline.distill.max_gradient_ratio: 2`, or {remedy}"
        )
    return (
        f"The meta-loss of {len(found)} of {len(seeds)} distillation seeds rose and stayed up, "
        f"that of seed {worst} at {found[worst].final:.1f} times its lowest, which it had at outer "
        f"step {found[worst].lowest_at} of {config.outer_steps}: {remedy}."
    )


def stretch(steps: int) -> int:
    """Steps over which the meta-losses of a distillation of so many are smoothed."""
    return max(LEAST, steps // STRETCHES)
