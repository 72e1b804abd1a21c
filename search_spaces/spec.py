"""Specs: what a study searches, over which pipeline, towards which objectives."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator

from sdw_core.config import (
    Config,
    Count,
    PipelineConfig,
    Runs,
    Seconds,
    Seed,
    added,
    identifying,
)
from sdw_core.errors import InputError
from sdw_core.files import sha256_of_json
from sdw_core.registry import REGISTRIES, look_in
from sdw_core.validation import as_key, nearest, parse, shown, submodels
from search_spaces.constraints import Constraint, check_constraints, setting_at
from search_spaces.documents import SpecLoader, StrictLoader, ends_in_comment, read_yaml
from search_spaces.paths import Document, absolute_file, absolute_reference
from search_spaces.ranges import (
    Choice,
    Distribution,
    Param,
    Value,
    check_range,
    param_of,
    probes,
    wanted,
)

SHIPPED = Path(__file__).parent
FILES = {"dataset": absolute_reference, "expert.path": absolute_file}
"""Settings that may name files, and how each is made to do so from anywhere."""

SECTIONS = "`study`, `pipeline` and `search`"
"""What a study's document holds."""
Source = str | Path | Mapping[str, Any] | BaseModel
"""Of a spec: a YAML file's path, the name of a shipped one, a document, or a validated spec."""
Overrides = Sequence[str] | Mapping[str, Any]
"""Of single settings: `key=value`, whose value is YAML, or a mapping."""
Configuration = dict[str, Value]
"""Searched paths and a value of each; not of all, where the sampler is to draw the others."""

MOST_IN_GRID = 10_000
"""Values of a range that `study.sampler: grid` goes through."""


class Objective(Config):
    """A metric of a trial, and its better direction."""

    metric: Literal["normalized_return", "iqm", "synthetic_size", "seconds"] = Field(
        description="mean or interquartile mean of the normalised return, rows, or seconds of "
        "distillation and evaluation"
    )
    mode: Literal["max", "min"] = Field(description="which is better")


class Resources(Config):
    """What Ray reserves for a trial."""

    cpu: Count = Field(1, description="CPU cores; also the torch threads of a trial")
    gpu: float = Field(0, ge=0, description="GPUs; a fraction shares one, without isolating memory")


StudyName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="the folder under the storage: letters, digits, `.`, `_` and `-`, 100 at most",
    ),
]


class EarlyStopping(Config):
    """Trials that lag behind at a rung end there: asynchronous successive halving (ASHA)."""

    grace: float = Field(
        0.2, gt=0, lt=1, description="share of the outer steps that every trial takes: first rung"
    )
    reduction_factor: int = Field(
        3, ge=2, description="one trial in so many passes a rung; rungs lie as many times apart"
    )
    policies: Runs = Field(3, description="fresh policies at a rung, on seeds of their own")
    episodes: Runs = Field(2, description="episodes a policy at a rung")

    def rungs(self, outer_steps: int) -> tuple[int, ...]:
        """Outer steps at which trials are compared.

        >>> EarlyStopping(grace=0.1).rungs(400)
        (40, 120, 360)
        """
        steps, share = [], self.grace
        while (rung := max(1, round(share * outer_steps))) < outer_steps:
            steps.append(rung)
            share *= self.reduction_factor
        return tuple(dict.fromkeys(steps))


class Confirmation(Config):
    """How the best trials are judged again, on fresh seeds, once all have ended: they race."""

    budget: float = Field(
        0.1,
        gt=0,
        le=1e9,
        description="up to 1: a share of the time in which trials ran; above: episodes, all in "
        "all, 32 at least, which are 16 for each of two trials",
    )
    top: int = Field(5, ge=2, le=1000, description="trials that race")

    @field_validator("budget")
    @classmethod
    def _holds_two(cls, budget: float) -> float:
        if 1 < budget < 32:
            raise ValueError("a share, up to 1, or 32 episodes or more")
        return budget


class StudyConfig(Config):
    """How a study runs."""

    name: StudyName
    objectives: tuple[Objective, ...] = Field(
        (Objective(metric="normalized_return", mode="max"),),
        min_length=1,
        description="one, or several for a Pareto front",
    )
    trials: Count = Field(8, description="trials to run")
    seed: Seed = Field(0, description="root seed of the sampler, and of the pipeline")
    sampler: Literal["tpe", "gp", "nsga2", "random", "grid"] = Field(
        "tpe",
        json_schema_extra=added("tpe"),
        description="who proposes values: densities of good and bad trials (TPE), a Gaussian "
        "process, a genetic algorithm, chance; `grid`: each combination once, in random order",
    )
    startup_trials: Count = Field(
        4, description="random trials before the sampler learns; `nsga2`: of a generation"
    )
    defaults_first: bool = Field(
        True,
        json_schema_extra=added(False),
        description="the first trial is the pipeline as it stands; what its range does not hold is "
        "drawn",
    )
    concurrency: Count | Literal["auto"] = Field(
        "auto",
        description="trials at a time; `auto`: as many as the nodes hold, those included that a "
        "cluster may add",
    )
    resources: Resources = Resources()
    database: str = Field(
        "auto",
        description="`sqlite` or `journal`, a file in the study folder; `auto`: `journal` where "
        "the folder is on a network file system, else `sqlite`; or a URL (postgresql://...), in "
        "which `${NAME}` is that environment variable",
    )
    time_budget: Seconds | None = Field(
        None,
        description="seconds of a `launch`, `resume` or the like, after which no trial is begun "
        "and running ones are stopped",
    )
    trial_timeout: Seconds | None = Field(
        None,
        description="seconds of a trial's own running time, over all its attempts, after which it "
        "is FAILED",
    )
    max_identical_failures: Count | None = Field(
        5,
        description="so many trials in a row that FAILED for one reason stop the study; null: none "
        "do",
    )
    patience: int | None = Field(
        None,
        ge=2,
        le=100_000,
        json_schema_extra=added(None),
        description="so many trials in a row that are no gain above the noise end the study; a "
        "gain is better than the gain before it, or the first trial, by more than the standard "
        "error of the difference; a FAILED or PRUNED trial is none; null: all `trials` run",
    )
    patience_after: int = Field(
        0,
        ge=0,
        json_schema_extra=added(0),
        description="so many trials, the first that ended, do not count towards `patience`; `sdw "
        "extend` of a study that `patience` ended sets it, so that patience counts anew",
    )
    early_stopping: EarlyStopping | None = Field(
        None,
        description="where and how lagging trials are ended; null: every trial runs to its end",
    )
    evaluation_batch: int | None = Field(
        None,
        ge=2,
        le=10_000,
        json_schema_extra=added(None),
        description="policies that a trial is judged by at a time: one that is clearly behind the "
        "best so far is judged by no more; worth it where episodes are long; null: by all at once",
    )
    bc_steps: int = Field(
        20_000,
        ge=0,
        le=100_000_000,
        json_schema_extra=added(0),
        description="gradient steps of the behavioural cloning of all data that the best rows are "
        "judged beside, once a dataset, when the study has ended; 0: none",
    )
    trackers: tuple[Literal["wandb", "mlflow", "trackio"], ...] = Field(
        (),
        json_schema_extra=added([]),
        description="experiment trackers that get a run a trial: its curves, its settings, and the "
        "files of its export; `pip install 'sdw-obd[wandb]'` or `[mlflow]`, or `trackio`",
    )

    constraints: tuple[Constraint, ...] = Field(
        (),
        json_schema_extra=added([]),
        description="a trial beyond one of them is never the best; `tpe`, `gp` and `nsga2` learn "
        "to keep within them, `random` and `grid` do not",
    )
    enqueue: tuple[Configuration, ...] = Field(
        (),
        json_schema_extra=added([]),
        description="configurations that are asked first, in this order, each as one of `trials`: "
        "searched paths and a value of each, as in `[{distill.synthetic_size: 64}]`; what one does "
        "not name the sampler draws",
    )
    confirm: Confirmation | None = Field(
        Confirmation(),
        json_schema_extra=added(None),
        description="how the best trials of a study of `normalized_return` race on fresh seeds; "
        "null: the search's score decides",
    )

    @field_validator("trackers")
    @classmethod
    def _are_named_once(cls, trackers: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(trackers)) < len(trackers):
            raise ValueError("trackers, each named once")
        return trackers


class StudySpec(Config):
    """A study: how it runs, the pipeline's defaults, and what is searched."""

    study: StudyConfig
    pipeline: PipelineConfig
    search: dict[str, Distribution] = Field(
        default_factory=dict, description="paths below `pipeline`, and where to look for each"
    )

    @property
    def identity(self) -> str:
        """Hash of all that makes trials comparable: not of how many there are, nor of where."""
        document: Document = identifying(self)
        running = (
            *("name", "trials", "concurrency", "resources", "database"),
            *("time_budget", "trial_timeout", "max_identical_failures", "bc_steps", "trackers"),
            *("confirm", "enqueue", "patience", "patience_after"),
        )
        for key in running:
            document["study"].pop(key, None)
        del document["pipeline"]["device"]
        return sha256_of_json(document)

    def extremes(self) -> Iterator[PipelineConfig]:
        """The pipeline's settings at either end of every searched range, or all there are."""
        first = {path: probes(distribution)[0] for path, distribution in self.search.items()}
        yield self.pipeline_with(first)
        for path, distribution in self.search.items():
            for value in probes(distribution)[1:]:
                yield self.pipeline_with(first | {path: value})

    def reaching(self) -> Iterator[PipelineConfig]:
        """Settings that together reach all datasets, checkpoints and parts of the trials."""
        paths = "dataset", "clip_actions", "expert.path", *(r.setting for r in REGISTRIES)
        first = {path: probes(distribution)[0] for path, distribution in self.search.items()}
        searched = [path for path in paths if path in self.search]
        for values in product(*(probes(self.search[path]) for path in searched)):
            yield self.pipeline_with(first | dict(zip(searched, values, strict=True)))

    @property
    def order(self) -> list[str]:
        """The searched paths, each after those that its `when` names.

        Raises:
            InputError: conditions go round in a circle.
        """
        order: dict[str, None] = {}

        def put(path: str, above: tuple[str, ...]) -> None:
            if path in above:
                circle = " -> ".join(f"`{each}`" for each in (*above[above.index(path) :], path))
                raise InputError(
                    f"`search.{as_key(path)}.when` goes round in a circle ({circle}); drop one of "
                    "these conditions."
                )
            for other in self.search[path].when or ():
                if other in self.search:
                    put(other, (*above, path))
            order[path] = None

        for path in self.search:
            put(path, ())
        return [*order]

    def counts(self, path: str, params: Mapping[str, Any]) -> bool:
        """Whether a range counts for a trial, by the parameters that it has of what decides it."""
        for other, value in (self.search[path].when or {}).items():
            if other in self.search:
                met = wanted(other, self.search[other], value, "when")
                if other not in params or params[other] not in met:
                    return False
            elif not self._is_fixed_at(other, value):
                return False
        return True

    def _is_fixed_at(self, path: str, value: Any) -> bool:
        fixed = setting_at(self.pipeline.model_dump(mode="json"), path)
        values = [
            list(each) if isinstance(each, tuple) else each for each in (value, *_several(value))
        ]
        return fixed in values

    @property
    def remarks(self) -> list[str]:
        """Which ranges always count, or never, as what their `when` names is not searched."""
        return [
            f"`search.{path}` {'always' if self._is_fixed_at(other, value) else 'never'} counts: "
            f"its `when` names `{other}`, which is not searched"
            for path, distribution in self.search.items()
            for other, value in (distribution.when or {}).items()
            if other not in self.search
        ]

    def is_whole(self, params: Mapping[str, Any]) -> bool:
        """Whether nothing is left for a sampler to draw."""
        return all(path in params for path in self.search if self.counts(path, params))

    def values_of(self, path: str) -> Sequence[Any]:
        """Values that a trial's setting can have: if these are valid, all are."""
        searched = self.search.get(path)
        found = [*probes(searched)] if searched else []
        if searched is None or searched.when:  # where the range does not count
            found.append(setting_at(self.pipeline.model_dump(mode="json"), path))
        return found

    def params_of(self, settings: Mapping[str, Any], where: str = "") -> dict[str, Param]:
        """What a trial's parameters are for a configuration, which need not be whole.

        Args:
            settings: searched paths and a value of each.
            where: what precedes a path in a message.

        Raises:
            InputError: a path is not searched, or a value does not lie where it is.
        """
        if not settings:
            at = where.rstrip(".") or "A configuration"
            known = ", ".join(f"`{path}`" for path in self.search)
            raise InputError(f"`{at}` must name a value of a searched setting: {known}.")
        params = {}
        for path, value in settings.items():
            at = f"{where}{as_key(path)}"
            if path not in self.search:
                raise InputError(f"`{at}` is not searched: {nearest(path, self.search)}")
            params[path] = param_of(path, self.search[path], value, at)
        for path in params:
            if not self.counts(path, params):
                met = " and ".join(
                    f"`{o}` is {_as_yaml(v)}" for o, v in (self.search[path].when or {}).items()
                )
                raise InputError(
                    f"`{where}{as_key(path)}` counts only where {met}; name that as well, or leave "
                    "it out."
                )
        return params

    def pipeline_with(self, params: Mapping[str, Any]) -> PipelineConfig:
        """The pipeline's settings of a trial: the defaults, with searched values in their place."""
        document = self.pipeline.model_dump(mode="json")
        for path, value in params.items():
            searched = self.search.get(path)
            if isinstance(searched, Choice) and isinstance(value, str):
                value = dict(zip(searched.params, searched.choices, strict=True)).get(value, value)
            _place(document, path.split("."), value)
        return parse(PipelineConfig, document, "pipeline")


def shipped_specs() -> dict[str, Path]:
    """The specs of studies that come with the project, by name."""
    paths = sorted(SHIPPED.glob("*.yaml"))
    return {path.stem: path for path in paths if not path.stem.startswith("compare-")}


def load_spec(
    spec: Source, overrides: Overrides = (), *, searched_is_fixed: bool = False
) -> StudySpec:
    """Read a spec, apply overrides, and validate it; files are by absolute paths then.

    Args:
        spec: a YAML file's path, the name of a shipped spec, a document, or a spec.
        overrides: paths from the document's root and their values, each as `key=value` whose value
            is YAML, or all in a mapping.
        searched_is_fixed: let an override of a searched key take the key out of the search,
            instead of refusing it: for a single run, where nothing is searched.

    Raises:
        InputError: one sentence with the rule, what was received and the way out.
    """
    document = document_of(spec, shipped_specs(), "spec", SECTIONS)
    for key, value in settings_of(overrides).items():
        place(document, key, value, searched_is_fixed)
    return with_absolute_paths(parse_spec(document))


def with_absolute_paths(spec: StudySpec) -> StudySpec:
    """A study whose datasets and checkpoints on disk are by absolute paths, the searched ones too.

    Its trials may run elsewhere.
    """
    return with_files(spec, FILES)


def with_files(spec: StudySpec, files: Mapping[str, Callable[[Any], Any]]) -> StudySpec:
    """A study with what it names on disk under other names, the searched ones too.

    Args:
        spec: the study.
        files: of each setting that `FILES` has, the new value for a value.
    """
    document, search = spec.pipeline.model_dump(mode="json"), dict(spec.search)
    for path, renamed in files.items():
        section, _, key = path.rpartition(".")
        below = document[section] if section else document
        if key in below:
            below[key] = renamed(below[key])
        searched = search.get(path)
        if isinstance(searched, Choice):
            choices = tuple(renamed(choice) for choice in searched.choices)
            search[path] = searched.model_copy(update={"choices": choices})
    pipeline = parse(PipelineConfig, document, "pipeline")
    queue = tuple(_renamed(settings, files) for settings in spec.study.enqueue)
    study = spec.study.model_copy(update={"enqueue": queue})
    return spec.model_copy(update={"study": study, "pipeline": pipeline, "search": search})


def with_absolute_files(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration whose datasets and checkpoints on disk are by absolute paths."""
    return _renamed(settings, FILES)


def _renamed(
    settings: Mapping[str, Any], files: Mapping[str, Callable[[Any], Any]]
) -> dict[str, Any]:
    return {path: files[path](v) if path in files else v for path, v in settings.items()}


def parse_spec(document: Document) -> StudySpec:
    """Validate a spec document.

    Raises:
        InputError: one sentence with the rule, what was received and the way out.
    """
    document = deepcopy(document)
    pipeline = document.get("pipeline")
    if isinstance(pipeline, dict) and isinstance(study := document.get("study"), dict):
        pipeline.setdefault("seed", study.get("seed", 0))
    spec = parse(StudySpec, document, "")
    metrics = [objective.metric for objective in spec.study.objectives]
    if len(set(metrics)) < len(metrics):
        raise InputError(f"`study.objectives` must name each metric once, not {shown(metrics)}.")
    if spec.study.early_stopping:
        _check_early_stopping(spec)
    returns = [("normalized_return", "max")], [("iqm", "max")]
    if spec.study.patience and _objectives(spec) not in returns:
        asked = ", ".join(f"{metric} {mode}" for metric, mode in _objectives(spec))
        raise InputError(
            "`study.patience` holds gains against the noise of returns and needs "
            f"`normalized_return` or `iqm`, maximised, as the only objective, not {asked}; set it "
            "to null."
        )
    if spec.study.evaluation_batch and _objectives(spec) != [("normalized_return", "max")]:
        asked = ", ".join(f"{metric} {mode}" for metric, mode in _objectives(spec))
        raise InputError(
            "`study.evaluation_batch` compares means and needs `normalized_return`, maximised, as "
            f"the only objective, not {asked}; set it to null."
        )
    for path, distribution in spec.search.items():
        _check_path(path)
        check_range(path, distribution)
        for value in probes(distribution):
            try:
                spec.pipeline_with({path: value})
            except InputError as error:
                raise InputError(
                    f"`search.{as_key(path)}` holds a value that is not valid: {error}"
                ) from None
    _check_conditions(spec)
    if spec.study.sampler == "grid":
        _check_grid(spec)
    _check_enqueued(spec)
    check_constraints(spec.study.constraints, spec.values_of, leaves())
    return spec


def _objectives(spec: StudySpec) -> list[tuple[str, str]]:
    return [(objective.metric, objective.mode) for objective in spec.study.objectives]


def _check_conditions(spec: StudySpec) -> None:
    """Refuse conditions on what is no setting, that are never met, or that go in a circle."""
    for path, distribution in spec.search.items():
        for other, value in (distribution.when or {}).items():
            at = f"search.{as_key(path)}.when.{as_key(other)}"
            if other in spec.search:
                wanted(other, spec.search[other], value, at)
            elif other not in leaves():
                raise InputError(
                    f"`{at}` is no setting of the pipeline: {nearest(other, leaves())}"
                )
        if distribution.when and spec.study.sampler == "grid":
            raise InputError(
                f"`study.sampler: grid` tries each combination of all searched values, and "
                f"`search.{as_key(path)}.when` makes it depend on others; drop `when`, or choose "
                "another sampler."
            )
    spec.order  # noqa: B018, it refuses circles


def _as_yaml(value: Any) -> str:
    """A condition's value as one writes it."""
    return value if isinstance(value, str) else json.dumps(value)


def _several(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else ()


def _check_enqueued(spec: StudySpec) -> None:
    """Refuse configurations that no trial can have, that two would have, or too many."""
    queue, trials = spec.study.enqueue, spec.study.trials
    if len(queue) > trials:
        raise InputError(
            f"`study.enqueue` holds {len(queue)} configurations, each of which is a trial, and "
            f"`study.trials` is {trials}; raise it, or drop some."
        )
    whole: list[dict[str, Param]] = []
    for index, settings in enumerate(queue):
        params = spec.params_of(settings, f"study.enqueue.{index}.")
        if params in whole:
            raise InputError(
                f"`study.enqueue.{index}` is a configuration that stands before it already; drop "
                "it, for its trial would find the same."
            )
        if spec.is_whole(params):
            whole.append(params)


def _check_early_stopping(spec: StudySpec) -> None:
    """Refuse what rungs cannot compare: returns are no proxy, or the rungs lie elsewhere."""
    objectives = _objectives(spec)
    if objectives not in ([("normalized_return", "max")], [("iqm", "max")]):
        asked = ", ".join(f"{metric} {mode}" for metric, mode in objectives)
        raise InputError(
            "`study.early_stopping` compares returns and needs `normalized_return` or `iqm`, "
            f"maximised, as the only objective, not {asked}; set it to null."
        )
    if "distill.outer_steps" in spec.search:
        raise InputError(
            "`study.early_stopping` compares trials at the same share of the same distillation, "
            "and `search.distill.outer_steps` makes it another one a trial; drop one of the two."
        )


def _check_grid(spec: StudySpec) -> None:
    """Refuse ranges that no grid is made of, and more trials than it holds."""
    combinations = 1
    for path, distribution in spec.search.items():
        count = _count(distribution)
        if count is None or count > MOST_IN_GRID:
            held = f"{count} values, more than {MOST_IN_GRID}" if count else "any number in a range"
            raise InputError(
                "`study.sampler: grid` tries each combination of finitely many values, and "
                f"`search.{as_key(path)}` holds {held}; give it `choices` or a `step`, or choose "
                "another sampler."
            )
        combinations *= count
    if combinations < spec.study.trials:
        raise InputError(
            f"`study.sampler: grid` tries each combination of the searched values once, and there "
            f"are {combinations}, not the {spec.study.trials} of `study.trials`; ask for "
            f"{combinations} at most, or choose another sampler."
        )


def _count(distribution: Distribution) -> int | None:
    """How many values there are; None where they lie on no grid."""
    if isinstance(distribution, Choice):
        return len(distribution.choices)
    low, high, step = distribution.low, distribution.high, distribution.step
    if low == high:
        return 1
    return None if step is None else int((high - low) / step + 1e-9) + 1


def document_of(spec: Source, shipped: Mapping[str, Path], what: str, sections: str) -> Document:
    """The document of a spec, for its reader to change; users' modules may lie beside the file.

    Args:
        spec: a YAML file's path, the name of a shipped one, a document, or a validated spec.
        shipped: paths of the shipped ones, by name.
        what: that it is.
        sections: what it should hold.

    Raises:
        InputError: there is no such file, or it holds no mapping.
    """
    if isinstance(spec, BaseModel):
        return spec.model_dump(mode="json")
    if isinstance(spec, Mapping):
        return deepcopy(dict(spec))
    path = resolve_reference(str(spec), shipped, what)
    look_in(path.parent)
    return read_document(path, sections)


def settings_of(overrides: Overrides) -> dict[str, Any]:
    """Overrides as values by their paths from the document's root, the last of each path.

    Raises:
        InputError: the overrides are neither a mapping nor a list of `key=value`.
    """
    if isinstance(overrides, Mapping):
        return {str(key): deepcopy(value) for key, value in overrides.items()}
    if isinstance(overrides, str) or not isinstance(overrides, Sequence):
        raise InputError(
            "`overrides` must be a mapping of paths to values, or a list of key=value, not "
            f"{shown(overrides)}."
        )
    settings: dict[str, Any] = {}
    for override in overrides:
        key, value = _setting(override)
        settings.pop(key, None)  # a later value comes after what was set meanwhile
        settings[key] = value
    return settings


def resolve_reference(reference: str, shipped: Mapping[str, Path], what: str) -> Path:
    """The path of a YAML file, or of a shipped one by its name.

    Raises:
        InputError: the reference is neither.
    """
    path = Path(reference)
    if path.suffix in (".yaml", ".yml"):
        return path
    if reference not in shipped:
        raise InputError(
            f"There is no {what} named {shown(reference)} and no such YAML file: "
            f"{nearest(reference, shipped)}"
        )
    return shipped[reference]


def read_document(
    path: Path,
    sections: str = SECTIONS,
    loader: type[StrictLoader] = SpecLoader,
) -> Document:
    """A YAML file's mapping.

    Args:
        path: the file.
        sections: what it should hold.
        loader: how its scalars are read; `StrictLoader` where the file was written by PyYAML.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"There is no spec file {str(path)!r}; check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The spec file {str(path)!r} must be UTF-8 text, and cannot be read ({error})."
        ) from None
    document = read_yaml(text, f"The spec file {str(path)!r}", loader)
    if not isinstance(document, dict):
        raise InputError(
            f"The spec file {str(path)!r} must hold the mappings {sections}, not "
            f"{type(document).__name__}."
        )
    return document


def _setting(override: str) -> tuple[str, Any]:
    """Path and value of a `key=value`, whose value is YAML.

    Raises:
        InputError: the override is no such pair.
    """
    key, separator, text = override.partition("=") if isinstance(override, str) else ("", "", "")
    if not separator or not key:
        raise InputError(f"A single setting is given as key=value, not as {shown(override)}.")
    what = f"The value {text[:80]!r} of `{as_key(key)}`"
    value = read_yaml(text, what)
    if ends_in_comment(text):
        raise InputError(f"{what} ends in a comment; put what holds a # in quotes.")
    return key, value


def place(document: Document, key: str, value: Any, searched_is_fixed: bool = False) -> None:
    """Put a single setting into a document.

    Args:
        document: which is changed.
        key: the setting's path from the document's root.
        value: the setting's.
        searched_is_fixed: as for `load_spec`.

    Raises:
        InputError: the key leads below a value, or to what is searched.
    """
    root, _, below = key.partition(".")
    search = document.get("search")
    search = search if isinstance(search, dict) else {}
    if root == "search" and below:
        known = next((path for path in search if below.startswith(f"{path}.")), None)
        keys = [known, *below[len(known) + 1 :].split(".")] if known else [below]
        _place(document, ["search", *keys], value)
        return
    if root == "pipeline" and below in search:
        if not searched_is_fixed:
            raise InputError(
                f"`{key}` is searched and cannot be fixed as well; take `{below}` out of `search` "
                f"in the spec, or set its range, as in `search.{below}.low=...`."
            )
        del search[below]
    _place(document, key.split("."), value)


def _place(document: Any, path: Sequence[str], value: Any) -> None:
    *parents, last = path
    for depth, part in enumerate(parents):
        if document.get(part) is None:
            document[part] = {}
        document = document[part]
        if not isinstance(document, dict):
            raise InputError(f"`{'.'.join(path[: depth + 1])}` is a value and has no key below it.")
    document[last] = value


def leaves(model: type[BaseModel] = PipelineConfig, prefix: str = "") -> list[str]:
    """Paths of all single settings of a pipeline, those of every method among them."""
    paths = []
    for name, field in model.model_fields.items():
        below = [
            path for m in submodels(field.annotation) for path in leaves(m, f"{prefix}{name}.")
        ]
        paths += below or [f"{prefix}{name}"]
    return list(dict.fromkeys(paths))


def _check_path(path: str) -> None:
    known = leaves()
    if path == "expert.method":
        raise InputError(
            "`search.expert.method` cannot be searched, for each method has settings of its own; "
            "launch one study for each method."
        )
    section, _, option = path.rpartition(".")
    if path in known or (section in known and section.endswith("options") and option):
        return
    below = [leaf for leaf in known if leaf.startswith(f"{path}.")]
    if below:
        raise InputError(
            f"`search.{as_key(path)}` is a section, and only single settings can be searched: "
            + ", ".join(f"`{leaf}`" for leaf in below)
            + "."
        )
    raise InputError(
        f"`search.{as_key(path)}` is no setting of the pipeline: {nearest(path, known)}"
    )
