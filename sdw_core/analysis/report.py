"""The analyses of a configuration: from the pipeline's stages to a table, findings and a figure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from pydantic import Field

from sdw_core.analysis.coverage import RARE, Source
from sdw_core.analysis.errors import (
    Choice,
    clone_policies,
    correlations,
    expert_support,
    measure,
)
from sdw_core.analysis.figures import coverage_figure, errors_figure, misalignment_figure
from sdw_core.analysis.misalignment import (
    Role,
    TrainingSet,
    compare_by_loss,
    follow,
    of_rows,
    spaced_steps,
)
from sdw_core.artifact import Artifact, refuse_existing
from sdw_core.baselines import random_rows
from sdw_core.config import CloningSteps, PipelineConfig, Rows, Runs
from sdw_core.dataset import load_dataset
from sdw_core.distill.selection import available_rows
from sdw_core.errors import InputError
from sdw_core.expert.percent_bc import best_rows
from sdw_core.feasibility import check_fit, resolve_device
from sdw_core.files import created_folder, write_json
from sdw_core.identity import Sources
from sdw_core.pipeline import Pipeline, Prepared
from sdw_core.policy import MLP
from sdw_core.validation import checked

BEST = 0.1
"""Part of the transitions that the best episodes make up, where no narrow dataset is given."""
Several = Annotated[int, Field(ge=2, le=10_000)]
SeveralSteps = Annotated[int, Field(ge=2, le=1_000_000)]
Sizes = Annotated[tuple[Rows, ...], Field(min_length=1)]
Budgets = Annotated[tuple[CloningSteps, ...], Field(min_length=1)]
Part = Annotated[float, Field(gt=0, lt=1)]
Tell = Callable[[str], None]
"""Told what is being done."""


def untold(said: str) -> None:
    """Nobody is told."""


@dataclass(frozen=True)
class Analysis:
    """What an analysis found.

    Attributes:
        name: of the analysis.
        table: a row a point of the figure.
        findings: a JSON document; null stands for what could not be measured.
        draw: writes the figure.
    """

    name: str
    table: list[dict[str, Any]]
    findings: dict[str, Any]
    draw: Callable[[Path], None]

    def write(self, folder: Path | str) -> None:
        """Write NAME.csv, NAME.json and NAME.png into a new folder, whole or not at all.

        Raises:
            InputError: the folder exists.
        """
        refuse_existing(Path(checked(folder, Path, "folder")))
        with created_folder(Path(folder)) as scratch:
            pd.DataFrame(self.table).to_csv(
                scratch / f"{self.name}.csv", index=False, float_format="%.6g"
            )
            write_json(scratch / f"{self.name}.json", self.findings)
            self.draw(scratch / f"{self.name}.png")


def misalignment(
    config: PipelineConfig,
    narrow: str | None = None,
    policies: int = 6,
    steps: int = 2000,
    points: int = 16,
    bins: int = 8,
    episodes: int = 3,
    cache: Path | str | None = None,
    tell: Tell = untold,
    artifacts: Mapping[str, Artifact] | None = None,
) -> Analysis:
    """Return against training loss; see `sdw_core.analysis.misalignment`.

    The targets are those of the distillation objective: the expert's actions, or with `dbc` the
    dataset's. Every dataset has its own expert and its own normaliser. States are perturbed as in
    the distillation: `distill.state_noise`.

    Args:
        config: of the diverse dataset.
        narrow: a better, narrower dataset; None: the best episodes of the diverse one.
        policies: cloned from each set, 2 or more.
        steps: gradient steps of a cloning, 2 or more.
        points: how often a policy is judged, 2 or more.
        bins: of the training loss, 2 or more.
        episodes: whole ones, that a policy is run each time.
        cache: folder of the stage cache; None keeps nothing.
        tell: what is being done.
        artifacts: synthetic rows of one of the two datasets, by name, whose policies are judged by
            the same loss.

    Raises:
        InputError: a number is out of its bounds, settings do not fit, the datasets are not of one
            environment, or rows are of neither dataset.
    """
    artifacts = artifacts or {}
    policies, points, bins = (
        checked(value, Several, name)
        for name, value in (("policies", policies), ("points", points), ("bins", bins))
    )
    steps, episodes = checked(steps, SeveralSteps, "steps"), checked(episodes, Runs, "episodes")
    _require_fit(config)
    other = config
    if narrow is not None:
        other = PipelineConfig(**{**dict(config), "dataset": narrow})
        _require_fit(other)
        _require_one_environment(config, other)
    roles = _roles_of(artifacts, config, other)
    prepared = _pipeline(_of_all_states(_weighted(config, 0)), cache, tell).prepare()
    diverse = _training_set(prepared, config)
    if narrow is None:
        dataset = prepared.dataset
        rows = best_rows(dataset.episode_returns(), dataset.episode_ends, BEST)
        part = prepared.task.of(torch.from_numpy(rows))
        name = f"best {BEST:.0%} of {dataset.name}"
        better = replace(diverse, name=name, task=part)
        experts = [prepared.expert_returns] * 2
        warnings = prepared.warnings
    else:
        second = _pipeline(_of_all_states(_weighted(other, 0)), cache, tell).prepare()
        better = _training_set(second, config)
        experts = [prepared.expert_returns, second.expert_returns]
        warnings = tuple(dict.fromkeys(prepared.warnings + second.warnings))
    network = _network(config, prepared)
    at = spaced_steps(steps, points)
    courses = []
    for each in (diverse, better):

        def report(fraction: float, name: str = each.name) -> None:
            tell(f"policies from {name}: {fraction:.0%}")

        courses.append(follow(each, network, at, policies, episodes, config.seed, report))
    by_loss = compare_by_loss(courses[0], courses[1], bins, config.seed)
    rows_of = {}
    for name, artifact in artifacts.items():
        tell(f"policies from {name}")
        of = diverse if roles[name] == "diverse" else better
        rows_of[name] = of_rows(of, artifact, config.seed)
    table = [
        {
            "role": role,
            "dataset": name,
            "policy": policy,
            "steps": int(done),
            "training_loss": course.losses[i, policy],
            "normalized_return": course.returns[i, policy],
        }
        for role, name, course in [
            ("diverse", diverse.name, courses[0]),
            ("narrow", better.name, courses[1]),
            *((f"rows of {roles[name]}", name, course) for name, course in rows_of.items()),
        ]
        for i, done in enumerate(course.steps)
        for policy in range(course.losses.shape[1])
    ]
    findings = {
        "diverse": diverse.name,
        "narrow": better.name,
        "objective": config.distill.objective,
        "state_noise": config.distill.state_noise,
        "expert_returns": [returns.mean() for returns in experts],
        "bins": [
            {
                "loss": [by_loss.edges[b], by_loss.edges[b + 1]],
                "diverse": by_loss.diverse[b],
                "narrow": by_loss.narrow[b],
                "difference": by_loss.difference[b],
                "interval": [by_loss.low[b], by_loss.high[b]],
            }
            for b in reversed(range(len(by_loss.difference)))
        ],
        "rows": [
            {
                "name": name,
                "of": roles[name],
                "policies": course.losses.shape[1],
                "training_loss": course.losses.mean(),
                "normalized_return": course.returns.mean(),
                "at_equal_loss": by_loss.at(roles[name], course.losses.mean()),
            }
            for name, course in rows_of.items()
        ],
        "crossings": by_loss.crossings,
        "reverses": by_loss.reverses,
        "lacking": by_loss.lacking,
        "warnings": warnings,
    }
    names = diverse.name, better.name
    sets = [(name, roles[name], course) for name, course in rows_of.items()]
    return Analysis(
        "misalignment",
        table,
        _plain(findings),
        lambda path: misalignment_figure(courses[0], courses[1], by_loss, names, sets, path),
    )


def errors(
    config: PipelineConfig,
    size: Sequence[int] = (16, 64, 256, 1024),
    steps: Sequence[int] = (50, 200, 800),
    repeats: int = 2,
    episodes: int = 3,
    expert_episodes: int = 20,
    quantile: float = 0.05,
    cache: Path | str | None = None,
    tell: Tell = untold,
) -> Analysis:
    """Pivotal and surrounding error against return; see `sdw_core.analysis.errors`.

    Args:
        config: of the dataset, its expert and its density.
        size: rows that policies are cloned from.
        steps: gradient steps of a cloning.
        repeats: policies of each kind.
        episodes: whole ones, that a policy is run.
        expert_episodes: of the expert, 2 or more; half of them fit its density.
        quantile: part of the expert's own states that counts as off its support.
        cache: folder of the stage cache; None keeps nothing.
        tell: what is being done.

    Raises:
        InputError: a number is out of its bounds, settings do not fit, or more rows are asked for
            than there are to choose from.
    """
    sizes = checked(size, Sizes, "size")
    budgets = checked(steps, Budgets, "steps")
    repeats, episodes = checked(repeats, Runs, "repeats"), checked(episodes, Runs, "episodes")
    expert_episodes = checked(expert_episodes, Several, "expert_episodes")
    quantile = checked(quantile, Part, "quantile")
    _require_fit(config)
    _require_rows(config, sizes)
    pipeline = _pipeline(_of_all_states(config), cache, tell)
    prepared = pipeline.prepare()
    task, arena, expert = prepared.task, prepared.arena, prepared.expert
    assert task.episode_returns is not None
    tell("running the expert, and fitting a density to its states")
    support = expert_support(
        expert, arena, expert_episodes, quantile, config.density, config.seed, pipeline.device
    )
    choices: list[Choice] = ["random", "best"]
    if config.weighting.temperature > 0:
        choices.insert(1, "weighted")
    policies = clone_policies(
        _network(config, prepared),
        task.states,
        expert.actions(task.states),
        torch.as_tensor(prepared.weights.astype(np.float32)).to(pipeline.device),
        task.episode_returns,
        choices,
        sizes,
        budgets,
        repeats,
        config.seed,
        lambda fraction: tell(f"cloning policies: {fraction:.0%}"),
    )
    tell(f"running {len(policies.made)} policies")
    measured = measure(policies, expert, support, arena, episodes, config.seed)
    findings = {
        "dataset": prepared.dataset.name,
        "expert_return": prepared.expert_returns.mean(),
        "policies": len(measured),
        "without_surrounding_states": sum(each.surrounding_share == 0 for each in measured),
        "quantile": quantile,
        "threshold": support.threshold,
        "pivotal_states": len(support.pivotal),
        "correlations": correlations(measured, config.seed),
        "warnings": prepared.warnings,
    }
    return Analysis(
        "errors",
        [asdict(each) for each in measured],
        _plain(findings),
        lambda path: errors_figure(measured, path),
    )


def coverage(
    config: PipelineConfig,
    artifacts: Mapping[str, Artifact] | None = None,
    bins: int = 20,
    cache: Path | str | None = None,
    tell: Tell = untold,
) -> Analysis:
    """Density and diversity of synthetic states; see `sdw_core.analysis.coverage`.

    Args:
        config: of the source and its density.
        artifacts: exported sets, by name; none: sets distilled now, at temperature 0 and at the
            configured one (the best of its distillation seeds), and as many random rows.
        bins: of the histograms, 2 or more.
        cache: folder of the stage cache; None keeps nothing.
        tell: what is being done.

    Raises:
        InputError: a number is out of its bounds, settings do not fit, or a set is not of states of
            the source's width.
    """
    bins, artifacts = checked(bins, Several, "bins"), artifacts or {}
    _require_fit(config)
    _require_width(config, artifacts)
    pipeline = _pipeline(config, cache, tell)
    sets: dict[str, np.typing.NDArray[np.float32]] = {}
    prepared = pipeline.prepare()
    dataset, arena = prepared.dataset, prepared.arena
    returns: dict[str, float] = {}
    warnings = list(prepared.warnings)
    for name, artifact in artifacts.items():
        sets[name] = arena.units.normalized_states(artifact.observations)
        returns[name] = float(artifact.evidence["scores"]["synthetic"]["mean"])
    if not artifacts:
        for temperature in dict.fromkeys((0.0, config.weighting.temperature)):
            weighted = _weighted(config, temperature)
            result = _pipeline(weighted, cache, tell, pipeline.sources).run()
            warnings += result.warnings
            name = f"temperature {temperature:g}"
            sets[name] = result.observations[result.best].numpy()
            of_each = result.returns.reshape(len(result.seeds), -1).mean(axis=1)
            returns[name] = float(of_each[result.best])
        count = config.distill.synthetic_size
        picks = random_rows(dataset, count, 1, config.seed)[0]
        sets["random rows"] = arena.units.normalized_states(dataset.observations[picks])
    tell("measuring the sets")
    source_states = dataset.states
    source = Source(source_states, pipeline.source_density(dataset), bins, config.seed)
    covered = [source.covered(name, states) for name, states in sets.items()]
    table = [
        {"set": name, "low": source.edges[b], "high": source.edges[b + 1], "share": histogram[b]}
        for name, histogram in [
            ("source", source.histogram),
            *((each.name, each.histogram) for each in covered),
        ]
        for b in range(bins)
    ]
    findings = {
        "source": dataset.name,
        "source_rare_share": RARE,
        "source_median_log_density": source.median_log_density,
        "sets": [
            {key: value for key, value in asdict(each).items() if key != "histogram"}
            | {"normalized_return": returns.get(each.name)}
            for each in covered
        ],
        "warnings": list(dict.fromkeys(warnings)),
    }
    return Analysis(
        "coverage", table, _plain(findings), lambda path: coverage_figure(source, covered, path)
    )


def _pipeline(
    config: PipelineConfig,
    cache: Path | str | None,
    tell: Tell,
    sources: Sources = Sources(),  # noqa: B008 (frozen)
) -> Pipeline:
    where = config.dataset

    def progress(stage: str, done: float) -> None:
        tell(f"{where}, {stage}: {done:.0%}")

    return Pipeline(config, cache, progress, sources=sources)


def _of_all_states(config: PipelineConfig) -> PipelineConfig:
    """With the whole dataset judged: an analysis is of the dataset, not of a teacher's part."""
    distill = config.distill.model_copy(update={"states": "all"})
    return config.model_copy(update={"distill": distill})


def _weighted(config: PipelineConfig, temperature: float) -> PipelineConfig:
    """With another temperature; at 0 no density is fitted for the weights.

    Rows are judged by single policies, as the score of an exported set is that stands beside them.
    """
    weighting = config.weighting.model_copy(update={"temperature": temperature})
    evaluation = config.evaluation.model_copy(update={"ensemble": 1})
    return config.model_copy(update={"weighting": weighting, "evaluation": evaluation})


def _network(config: PipelineConfig, prepared: Prepared) -> MLP:
    task, distill = prepared.task, config.distill
    return MLP.build(task.states.shape[1], task.targets.shape[1], distill.layers, distill.width)


def _training_set(prepared: Prepared, config: PipelineConfig) -> TrainingSet:
    noise = config.distill.state_noise
    return TrainingSet(prepared.dataset.name, prepared.task, prepared.arena, noise)


def _require_fit(config: PipelineConfig) -> None:
    """Refuse, before any work, settings that do not fit the data or this machine."""
    check_fit(config, load_dataset(config))
    resolve_device(config.device)


def _require_one_environment(diverse: PipelineConfig, narrow: PipelineConfig) -> None:
    names = [load_dataset(config).environment for config in (diverse, narrow)]
    if names[0] != names[1]:
        raise InputError(
            f"Both datasets must be of one environment, and {diverse.dataset} is of {names[0]}, "
            f"{narrow.dataset} of {names[1]}; choose another `narrow`."
        )


def _roles_of(
    artifacts: Mapping[str, Artifact], diverse: PipelineConfig, narrow: PipelineConfig
) -> dict[str, Role]:
    """Which of the datasets each set of rows was distilled from."""
    contents: dict[str, Role] = {
        load_dataset(narrow).content_hash: "narrow",
        load_dataset(diverse).content_hash: "diverse",
    }
    roles: dict[str, Role] = {}
    for name, artifact in artifacts.items():
        source = artifact.evidence["source"]
        if source["content_hash"] not in contents:
            analysed = " or ".join(dict.fromkeys((diverse.dataset, narrow.dataset)))
            raise InputError(
                f"Synthetic rows must be distilled from a dataset that is analysed, and {name!r} "
                f"is of {source['name']}; give rows of {analysed}."
            )
        roles[name] = contents[source["content_hash"]]
    return roles


def _require_rows(config: PipelineConfig, sizes: Sequence[int]) -> None:
    available = available_rows("best", len(load_dataset(config)))
    if max(sizes) > available:
        raise InputError(
            f"`size` cannot exceed the {available} transitions of the best episodes of "
            f"{config.dataset}, and is {max(sizes)}; lower it."
        )


def _require_width(config: PipelineConfig, artifacts: Mapping[str, Artifact]) -> None:
    width = load_dataset(config).observations.shape[1]
    for name, artifact in artifacts.items():
        if artifact.observations.shape[1] != width:
            raise InputError(
                f"A synthetic set must have the states of its source, and {name!r} has states "
                f"{artifact.observations.shape[1]} wide where {config.dataset} has {width}; give "
                "the spec of its own source."
            )


def _plain(value: Any) -> Any:
    """The same as a JSON document: numbers of Python, and null for what is not finite."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not isfinite(value) else value
