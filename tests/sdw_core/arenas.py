"""Environments as policies see them, with a normaliser and scores of no dataset."""

from dataclasses import replace
from typing import Any

import numpy as np

from sdw_core.environment import Environment
from sdw_core.evaluate import Arena
from sdw_core.units import Units


def arena(environment: str = "Hopper-v5", **changes: Any) -> Arena:
    of = Environment.named(environment)
    of = replace(of, kwargs=changes.pop("kwargs", {}))
    env = of.make()
    space, box = env.observation_space, env.action_space
    env.close()
    size = space.shape[0]
    units = Units(
        np.linspace(-0.2, 0.3, size, dtype=np.float32),
        np.linspace(0.5, 2.0, size, dtype=np.float32),
        box.low,
        box.high,
    )
    fields = {"environment": of, "units": units, "reference_scores": (-20.0, 3000.0)}
    return Arena(**{**fields, **changes})


HOPPER = arena()
