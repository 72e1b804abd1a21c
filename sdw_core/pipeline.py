"""The whole pipeline in one process.

    dataset -> density -> weights -> expert -> distill -> evaluate

Each stage is a function of its settings and of the stages before it; this module composes them,
tells one progress callback where it is, and keeps results in one stage cache.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdw_core.cache import StageCache, StageResult
from sdw_core.config import CheckpointConfig, PercentBCConfig, PipelineConfig
from sdw_core.dataset import OfflineDataset, load_dataset
from sdw_core.dataset.kept import kept, to_keep
from sdw_core.density import FittedDensity, fit_density
from sdw_core.distill.loop import Visits, distill
from sdw_core.distill.objectives import build_task, warnings_of
from sdw_core.distill.selection import WITHOUT_TIME
from sdw_core.distill.stability import risen
from sdw_core.distill.state import Distilled
from sdw_core.distill.task import Task, state_noise
from sdw_core.errors import StopRequested
from sdw_core.evaluate import Arena, Recipe, evaluate_rows, rollout
from sdw_core.expert import Demonstrations, Expert, tensors_of
from sdw_core.expert.checkpoint import Checkpoint, read_checkpoint
from sdw_core.expert.percent_bc import cloned_rows
from sdw_core.expert.shortfall import shortfall
from sdw_core.expert.training import Training
from sdw_core.feasibility import check_fit, resolve_device
from sdw_core.files import sha256_of_json
from sdw_core.identity import Sources, code_of
from sdw_core.progress import Measured, Points, Progress, StageProgress, unheard
from sdw_core.protocols import applied, own_recipe
from sdw_core.registry import DENSITIES, EXPERTS
from sdw_core.resources import give_memory_back
from sdw_core.result import PipelineResult
from sdw_core.seeds import torch_generator
from sdw_core.stage_keys import dataset_key, density_key, expert_key, judged_key, needs_density
from sdw_core.statistics import Returns, ReturnSummary, summarize
from sdw_core.waiting import GoOn, Waiting, patiently
from sdw_core.weights import effective_sample_size_percent, state_weights

if TYPE_CHECKING:
    from sdw_core.console import Console

EXPERT_EPISODES = 10
"""Episodes that an expert is judged by."""


@dataclass(frozen=True)
class Rungs:
    """Small evaluations on the way, after which a run may be ended.

    They follow the protocol of the evaluation that counts, so that both rank runs alike.

    Attributes:
        steps: numbers of outer steps that are done then.
        policies, episodes: K and M, fewer than those of the evaluation that counts.
        seed: root seed, the same for all runs that are compared.
        aggregate: of the normalised returns, what is compared.
        judge: called with a number of outer steps, the aggregate there, and the context to enter
            while it waits for an answer; ends the run by raising.
    """

    steps: tuple[int, ...]
    policies: int
    episodes: int
    seed: int
    aggregate: Callable[[Returns], float]
    judge: Callable[[int, float, Waiting], None]


@dataclass(frozen=True)
class Batches:
    """An evaluation of the finished rows that is made a few policies at a time, and may end early.

    Attributes:
        size: policies of each set of rows that are judged at a time.
        enough: of the normalised returns [S, k, M] so far, k of the K policies of S sets: whether
            to judge no more.
    """

    size: int
    enough: Callable[[Returns], bool]


@dataclass(frozen=True, eq=False)
class Prepared:
    """What the stages before the distillation made.

    Attributes:
        dataset: the source.
        arena: where policies are judged.
        task: what is distilled.
        weights: density weights w(s) [N].
        log_likelihood: held-out, nats; None where no density was needed.
        expert: pi* and q*.
        expert_returns: normalised returns of the expert's episodes [10, 1].
        expert_summary: how good the expert is: known before anything is distilled from it.
        warnings: what a person should know before believing the results: a sentence each.
    """

    dataset: OfflineDataset
    arena: Arena
    task: Task
    weights: NDArray[np.float64]
    log_likelihood: float | None
    expert: Expert
    expert_returns: Returns
    expert_summary: ReturnSummary
    warnings: tuple[str, ...]


class Pipeline:
    """The pipeline of one configuration.

    Args:
        config: the settings.
        cache: folder of the stage cache; None keeps nothing.
        progress: told where the pipeline is.
        checkpoint: file that the distillation is checkpointed to and resumed from; an expert's
            training keeps its own in the cache.
        should_stop: asked between steps of the expert's training, of the distillation, and of the
            episodes that are run on its way; True ends the run with `StopRequested`.
        rungs: where the run is judged on its way; None: nowhere.
        batches: how the finished rows are judged; None: by all policies at once.
        waiting: told while the run waits for another process, which its stages' seconds leave out.
        sources: what the run must be made of, as far as that is known.
        measured: told the curves: `density/held_out_log_likelihood` and `expert/...` by the steps
            of their fits; `distill/...`, `return/mean` and `return/rung` by outer step.

    Attributes:
        sources: what it is made of, once the dataset is loaded.
    """

    def __init__(
        self,
        config: PipelineConfig,
        cache: str | Path | None = None,
        progress: StageProgress = lambda stage, fraction: None,
        checkpoint: Path | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        rungs: Rungs | None = None,
        waiting: Waiting = patiently,
        sources: Sources = Sources(),  # noqa: B008 (frozen)
        measured: Measured = unheard,
        batches: Batches | None = None,
    ) -> None:
        self.config = config
        self.device = resolve_device(config.device)
        self.seconds: dict[str, float] = {}
        self.sources = sources
        self._cache = StageCache(Path(cache) if cache else None, self._wait)
        self._progress = progress
        self._checkpoint = checkpoint
        self._should_stop = should_stop
        self._rungs = rungs
        self._batches = batches
        self._waiting = waiting
        self._waited = 0.0
        self._measured = measured

    def run(self, progress: "bool | Console" = False) -> PipelineResult:
        """Run every stage.

        Args:
            progress: show a bar a stage, the expert's return and the warnings: True, on stderr or
                in the notebook; or on a console of rich's.

        Raises:
            InputError: the settings do not fit the dataset.
            SourceChanged: the dataset, the checkpoint or the method is not what it must be.
            SDWError: a stage failed.
        """
        self.seconds = {}
        if not progress:
            return self.finish(self.prepare())
        from sdw_core.bars import watched

        told = self._progress

        def tell(stage: str, fraction: float) -> None:
            told(stage, fraction)
            bars(stage, fraction)

        with watched(None if progress is True else progress) as (bars, say):
            self._progress = tell
            try:
                prepared = self.prepare()
                expert = prepared.expert_summary
                say(
                    f"expert ({self.config.expert.method}): normalised return {expert.mean:.1f}, "
                    f"95 % interval {expert.low:.1f} to {expert.high:.1f}"
                )
                for sentence in prepared.warnings:
                    say(f"warning: {sentence}")
                result = self.finish(prepared)
                for sentence in result.warnings[len(prepared.warnings) :]:
                    say(f"warning: {sentence}")
                return result
            finally:
                self._progress = told

    def finish(self, prepared: Prepared) -> PipelineResult:
        """The distillation and the stages after it, on what `prepare` made."""
        config = self.config
        dataset, arena = prepared.dataset, prepared.arena
        visiting = 0.0
        curve_at = curve_steps(config)[:-1]
        rungs_at = self._rungs.steps if self._rungs else ()

        def visit(step: int, rows: Distilled) -> Tensor:
            nonlocal visiting
            start = self._own_seconds()
            found = np.empty(0)
            if step in curve_at:
                found = self._evaluated(rows, arena, self._go_on)
            if self._rungs and step in rungs_at:
                value = self._rung_value(rows, arena, self._rungs)
                self._measured("return/rung", {step: value})
                self._rungs.judge(step, value, self._wait)
            visiting += self._own_seconds() - start
            return torch.from_numpy(found)

        def returned(step: int, found: Tensor) -> None:
            if len(found):  # at a rung, none is kept
                self._measured("return/mean", {step: float(found.nanmean())})

        depends_on = [self.sources.identity(config), _size_of(self._rungs)]
        visited = frozenset({*curve_at, *rungs_at})
        visits = Visits(visited, visit, sha256_of_json(depends_on), returned)
        with self._stage("distill"):
            distilled = distill(
                prepared.task,
                config.distill,
                config.seed,
                lambda fraction: self._progress("distill", fraction),
                self._checkpoint,
                self._should_stop,
                visits,
                self._measured,
            )
        self.seconds["distill"] -= visiting
        self.seconds["evaluate"] = visiting
        sound = _sound(distilled)
        losses = distilled.losses[sound].cpu()
        rose = risen(config.distill, losses, sound)
        with self._stage("evaluate"):
            returns = self._finally(distilled, arena)
        policies = _policies_of(sound, config.evaluation.policies)
        returned(config.distill.outer_steps, torch.from_numpy(returns))
        curve = {step: distilled.visited[step].numpy()[policies] for step in curve_at}
        return PipelineResult(
            config=config,
            dataset=dataset,
            sources=self.sources,
            arena=arena,
            recipes=_recipes(config, distilled),
            seeds=tuple(sound),
            observations=distilled.observations[sound].cpu(),
            actions=distilled.actions[sound].cpu(),
            returns=returns,
            curve=curve | {config.distill.outer_steps: returns},
            losses=losses,
            expert_returns=prepared.expert_returns,
            expert_summary=prepared.expert_summary,
            effective_sample_size_percent=effective_sample_size_percent(
                prepared.task.weights.cpu().numpy()
            ),
            density_effective_sample_size_percent=effective_sample_size_percent(prepared.weights),
            log_likelihood=prepared.log_likelihood,
            seconds=self.seconds,
            warnings=(*prepared.warnings, *([rose] if rose else [])),
        )

    def _evaluated(self, rows: Distilled, arena: Arena, progress: Progress) -> Returns:
        """Normalised returns [seeds * K, M]; nan for distillation seeds that diverged."""
        config, settings = self.config, self.config.evaluation
        size = settings.policies, settings.episodes
        returns = np.full((config.distill.seeds * size[0], size[1]), np.nan)
        found = self._judged(rows, arena, *size, config.seed, "evaluate", progress)
        returns[_policies_of(_sound(rows), settings.policies)] = found
        return returns

    def _finally(self, rows: Distilled, arena: Arena) -> Returns:
        """Normalised returns [sound seeds * K, M] of the finished rows; of fewer by `batches`."""
        config, settings = self.config, self.config.evaluation
        size = settings.policies, settings.episodes
        step = self._batches.size if self._batches else settings.policies
        sets, found = len(_sound(rows)), np.empty((len(_sound(rows)), 0, settings.episodes))
        for first in range(0, settings.policies, step):
            chosen = range(first, min(first + step, settings.policies))

            def progress(fraction: float, chosen: range = chosen) -> None:
                done = chosen.start + fraction * len(chosen)
                self._progress("evaluate", done / settings.policies)

            judged = self._judged(rows, arena, *size, config.seed, "evaluate", progress, chosen)
            found = np.concatenate([found, judged.reshape(sets, len(chosen), -1)], axis=1)
            if self._batches and chosen.stop < settings.policies and self._batches.enough(found):
                break
        return found.reshape(-1, settings.episodes)

    def _rung_value(self, rows: Distilled, arena: Arena, rungs: Rungs) -> float:
        size = rungs.policies, rungs.episodes
        return rungs.aggregate(self._judged(rows, arena, *size, rungs.seed, "rung", self._go_on))

    def _judged(
        self,
        rows: Distilled,
        arena: Arena,
        policies: int,
        episodes: int,
        seed: int,
        stage: str,
        progress: Progress,
        chosen: range | None = None,
    ) -> Returns:
        """Normalised returns [sound seeds * K, M], by the protocol of the configuration."""
        settings, sound = self.config.evaluation, _sound(rows)
        return evaluate_rows(
            rows.observations[sound],
            rows.actions[sound],
            [applied(settings, own) for own in _recipes(self.config, rows)],
            arena,
            policies,
            episodes,
            seed,
            stage,
            progress,
            settings.ensemble,
            chosen,
        )

    def _go_on(self, fraction: float) -> None:
        if self._should_stop():
            raise StopRequested(f"Stopped {fraction:.0%} through an evaluation on the way.")

    def prepare(self) -> Prepared:
        """The stages before the distillation."""
        with self._stage("dataset"):
            dataset = self._dataset()
            check_fit(self.config, dataset)
            checkpoint = self._expert_file
            code = code_of(self.config)
            sources = Sources.of(dataset, checkpoint.sha256 if checkpoint else None, code)
            self.sources.require_unchanged(sources, self.config)
            self.sources = sources
            arena, states = Arena.of(dataset), dataset.states
        if self._density_is_fitted_elsewhere(dataset):
            with self._stage("expert"):  # this run fits the expert meanwhile, and keeps it for all
                self._expert(dataset, states, arena)
        weights, log_density, log_likelihood = self._weights(dataset, states)
        with self._stage("expert"):
            expert = self._expert(dataset, states, arena)
            actions = expert.tensors["actions"].to(self.device)
            values = expert.tensors["values"].to(self.device)
            restored = self._restored(expert)
            lengths = np.diff(dataset.episode_ends, prepend=0)
            task = build_task(
                self.config.distill,
                torch.as_tensor(states).to(self.device),
                torch.as_tensor(dataset.unit_actions).to(self.device),
                actions,
                values,
                torch.as_tensor(weights.astype(np.float32)).to(self.device),
                dataset.zero_is_arbitrary,
                torch.as_tensor(log_density),
                torch.as_tensor(np.repeat(dataset.episode_returns(), lengths)).to(self.device),
            )
            if self.config.distill.initial_states not in WITHOUT_TIME:
                timesteps = torch.from_numpy(dataset.timesteps).to(self.device)
                task = replace(task, expert_values=values, timesteps=timesteps)
            if torch.equal(task.targets, actions):
                task = replace(task, targets_at=self._actions_of(restored))
                self._require_targets_beside(task)
            if self.config.distill.states == "teacher":
                assert isinstance(self.config.expert, PercentBCConfig)
                task = task.of(torch.from_numpy(cloned_rows(dataset, self.config.expert)))
        returns = arena.normalized(expert.tensors["returns"].numpy())
        expert_summary = summarize(returns, self.config.seed)
        warnings = warnings_of(self.config.distill, task)
        if found := shortfall(self.config.expert, expert_summary, dataset):
            warnings.append(found)
        give_memory_back()  # arrays as large as the data came and went
        return Prepared(
            dataset=dataset,
            arena=arena,
            task=task,
            weights=weights,
            log_likelihood=log_likelihood,
            expert=restored,
            expert_returns=returns,
            expert_summary=expert_summary,
            warnings=tuple(warnings),
        )

    def _dataset(self) -> OfflineDataset:
        """The dataset; from the stage cache, where it is known what it must be.

        Whoever reads it first keeps it there, so that a node holds it once in memory, and it is
        read and checked once for all runs.
        """
        config, content = self.config, self.sources.dataset
        if config.data is not None or content is None:
            return load_dataset(config)

        def read() -> StageResult:
            dataset = load_dataset(config)
            found = Sources(dataset.content_hash, dataset.reference_scores)
            self.sources.require_unchanged(found, config)
            return to_keep(dataset)

        return kept(self._cache.result("dataset", dataset_key(config, content), read))

    def _weights(
        self, dataset: OfflineDataset, states: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], float | None]:
        """Density weights w(s) [N], log d(s) [N], and the held-out log-likelihood.

        Where nothing needs a density, log d(s) is 0 and the log-likelihood is None; so is one that
        is not finite, as a state that was held out may lie where the density is 0.
        """
        config = self.config
        with self._stage("density"):
            log_density, log_likelihood = np.zeros(len(dataset)), None
            if needs_density(config):
                density = self._density(dataset, states)
                log_density = density.tensors["log_density"].double().numpy()
                found = float(density.document["held_out_log_likelihood"])
                log_likelihood = found if isfinite(found) else None
        with self._stage("weights"):
            return state_weights(log_density, config.weighting), log_density, log_likelihood

    def source_density(self, dataset: OfflineDataset) -> FittedDensity:
        """log d(s) of the dataset, as a density that can be asked about other states as well."""
        with self._stage("density"):
            found = self._density(dataset, dataset.states)
        state = {name: tensor.numpy() for name, tensor in found.tensors.items()}
        return FittedDensity.from_state(self.config.density, state, self.device)

    def _density(self, dataset: OfflineDataset, states: NDArray[np.float32]) -> StageResult:
        key = self._density_key(dataset)
        found = self._cache.result("density", key, lambda: self._fit_density(states))
        score = found.document["held_out_log_likelihood"]
        points = dict(found.document.get("held_out_curve") or [[0, score]])
        self._measured("density/held_out_log_likelihood", points)
        return found

    def _density_is_fitted_elsewhere(self, dataset: OfflineDataset) -> bool:
        return needs_density(self.config) and self._cache.computed_elsewhere(
            "density", self._density_key(dataset)
        )

    def _density_key(self, dataset: OfflineDataset) -> str:
        return density_key(self.config, dataset.content_hash, code_of(self.config))

    def _fit_density(self, states: NDArray[np.float32]) -> StageResult:
        density = fit_density(
            states,
            self.config.density,
            self.config.seed,
            self.device,
            lambda fraction: self._progress("density", fraction),
        )
        with DENSITIES.running(self.config.density.model):
            tensors = {"log_density": density.log_prob(states), **density.state()}
        return StageResult(
            {name: torch.as_tensor(value) for name, value in tensors.items()},
            {
                "held_out_log_likelihood": density.held_out_log_likelihood,
                "held_out_curve": list((density.model.held_out_curve or {}).items()),
            },
        )

    def _expert(
        self, dataset: OfflineDataset, states: NDArray[np.float32], arena: Arena
    ) -> StageResult:
        """pi*(s) [N, A], q*(s, pi*(s)) [N] and the returns of the expert's own episodes [10, 1].

        In units of reward: the reference scores are no part of what the key hashes.
        """
        key = self._expert_key(dataset)
        curves: dict[str, dict[int, float]] = {}

        def measured(curve: str, points: Points) -> None:
            curves.setdefault(curve, {}).update(points)
            self._measured(curve, points)

        training = Training(
            lambda fraction: self._progress("expert", fraction),
            self._cache.checkpoint("expert", key),
            key,
            self._should_stop,
            measured,
        )

        def compute() -> StageResult:
            def fresh() -> Tensor:
                return torch.tensor(states, device=self.device)

            method, options = EXPERTS.named_in(self.config)
            expert: Expert = EXPERTS.make(
                method,
                options,
                data=Demonstrations(dataset, fresh()),
                config=self.config.expert,
                seed=self.config.seed,
                training=training,
                checkpoint=self._expert_file,
            )
            tensors = tensors_of(method, expert, fresh, dataset)
            returns = self._returns_of(expert, arena, 1, EXPERT_EPISODES, "expert")
            return StageResult(
                {**tensors, "returns": torch.from_numpy(returns.T.copy())},
                {"curves": {name: list(points.items()) for name, points in curves.items()}},
            )

        found = self._cache.result("expert", key, compute)
        for curve, points in found.document.get("curves", {}).items():
            self._measured(curve, dict(points))
        return found

    def _expert_key(self, dataset: OfflineDataset) -> str:
        sha256 = self._expert_file.sha256 if self._expert_file else None
        return expert_key(self.config, dataset.content_hash, sha256, code_of(self.config))

    def _restored(self, kept: StageResult) -> Expert:
        """The expert that `_expert` keeps."""
        state = {name: tensor.to(self.device) for name, tensor in kept.tensors.items()}
        method = self.config.expert.method
        with EXPERTS.running(method):
            expert: Expert = EXPERTS.resolve(method).from_state(state)
        return expert

    @cached_property
    def _expert_file(self) -> Checkpoint | None:
        """The expert's checkpoint, read once: what is hashed is what is used."""
        config = self.config.expert
        return read_checkpoint(config.path) if isinstance(config, CheckpointConfig) else None

    def reseeded(self, seed: int) -> "Pipeline":
        """The same pipeline with another root seed; its stage times count for this one."""
        config = self.config.model_copy(update={"seed": seed})
        other = Pipeline(
            config,
            self._cache.folder,
            self._progress,
            should_stop=self._should_stop,
            waiting=self._waiting,
            sources=self.sources,
        )
        other.seconds = self.seconds
        return other

    def expert_returns(self, episodes: int) -> Returns:
        """Normalised returns [1, M] of the expert itself, on the seeds that rows are judged on."""
        prepared = self.prepare()
        with self._stage("evaluate"):
            arena = prepared.arena
            found = self._returns_of(prepared.expert, arena, 1, episodes, "evaluate")
            return arena.normalized(found)

    def expert_actions(self, dataset: OfflineDataset) -> NDArray[np.float32]:
        """pi* [N, A] of the dataset's states, in units of the actions' bounds."""
        kept = self._expert(dataset, dataset.states, Arena.of(dataset))
        return kept.tensors["actions"].numpy()

    def judged_expert(self, dataset: OfflineDataset, stage: str) -> Returns:
        """Normalised returns [K, M] of the expert, started where K policies of rows would be.

        The stage cache keeps them too.

        Args:
            dataset: the source.
            stage: name of the random stream.
        """
        arena, evaluation = Arena.of(dataset), self.config.evaluation

        def judge() -> StageResult:
            expert = self._restored(self._expert(dataset, dataset.states, arena))
            size = evaluation.policies, evaluation.episodes
            found = self._returns_of(expert, arena, *size, stage)
            return StageResult({"returns": torch.from_numpy(found)})

        key = judged_key(self.config, self._expert_key(dataset), stage)
        return arena.normalized(self._cache.result("judged", key, judge).tensors["returns"].numpy())

    def _returns_of(
        self, expert: Expert, arena: Arena, lanes: int, episodes: int, stage: str
    ) -> NDArray[np.float64]:
        """Returns [K, M] of an expert on K times M episodes, in units of reward."""
        actions = self._actions_of(expert)
        act = arena.actor(actions, self.device)
        return rollout(act, arena, lanes, episodes, self.config.seed, stage)

    def _actions_of(self, expert: Expert) -> Callable[[Tensor], Tensor]:
        """pi* of any states [*, O]; a user's own is asked about [N, O], and named where it fails.

        It may work in place on them.
        """

        def actions(states: Tensor) -> Tensor:
            with EXPERTS.running(self.config.expert.method):
                found = torch.as_tensor(expert.actions(states.flatten(0, -2).clone()))
            return found.reshape(*states.shape[:-1], -1)

        return actions

    def _require_targets_beside(self, task: Task) -> None:
        """Refuse an expert that gives no actions where `state_noise` will take the states.

        It is asked about one batch, for a distillation, which waits for the device nowhere, looks
        at no answer.
        """
        distill, method = self.config.distill, self.config.expert.method
        generator, size = torch_generator(self.config.seed, "beside"), distill.meta_batch_size
        noise = state_noise(distill.state_noise, size, [generator], task.states)
        if noise is None:
            return
        picks = torch.randint(len(task.states), (1, size), generator=generator).to(self.device)
        batch = task.batch(picks, noise)
        what = "actions beside the dataset's states too (`pipeline.distill.state_noise`),"
        EXPERTS.numbers(method, what, batch.targets[0], (size, task.actions.shape[1]))

    @contextmanager
    def _stage(self, stage: str) -> Iterator[None]:
        self._progress(stage, 0.0)
        start = self._own_seconds()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + self._own_seconds() - start

    @contextmanager
    def _wait(self) -> Iterator[GoOn]:
        start = perf_counter()
        try:
            with self._waiting() as go_on:
                yield go_on
        finally:
            self._waited += perf_counter() - start

    def _own_seconds(self) -> float:
        """A clock that stands still while another process is waited for."""
        return perf_counter() - self._waited


def curve_steps(config: PipelineConfig) -> tuple[int, ...]:
    """Outer steps after which rows are evaluated, the last one included."""
    count, steps = config.evaluation.curve, config.distill.outer_steps
    return tuple(sorted({round(steps * (i + 1) / count) for i in range(count)}))


def _size_of(rungs: Rungs | None) -> list[int] | None:
    """What returns at rungs depend on beside the settings."""
    return [rungs.policies, rungs.episodes, rungs.seed] if rungs else None


def _sound(rows: Distilled) -> list[int]:
    """The distillation seeds that did not diverge."""
    return [s for s in range(len(rows.observations)) if s not in rows.diverged]


def _policies_of(sets: list[int], policies: int) -> list[int]:
    """Indices of the policies of some sets, where each set has as many."""
    return [s * policies + k for s in sets for k in range(policies)]


def _recipes(config: PipelineConfig, rows: Distilled) -> tuple[Recipe, ...]:
    """How policies are trained on the rows of each sound distillation seed."""
    learned = rows.learning_rates[_sound(rows)].tolist()
    return tuple(own_recipe(config.distill, rates) for rates in learned)
