"""The dataset card of an exported synthetic dataset: its text and its picture."""

# ruff: noqa: E501 (the lines of a page)

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sdw_core.artifact import Artifact

TRAIN = """\
import json, torch
from safetensors.torch import load_file
rows, manifest = load_file("synthetic.safetensors"), json.load(open("manifest.json"))
states = (rows["observations"] - rows["observation_mean"]) / rows["observation_scale"]
sizes = [states.shape[1], *[{width}] * {hidden}, rows["actions"].shape[1]]
layers = [torch.nn.Linear(i, o) for i, o in zip(sizes, sizes[1:])]
for layer, gain in zip(layers, [2**0.5] * {hidden} + [1.0]):
    torch.nn.init.orthogonal_(layer.weight, gain), torch.nn.init.zeros_(layer.bias)
policy = torch.nn.Sequential(*[m for l in layers for m in (l, torch.nn.ReLU())][:-1], torch.nn.Tanh())
sgd = torch.optim.SGD([{{"params": l.parameters(), "lr": r}} for l, r in zip(layers, manifest["recipe"]["learning_rates"])])
for _ in range({steps}):
    sgd.zero_grad(), (policy(states) - rows["actions"]).square().mean().backward(), sgd.step()
"""

CARD = """\
---
license: apache-2.0
pretty_name: "{rows} synthetic rows for {environment}"
task_categories: [reinforcement-learning]
size_categories: [{size}]
tags: [offline-rl, dataset-distillation, behavioural-cloning, sdw-obd]
configs:
  - config_name: default
    data_files: synthetic.parquet
---

# {rows} synthetic rows for {environment}

Distilled from `{source}` ({transitions:,} transitions in {episodes:,} episodes). A policy that is
cloned from these rows alone, in {steps} full-batch gradient steps, reaches a normalised return of
**{mean:.1f}** (95 % interval {low:.1f} to {high:.1f}; {policies} fresh policies x {runs} episodes, on
seeds that the search never used).

| trained on | mean | interquartile mean | 95 % interval |
|---|---|---|---|
{table}

![Source and synthetic states on the source's first two principal components, and the return of each evaluated policy](card.png)

0 is a random policy's return ({random:.1f}) and 100 an expert's ({expert:.1f}).

## Train a policy from the rows

In this folder, with `torch` and `safetensors` installed:

```python
{train}```

`policy` maps `(observation - observation_mean) / observation_scale` to an action in [-1, 1]{scaling}.

## What is in the folder

| file | content |
|---|---|
| `synthetic.safetensors` | `observations` [{rows}, {state}] and `actions` [{rows}, {action}] in environment units; `observation_mean`, `observation_scale` |
| `synthetic.parquet` | the same rows, one column a dimension |
| `manifest.json` | recipe, settings, source and its hash, seeds, scores with per-policy values, versions, checksums |

Method: objective `{objective}`, {weighting}. State Diversity Matters in Offline Behavior Distillation
([arXiv 2512.06692](https://arxiv.org/abs/2512.06692)), built on Offline Behavior Distillation
([arXiv 2410.22728](https://arxiv.org/abs/2410.22728)).
"""

NAMES = {
    "synthetic": "these rows",
    "random_subset": "random rows, as many",
    "expert": "the expert",
}


def write_card(
    artifact: "Artifact",
    rows: dict[str, NDArray[np.float32]],
    manifest: dict[str, Any],
    source_states: NDArray[np.float32],
    folder: Path,
) -> None:
    """Write `README.md` and `card.png` into the folder."""
    scores, recipe = manifest["scores"], artifact.recipe
    table = "\n".join(
        f"| {NAMES[key]} | {s['mean']:.1f} | {s['iqm']:.1f} | {s['low']:.1f} to {s['high']:.1f} |"
        for key in NAMES
        if (s := scores.get(key))
    )
    low, high = artifact.arena.action_low, artifact.arena.action_high
    unit = bool((low == -1).all() and (high == 1).all())
    train = TRAIN.format(
        width=recipe.width,
        hidden=recipe.layers - 1,
        steps=recipe.steps,
    )
    if not unit:
        train = train.replace(
            "sizes = ",
            'low, high = (torch.tensor(manifest["environment"][k]) for k in ("action_low", '
            '"action_high"))\nrows["actions"] = 2 * (rows["actions"] - low) / (high - low) - 1\n'
            "sizes = ",
            1,
        )
    config = manifest["config"]
    weighting = config["weighting"]
    text = CARD.format(
        rows=manifest["rows"],
        size="n<1K" if manifest["rows"] < 1000 else "1K<n<10K",
        environment=artifact.arena.environment.id,
        source=manifest["source"]["name"],
        transitions=manifest["source"]["transitions"],
        episodes=manifest["source"]["episodes"],
        steps=recipe.steps,
        **{key: scores["synthetic"][key] for key in ("mean", "low", "high")},
        policies=manifest["evaluation"]["policies"],
        runs=manifest["evaluation"]["episodes"],
        table=table,
        random=artifact.arena.reference_scores[0],
        expert=artifact.arena.reference_scores[1],
        train=train,
        scaling="" if unit else ", the environment's `action_low` to `action_high`",
        state=rows["observations"].shape[1],
        action=rows["actions"].shape[1],
        objective=config["distill"]["objective"],
        weighting=f"{weighting['scheme']} density weights at temperature "
        f"{weighting['temperature']:.3g}"
        if weighting["temperature"]
        else "no density weights",
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
    _picture(artifact, scores, source_states, folder / "card.png")


def _picture(
    artifact: "Artifact", scores: dict[str, Any], source: NDArray[np.float32], path: Path
) -> None:
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    centre = source.mean(axis=0)
    axes = np.linalg.svd(source - centre, full_matrices=False)[2][:2].T
    points = (source - centre) @ axes
    rows = (artifact.arena.normalized_states(artifact.observations) - centre) @ axes
    left.scatter(*points.T, s=2, color="#b8c4d0", linewidths=0, label="source states")
    left.scatter(*rows.T, s=14, color="#c2410c", label="synthetic states")
    left.set(xlabel="first principal component", ylabel="second", title="States, normalised")
    left.legend(loc="upper right", markerscale=2)
    labels = []
    for place, key in enumerate(key for key in NAMES if key in scores):
        values = scores[key]["per_policy"]
        jitter = np.linspace(-0.15, 0.15, len(values)) if len(values) > 1 else [0.0]
        right.scatter(place + np.asarray(jitter), values, s=14, color="#2b6cb0")
        right.hlines(scores[key]["mean"], place - 0.25, place + 0.25, color="#c2410c")
        labels.append(NAMES[key])
    right.set_xticks(range(len(labels)), labels)
    right.set(ylabel="normalised return", title="Each policy (dot) and their mean (line)")
    figure.savefig(path, dpi=120)
