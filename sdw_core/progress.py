"""How far work is: what those that follow it are told."""

from collections.abc import Callable

Progress = Callable[[float], None]
"""Told the fraction that is done."""
StageProgress = Callable[[str, float], None]
"""Told (stage, fraction of the stage that is done)."""
