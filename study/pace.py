"""How fast trials are: the times of a short, real one on this machine, or those of a study's.

`python -m study.pace` is given settings of pipelines as JSON, and prints what their parts take;
as many such processes run side by side as trials will.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from math import ceil
from statistics import fmean, median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch

from sdw_core.config import CalQLConfig, DistillConfig, PercentBCConfig, PipelineConfig
from sdw_core.dataset import OfflineDataset, load_dataset
from sdw_core.distill.loop import distill, step_operations
from sdw_core.distill.task import Task
from sdw_core.errors import InputError, SDWError, StopRequested
from sdw_core.evaluate import cloned, rollout
from sdw_core.expert import percent_bc
from sdw_core.pipeline import EXPERT_EPISODES, Pipeline, Prepared, curve_steps
from sdw_core.policy import MLP
from sdw_core.protocols import applied, own_recipe
from sdw_core.registry import module_path
from sdw_core.seeds import torch_generator
from sdw_core.validation import parse
from study.folder import StudyFolder
from study.outcomes import COMPLETE

FIT_STEPS = 300
"""Most steps of a fit that is timed; the others are taken to be as long."""
OUTER_STEPS, WARM_UP = 60, 5
"""Outer steps that are run at most, and the first of them, which are not timed."""
LONGEST = 5.0
"""Seconds of outer steps, and of episodes, that are timed at most."""
FALLING = (0.4, 0.75, 1.0)
"""How long a policy's episode is, in parts of its teacher's, where an environment ends episodes: at
the least, expected, at the most. Most policies of a search fall earlier than their teacher."""
BETWEEN_HOURS = 0.15
"""By what part a machine's times differ from one run to the next, about."""
Widths = tuple[int, int]
"""Of states and actions."""


@dataclass(frozen=True)
class Pace:
    """Seconds of what trials are made of.

    Attributes:
        dataset, density, expert: stages that trials share, each computed once.
        prepare: what a trial takes besides where these are kept.
        outer_step: a constant, and what each floating-point operation adds.
        clone: of cloning the policies that are judged, an operation.
        episode: one of a policy's, at the least, expected, and at the most.
        training: of an expert's training, an operation; 0 where none is cloned.
        of: what was timed, in words.
    """

    dataset: float
    density: float
    expert: float
    prepare: float
    outer_step: Sequence[float]
    clone: float
    episode: Sequence[float]
    training: float
    of: str


def step_of(config: PipelineConfig, widths: Widths) -> float:
    """Floating-point operations of an outer step."""
    distill = config.distill
    return step_operations(distill, MLP.build(*widths, distill.layers, distill.width))


def cloning_of(config: PipelineConfig, widths: Widths) -> float:
    """Floating-point operations of cloning all policies that an evaluation judges."""
    evaluation, recipe = config.evaluation, applied(config.evaluation, own_recipe(config.distill))
    networks = config.distill.seeds * evaluation.policies * evaluation.ensemble
    rows, size = config.distill.synthetic_size, recipe.network(*widths).size
    return 6.0 * networks * rows * size * recipe.steps


def episodes_of(config: PipelineConfig) -> int:
    """Episodes that a trial runs, those of its curve too."""
    evaluation = config.evaluation
    judged = config.distill.seeds * evaluation.policies * evaluation.episodes
    return judged * len(curve_steps(config))


def widths_of(dataset: OfflineDataset) -> Widths:
    """Of its states and actions."""
    return dataset.observations.shape[1], dataset.actions.shape[1]


def of_study(folder: StudyFolder) -> Pace:
    """The pace of the trials of a study that are COMPLETE.

    Raises:
        InputError: none is.
    """
    spec = folder.spec()
    rows = [row for row in folder.book().settled() if row.outcome == COMPLETE and row.stages]
    if not rows:
        raise InputError(
            f"`from_study` takes the times of COMPLETE trials, and {folder.name!r} has none; name "
            "another study, or leave it out to time a short trial here."
        )
    configs = [spec.pipeline_with(row.params) for row in rows]
    widths = widths_of(load_dataset(configs[0]))
    steps, episode, rest = [], [], []
    for row, config in zip(rows, configs, strict=True):
        took = {stage: row.stages.get(stage, 0.0) for stage in ("distill", "evaluate")}
        if config.distill.outer_steps:
            seconds = took["distill"] / config.distill.outer_steps
            steps.append((step_of(config, widths), seconds))
        episode.append(took["evaluate"] / episodes_of(config))
        rest.append((row.seconds or 0.0) - sum(took.values()))
    longest = {
        stage: max(row.stages.get(stage, 0.0) for row in rows)
        for stage in ("dataset", "density", "expert")
    }
    expert, training = configs[0].expert, 0.0
    if isinstance(expert, PercentBCConfig):
        own = longest["expert"] - EXPERT_EPISODES * fmean(episode)
        training = max(0.0, own) / percent_bc.operations(expert, *widths)
    return Pace(
        **longest,
        prepare=max(0.0, median(rest)),
        outer_step=_line(steps),
        clone=0.0,  # which is part of an episode here
        episode=[fmean(episode)] * 3,
        training=training,
        of=f"{len(rows)} trials of the study {folder.name!r}",
    )


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Constant and slope, neither below 0, of seconds over operations."""
    if not points:
        return 0.0, 0.0
    operations, seconds = np.array(points).T
    if np.ptp(operations) > 0.05 * operations.max():
        slope, constant = np.polyfit(operations, seconds, 1)
        if slope >= 0 and constant >= 0:
            return float(constant), float(slope)
    return 0.0, float(seconds.sum() / operations.sum())


# A short trial on this machine


def measured(configs: Sequence[PipelineConfig], threads: int, beside: int) -> Pace:
    """The pace of trials on this machine.

    Args:
        configs: of a trial whose fits are timed, of the smallest and of the largest one.
        threads: of a trial.
        beside: trials at a time.

    Raises:
        SDWError: the short trial failed.
    """
    asked = json.dumps([threads, *(config.model_dump(mode="json") for config in configs)])
    path, processes = module_path(), list[subprocess.Popen[str]]()
    env = os.environ | ({"PYTHONPATH": path} if path else {})
    try:
        for _ in range(beside):
            command = [sys.executable, "-m", "study.pace", asked]
            processes.append(
                subprocess.Popen(
                    command,
                    env=env,
                    text=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            )
        answers = [process.communicate() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, (_, said) in zip(processes, answers, strict=True):
        if process.returncode:
            raise SDWError(f"The short trial that is timed failed: {said.strip()}")
    found = [json.loads(out) for out, _ in answers]
    mean = {name: np.mean([each[name] for each in found], 0).tolist() for name in found[0]}
    side = f", {beside} side by side" if beside > 1 else ""
    return Pace(**mean, of=f"a short trial on this machine{side}")


def main() -> None:
    """Time a trial in this process; see the module."""
    threads, *documents = json.loads(sys.argv[1])
    torch.set_num_threads(threads)
    configs = [parse(PipelineConfig, document, "pipeline") for document in documents]
    try:
        with redirect_stdout(sys.stderr):
            found = _timed(*configs)
    except SDWError as error:
        sys.exit(str(error))
    json.dump(found, sys.stdout)


def _timed(
    base: PipelineConfig, smallest: PipelineConfig, largest: PipelineConfig
) -> dict[str, Any]:
    """The fields of `Pace`."""
    config, more = _shortened(base)
    told: dict[str, list[tuple[float, float]]] = {"density": [], "expert": []}

    def progress(stage: str, fraction: float) -> None:
        if stage in told and fraction:
            told[stage].append((fraction, perf_counter()))

    with TemporaryDirectory() as cache:
        first = Pipeline(config, cache, progress)
        first.prepare()
        Pipeline(config, cache, sources=first.sources).prepare()  # keeps the dataset
        begun = perf_counter()
        prepared = Pipeline(config, cache, sources=first.sources).prepare()
        prepare = perf_counter() - begun
    fits = {stage: _fit(points) for stage, points in told.items()}
    whole = {stage: first.seconds[stage] + (more[stage] - 1) * fits[stage] for stage in fits}
    widths, training = widths_of(prepared.dataset), 0.0
    if isinstance(config.expert, PercentBCConfig):
        training = fits["expert"] / percent_bc.operations(config.expert, *widths)
    steps = [
        (step_of(each, widths), _outer_step(prepared.task, each.distill))
        for each in (smallest, largest)
    ]
    step = _environment_step(prepared, config)
    return {
        "dataset": first.seconds["dataset"],
        **whole,
        "prepare": prepare,
        "outer_step": _line(steps),
        "clone": _clone(largest, widths, prepared.task.states.device),
        "episode": [step * length for length in _lengths(prepared.dataset, config)],
        "training": training,
    }


def _shortened(config: PipelineConfig) -> tuple[PipelineConfig, dict[str, float]]:
    """The settings with short fits; and how many times as long each of these really is."""
    density, expert = config.density, config.expert
    share = {"density": min(1.0, FIT_STEPS / density.steps), "expert": 1.0}
    if isinstance(expert, PercentBCConfig):
        share["expert"] = min(1.0, FIT_STEPS / (expert.steps + expert.value_steps))
        fewer = [ceil(share["expert"] * steps) for steps in (expert.steps, expert.value_steps)]
        expert = expert.model_copy(update={"steps": fewer[0], "value_steps": fewer[1]})
    elif isinstance(expert, CalQLConfig):
        share["expert"] = min(1.0, FIT_STEPS / expert.steps)
        expert = expert.model_copy(update={"steps": ceil(share["expert"] * expert.steps)})
    density = density.model_copy(update={"steps": ceil(share["density"] * density.steps)})
    short = config.model_copy(update={"density": density, "expert": expert})
    return short, {stage: 1 / part for stage, part in share.items()}


def _fit(points: Sequence[tuple[float, float]]) -> float:
    """Seconds of a whole fit, of parts that were done and when."""
    if len(points) < 2:
        return 0.0
    (first, begun), (last, ended) = points[0], points[-1]
    return (ended - begun) / (last - first) if last > first else 0.0


def _outer_step(task: Task, config: DistillConfig) -> float:
    """Seconds of an outer step."""
    times: list[float] = []

    def progress(fraction: float) -> None:
        if task.states.is_cuda:
            torch.cuda.synchronize()
        times.append(perf_counter())

    def enough() -> bool:
        return len(times) > 2 * WARM_UP and times[-1] - times[0] > LONGEST

    with suppress(StopRequested):
        short = config.model_copy(update={"outer_steps": OUTER_STEPS})
        distill(task, short, 0, progress, should_stop=enough)
    return (times[-1] - times[WARM_UP]) / (len(times) - 1 - WARM_UP)


def _clone(config: PipelineConfig, widths: Widths, device: torch.device) -> float:
    """Seconds of cloning policies, an operation."""
    recipe = applied(config.evaluation, own_recipe(config.distill))
    states, actions = (
        torch.rand(1, config.distill.synthetic_size, width, device=device) for width in widths
    )
    networks = config.evaluation.policies * config.evaluation.ensemble
    generators = [torch_generator(0, "pace", network) for network in range(networks)]
    begun = perf_counter()
    parameters = cloned(states, actions, [recipe], generators)[1]
    parameters[0].sum().item()  # once a GPU is done
    return (perf_counter() - begun) * config.distill.seeds / cloning_of(config, widths)


def _environment_step(prepared: Prepared, config: PipelineConfig) -> float:
    """Seconds of a step of one episode, where as many run together as a trial runs."""
    taken, begun = 0, perf_counter()

    def count(active: list[int], states: Any) -> None:
        nonlocal taken
        taken += len(active)

    def enough(fraction: float) -> None:
        if perf_counter() - begun > LONGEST:
            raise StopRequested

    def actions(states: torch.Tensor) -> torch.Tensor:
        return prepared.expert.actions(states.flatten(0, -2)).reshape(*states.shape[:-1], -1)

    act = prepared.arena.actor(actions, prepared.task.states.device)
    size = config.evaluation.policies, config.evaluation.episodes
    with suppress(StopRequested):
        rollout(act, prepared.arena, *size, config.seed, "pace", enough, count)
    return (perf_counter() - begun) / taken


def _lengths(dataset: OfflineDataset, config: PipelineConfig) -> list[float]:
    """Steps of a policy's episode: at the least, expected, and at the most."""
    lengths = np.diff(dataset.episode_ends, prepend=0)
    if not dataset.terminated.any():
        return [float(lengths.max())] * len(FALLING)
    cloned_from = PercentBCConfig().cloned
    if isinstance(config.expert, PercentBCConfig):
        cloned_from = config.expert.cloned
    skipped, fraction = cloned_from
    given = dataset.episode_returns(), dataset.episode_ends, fraction, skipped
    teacher = lengths[percent_bc.best_episodes(*given)].mean()
    return [float(part * teacher) for part in FALLING]


if __name__ == "__main__":
    main()
