"""Patience: a study may end before its trials do, once trials in a row are no gain above noise."""

from collections.abc import Iterable
from math import hypot

Score = tuple[float, float]
"""A trial's return, and the standard error of it."""


def since_gain(scores: Iterable[Score | None], after: int = 0) -> int:
    """How many trials came after the last gain.

    A gain is a trial that is better than the gain before it by more than the standard error of
    their difference; the first trial with a score is one. It is held against the gain before it,
    not against the best so far, so that small steps add up to a gain.

    Args:
        scores: of trials in the order in which they ended; None: without one, which is no gain.
        after: so many of the first trials are not counted.

    >>> since_gain([(50, 4), (54, 4), (58, 4), None, (60, 3)])
    2
    """
    reference: Score | None = None
    count = 0
    for place, score in enumerate(scores):
        if score and (reference is None or _exceeds(score, reference)):
            reference, count = score, 0
        elif place >= after:
            count += 1
    return count


def _exceeds(score: Score, reference: Score) -> bool:
    """Of trials as if each were judged on streams of its own."""
    return score[0] - reference[0] > hypot(score[1], reference[1])
