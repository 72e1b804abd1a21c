"""Which rows of the dataset a distillation starts from: with no outer steps, a baseline by itself.

random    any
kmeans    the nearest to the centres of k-means, as far apart as the states go
best      any of the tenth of the transitions whose episodes have the highest return
density   one from each of n strata of as many states, in the order of their density: rare and
          common states in their true proportion, without the luck of the draw
sdr       any that Stepwise Dual Ranking keeps: late in an episode neither the densest states nor
          those of the lowest value
"""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import torch
from torch import Tensor

from sdw_core.errors import InputError
from sdw_core.registry import SELECTIONS
from sdw_core.validation import shown

WITHOUT_DENSITY = ("random", "kmeans", "best")
"""Selections that do not ask for log d(s)."""
WITHOUT_TIME = (*WITHOUT_DENSITY, "density")
"""Selections that ask neither for the expert's value of a state nor for its timestep. Their tasks
hold neither, so that a checkpoint, whose key hashes a task, is that of the versions before."""
BEST_FRACTION = 0.1
"""Of the transitions, for `best`."""
CLUSTERED_STATES, LLOYD_STEPS = 20_000, 10
"""For `kmeans`: states that are clustered, drawn at random, and steps after the seeding."""
LOWEST_VALUES, HIGHEST_DENSITIES, HORIZON = 0.2, 0.2, 100
"""For `sdr`: parts of a timestep's states that are dropped late in an episode, and the timesteps
after which that is three quarters of them."""


def available_rows(initial_states: str, transitions: int) -> int:
    """How many of the dataset's transitions the rows are chosen from, at most.

    How many `sdr` keeps is known once density and expert are.
    """
    return ceil(BEST_FRACTION * transitions) if initial_states == "best" else transitions


def select_rows(
    initial_states: str,
    size: int,
    generators: Sequence[torch.Generator],
    states: Tensor,
    log_density: Tensor | None = None,
    episode_returns: Tensor | None = None,
    expert_values: Tensor | None = None,
    timesteps: Tensor | None = None,
    options: Mapping[str, Any] = {},
) -> Tensor:
    """Indices [S, n] of distinct rows of the dataset, on the CPU; one generator a set.

    A selection is given its tensors on the CPU, wherever the task lies.

    Args:
        initial_states: how they are chosen.
        size: n, at most `available_rows`.
        generators: S of them, on the CPU.
        states: z [N, O], normalised.
        log_density: log d(s) [N], nats, -inf included; `density` and `sdr` need it.
        episode_returns: return of the episode that a state is of [N]; `best` needs it.
        expert_values: q*(s, pi*(s)) [N]; `sdr` needs it.
        timesteps: steps since the episode began [N], from 0; `sdr` needs it.
        options: of a selection of the user's own.

    Raises:
        InputError: a selection gives something else than distinct rows, or has too few.
    """
    known = {
        "states": states,
        "log_density": log_density,
        "episode_returns": episode_returns,
        "expert_values": expert_values,
        "timesteps": timesteps,
    }
    known = {name: tensor.cpu() for name, tensor in known.items() if tensor is not None}
    sets = [
        SELECTIONS.make(initial_states, options, size=size, generator=generator, **known)
        for generator in generators
    ]
    sets = [SELECTIONS.numbers(initial_states, "indices", rows, (size,)) for rows in sets]
    for rows in sets:
        legal = rows.dtype == torch.int64 and len(rows.unique()) == size
        if not legal or rows.min() < 0 or rows.max() >= len(states):
            raise InputError(
                f"The initial selection `{initial_states}` must give the indices of {size} "
                f"distinct rows of {len(states)}, and gives {shown(rows.tolist())}; correct it."
            )
    return torch.stack(sets)


def at_random(states: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Any rows: indices [n]."""
    return torch.randperm(len(states), generator=generator)[:size]


def best(episode_returns: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Any of the tenth of the rows whose episodes have the highest return: indices [n]."""
    by_return = episode_returns.argsort(descending=True, stable=True)
    candidates = by_return[: available_rows("best", len(episode_returns))]
    return candidates[torch.randperm(len(candidates), generator=generator)[:size]]


def by_density(log_density: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """One row of each stratum of the density: indices [n]."""
    return log_density.argsort(stable=True)[_one_a_stratum(len(log_density), size, generator)]


def _one_a_stratum(count: int, size: int, generator: torch.Generator) -> Tensor:
    """A place in each of `size` stretches, of equal length up to rounding, of `range(count)`."""
    bounds = torch.arange(size + 1) * count // size
    lengths = bounds.diff()
    within = torch.rand(size, generator=generator, dtype=torch.float64) * lengths
    return bounds[:-1] + within.long()


def stepwise_dual_ranking(
    log_density: Tensor,
    expert_values: Tensor,
    timesteps: Tensor,
    size: int,
    generator: torch.Generator,
) -> Tensor:
    """Stepwise Dual Ranking (Lei, Cheng and Tao, arXiv 2512.18246), then any rows: indices [n].

    At timestep t a state is kept if, among the states of that timestep, its density is at most the
    quantile 1 - 0.2 tanh(t / 100) and its value q*(s, pi*(s)) at least the quantile
    0.2 tanh(t / 100). So every first state is kept, and a timestep's states are ranked among
    themselves: the authors' code (github.com/LeavesLei/stepwise_dual_ranking) does so, with t from
    0, the two 0.2 and rows drawn at random from those kept. Decided here: the value is that of the
    expert's action itself, where the authors average over ten actions of their stochastic policy;
    rows are drawn without replacement; a subset of whole episodes, as of `distill.states: teacher`,
    is ranked by itself.

    Raises:
        InputError: fewer than `size` are kept.
    """
    late = torch.tanh(timesteps.double() / HORIZON)
    rare = _up_to_quantile(log_density, timesteps, 1 - HIGHEST_DENSITIES * late)
    good = _up_to_quantile(-expert_values, timesteps, 1 - LOWEST_VALUES * late)
    kept = torch.nonzero(rare & good).flatten()
    if size > len(kept):
        raise InputError(
            f"`pipeline.distill.synthetic_size` cannot exceed the {len(kept)} of {len(timesteps)} "
            f"states that `pipeline.distill.initial_states: sdr` keeps, and is {size}; lower it."
        )
    return kept[torch.randperm(len(kept), generator=generator)[:size]]


def _up_to_quantile(values: Tensor, groups: Tensor, quantile: Tensor) -> Tensor:
    """Which values [N] are at most the quantile [N] of their group's, whose number is in `groups`.

    Between two neighbours in their order a quantile keeps the lower one, however far apart they
    are: -inf and any unit of the values will do.
    """
    order = values.argsort(stable=True)
    order = order[groups[order].argsort(stable=True)]
    counts = groups.bincount()
    first = counts.cumsum(0) - counts
    last_kept = first[groups] + (quantile * (counts[groups] - 1)).long()
    return values <= values[order[last_kept]]


def kmeans(states: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """k-means++ (Arthur and Vassilvitskii, 2007), steps of Lloyd's, then the nearest rows: [n].

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
