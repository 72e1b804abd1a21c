"""Whoever listens to what a run measures."""

from collections import defaultdict

import pytest

from sdw_core.progress import Points


class Told:
    """All that was told, and how often."""

    def __init__(self) -> None:
        self.curves: dict[str, dict[int, float]] = defaultdict(dict)
        self.calls = 0

    def __call__(self, curve: str, points: Points) -> None:
        self.calls += 1
        for step, value in points.items():
            assert step > max(self.curves[curve], default=-1) or (
                self.curves[curve][step] == pytest.approx(value, nan_ok=True)
            ), "a point that is told again is the same"
            self.curves[curve][step] = value
