"""The dataset card of an exported synthetic dataset: its text and its picture."""

# ruff: noqa: E501 (the lines of a page)

import io
import json
import re
from itertools import pairwise
from pathlib import Path
from textwrap import fill, indent
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from sdw_core import html
from sdw_core.labels import FILM, GIF, POSTER, named, shrunk
from sdw_core.licenses import front_of
from sdw_core.manifest import CSV, MINARI, NPZ
from sdw_core.plots import draw_states, drawn
from sdw_core.style import looks

SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
"""The bounds of dataset hubs' size categories: a thousand, and each ten times the one before."""

LOAD = """\
import json, torch
from safetensors.torch import load_file
rows, manifest = load_file("synthetic.safetensors"), json.load(open("manifest.json"))
states = (rows["observations"] - rows["observation_mean"]) / rows["observation_scale"]
sizes = [states.shape[1], *[{width}] * {hidden}, rows["actions"].shape[1]]
"""
TRAIN = """\
layers = [torch.nn.Linear(i, o) for i, o in zip(sizes, sizes[1:])]
for layer, gain in zip(layers, [2**0.5] * {hidden} + [1.0]):
    torch.nn.init.orthogonal_(layer.weight, gain), torch.nn.init.zeros_(layer.bias)
policy = torch.nn.Sequential(*[m for l in layers for m in (l, torch.nn.ReLU())][:-1], torch.nn.Tanh())
sgd = torch.optim.SGD([{{"params": l.parameters(), "lr": r}} for l, r in zip(layers, manifest["recipe"]["learning_rates"])])
for _ in range({steps}):
    sgd.zero_grad(), (policy(states) - rows["actions"]).square().mean().backward(), sgd.step()
"""
TRAIN_ENSEMBLE = """\
def train():
{train}    return policy

networks = [train() for _ in range({networks})]
policy = lambda states: torch.stack([network(states) for network in networks]).mean(0)
"""
ENSEMBLES = """
Ensembles of {networks} such policies, which act by the mean of their actions, reach **{mean:.1f}** (95 % interval {low:.1f}
to {high:.1f}; {policies} fresh ensembles, on the same seeds)."""
SHRINKAGE = """
That is {points}, by whose score they were chosen."""
RACE = """
Before, the {count} best sets of rows of the search raced on other fresh seeds: {place}."""
MEMBERS = """
It is an ensemble of {networks} networks; each of `networks` alone is a single policy. `sdw train` trains an ensemble of
as many, and a single policy with `--ensemble 1`."""

BC = """
BC on all data is behavioural cloning: one policy, trained on every transition of the source in {steps:,} steps.
"""
FILM_SHOWN = f"""
![Episodes of the best, median and worst of fresh policies that were cloned from the rows, and of the expert]({GIF})
"""
FILM_LISTED = f"| `{FILM}`, `{POSTER}`, `{GIF}` | episodes of policies that were cloned from the rows: film, still, short form |\n"
FORMATS_LISTED = {
    NPZ: f"| `{NPZ}` | the same for numpy, with `actions_clipped` |\n",
    CSV: f"| `{CSV}` | the table as text |\n",
    MINARI[
        0
    ]: "| `minari` | the same as Minari's dataset `rows-v0`, a row an episode of one step, without reward and next observation (NaN): `MINARI_DATASETS_PATH=minari` |\n",
}

CARD = """\
---
{front}---

# {rows} synthetic rows for {environment}

Distilled from {source} ({transitions:,} transitions in {episodes:,} episodes). A policy that is
cloned from these rows alone, in {steps} full-batch gradient steps, reaches a normalised return of
**{mean:.1f}** (95 % interval {low:.1f} to {high:.1f}; {policies} fresh policies x {runs} episodes, on
seeds that the search never used).{ensembles}{shrinkage}{race}

| trained on | mean | interquartile mean | 95 % interval |
|---|---|---|---|
{table}

![Source and synthetic states on the source's first two principal components, and the return of each policy, and of each episode of {single}](card.png)
{film}{bc}
0 is a random policy's return ({random:.1f}) and 100 an expert's ({expert:.1f}){reference_source}.

The environment is {whole_environment}. {license}

{outside}

## Train a policy from the rows

In this folder, with `numpy` alone:

```python
from policy import clone

act = clone(seed=0)
action = act(observation)
```

`act` takes and gives the environment's units{networks}; `policy.py` is code: read it before you run it. Or with `torch` and
`safetensors`:

```python
{train}```

`policy` maps `(observation - observation_mean) / observation_scale` to an action in [-1, 1]{scaling}.{members}

## What is in the folder

| file | content |
|---|---|
| `synthetic.safetensors` | `observations` [{rows}, {state}] and `actions` [{rows}, {action}] in environment units; `observation_mean`, `observation_scale` |
| `synthetic.parquet` | the same rows, one column a dimension; `action_clipped_*` are the actions, clipped to the environment's bounds |
{formats}| `policy.py` | the cloning of a policy, in numpy |
| `croissant.json` | the table's columns, for tools that read [Croissant](https://mlcommons.org/croissant) |
{filmed}| `manifest.json` | recipe, settings, source and its hash, seeds, scores with per-policy values, versions, checksums |

Method: objective `{objective}`, {weighting}. State Diversity Matters in Offline Behavior Distillation
([arXiv 2512.06692](https://arxiv.org/abs/2512.06692)), built on Offline Behavior Distillation
([arXiv 2410.22728](https://arxiv.org/abs/2410.22728)).

## Cite

```bibtex
{cite}```
"""
CITE = """\
@software{sdw-obd,
  title = {SDW-OBD: state-density-weighted offline behaviour distillation},
  author = {{The SDW-OBD authors}},
}
@article{sdw,
  title = {State Diversity Matters in Offline Behavior Distillation},
  author = {Lei and Cheng and Tao},
  journal = {arXiv:2512.06692},
  year = {2025},
}
@inproceedings{obd,
  title = {Offline Behavior Distillation},
  author = {Lei and Zhang and Tao},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2024},
  note = {arXiv:2410.22728},
}
"""
"""As `CITATION.cff` has it."""

NAMES = {
    "synthetic": "these rows",
    "synthetic_ensemble": "these rows",
    "random_subset": "random rows, as many",
    "random_subset_ensemble": "random rows, as many",
    "bc_all_data": "BC on all data",
    "expert": "the expert",
}
ONE_POLICY = ("bc_all_data", "expert")
"""Scores of a single policy, of which each episode counts as a policy."""


def write_card(
    manifest: dict[str, Any],
    states: NDArray[np.float32],
    source_states: NDArray[np.float32],
    folder: Path,
) -> None:
    """Write `README.md` and `card.png` into the folder; a film that lies in it is shown.

    Args:
        manifest: what the rows are; checksums are not needed.
        states: [n, O] the rows' states, normalised.
        source_states: [*, O] some of the source's, normalised.
        folder: where to.
    """
    scores, recipe, environment = (manifest[key] for key in ("scores", "recipe", "environment"))
    table = "\n".join(
        f"| {named(NAMES[key], s.get('ensemble', 1))} | {s['mean']:.1f} | {s['iqm']:.1f} | {s['low']:.1f} to {s['high']:.1f} |"
        for key in NAMES
        if (s := scores.get(key))
    )
    low, high = environment["action_low"], environment["action_high"]
    unit = {*low} == {-1} and {*high} == {1}
    scale = {key: recipe[key] for key in ("width", "steps")} | {"hidden": recipe["layers"] - 1}
    load, train = LOAD.format(**scale), TRAIN.format(**scale)
    if not unit:
        load = load.replace(
            "sizes = ",
            'low, high = (torch.tensor(manifest["environment"][k]) for k in ("action_low", '
            '"action_high"))\nrows["actions"] = 2 * (rows["actions"] - low) / (high - low) - 1\n'
            "sizes = ",
            1,
        )
    evaluation, ensembles, members, clones = manifest["evaluation"], "", "", ""
    if "ensemble" in evaluation:
        networks = {"networks": evaluation["ensemble"]}
        stated = scores["synthetic_ensemble"] | {"policies": evaluation["policies"]}
        ensembles, members = ENSEMBLES.format(**networks, **stated), MEMBERS.format(**networks)
        clones = ", and acts by the mean of {networks} networks".format(**networks)
        train = TRAIN_ENSEMBLE.format(train=indent(train, 4 * " "), **networks)
    config = manifest["config"]
    weighting = config["weighting"]
    source, (random, expert) = manifest["source"], environment["reference_scores"]
    reference_source = source.get("reference_source")
    text = CARD.format(
        front=front_matter(manifest["rows"], environment["id"], source.get("license")),
        rows=manifest["rows"],
        environment=as_code(environment["id"]),
        whole_environment=_described(environment),
        license=_licensed(source.get("license")),
        outside=_outside(**manifest["actions_outside_bounds"]),
        reference_source=f": {as_code(reference_source)}" if reference_source else "",
        source=as_code(source["name"]),
        transitions=source["transitions"],
        episodes=source["episodes"],
        steps=recipe["steps"],
        **{key: scores["synthetic"][key] for key in ("mean", "low", "high")},
        policies=evaluation["policies"],
        runs=evaluation["episodes"],
        ensembles=ensembles,
        members=members,
        networks=clones,
        cite=CITE,
        table=table,
        single=" and of ".join(NAMES[key] for key in ONE_POLICY if key in scores),
        shrinkage=_shrunk(scores.get("search", {}).get("shrinkage")),
        race=_raced(scores.get("race")),
        bc=BC.format(**bc) if (bc := scores.get("bc_all_data")) else "",
        film=FILM_SHOWN if (folder / GIF).exists() else "",
        formats="".join(line for name, line in FORMATS_LISTED.items() if (folder / name).exists()),
        filmed=FILM_LISTED if (folder / FILM).exists() else "",
        random=random,
        expert=expert,
        train=load + train,
        scaling="" if unit else ", the environment's `action_low` to `action_high`",
        state=states.shape[1],
        action=len(low),
        objective=config["distill"]["objective"],
        weighting=f"{weighting['scheme']} density weights at temperature "
        f"{weighting['temperature']:.3g}"
        if weighting["temperature"]
        else "no density weights",
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
    (folder / "card.png").write_bytes(_picture(states, scores, source_states))


def _shrunk(points: float | None) -> str:
    return "" if points is None else SHRINKAGE.format(points=shrunk(points))


def _raced(race: dict[str, Any] | None) -> str:
    """How the rows did in a study's race; nothing where there was none."""
    if race is None:
        return ""
    open, trial, count = race["open"], race["trial"], len(race["contenders"])
    place = "these were clearly behind"
    if trial == race["winner"]:
        apart = (
            f"{len(open)} of the others cannot be told from them"
            if open
            else "the others were clearly behind"
        )
        place = f"these won, and {apart}"
    elif trial in open:
        place = "these did not win, and cannot be told from those that did"
    return RACE.format(count=count, place=place)


def front_matter(rows: int, environment: str, license: str | None) -> str:
    """The YAML that dataset hubs read, whatever the names in it are."""
    front = front_of(license) | {
        "pretty_name": f"{rows} synthetic rows for {environment}",
        "task_categories": ["reinforcement-learning"],
        "size_categories": [size_category(rows)],
        "tags": ["offline-rl", "dataset-distillation", "behavioural-cloning", "sdw-obd"],
        "configs": [{"config_name": "default", "data_files": "synthetic.parquet"}],
    }
    return _as_yaml(front)


def _as_yaml(front: dict[str, Any]) -> str:
    return yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=10_000)


def relicensed(text: str, stated: str | None, license: str) -> str:
    """A card under another licence than the one that it states: the rest stays as it is.

    A card of the first version stated one that nobody had chosen, and nothing in its text.
    """
    _, front, body = text.split("---\n", 2)
    others = "".join(line for line in front.splitlines(True) if not line.startswith("license"))
    said = _licensed(stated)
    body = (
        body.replace(said, _licensed(license), 1)
        if said in body
        else body + f"\n{_licensed(license)}\n"
    )
    return f"---\n{_as_yaml(front_of(license))}{others}---\n{body}"


def size_category(rows: int) -> str:
    """The class of dataset hubs that a number of rows is in.

    >>> size_category(64), size_category(1000), size_category(25_000)
    ('n<1K', '1K<n<10K', '10K<n<100K')
    """
    if rows < 1000:
        return f"n<{SIZES[0]}"
    for power, (low, high) in enumerate(pairwise(SIZES)):
        if rows < 10 ** (power + 4):
            return f"{low}<n<{high}"
    return f"n>{SIZES[-1]}"


def as_code(text: str) -> str:
    """Any text as Markdown's code on one line: nothing in it is markup.

    >>> as_code("a`b")
    '`` a`b ``'
    """
    visible = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
    longest = max(map(len, re.findall("`+", visible)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {visible} {fence}" if longest or not visible else f"{fence}{visible}{fence}"


def _described(environment: dict[str, Any]) -> str:
    """The environment with its arguments, its limit and its wrappers."""
    text = as_code(environment["id"])
    if environment["kwargs"]:
        text += f" with the arguments {as_code(json.dumps(environment['kwargs']))}"
    text += f"; an episode ends after {environment['max_episode_steps']} steps at most"
    for wrapper in environment["wrappers"]:
        text += f"; within {as_code(wrapper['entry_point'])}"
        if wrapper["kwargs"]:
            text += f" with {as_code(json.dumps(wrapper['kwargs']))}"
    return text


def _licensed(license: str | None) -> str:
    if license:
        return f"The licence is {as_code(license)}."
    return (
        "No licence is chosen: the source states none. Whoever may choose one states it as "
        "`license` when the rows are exported."
    )


def _outside(share: float, largest: float) -> str:
    if not share:
        return "All actions lie within the environment's bounds."
    return (
        f"{100 * share:.1f} % of the action values lie outside of the environment's bounds, the "
        f"largest at {largest:.2f} times the bound: they are what a policy is trained towards, and "
        "its tanh keeps what it does within. Train on them as they are, for clipped ones train "
        "another, worse policy; `action_clipped_*` are for tools that refuse what lies outside."
    )


def html_of(
    states: NDArray[np.float32],
    scores: dict[str, Any],
    source_states: NDArray[np.float32] | None = None,
) -> str:
    """What a notebook shows of rows: the scores, and the picture.

    Args:
        states: [n, O] the rows' states, normalised.
        scores: as in a manifest.
        source_states: [*, O] some of the source's, normalised, to show the rows among.
    """
    named = {name: scores[key] for key, name in NAMES.items() if key in scores}
    return html.returns(named) + html.image(_picture(states, scores, source_states))


def _picture(
    states: NDArray[np.float32],
    scores: dict[str, Any],
    source_states: NDArray[np.float32] | None,
) -> bytes:
    """The rows on two principal components, and what their policies return, as PNG."""
    judged = {key: scores[key] for key in NAMES if key in scores}
    names = [named(NAMES[key], score.get("ensemble", 1)) for key, score in judged.items()]
    wide = 60 // len(names)  # as many letters as have room side by side
    content = io.BytesIO()
    with drawn(content, 10, 4) as figure:
        left, right = figure.subplots(1, 2)
        draw_states(left, states, source_states)
        labels = []
        for place, (key, name) in enumerate(zip(judged, names, strict=True)):
            values, mean = judged[key]["per_policy"], judged[key]["mean"]
            colour = looks(names)[name].colour
            jitter = np.linspace(-0.15, 0.15, len(values)) if len(values) > 1 else [0.0]
            right.scatter(place + np.asarray(jitter), values, s=14, color=colour, alpha=0.7)
            right.hlines(mean, place - 0.25, place + 0.25, color=colour)
            right.annotate(
                f"{mean:.1f}", (place + 0.25, mean), (3, 0), "data", "offset points",
                color=colour, va="center",
            )  # fmt: skip
            what = "episodes" if key in ONE_POLICY else "policies"
            labels.append(f"{fill(name, wide)}\n{len(values)} {what}")
        right.set_xticks(range(len(labels)), labels)
        right.set(
            ylabel="normalised return", title="A dot: a policy or an episode, as stated below"
        )
        right.set_xlim(-0.5, len(labels) - 0.4)
    return content.getvalue()
