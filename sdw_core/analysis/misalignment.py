"""Return against training loss: which of two training sets serves a policy better, at which loss.

Policies are cloned from either set by the same recipe and run at many points of their training. A
point is (training loss on its own set, return). The two sets are compared where their losses
overlap, loss by loss and not step by step: the paper's claim is that the diverse set gives the
better policy while the loss is large, and the narrow set of high quality once it is small.

Where a distillation judges policies beside the dataset's states (`distill.state_noise`), so are
these: they are cloned from perturbed states too, and their loss counts those as well. Policies of
exported synthetic rows are judged by the same loss, so that they lie on the same picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdw_core.artifact import Artifact
from sdw_core.distill.engine import MetaBatch
from sdw_core.distill.task import Task, state_noise
from sdw_core.evaluate import Arena, rollout
from sdw_core.policy import MLP, Descent, Parameters, cloning_loss
from sdw_core.progress import Progress
from sdw_core.seeds import numpy_generator, torch_generator
from sdw_core.statistics import FEWEST

Floats = NDArray[np.float64]
Role = Literal["diverse", "narrow"]

BATCH, LEARNING_RATE = 256, 3e-4
"""Rows a gradient step, and Adam's learning rate."""
JUDGED_ROWS = 10_000
"""Rows that the training loss is measured on, drawn at random; all of a smaller set."""
STAGE = "misalignment"
_ROWS, _RESAMPLES = range(2)  # streams of numpy, beside those of the networks


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """What policies are cloned from.

    Attributes:
        name: of the set.
        task: its states and the actions to imitate there; every state counts alike, whatever its
            weight.
        arena: where its policies are run, in the units of the states.
        state_noise: standard deviation of what is added to three of four states: see
            `sdw_core.distill.task.state_noise`.
    """

    name: str
    task: Task
    arena: Arena
    state_noise: float = 0.0

    def batch(self, picks: Tensor, generator: torch.Generator) -> MetaBatch:
        """States and targets of the rows picked [P, B], perturbed anew."""
        states = self.task.states
        generators = [generator] * len(picks)
        noise = state_noise(self.state_noise, picks.shape[1], generators, states)
        return self.task.batch(picks.to(states.device), noise)

    def judged(self, seed: int) -> MetaBatch:
        """The states [1, R, O] and targets that the training loss is measured on."""
        order = numpy_generator(seed, STAGE, _ROWS).permutation(len(self.task.states))
        picks = torch.from_numpy(order[None, :JUDGED_ROWS])
        return self.batch(picks, torch_generator(seed, f"{STAGE}/judged"))


@dataclass(frozen=True)
class Course:
    """How P policies fared along their training, at S points.

    Attributes:
        steps: gradient steps done [S].
        losses: mean-square error on the training set [S, P].
        returns: mean normalised return [S, P].
    """

    steps: NDArray[np.int64]
    losses: Floats
    returns: Floats


@dataclass(frozen=True)
class ByLoss:
    """Two courses, compared in bins of the training loss.

    Attributes:
        edges: of the bins [B + 1], ascending.
        diverse, narrow: mean return in each bin [B]; nan where a course has no point.
        difference: narrow - diverse [B].
        low, high: its 95 % bootstrap interval over the policies [B]; nan where fewer than `FEWEST`
            policies of either set have a point.
        crossings: losses at which the difference changes its sign, the highest first; None where
            fewer than two bins have one.
        policies: of the set that has fewer.
    """

    edges: Floats
    diverse: Floats
    narrow: Floats
    difference: Floats
    low: Floats
    high: Floats
    crossings: list[float] | None
    policies: int

    @property
    def lacking(self) -> str | None:
        """A sentence on what is missing to say whether the order reverses; None: nothing is."""
        bins, judged = len(self.difference), int(np.isfinite(self.low).sum())
        if not bins:
            return (
                "The training losses of the two sets do not overlap, so that nothing can be said "
                "of equal losses; raise `steps` or `points`."
            )
        if self.policies < FEWEST:
            return (
                f"An interval takes at least {FEWEST} policies of each set, and there are "
                f"{self.policies}; raise `policies`."
            )
        if judged < 2:
            return (
                f"A reversal takes two bins with points of at least {FEWEST} policies of each set, "
                f"and there are {judged} of {bins}; raise `policies` or `points`, or lower "
                "`bins`."
            )
        return None

    def at(self, role: Role, loss: float) -> float:
        """Mean return of a set's policies in the bin of a loss; nan where there is none."""
        inside = (self.edges[:-1] <= loss) & (loss <= self.edges[1:])
        means = self.diverse if role == "diverse" else self.narrow
        return float(means[inside][0]) if inside.any() else float("nan")

    @property
    def reverses(self) -> bool | None:
        """Whether the diverse set is better at some loss and the narrow one at a lower loss.

        Better: the interval of the difference leaves out 0. None where something is `lacking`.
        """
        if self.lacking:
            return None
        diverse = np.flatnonzero(self.high < 0)
        narrow = np.flatnonzero(self.low > 0)
        return bool(len(diverse) and len(narrow) and narrow[0] < diverse[-1])


def follow(
    training: TrainingSet,
    network: MLP,
    steps: Sequence[int],
    policies: int,
    episodes: int,
    seed: int,
    progress: Progress,
) -> Course:
    """Clone P policies from the set by Adam on random mini-batches, and run them on the way.

    Policies of the same index start from the same network and the same environment states whatever
    the set.

    Args:
        training: the set.
        network: the policies' architecture.
        steps: ascending numbers of gradient steps after which they are judged.
        policies: P.
        episodes: whole episodes a policy and point.
        seed: root seed.
        progress: told the fraction of the steps that is done.
    """
    device = training.task.states.device
    generators = [torch_generator(seed, STAGE, k) for k in range(policies)]
    parameters = [p.to(device) for p in network.initial_parameters(generators)]
    rates = [torch.full((policies, 1, 1), LEARNING_RATE, device=device) for _ in parameters]
    descent = Descent("adam", rates)
    uniform = torch.full((policies, BATCH), 1 / BATCH, device=device)
    judged = training.judged(seed)
    snapshots: list[Parameters] = []
    losses = []
    for step in range(1, steps[-1] + 1):
        generator = torch_generator(seed, f"{STAGE}/batch", 0, step)
        size = len(training.task.states), (policies, BATCH)
        batch = training.batch(torch.randint(*size, generator=generator), generator)
        variables = [p.requires_grad_() for p in parameters]
        loss = cloning_loss(network(variables, batch.states), batch.targets, uniform).sum()
        gradients = torch.autograd.grad(loss, variables)
        parameters = descent.step([p.detach() for p in variables], gradients)
        if step in steps:
            snapshots.append(parameters)
            with torch.no_grad():
                losses.append(_errors(network(parameters, judged.states), judged.targets))
            progress(step / steps[-1])
    pack = [torch.cat(tensors) for tensors in zip(*snapshots, strict=True)]
    act = training.arena.actor(lambda states: network(pack, states), device)
    returns = rollout(act, training.arena, len(steps) * policies, episodes, seed, STAGE)
    means = training.arena.normalized(returns).mean(1).reshape(len(steps), policies)
    return Course(np.asarray(steps), np.stack(losses), means)


def _errors(actions: Tensor, targets: Tensor) -> Floats:
    """Mean-square error of each policy [P]."""
    return (actions - targets).square().mean((1, 2)).cpu().double().numpy()


def of_rows(training: TrainingSet, artifact: Artifact, seed: int) -> Course:
    """How single policies of synthetic rows fare on the set that the rows were distilled from.

    They are those of the manifest's score, cloned by the rows' own recipe: a course of one point.

    Args:
        training: the set.
        artifact: the rows.
        seed: root seed of the states that the loss is measured on.
    """
    evaluation, units = artifact.evaluation(ensemble=1), training.arena.units
    judged = training.judged(seed)
    observations = units.environment_states(judged.states[0].cpu().numpy())
    acted = [
        artifact.train(artifact.evidence["evaluation"]["seed"], k, evaluation).act(observations)
        for k in range(evaluation.policies)
    ]
    actions = torch.from_numpy(units.unit_actions(np.stack(acted)))
    return Course(
        np.array([artifact.recipe.steps]),
        _errors(actions, judged.targets.cpu())[None],
        artifact.evaluate(evaluation).mean(1)[None],
    )


def spaced_steps(last: int, count: int) -> list[int]:
    """At most `count` numbers of steps, up to `last`, by equal factors from a two-hundredth of it.

    >>> spaced_steps(2000, 4)
    [10, 58, 342, 2000]
    """
    first = max(1.0, last / 200)
    return sorted({round(step) for step in np.geomspace(first, last, count)})


def compare_by_loss(
    diverse: Course, narrow: Course, bins: int, seed: int, resamples: int = 2000
) -> ByLoss:
    """Compare returns at equal training loss, over the losses that both courses pass through.

    Bins are equally wide in the logarithm of the loss. Policies are resampled, each with all of its
    points, the two sets independently.
    """
    low = max(c.losses[c.losses > 0].min(initial=np.inf) for c in (diverse, narrow))
    high = min(diverse.losses.max(), narrow.losses.max())
    policies = min(diverse.losses.shape[1], narrow.losses.shape[1])
    if not low < high:
        nothing = np.full(0, np.nan)
        edges = np.array([low])
        return ByLoss(edges, nothing, nothing, nothing, nothing, nothing, None, policies)
    edges = np.geomspace(low, high, bins + 1)
    means, drawn, enough = [], [], np.full(bins, True)
    for stream, course in enumerate((diverse, narrow)):
        totals, counts = _per_policy(course, edges)
        generator = numpy_generator(seed, f"{STAGE}/bootstrap", stream)
        draws = generator.integers(len(totals), size=(resamples, len(totals)))
        means.append(_mean(totals.sum(0), counts.sum(0)))
        drawn.append(_mean(totals[draws].sum(1), counts[draws].sum(1)))
        enough &= (counts > 0).sum(0) >= FEWEST
    difference = means[1] - means[0]
    interval = np.full((2, bins), np.nan)
    known = np.flatnonzero(np.isfinite(difference))
    quantiles = np.nanquantile((drawn[1] - drawn[0])[:, enough], [0.025, 0.975], axis=0)
    interval[:, enough] = quantiles
    centres = np.sqrt(edges[1:] * edges[:-1])
    found = crossings(centres[known], difference[known]) if len(known) > 1 else None
    below, above = interval
    return ByLoss(edges, means[0], means[1], difference, below, above, found, policies)


def _per_policy(course: Course, edges: Floats) -> tuple[Floats, Floats]:
    """Sum of the returns and number of the points of each policy in each bin, [P, B] both."""
    place = np.searchsorted(edges, course.losses, side="right") - 1
    place[course.losses == edges[-1]] = len(edges) - 2
    inside = place[..., None] == np.arange(len(edges) - 1)
    return (inside * course.returns[..., None]).sum(0), inside.sum(0).astype(np.float64)


def _mean(totals: Floats, counts: Floats) -> Floats:
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)


def crossings(losses: Floats, difference: Floats) -> list[float]:
    """Losses at which a difference changes its sign, the highest first.

    Between neighbours the difference counts as linear in the logarithm of the loss. A difference of
    exactly 0 changes no sign by itself.

    >>> found = crossings(np.array([0.01, 0.1, 1.0]), np.array([30.0, 10.0, -10.0]))
    >>> [round(loss, 3) for loss in found]
    [0.316]
    """
    at = np.flatnonzero(difference)
    found = []
    for left, right in pairwise(at):
        if difference[left] * difference[right] < 0:
            share = difference[left] / (difference[left] - difference[right])
            found.append(float(losses[left] * (losses[right] / losses[left]) ** share))
    return found[::-1]
