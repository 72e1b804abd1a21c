"""How trials end, and what they leave: light to import, for all that only looks at a study."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from sdw_core.config import STAGES, PipelineConfig, identifying
from sdw_core.files import read_whole, sha256_of_json, write_json
from sdw_core.identity import Sources
from sdw_core.statistics import ReturnSummary

COMPLETE, PRUNED, FAILED, STOPPED = "COMPLETE", "PRUNED", "FAILED", "STOPPED"
"""Of a trial's result; a STOPPED trial leaves none and goes back to the queue."""
FINAL = (COMPLETE, PRUNED, FAILED)


def config_hash(config: PipelineConfig) -> str:
    """Hash of a trial's settings as they are written, without the device that they run on."""
    document = identifying(config)
    del document["device"]
    return sha256_of_json(document)


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """How a trial ended and what it found, as `result.json` keeps it, in the order of its keys.

    Attributes:
        number: the trial's Optuna number.
        config_hash: of its settings; see `config_hash`.
        node: name of the host that it ran on.
        outcome: COMPLETE, PRUNED, FAILED or STOPPED.
        reason: why it did not complete, beginning with a class of reasons.
        rung: of a PRUNED trial, the outer step that it ended at.
        seconds: its running time over all its attempts.
        stages: seconds of each stage in the last attempt.
        metrics: what a study can have as its objectives.
        normalized_return: of all policies of all distillation seeds.
        curve: outer step -> mean return of each policy, those of a distillation seed together.
        expert: normalised return of the expert's episodes.
        effective_sample_size_percent: of the weights w(s) c(s) of the distillation.
        density_effective_sample_size_percent: of the density weights w(s) alone.
        log_likelihood: of the density, held-out; None where none was needed.
        best: index, among `distillation_seeds`, of the rows with the highest return.
        distillation_seeds: those that did not diverge.
        dataset: name, content hash and size of the source; empty where no rows were distilled.
        learning_rates: of each layer, for each distillation seed.
        warnings: sentences.
        rungs: outer step -> return at a rung.
        judged: of a trial that was judged by fewer policies than others, as it was clearly behind:
            by how many `policies`, `of` how many, `against` which trial. Its `normalized_return`
            among the metrics is that trial's less the mean paired difference; its summary is of
            what was judged, which is biased: the more so, the unluckier its policies were.
        sources: what it was made of; None where it does not say.
        identity: hash of its settings and sources.
        sources_changed: whether it is STOPPED because its sources are not what they were.
    """

    number: int | None = None
    config_hash: str | None = None
    node: str | None = None
    outcome: str
    reason: str | None = None
    rung: int | None = None
    seconds: float | None = None
    stages: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    normalized_return: ReturnSummary | None = None
    curve: dict[str, list[float]] = field(default_factory=dict)
    expert: ReturnSummary | None = None
    effective_sample_size_percent: float | None = None
    density_effective_sample_size_percent: float | None = None
    log_likelihood: float | None = None
    best: int = 0
    distillation_seeds: list[int] = field(default_factory=list)
    dataset: dict[str, Any] = field(default_factory=dict)
    learning_rates: list[list[float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    rungs: dict[str, float] = field(default_factory=dict)
    judged: dict[str, int] | None = None
    sources: Sources | None = None
    identity: str | None = None
    sources_changed: bool = False

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "TrialResult":
        """What a document says; what a later version added to it is left out."""
        known = {each.name: document[each.name] for each in fields(cls) if each.name in document}
        for name in ("normalized_return", "expert"):
            if known.get(name) is not None:
                known[name] = ReturnSummary.from_json(known[name])
        if known.get("sources") is not None:
            known["sources"] = Sources.stated_by(document)
        return cls(**known)

    def to_json(self) -> dict[str, Any]:
        """The document, without what there is nothing to say of."""
        said = {each.name: getattr(self, each.name) for each in fields(self)}
        for name in ("normalized_return", "expert", "sources"):
            said[name] = said[name] and said[name].to_json()
        always = {"reason", "stages", "warnings", "rungs"}
        if self.dataset:
            always |= {"log_likelihood", "best"}
        else:
            del said["best"]
        nothing = [name for name, value in said.items() if value is None or value is False]
        nothing += [name for name, value in said.items() if value in ({}, [])]
        return {n: value for n, value in said.items() if n in always or n not in nothing}

    @property
    def measured(self) -> dict[str, float | None]:
        """What constraints may bound, beside settings; see `search_spaces.constraints.MEASURED`."""
        return {
            **self.metrics,
            **{f"seconds.{stage}": self.stages.get(stage, 0.0) for stage in STAGES},
            "expert": self.expert.mean if self.expert else None,
            "effective_sample_size_percent": self.effective_sample_size_percent,
            "density_effective_sample_size_percent": self.density_effective_sample_size_percent,
        }

    @property
    def of_best(self) -> tuple[float, ...]:
        """Mean return of each policy of the `best` rows; none where nothing was judged."""
        if self.normalized_return is None:
            return ()
        each = self.normalized_return.per_policy
        policies = len(each) // len(self.distillation_seeds)
        return each[self.best * policies : (self.best + 1) * policies]

    @property
    def made_of(self) -> Sources:
        """What it was made of; a result of the first version stated its dataset's content only."""
        return self.sources or Sources.stated_by({"dataset": self.dataset})


def read_result(folder: Path) -> TrialResult | None:
    """What a trial left in its folder; None if there is no result, or none that is whole."""
    document = read_whole(folder / "result.json")
    if not document or "outcome" not in document:
        return None
    with suppress(LookupError, TypeError, AttributeError):  # else something else wrote it
        return TrialResult.from_json(document)
    return None


def finished_result(folder: Path, config: PipelineConfig, sources: Sources) -> TrialResult | None:
    """What a trial left as its result, if it was computed with these settings, from these sources.

    What is not known of the sources, on either side, is not held against the result.
    """
    result = read_result(folder)
    if result is None:
        return None
    if result.identity is not None:
        same = result.identity == result.made_of.identity(config)
    else:  # of the first version
        same = result.config_hash == config_hash(config)
    return result if same and not result.made_of.changed(sources, config) else None


def without_numbers(sentence: str) -> str:
    """What sentences have in common that differ in their numbers only.

    >>> without_numbers("trial 3: -1.5 of 7")
    'trial : of'
    """
    return " ".join(re.sub(r"-?\d[\d.]*", "", sentence).split())


INCUMBENT = "incumbent.json"
"""In a study's folder: the `number` of the best trial so far, where evaluations end by it."""
ANSWERS = "rungs.json"
"""In a trial's folder: outer step -> `return`, and `reason`, null where the trial goes on."""


def rung_answers(folder: Path) -> dict[str, Any]:
    """What a trial was answered at the rungs that it came by."""
    return read_whole(folder / ANSWERS) or {}


def returns_at_rungs(folder: Path) -> dict[str, float]:
    """Outer step -> return, of the rungs that a trial came by."""
    return {step: answer["return"] for step, answer in rung_answers(folder).items()}


def write_record(folders: Path, record: dict[str, Any]) -> None:
    """Keep what the database says of a trial in its folder; the driver alone writes it.

    Args:
        folders: the folder of the trials' folders.
        record: number, params, outcome (None without one), values, reason, identity of the spec
            and what else there is.
    """
    write_json(folders / str(record["number"]) / "record.json", record)


def read_record(folders: Path, number: int) -> dict[str, Any] | None:
    """The record of a trial; None if there is none, or none that is whole."""
    return read_whole(folders / str(number) / "record.json")
