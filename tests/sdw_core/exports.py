"""Small exports for tests: random rows, with the evidence that the pipeline would give."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch

from sdw_core.artifact import CONFIRM, Artifact, score
from sdw_core.config import PipelineConfig
from sdw_core.environment import Environment
from sdw_core.evaluate import Arena, Recipe
from sdw_core.seeds import derive_seed
from sdw_core.units import Units

Act = Callable[[np.ndarray], np.ndarray]
ROWS = 12
SOURCE_STATES = np.random.default_rng(1).normal(size=(200, 11)).astype(np.float32)


def make(environment: str, ensemble: int = 1) -> Artifact:
    """Random rows, with the evidence that the pipeline would give."""
    env = gymnasium.make(environment)
    inputs, box = env.observation_space.shape[0], env.action_space
    env.close()
    generator = torch.Generator().manual_seed(0)
    arena = Arena(
        Environment.named(environment),
        Units(
            np.linspace(-3, 7, inputs, dtype=np.float32),
            np.linspace(0.3, 5, inputs, dtype=np.float32),
            box.low,
            box.high,
        ),
        (-20.5, 3000.25),
    )
    recipe = Recipe(3, 16, 20, (0.3, 0.123456789, 1e-7))
    config = PipelineConfig(dataset="some/source-v0", evaluation={"policies": 3, "episodes": 2})
    evidence: dict[str, Any] = {
        "source": {"name": "some/source-v0", "content_hash": "ab" * 32, "episodes": 9}
        | {"transitions": 54321},
        "config": config.model_dump(mode="json"),
        "distillation_seed": 0,
        "evaluation": {"policies": 3, "episodes": 2, "seed": 7, "stage": CONFIRM},
        "scores": {},
    }
    artifact = Artifact.distilled(
        torch.randn(ROWS, inputs, generator=generator),
        torch.randn(ROWS, box.shape[0], generator=generator).tanh(),
        arena,
        recipe,
        evidence,
    )
    synthetic = score(artifact.evaluate(config.evaluation, 7), 7)
    evidence["scores"].update(synthetic=synthetic, random_subset=synthetic, expert=synthetic)
    if ensemble > 1:
        evidence["evaluation"]["ensemble"] = ensemble
        found = score(artifact.evaluate(), 7, ensemble)
        evidence["scores"].update(synthetic_ensemble=found, random_subset_ensemble=found)
    return artifact


def return_of(act: Act, artifact: Artifact, seed: int) -> float:
    """Normalised, of the first episode that policy 1 of an evaluation of two is judged in."""
    env = artifact.arena.environment.make()
    observation, _ = env.reset(seed=derive_seed(seed, f"{CONFIRM}/episode", 1, 0) % 2**31)
    total, ended = 0.0, False
    while not ended:
        observation, reward, terminated, truncated, _ = env.step(act(observation))
        total, ended = total + float(reward), terminated or truncated
    env.close()
    return float(artifact.arena.normalized(np.array(total)))
