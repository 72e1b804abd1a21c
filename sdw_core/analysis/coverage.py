"""Coverage: which of the source's states a synthetic set holds.

    log density    log d(s) of a set's states under the density of the source, nats; as a histogram
    rare share     the part of a set below the 5 % quantile of the source's own log density
    distance       mean Euclidean distance of two different states of the set, normalised units
    entropy        the nearest-neighbour estimate of the differential entropy (Kozachenko and
                   Leonenko, 1987), nats: psi(n) - psi(1) + log V_O + (O / n) sum_i log r_i, with
                   r_i the distance from state i to its nearest neighbour and V_O the volume of the
                   unit ball

The distance says how far a set reaches, and two tight clusters far apart have a large one; the
entropy says how evenly it fills what it reaches. The entropy's bias depends on n and on how thin
the states' manifold is, so that a set is to be compared with as many random states of the source.
"""

from dataclasses import dataclass
from math import lgamma, log, pi

import numpy as np
import torch
from numpy.typing import NDArray

from sdw_core.density import FittedDensity
from sdw_core.seeds import numpy_generator

Floats = NDArray[np.float64]
States = NDArray[np.float32]

RARE = 0.05
"""Quantile of the source's log density below which a state is rare."""
OUTERMOST = 0.001
"""Quantile of the source's log density at which its histogram begins: the tail has no end."""
SUBSETS, LARGEST = 20, 2_000
"""Random subsets of the source that a set is compared with; states of a set that distances use."""
STAGE = "coverage"


@dataclass(frozen=True)
class Coverage:
    """What a set of states holds.

    Attributes:
        name, states: of the set, and how many.
        histogram: part of the set in each bin [B].
        median_log_density: nats.
        rare_share: see above; 0.05 of the source itself.
        distance, entropy: see above; the entropy is -inf of a set with a state twice, and neither
            is finite of a single state.
        source_distance, source_entropy: mean, and lowest and highest, over random subsets of the
            source with as many states.
    """

    name: str
    states: int
    histogram: Floats
    median_log_density: float
    rare_share: float
    distance: float
    entropy: float
    source_distance: tuple[float, float, float]
    source_entropy: tuple[float, float, float]


class Source:
    """The states that sets are compared with.

    Args:
        states: z [N, O], normalised.
        density: theirs.
        bins: of the histograms.
        seed: root seed of the random subsets.
    """

    def __init__(self, states: States, density: FittedDensity, bins: int, seed: int) -> None:
        self._states, self._density, self._seed = states, density, seed
        log_density = density.log_prob(states).astype(np.float64)
        low, self._rare = np.quantile(log_density[np.isfinite(log_density)], [OUTERMOST, RARE])
        self.edges = np.linspace(low, log_density.max(), bins + 1)
        self.histogram = shares(log_density, self.edges)
        self.median_log_density = float(np.median(log_density))

    def covered(self, name: str, states: States) -> Coverage:
        """What a set of states [n, O], normalised, holds."""
        log_density = self._density.log_prob(states).astype(np.float64)
        used = self._subset(states, 0)
        subsets = [self._subset(self._states, k, len(used)) for k in range(1, SUBSETS + 1)]
        distances = [mean_distance(subset) for subset in subsets]
        entropies = [neighbour_entropy(subset) for subset in subsets]
        return Coverage(
            name,
            len(states),
            shares(log_density, self.edges),
            float(np.median(log_density)),
            float((log_density < self._rare).mean()),
            mean_distance(used),
            neighbour_entropy(used),
            (float(np.mean(distances)), min(distances), max(distances)),
            (float(np.mean(entropies)), min(entropies), max(entropies)),
        )

    def _subset(self, states: States, stream: int, size: int = LARGEST) -> States:
        if len(states) <= size:
            return states
        generator = numpy_generator(self._seed, STAGE, stream)
        return states[generator.choice(len(states), size, replace=False)]


def shares(values: Floats, edges: Floats) -> Floats:
    """Part of the values in each bin [B]; what lies outside counts in the first or the last.

    >>> shares(np.array([-np.inf, 0.5, 1.5, 9.0]), np.array([0.0, 1.0, 2.0])).tolist()
    [0.5, 0.5]
    """
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return counts / len(values)


def mean_distance(states: States) -> float:
    """Mean Euclidean distance over the pairs of different rows of [n, O]; nan of a single row.

    >>> round(mean_distance(np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])), 3)
    3.333
    """
    points = torch.as_tensor(states).double()
    return float(torch.pdist(points).mean())


def neighbour_entropy(states: States) -> float:
    """The Kozachenko-Leonenko estimate of the entropy of [n, O], nats; -inf of a single row.

    >>> round(neighbour_entropy(np.array([[0.0], [1.0]])), 3)  # 1 + log 2 + log 1
    1.693
    """
    points = torch.as_tensor(states).double()
    count, dimensions = points.shape
    if count < 2:
        return float("-inf")
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distances.fill_diagonal_(torch.inf).min(1).values
    harmonic = sum(1 / k for k in range(1, count))  # psi(n) - psi(1)
    log_ball = dimensions / 2 * log(pi) - lgamma(dimensions / 2 + 1)
    return float(harmonic + log_ball + dimensions * nearest.log().mean())
