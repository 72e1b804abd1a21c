"""Pivotal and surrounding error: how wrong a policy is where the expert goes, and where it strays.

    error of pi on S      e(pi, S) = mean_{s in S} (1/A) || pi(s) - pi*(s) ||^2
    pivotal states        states of the expert's own held-out episodes
    surrounding states    states that pi visits and whose log density, under a flow fitted to other
                          episodes of the expert, is below a quantile of the pivotal states'

The paper speaks of both in its analysis and leaves open how to tell them apart in data; here a
density does. A policy's own surrounding states differ from another's, so the error is also taken on
the pool of all policies' surrounding states, where only the policies differ.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdw_core.config import DensityConfig
from sdw_core.density import FittedDensity, fit_density
from sdw_core.distill.selection import select_rows
from sdw_core.evaluate import Arena, rollout
from sdw_core.expert import Expert
from sdw_core.policy import MLP, Parameters, clone
from sdw_core.progress import Progress
from sdw_core.seeds import numpy_generator, torch_generator
from sdw_core.statistics import FEWEST, Estimate, spearman, with_interval

Floats = NDArray[np.float64]
States = NDArray[np.float32]
Choice = Literal["random", "weighted", "best"]
"""Rows at random; the same rows, counting by their density weight; rows of the best episodes."""

LEARNING_RATE = 1e-3
"""Adam's, of the clonings."""
POOLED_STATES = 5_000
"""Of the pool of surrounding states, drawn at random."""
STAGE = "errors"


@dataclass
class Visited:
    """The states that episodes pass through; `self.record` is what a rollout is given.

    Attributes:
        episodes: M, of each policy.
    """

    episodes: int
    _lanes: list[NDArray[np.int64]] = field(default_factory=list)
    _observations: list[States] = field(default_factory=list)

    def record(self, lanes: list[int], observations: States) -> None:
        """See `sdw_core.evaluate.Record`."""
        self._lanes.append(np.asarray(lanes))
        self._observations.append(observations)

    def by_policy(self, policies: int) -> list[States]:
        """What each policy saw, [*, O] in environment units."""
        owners = np.concatenate(self._lanes) // self.episodes
        observations = np.concatenate(self._observations)
        order = np.argsort(owners, kind="stable")
        return np.split(observations[order], np.searchsorted(owners[order], range(1, policies)))


@dataclass(frozen=True)
class Support:
    """Where the expert goes.

    Attributes:
        density: of the states of half of its episodes.
        pivotal: states of the other half [n, O], normalised.
        threshold: the quantile of their log density, nats: below it is off the support.
    """

    density: FittedDensity
    pivotal: States
    threshold: float

    def off(self, states: States) -> NDArray[np.bool_]:
        """Which of the states [N, O], normalised, are off the support."""
        return np.asarray(self.density.log_prob(states) < self.threshold)


@dataclass(frozen=True)
class Policies:
    """A pack of policies, and what each was cloned from.

    Attributes:
        network: their architecture.
        parameters: of the pack.
        made: choice, rows, steps and repeat of each.
    """

    network: MLP
    parameters: Parameters
    made: list[dict[str, Any]]

    def actions(self, states: Tensor) -> Tensor:
        """[K, N, O], normalised, or [N, O] for all alike -> [K, N, A]."""
        with torch.no_grad():
            return self.network(self.parameters, states)

    def one(self, index: int) -> "Policies":
        """The policy of that index alone."""
        parameters = [p[index : index + 1] for p in self.parameters]
        return Policies(self.network, parameters, [self.made[index]])


@dataclass(frozen=True)
class PolicyErrors:
    """What was measured of a policy.

    Attributes:
        choice, rows, steps, repeat: what it was cloned from, and for how long.
        normalized_return: mean over its episodes.
        pivotal_error: on the expert's states.
        surrounding_error: on its own states off the expert's support; nan if it visits none.
        pooled_surrounding_error: on such states of all policies; nan if there are none.
        surrounding_share: the part of its states that is off the support.
    """

    choice: Choice
    rows: int
    steps: int
    repeat: int
    normalized_return: float
    pivotal_error: float
    surrounding_error: float
    pooled_surrounding_error: float
    surrounding_share: float


MEASURES = (
    "pivotal_error",
    "surrounding_error",
    "pooled_surrounding_error",
    "surrounding_share",
)


def action_error(actions: Tensor, targets: Tensor) -> float:
    """Mean over states of (1/A) || pi(s) - pi*(s) ||^2, of [N, A] both; nan of no states."""
    return float((actions - targets).square().mean()) if len(targets) else float("nan")


def expert_support(
    expert: Expert,
    arena: Arena,
    episodes: int,
    quantile: float,
    config: DensityConfig,
    seed: int,
    device: torch.device,
) -> Support:
    """Run the expert; fit the density to its even episodes, and set the threshold by its odd ones.

    Whole episodes are kept apart: the states of one are too alike to be a test of its others. It
    takes two episodes or more.
    """
    visited = Visited(1)
    act = arena.actor(lambda states: expert.actions(states.flatten(0, 1))[:, None], device)
    rollout(act, arena, episodes, 1, seed, f"{STAGE}/expert", record=visited.record)
    seen = [arena.units.normalized_states(states) for states in visited.by_policy(episodes)]
    pivotal = np.concatenate(seen[1::2])
    density = fit_density(np.concatenate(seen[::2]), config, seed, device)
    return Support(density, pivotal, float(np.quantile(density.log_prob(pivotal), quantile)))


def clone_policies(
    network: MLP,
    states: Tensor,
    targets: Tensor,
    weights: Tensor,
    episode_returns: Tensor,
    choices: Sequence[Choice],
    sizes: Sequence[int],
    budgets: Sequence[int],
    repeats: int,
    seed: int,
    progress: Progress,
) -> Policies:
    """Policies of very different quality: every choice of rows x size x budget, `repeats` of each.

    A repeat has its own initial network, the same for all; `random` and `weighted` share its rows.

    Args:
        network: their architecture.
        states, targets: z [N, O] and pi*(s) [N, A].
        weights: density weights w(s) [N].
        episode_returns: return of the episode that a state is of [N].
        choices, sizes, budgets: which rows, how many, and for how many steps of Adam.
        repeats: draws of the rows and of the initial network.
        seed: root seed.
        progress: told the fraction of the policies that is done.
    """
    packs, made = [], []
    grid = [(choice, size) for choice in choices for size in sizes]
    for index, (choice, size) in enumerate(grid):
        generators = [torch_generator(seed, f"{STAGE}/rows", size, r) for r in range(repeats)]
        initial_states = "best" if choice == "best" else "random"
        picks = select_rows(
            initial_states, size, generators, states, episode_returns=episode_returns
        ).to(states.device)
        counted = weights[picks] if choice == "weighted" else torch.ones_like(weights[picks])
        for budget in budgets:
            initial = network.initial_parameters(
                [torch_generator(seed, f"{STAGE}/network", r) for r in range(repeats)]
            )
            packs.append(
                clone(
                    network,
                    [p.to(states.device) for p in initial],
                    states[picks],
                    targets[picks],
                    counted / counted.sum(1, keepdim=True),
                    torch.full((repeats, network.layers), LEARNING_RATE, device=states.device),
                    budget,
                    "adam",
                )
            )
            made += [
                {"choice": choice, "rows": size, "steps": budget, "repeat": r}
                for r in range(repeats)
            ]
        progress((index + 1) / len(grid))
    return Policies(network, [torch.cat(p) for p in zip(*packs, strict=True)], made)


def measure(
    policies: Policies, expert: Expert, support: Support, arena: Arena, episodes: int, seed: int
) -> list[PolicyErrors]:
    """Run every policy, and compare it with the expert on and off the expert's support."""
    device = policies.parameters[0].device
    count = len(policies.made)
    visited = Visited(episodes)
    act = arena.actor(policies.actions, device)
    returns = rollout(act, arena, count, episodes, seed, STAGE, record=visited.record)
    normalized = arena.normalized(returns).mean(1)
    seen = [arena.units.normalized_states(states) for states in visited.by_policy(count)]
    strayed = [states[support.off(states)] for states in seen]
    pool = np.concatenate(strayed)
    drawn = numpy_generator(seed, f"{STAGE}/pool").permutation(len(pool))[:POOLED_STATES]

    def error(policy: Policies, states: States) -> float:
        z = torch.as_tensor(states).to(device)
        return action_error(policy.actions(z)[0], expert.actions(z))

    return [
        PolicyErrors(
            **made,
            normalized_return=float(normalized[k]),
            pivotal_error=error(policies.one(k), support.pivotal),
            surrounding_error=error(policies.one(k), strayed[k]),
            pooled_surrounding_error=error(policies.one(k), pool[drawn]),
            surrounding_share=len(strayed[k]) / len(seen[k]),
        )
        for k, made in enumerate(policies.made)
    ]


def correlations(measured: Sequence[PolicyErrors], seed: int) -> dict[str, dict[str, Any]]:
    """Spearman's rank correlation of each measure with the return, with a 95 % bootstrap interval.

    Over all policies, and over the halves of large and of small pivotal error: the paper's claim is
    that the surrounding error counts more in the former. Policies without a measure are left out.
    Where there are fewer than `FEWEST`, or nothing to order, `lacking` says so, and the rest is
    None.
    """
    return {name: dict(_correlated(group, seed)) for name, group in _groups(measured).items()}


def _groups(measured: Sequence[PolicyErrors]) -> dict[str, list[PolicyErrors]]:
    median = float(np.median([each.pivotal_error for each in measured]))
    return {
        "all": list(measured),
        "large pivotal error": [each for each in measured if each.pivotal_error > median],
        "small pivotal error": [each for each in measured if each.pivotal_error <= median],
    }


def _correlated(
    group: Sequence[PolicyErrors], seed: int
) -> Iterator[tuple[str, dict[str, float | int | str | None]]]:
    for name in MEASURES:
        pairs = [(getattr(each, name), each.normalized_return) for each in group]
        known = np.array([pair for pair in pairs if np.isfinite(pair[0])], np.float64)
        found, lacking = Estimate(float("nan"), None, None), None
        if len(known) < FEWEST:
            lacking = f"takes at least {FEWEST} policies"
        elif (known == known[0]).all(0).any():
            lacking = "nothing to order: all are equal"
        else:
            found = with_interval(spearman, known[:, :1], known[:, 1:], paired=True, seed=seed)
        yield name, {**asdict(found), "policies": len(known), "lacking": lacking}
