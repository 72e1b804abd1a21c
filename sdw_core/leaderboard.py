"""A line of the leaderboard: how far rows get, and how much of that their expert's labels do.

One protocol for everybody, whatever a study's own evaluation is: 10 fresh policies x 10 episodes of
the rows' own recipe, on a random stream that no search, race or export uses. Beside the rows stand
as many random rows of their dataset with its own actions, and with the expert's: the first
difference is what labels add, the second what the rows do. Then cloning of all the data, and the
expert. docs/results.md has the table.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sdw_core.artifact import Artifact, score
from sdw_core.baselines import bc_on_all_data, random_subset
from sdw_core.config import EvaluationConfig, PipelineConfig, as_written
from sdw_core.dataset import available, load_dataset
from sdw_core.errors import InputError
from sdw_core.evaluate import one_thread
from sdw_core.pipeline import Pipeline
from sdw_core.registry import own_parts
from sdw_core.validation import parse

PROTOCOL = EvaluationConfig(policies=10, episodes=10)
STAGE = "leaderboard"
"""The protocol's random stream, below the root seed of the run that made the rows."""
BC_STEPS = 20_000
MOST_STEPS = 1_000_000
"""Gradient steps of an expert that a stranger's manifest may ask for."""
NAMES = {
    "random_rows": "random rows",
    "random_rows_expert_actions": "random rows, expert's actions",
    "synthetic": "distilled rows",
    "bc_all_data": "BC on all data",
    "expert": "expert",
}
"""What is judged, in the order shown."""


def leaderboard_line(
    artifact: Artifact,
    cache: str | Path | None = None,
    trust: bool = False,
    say: Callable[[str], None] = lambda said: None,
) -> dict[str, Any]:
    """Judge exported rows by the protocol.

    Args:
        artifact: the rows, of single policies; an ensemble's are judged by single ones as well.
        cache: stage cache, which keeps the expert and the cloning of all data.
        trust: whoever made the export may name files and modules: a dataset that has no id here, an
            expert or another part that is none of the built-in ones.
        say: told what is being judged.

    Returns:
        `dataset`, `content_hash`, `rows`, `recipe`, `outer_steps`, `distillation_seed`, `scores` by
        the keys of `NAMES`, and what `labels` and `rows_alone` add to the mean.

    Raises:
        InputError: the source is not there, or is not what the rows were made of; or it needs
            trust.
    """
    document = as_written(PipelineConfig, artifact.evidence["config"])
    config = parse(PipelineConfig, document, "config")
    named = {config.dataset: config.dataset in {each.id for each in available()}}
    named[config.expert.method] = config.expert.method in ("percent_bc", "cal_ql")
    named |= {name: False for _, name in own_parts(config)}
    if not trust and not all(named.values()):
        foreign = next(name for name, known in named.items() if not known)
        raise InputError(
            f"The leaderboard makes the source and the expert of rows again, and their manifest "
            f"names {foreign!r}, which is neither a dataset with an id here nor a built-in part: "
            "bring that dataset back, or give `trust` if you know who made it."
        )
    steps = getattr(config.expert, "steps", 0) * getattr(config.expert, "ensemble", 1)
    if not trust and steps > MOST_STEPS:
        raise InputError(
            f"The leaderboard makes the expert of rows again, of {MOST_STEPS:,} gradient steps at "
            f"most, and their manifest asks for {steps:,}: give `trust` if you know who made it."
        )
    config = config.model_copy(update={"evaluation": PROTOCOL, "device": "cpu"})
    dataset, source = load_dataset(config), artifact.evidence["source"]
    if dataset.content_hash != source["content_hash"]:
        raise InputError(
            f"The leaderboard compares rows with their source, and {config.dataset!r} holds other "
            f"data ({dataset.content_hash[:16]}) than these rows were made of "
            f"({source['content_hash'][:16]}): bring back the data that the manifest names."
        )

    run = Pipeline(config, cache)
    cloning = Pipeline(bc_on_all_data(config, config.expert, BC_STEPS), cache)
    judged: dict[str, Callable[[], Any]] = {
        "random_rows": lambda: random_subset(dataset, config, artifact.arena, STAGE),
        "random_rows_expert_actions": lambda: random_subset(
            dataset, config, artifact.arena, STAGE, run.expert_actions(dataset)
        ),
        "synthetic": lambda: artifact.evaluate(PROTOCOL, config.seed, STAGE),
        "bc_all_data": lambda: cloning.judged_expert(dataset, STAGE),
        "expert": lambda: run.judged_expert(dataset, STAGE),
    }
    scores: dict[str, Any] = {}
    for name, returns in judged.items():
        say(f"judging {NAMES[name]}")
        with one_thread():
            scores[name] = score(returns(), config.seed)
    mean = {name: each["mean"] for name, each in scores.items()}
    return {
        "dataset": source["name"],
        "content_hash": source["content_hash"],
        "rows": len(artifact.observations),
        "recipe": asdict(artifact.recipe),
        "outer_steps": config.distill.outer_steps,
        "distillation_seed": artifact.evidence["distillation_seed"],
        "scores": scores,
        "labels": mean["random_rows_expert_actions"] - mean["random_rows"],
        "rows_alone": mean["synthetic"] - mean["random_rows_expert_actions"],
    }


def markdown(line: dict[str, Any]) -> str:
    """The line as docs/results.md has it."""
    scores = line["scores"].values()
    cells = [f"{each['mean']:.1f} ({each['low']:.1f} to {each['high']:.1f})" for each in scores]
    numbers = str(line["rows"]), str(line["outer_steps"])
    return f"| {' | '.join([line['dataset'], line['content_hash'][:12], *numbers, *cells])} |"
