"""How far work is, and what it measures as it goes: what those that follow it are told."""

from collections.abc import Callable, Iterator, Mapping
from math import ceil

Progress = Callable[[float], None]
"""Told the fraction that is done."""
StageProgress = Callable[[str, float], None]
"""Told (stage, fraction of the stage that is done)."""
Points = Mapping[int, float]
"""Of a curve: step of its stage -> value."""
Measured = Callable[[str, Points], None]
"""Told (curve, points), such as `distill/meta_loss` by outer step. A run tells every curve from its
first point on: one that resumes, or finds a stage in the cache, as these hold it. Points come in
the order of their steps; some may be told again, and are the same then."""

POINTS = 200
"""Most points of a curve of single steps."""


def unheard(curve: str, points: Points) -> None:
    """Where nobody listens to what is measured."""


def points_between(first: int, last: int, steps: int) -> Iterator[int]:
    """Steps in (first, last] at which a curve of `steps` steps has a point: its last step has one.

    >>> list(points_between(0, 500, 500))[:3], list(points_between(497, 500, 500))
    ([3, 6, 9], [498, 500])
    """
    every = ceil(steps / POINTS)
    return (step for step in range(first + 1, last + 1) if step % every == 0 or step == steps)
