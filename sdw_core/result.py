"""What a run of the pipeline made: to be looked at, and exported."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdw_core.baselines import random_subset
from sdw_core.config import PipelineConfig
from sdw_core.evaluate import Arena, Recipe
from sdw_core.identity import Sources
from sdw_core.labels import named
from sdw_core.offline_dataset import OfflineDataset
from sdw_core.statistics import ReturnSummary, summarize

if TYPE_CHECKING:
    from pandas import DataFrame

    from sdw_core.artifact import Artifact

Returns = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PipelineResult:
    """What one run of the pipeline made, and how good it is.

    Attributes:
        config: the settings.
        dataset: the source.
        sources: what the run was made of beside its settings.
        arena: where policies are judged.
        recipes: what the rows of each distillation seed were distilled for.
        seeds: the S distillation seeds that did not diverge.
        observations: x [S, n, O], normalised, of those seeds.
        actions: y [S, n, A], in units of the action range.
        returns: normalised returns [S * K, M], the policies of a distillation seed together.
        curve: outer step -> the same of the rows as they were then; the last step's are `returns`.
        losses: meta-losses [S, outer steps].
        expert_returns: normalised returns of the expert's episodes.
        expert_summary: of these.
        effective_sample_size_percent: of the weights w(s) c(s) of the distillation.
        density_effective_sample_size_percent: of the density weights w(s) alone.
        log_likelihood: held-out, nats; None where no density was needed, or it is not finite.
        seconds: wall time of each stage.
        warnings: see `Prepared`; and whether a meta-loss rose for good.
    """

    config: PipelineConfig
    dataset: OfflineDataset
    sources: Sources
    arena: Arena
    recipes: tuple[Recipe, ...]
    seeds: tuple[int, ...]
    observations: Tensor
    actions: Tensor
    returns: Returns
    curve: dict[int, Returns]
    losses: Tensor
    expert_returns: Returns
    expert_summary: ReturnSummary
    effective_sample_size_percent: float
    density_effective_sample_size_percent: float
    log_likelihood: float | None
    seconds: dict[str, float]
    warnings: tuple[str, ...]

    @cached_property
    def summary(self) -> ReturnSummary:
        """Of all policies of all distillation seeds: the objective of a search."""
        return self._summary(self.returns, len(self.seeds))

    @cached_property
    def random_summary(self) -> ReturnSummary:
        """Of as many random rows, by the same protocol."""
        return self._summary(self.random_returns, 1)

    def _summary(self, returns: Returns, sets: int) -> ReturnSummary:
        ensemble = self.config.evaluation.ensemble
        return summarize(returns, self.config.seed, sets, ensemble=ensemble)

    @property
    def best(self) -> int:
        """Index, among `seeds`, of the one with the highest mean return."""
        per_seed = self.returns.reshape(len(self.observations), -1).mean(axis=1)
        return int(per_seed.argmax())

    @cached_property
    def random_returns(self) -> Returns:
        """Normalised returns [K, M] of policies that are trained on as many random rows."""
        return random_subset(self.dataset, self.config, self.arena, "evaluate")

    @property
    def source(self) -> dict[str, Any]:
        """Name, content hash and size of the dataset."""
        return {
            "name": self.dataset.name,
            "content_hash": self.dataset.content_hash,
            "episodes": len(self.dataset.episode_ends),
            "transitions": len(self.dataset),
        }

    def frame(self) -> "DataFrame":
        """Normalised returns, a line an episode: of the finished rows, and of the curve's."""
        from pandas import DataFrame

        policies, episodes = self.config.evaluation.policies, self.returns.shape[1]
        returns = np.stack([*self.curve.values()])
        returns = returns.reshape(len(self.curve), -1, policies, episodes)
        step, seed, policy, episode = (each.ravel() for each in np.indices(returns.shape))
        return DataFrame(
            {
                "distillation_seed": np.array(self.seeds)[seed],
                "outer_step": np.array([*self.curve])[step],
                "policy": policy,
                "episode": episode,
                "normalized_return": returns.ravel(),
            }
        )

    def export(
        self, folder: str | Path, license: str | None = None, formats: Iterable[str] = ()
    ) -> "Artifact":
        """Judge the best rows on fresh seeds, beside random ones, and write them as a folder.

        Args:
            folder: must not exist.
            license: of the export; None: the source's, if that states one.
            formats: `npz`, `csv`, `minari`, beside safetensors and parquet.

        Raises:
            InputError: the folder exists, or the licence or a format is none.
        """
        from sdw_core.artifact import Artifact, refuse_existing, write_artifact
        from sdw_core.evidence import confirmed_scores, evidence_of, source_states
        from sdw_core.formats import require_formats
        from sdw_core.licenses import require_license

        folder, formats = Path(folder), require_formats(formats)
        refuse_existing(folder)
        license = None if license is None else require_license(license)
        seed = self.seeds[self.best]
        artifact = Artifact.distilled(
            self.observations[self.best],
            self.actions[self.best],
            self.arena,
            self.recipes[self.best],
            evidence_of(self.config, self.source, seed, self.dataset, license),
        )
        scores = confirmed_scores(artifact, self.dataset, self.config, self.to_json())
        artifact.evidence["scores"] = scores
        states = source_states(self.dataset, self.config.seed)
        write_artifact(artifact, folder, states, formats=formats)
        return artifact

    def __repr__(self) -> str:
        summary, (_, rows, _) = self.summary, self.observations.shape
        return (
            f"PipelineResult({rows} rows of {self.dataset.name!r}, "
            f"{named('normalised return', summary.ensemble)} "
            f"{summary.mean:.1f}, 95 % interval {summary.low:.1f} to {summary.high:.1f})"
        )

    def _repr_html_(self) -> str:
        from sdw_core.card import html_of
        from sdw_core.evidence import source_states

        seed, found = self.config.seed, self.to_json()
        scores = {
            "synthetic": found["normalized_return"],
            "random_subset": self.random_summary.to_json(),
            "expert": found["expert"],
        }
        states = self.observations[self.best].numpy()
        return html_of(states, scores, source_states(self.dataset, seed))

    def to_json(self) -> dict[str, Any]:
        """The scalars that scripts rely on."""
        steps = self.config.distill.outer_steps
        return {
            "normalized_return": self.summary.to_json(),
            "expert": self.expert_summary.to_json(),
            "effective_sample_size_percent": self.effective_sample_size_percent,
            "density_effective_sample_size_percent": self.density_effective_sample_size_percent,
            "log_likelihood": self.log_likelihood,
            "seconds": self.seconds,
            "outer_steps": steps,
            "seconds_per_outer_step": self.seconds["distill"] / steps if steps else None,
            "warnings": list(self.warnings),
        }
