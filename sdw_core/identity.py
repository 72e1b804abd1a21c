"""What a run is made of: its settings, the content of its data, and the version of the method.

Results are kept under this identity, so that what an edited file gave, or another version of the
method, is never taken for what is asked for now.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sdw_core.config import CheckpointConfig, PipelineConfig, identifying
from sdw_core.errors import InputError, SourceChanged
from sdw_core.files import sha256_of_file, sha256_of_json
from sdw_core.registry import is_of_this_process, own_parts

if TYPE_CHECKING:
    from sdw_core.offline_dataset import OfflineDataset

METHOD: Mapping[str, int] = {
    "density": 1,
    "weights": 1,
    "expert": 2,
    "distill": 2,
    "evaluate": 1,
}
"""Version of each stage's mathematics: raised by hand when the same settings and data give another
result. `tests/sdw_core/test_golden.py` notices where that was forgotten; see also `method_of`."""
FIRST_METHOD: Mapping[str, int] = {
    "density": 1,
    "weights": 1,
    "expert": 2,
    "distill": 1,
    "evaluate": 1,
}
"""Of results that state no versions: what the first version, which wrote none, would have written.
Never changes."""


def method_of(dataset: "OfflineDataset") -> Mapping[str, int]:
    """For each stage, the version that was the last to change what it makes of a dataset.

    Version 2 of the distillation is another for data of which many values are negative, and for
    those alone.
    """
    return METHOD if dataset.zero_is_arbitrary else {**METHOD, "distill": 1}


@dataclass(frozen=True)
class Sources:
    """What a run is made of, beside its settings.

    Attributes:
        dataset: the dataset's content hash; None: not known.
        scores: its reference scores; None: not known, or it has none.
        checkpoint: SHA-256 of the expert's file; None: not known, or there is none.
        method: versions of the stages, as far as they are known; see `method_of`.
        code: part of the user's own -> SHA-256 of the file that it is defined in.
    """

    dataset: str | None = None
    scores: tuple[float, float] | None = None
    checkpoint: str | None = None
    method: Mapping[str, int] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        dataset: "OfflineDataset",
        checkpoint: str | None,
        code: Mapping[str, str] = {},
    ) -> Self:
        """Of a dataset that was loaded, and by this version of the method."""
        scores = dataset.reference_scores
        return cls(dataset.content_hash, scores, checkpoint, method_of(dataset), code)

    @classmethod
    def stated_by(cls, result: Mapping[str, Any]) -> Self:
        """What a `result.json` was made of; the first version stated the dataset's content only."""
        stated = result.get("sources")
        if stated is None:
            content = result.get("dataset", {}).get("content_hash")
            return cls(content, None, None, FIRST_METHOD)
        scores = stated["scores"] and (stated["scores"][0], stated["scores"][1])
        code = stated.get("code", {})
        return cls(stated["dataset"], scores, stated["checkpoint"], stated["method"], code)

    def to_json(self) -> dict[str, Any]:
        """A JSON document, as `stated_by` reads it; `code` is in it where there is any."""
        document = asdict(self) | {"scores": self.scores and list(self.scores)}
        return document if self.code else {k: v for k, v in document.items() if k != "code"}

    def identity(self, config: PipelineConfig) -> str:
        """Hash of settings and sources: not of what a path is called, but of what it names."""
        settings = identifying(config)
        for name in ("dataset", "reference_scores", "device"):
            settings.pop(name, None)
        settings["expert"].pop("path", None)
        return sha256_of_json([settings, self.to_json()])

    def changed(self, now: "Sources", config: PipelineConfig) -> str | None:
        """What is not as it was, in words that begin a sentence; what is not known counts as same.

        Args:
            now: the sources of a later run.
            config: the settings of both.
        """
        if None not in (self.dataset, now.dataset) and self.dataset != now.dataset:
            return f"the content of the dataset {config.dataset!r}"
        if None not in (self.scores, now.scores) and self.scores != now.scores:
            return f"the reference scores of the dataset {config.dataset!r}"
        if None not in (self.checkpoint, now.checkpoint) and self.checkpoint != now.checkpoint:
            path = config.expert.path if isinstance(config.expert, CheckpointConfig) else ""
            return f"the content of the expert's checkpoint {path!r}"
        for name, sha256 in self.code.items():
            if now.code.get(name, sha256) != sha256:
                return f"the file that defines `{name}`"
        for stage, then in self.method.items():
            today = now.method.get(stage, then)
            if then != today:
                return f"the method (its stage `{stage}` is of version {today} and was of {then})"
        return None

    def require_unchanged(self, now: "Sources", config: PipelineConfig) -> None:
        """Refuse to mix a run with others that were made of something else.

        Raises:
            SourceChanged: the sources of the run are not what they were when the runs were begun.
        """
        if what := self.changed(now, config):
            raise SourceChanged(
                f"{what[0].upper()}{what[1:]} changed since the earlier runs, so that new runs "
                "could not be compared with them; go on with what was there before, or begin anew "
                "under another name."
            )


@dataclass(frozen=True)
class Inventory:
    """What the references in the settings of many runs name.

    Attributes:
        datasets: `PipelineConfig.source` -> what is made of it, checkpoints left out.
        checkpoints: path -> SHA-256 of the file.
        code: part of the user's own -> SHA-256 of the file that it is defined in.
    """

    datasets: Mapping[str, Sources] = field(default_factory=dict)
    checkpoints: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, configs: Iterable[PipelineConfig], datasets: Mapping[str, "OfflineDataset"]
    ) -> Self:
        """Of settings whose datasets were loaded; what they name is as it is now.

        Raises:
            InputError: other processes cannot import a part, or not as it is here.
        """
        configs = list(configs)
        paths = {c.expert.path for c in configs if isinstance(c.expert, CheckpointConfig)}
        code = {name: sha256 for config in configs for name, sha256 in code_of(config).items()}
        for name, sha256 in code.items():
            if name.startswith("__main__:"):
                raise InputError(
                    f"`{name}` lies in a notebook or a script, and the processes of a study cannot "
                    "import it; put it into a module beside it, and import it from there."
                )
            if is_of_this_process(sha256):
                raise InputError(
                    f"the file of `{name}` was edited after it was imported here, and the "
                    "processes of a study would run the edited one; reload its module, or begin "
                    "in a new process."
                )
        return cls(
            {name: Sources.of(dataset, None) for name, dataset in datasets.items()},
            {path: sha256_of_file(Path(path)) for path in sorted(paths)},
            code,
        )

    @classmethod
    def stated_by(cls, runs: Iterable[tuple[PipelineConfig, Sources]]) -> Self:
        """What some runs say that they were made of."""
        datasets: dict[str, Sources] = {}
        checkpoints: dict[str, str] = {}
        code: dict[str, str] = {}
        for config, stated in runs:
            code |= stated.code
            if stated.dataset:
                datasets.setdefault(config.source, replace(stated, checkpoint=None))
            if isinstance(config.expert, CheckpointConfig) and stated.checkpoint:
                checkpoints.setdefault(config.expert.path, stated.checkpoint)
        return cls(datasets, checkpoints, code)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """What `to_json` made."""
        datasets = {n: Sources.stated_by({"sources": s}) for n, s in document["datasets"].items()}
        return cls(datasets, document["checkpoints"], document.get("code", {}))

    def to_json(self) -> dict[str, Any]:
        """The document of `sources.json`."""
        datasets = {name: sources.to_json() for name, sources in self.datasets.items()}
        document = {"datasets": datasets, "checkpoints": dict(self.checkpoints)}
        return document | ({"code": dict(self.code)} if self.code else {})

    def completed(self, now: "Inventory") -> "Inventory":
        """The same, with what is not known as it is now."""
        return Inventory(
            {**now.datasets, **self.datasets},
            {**now.checkpoints, **self.checkpoints},
            {**now.code, **self.code},
        )

    def sources(self, config: PipelineConfig) -> Sources:
        """What a run of these settings is made of, as far as it is known."""
        path = config.expert.path if isinstance(config.expert, CheckpointConfig) else None
        known = self.datasets.get(config.source, Sources())
        code = {name: self.code[name] for _, name in own_parts(config) if name in self.code}
        return replace(known, checkpoint=self.checkpoints.get(path or ""), code=code)


def code_of(config: PipelineConfig) -> dict[str, str]:
    """Part of the user's own -> SHA-256 of the file that it is defined in.

    Raises:
        InputError: one cannot be imported.
    """
    return {name: registry.code(name) for registry, name in own_parts(config)}
