"""A policy from the rows in this folder, with numpy alone.

from policy import clone

act = clone(seed=0)         # trained now from the rows, as the recipe in manifest.json says
action = act(observation)   # [*, O] to [*, A], both in the environment's units
"""

# SPDX-License-Identifier: Apache-2.0

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]
Layers = list[tuple[Array, Array]]
NAME, ROWS = "manifest.json", "synthetic.safetensors"


def read(path: Path) -> dict[str, Array]:
    """Arrays of float32 from a safetensors file: a header's length, the header, the numbers."""
    content, arrays = path.read_bytes(), {}
    start = 8 + int.from_bytes(content[:8], "little")
    for name, entry in json.loads(content[8:start]).items():
        first, last = entry["data_offsets"]
        numbers = np.frombuffer(content[start + first : start + last], "<f4")
        arrays[name] = numbers.reshape(entry["shape"])
    return arrays


def initial(sizes: list[int], rng: np.random.Generator) -> Layers:
    """Orthogonal weights [in, out], of gain sqrt(2), in the last layer of 1, and biases of 0."""
    layers = []
    for layer, (inputs, outputs) in enumerate(pairwise(sizes), start=2):
        gain = 1 if layer == len(sizes) else np.sqrt(2)
        q, r = np.linalg.qr(rng.normal(size=(max(inputs, outputs), min(inputs, outputs))))
        q = gain * q * np.sign(np.diag(r))
        layers.append((q if inputs >= outputs else q.T, np.zeros(outputs)))
    return layers


def forward(layers: Layers, states: Array) -> list[Array]:
    """What each layer is given, the states [*, O] first, and the actions [*, A] in [-1, 1]."""
    given = [states]
    for weight, bias in layers[:-1]:
        given.append(np.maximum(given[-1] @ weight + bias, 0))
    return [*given, np.tanh(given[-1] @ layers[-1][0] + layers[-1][1])]


def train(layers: Layers, states: Array, actions: Array, rates: list[float], steps: int) -> Layers:
    """Full-batch gradient descent on the mean of (policy - actions)^2, one rate a layer."""
    for _ in range(steps):
        *given, found = forward(layers, states)
        slope, moved = 2 * (found - actions) * (1 - found**2) / actions.size, []
        for (weight, bias), rate, inputs in zip(
            layers[::-1], rates[::-1], given[::-1], strict=True
        ):
            moved.append((weight - rate * inputs.T @ slope, bias - rate * slope.sum(0)))
            slope = slope @ weight.T * (inputs > 0)
        layers = moved[::-1]
    return layers


def clone(
    seed: int = 0, ensemble: int | None = None, folder: Path = Path(__file__).parent
) -> Callable[[ArrayLike], Array]:
    """A policy that acts by the mean of so many networks; None: as many as the manifest states."""
    manifest, rows = json.loads((folder / NAME).read_text()), read(folder / ROWS)
    recipe, rng = manifest["recipe"], np.random.default_rng(seed)
    low, high = (np.array(manifest["environment"][f"action_{end}"]) for end in ("low", "high"))
    centre, half = (low + high) / 2, (high - low) / 2
    mean, scale = rows["observation_mean"], rows["observation_scale"]
    states, actions = (rows["observations"] - mean) / scale, (rows["actions"] - centre) / half
    sizes = [len(mean), *[recipe["width"]] * (recipe["layers"] - 1), len(low)]
    networks = [
        train(initial(sizes, rng), states, actions, recipe["learning_rates"], recipe["steps"])
        for _ in range(ensemble or manifest["evaluation"].get("ensemble", 1))
    ]

    def act(observation: ArrayLike) -> Array:
        z = (np.asarray(observation) - mean) / scale
        unit = np.mean([forward(layers, z)[-1] for layers in networks], axis=0)
        return np.asarray(centre + half * unit, np.float32)

    return act
