"""Which rows of the dataset a distillation starts from: with no outer steps, a baseline by itself.

random    any
kmeans    the nearest to the centres of k-means, as far apart as the states go
best      any of the tenth of the transitions whose episodes have the highest return
density   one from each of n strata of as many states, in the order of their density: rare and
          common states in their true proportion, without the luck of the draw
"""

from collections.abc import Sequence
from math import ceil
from typing import Literal

import torch
from torch import Tensor

InitialStates = Literal["random", "kmeans", "best", "density"]
BEST_FRACTION = 0.1
"""Of the transitions, for `best`."""
CLUSTERED_STATES, LLOYD_STEPS = 20_000, 10
"""For `kmeans`: states that are clustered, drawn at random, and steps after the seeding."""


def available_rows(initial_states: InitialStates, transitions: int) -> int:
    """How many of the dataset's transitions the rows are chosen from."""
    return ceil(BEST_FRACTION * transitions) if initial_states == "best" else transitions


def select_rows(
    initial_states: InitialStates,
    size: int,
    generators: Sequence[torch.Generator],
    states: Tensor,
    log_density: Tensor | None = None,
    episode_returns: Tensor | None = None,
) -> Tensor:
    """Indices [S, n] of distinct rows of the dataset, on the CPU; one generator a set.

    Args:
        initial_states: how they are chosen.
        size: n, at most `available_rows`.
        generators: S of them, on the CPU.
        states: z [N, O], normalised.
        log_density: log d(s) [N], nats, -inf included; `density` needs it.
        episode_returns: return of the episode that a state is of [N]; `best` needs it.
    """
    if initial_states == "kmeans":
        return torch.stack([_nearest_to_centres(states.cpu(), size, g) for g in generators])
    if initial_states == "density":
        assert log_density is not None
        by_density = log_density.cpu().argsort(stable=True)
        return torch.stack([by_density[_one_a_stratum(len(states), size, g)] for g in generators])
    candidates = torch.arange(len(states))
    if initial_states == "best":
        assert episode_returns is not None
        by_return = episode_returns.cpu().argsort(descending=True, stable=True)
        candidates = by_return[: available_rows("best", len(states))]
    return torch.stack(
        [candidates[torch.randperm(len(candidates), generator=g)[:size]] for g in generators]
    )


def _one_a_stratum(count: int, size: int, generator: torch.Generator) -> Tensor:
    """A place in each of `size` stretches, of equal length up to rounding, of `range(count)`."""
    bounds = torch.arange(size + 1) * count // size
    lengths = bounds.diff()
    within = torch.rand(size, generator=generator, dtype=torch.float64) * lengths
    return bounds[:-1] + within.long()


def _nearest_to_centres(states: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """k-means++ (Arthur and Vassilvitskii, 2007), steps of Lloyd's, then the nearest rows.

    One centre after the other takes the nearest row that no earlier centre has taken.
    """
    drawn = torch.randperm(len(states), generator=generator)[: max(size, CLUSTERED_STATES)]
    points = states[drawn]
    centres = _spread(points, size, generator)
    for _ in range(LLOYD_STEPS):
        owner = torch.cdist(points, centres).argmin(1)
        counts = torch.bincount(owner, minlength=size)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, owner, points)
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
    distance = torch.cdist(centres, points)
    picks = []
    for centre in range(size):
        pick = int(distance[centre].argmin())
        distance[:, pick] = torch.inf
        picks.append(pick)
    return drawn[picks]


def _spread(points: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """k-means++: each centre in proportion to its squared distance from those before it."""
    chances = torch.ones(len(points))
    picks: list[int] = []
    for _ in range(size):
        pick = int(torch.multinomial(chances, 1, generator=generator))
        squared = (points - points[pick]).square().sum(1)
        chances = torch.minimum(chances, squared) if picks else squared
        chances = chances.clamp_min(1e-12)  # all other states equal a centre: any of them will do
        picks.append(pick)
    return points[picks]
