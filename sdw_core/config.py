"""The settings of a pipeline: one frozen, validated model per stage.

Unknown keys are errors that name the nearest valid key (`validation.py` writes the sentence). Every
field carries its meaning, so that the reference in `docs/configuration.md` is generated from here.
"""

import json
from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    ModelWrapValidatorHandler,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from sdw_core.errors import InputError
from sdw_core.registry import DENSITIES, EXPERTS, OBJECTIVES, SELECTIONS, WEIGHTINGS
from sdw_core.validation import sentence_of, submodels

if TYPE_CHECKING:
    from sdw_core.offline_dataset import OfflineDataset

STAGES = ("dataset", "density", "weights", "expert", "distill", "evaluate")
"""The stages of a pipeline, in order."""


def _no_text(value: Any) -> Any:
    """Refuse text and `true` in a list of numbers: Pydantic would read numbers."""
    if isinstance(value, bool | str):
        raise ValueError("a number")
    return value


def _no_set(value: Any) -> Any:
    """Refuse what has no order in place of a list: Pydantic would take it in any."""
    if isinstance(value, Set):
        raise ValueError("a list")
    return value


# Upper bounds: a number above them is a slip, or meant to exhaust the machine.
Count = Annotated[PositiveInt, Field(le=1_000_000_000)]
Seconds = Annotated[PositiveFloat, Field(le=1e9, allow_inf_nan=False)]
Layers = Annotated[PositiveInt, Field(le=100)]
Width = Annotated[PositiveInt, Field(le=16_384)]
Rows = Annotated[PositiveInt, Field(le=1_000_000)]
CloningSteps = Annotated[PositiveInt, Field(le=1_000_000)]
TrainingSteps = Annotated[PositiveInt, Field(le=100_000_000)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
LearningRate = Annotated[PositiveFloat, Field(le=1e30)]
Batch = Annotated[PositiveInt, Field(le=10_000_000)]
Runs = Annotated[PositiveInt, Field(le=10_000)]
"""Of policies, or of episodes."""
Number = Annotated[int | float, BeforeValidator(_no_text)]
"""In a list; and so the two below."""
Quantile = Annotated[float, BeforeValidator(_no_text), Field(ge=0, le=1)]
Return = Annotated[float, BeforeValidator(_no_text)]
Copies = Annotated[PositiveInt, Field(le=1_000)]
"""Of one thing, side by side: distillations, networks of a policy, samples."""
Scalar = bool | int | float | str | None
Options = dict[str, Scalar | list[Scalar]]
"""Of a part of the user's own, by name."""
Architecture = Literal["mlp", "residual"]
"""Of a policy's network; `residual`: skip connections round the hidden layers."""
Optimizer = Literal["sgd", "momentum", "adam", "adamw"]
"""Of a cloning."""


def _types(annotation: Any) -> set[Any]:
    """The plain types in an annotation, such as `Annotated[int, Gt(0)] | None`."""
    if isinstance(annotation, type) and not get_args(annotation):
        return {annotation}
    return {plain for argument in get_args(annotation) for plain in _types(argument)}


class Config(BaseModel):
    """A frozen section of settings that refuses unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )

    def __init__(self, **settings: Any) -> None:
        """Take settings by name.

        Raises:
            InputError: one is not valid, in the words of `validation.parse`.
        """
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise InputError(sentence_of(type(self), settings, error, "")) from None

    # Sections that are validated within another one leave their errors to it.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, document: Any) -> Any:
        """Make text of `true` and `false` where a number is due: Pydantic would read 1 and 0."""
        if not isinstance(document, Mapping):
            return document
        return {
            key: str(value).lower() if isinstance(value, bool) and cls._is_number(key) else value
            for key, value in document.items()
        }

    @classmethod
    def _is_number(cls, key: Any) -> bool:
        types = _types(cls.model_fields[key].annotation) if key in cls.model_fields else set()
        return bool(types & {int, float}) and bool not in types


def added(before: JsonValue) -> dict[str, JsonValue]:
    """`json_schema_extra` of a key that an earlier version did not have.

    Args:
        before: the value that does what was done before the key existed; see `identifying` and
            `as_written`. It stays when the default changes.
    """
    return {"before": before}


def identifying(settings: Any) -> Any:
    """Settings as a JSON document to be hashed: what tells one run from another.

    A key that was added later is left out while it does what was done before it existed: so the
    hashes that earlier versions kept stay valid.

    >>> class Old(Config):
    ...     steps: int = 5
    >>> class New(Old):
    ...     warm: bool = Field(False, json_schema_extra=added(False))
    ...     names: tuple[str, ...] = Field((), json_schema_extra=added([]))
    >>> identifying(New()), identifying(New(warm=True))
    ({'steps': 5}, {'steps': 5, 'warm': True})
    """
    if isinstance(settings, BaseModel):
        values = {name: getattr(settings, name) for name in type(settings).model_fields}
        return {n: identifying(v) for n, v in values.items() if not _is_added(settings, n)}
    if isinstance(settings, Mapping):
        return {key: identifying(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [identifying(value) for value in settings]
    return settings


def as_written(model: type[Config], document: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that a version wrote whole, as it meant them: with the keys that it did not know.

    >>> class New(Config):
    ...     steps: int = 5
    ...     warm: bool = Field(True, json_schema_extra=added(False))
    >>> as_written(New, {"steps": 5})
    {'steps': 5, 'warm': False}
    """
    whole = dict(document)
    for name, field in model.model_fields.items():
        given, extra = whole.get(name), field.json_schema_extra
        if isinstance(extra, dict):
            whole.setdefault(name, extra["before"])
        elif isinstance(given, dict) and (section := _section_of(field.annotation, given)):
            whole[name] = as_written(section, given)
    return whole


def _section_of(annotation: Any, given: Mapping[str, Any]) -> type[Config] | None:
    """The model of a section: of several, the one that its tag names; None of a setting."""
    models = [model for model in submodels(annotation) if issubclass(model, Config)]
    if len(models) < 2:
        return models[0] if models else None
    tags = [member.__metadata__[0].tag for member in get_args(annotation)]
    return models[tags.index(_tag_of(given))]


def _is_added(settings: BaseModel, name: str) -> bool:
    extra = type(settings).model_fields[name].json_schema_extra
    return isinstance(extra, dict) and identifying(getattr(settings, name)) == extra["before"]


class DensityConfig(Config):
    """How log d(s), the log density of normalised states, is estimated."""

    model: Annotated[str, DENSITIES] = Field(
        "maf",
        description="masked autoregressive flow, neural spline flow, full-covariance Gaussian, or "
        "your own",
    )
    options: Options = Field(
        {}, json_schema_extra=added({}), description="of your own model, by name"
    )
    transforms: Layers = Field(5, description="autoregressive transforms of a flow")
    hidden_features: Width = Field(100, description="hidden units of each transform")
    batch_size: Batch = Field(1024, description="states a gradient step")
    learning_rate: LearningRate = Field(1e-3, description="Adam's, cosine-annealed to zero")
    steps: TrainingSteps = Field(900, description="gradient steps of a flow, at most")
    patience: Count = Field(
        3,
        description="tenths of the steps without a better held-out log-likelihood before "
        "fitting stops",
    )
    holdout: float = Field(0.1, gt=0, lt=1, description="fraction of states held out, at random")


class WeightingConfig(Config):
    """How a density becomes the weight w(s) of a state in the distillation loss."""

    scheme: Annotated[str, WEIGHTINGS] = Field(
        "reciprocal",
        description="`reciprocal`: d^-temperature; `rank`: (quantile rank of d)^-temperature; your "
        "own: exp(temperature * what it gives)",
    )
    options: Options = Field(
        {}, json_schema_extra=added({}), description="of your own scheme, by name"
    )
    temperature: float = Field(
        0, ge=0, description="0: no density weighting; 1: exact reciprocal (density or rank)"
    )
    clip_quantile: float = Field(
        0.01, ge=0, lt=1, description="densities below this quantile count as the quantile"
    )


class PercentBCConfig(Config):
    """Expert `percent_bc`: behavioural cloning of the episodes with the highest return."""

    method: Literal["percent_bc"] = Field("percent_bc", description="the default")
    fraction: float = Field(
        0.1,
        gt=0,
        le=1,
        description="fraction of the transitions that is cloned: whole episodes, the best first",
    )
    episodes: Annotated[tuple[Quantile, Quantile] | None, BeforeValidator(_no_set)] = Field(
        None,
        json_schema_extra=added(None),
        description="in place of `fraction`, the range of quantiles of the return that is cloned, "
        "counted in transitions: [0.9, 1] is the best tenth, [0, 0.5] the lower half",
    )
    layers: Layers = Field(4, description="linear layers of the policy and of the value")
    width: Width = Field(256, description="hidden units a layer")
    ensemble: Copies = Field(
        1,
        json_schema_extra=added(1),
        description="networks of the policy, cloned independently; the expert acts by the mean of "
        "their actions, which changes less from state to state",
    )
    steps: TrainingSteps = Field(2000, description="gradient steps of each network of the policy")
    value_steps: TrainingSteps = Field(2000, description="gradient steps of the action value")
    batch_size: Batch = Field(256, description="transitions a gradient step")
    learning_rate: LearningRate = Field(3e-4, description="Adam's")
    discount: float = Field(0.99, ge=0, le=1, description="discount of the returns-to-go")

    @field_validator("episodes")
    @classmethod
    def _is_no_empty_range(cls, episodes: tuple[float, float] | None) -> tuple[float, float] | None:
        if episodes and episodes[0] >= episodes[1]:
            raise ValueError("a range of quantiles, the lower one first, such as [0.9, 1]")
        return episodes

    @property
    def cloned(self) -> tuple[float, float]:
        """The fractions of the transitions, the best episodes first, between which it clones."""
        return (1 - self.episodes[1], 1 - self.episodes[0]) if self.episodes else (0, self.fraction)


class CalQLConfig(Config):
    """Expert `cal_ql`: conservative Q-learning with calibrated values; meant for a GPU."""

    method: Literal["cal_ql"] = Field(description="must be given")
    steps: TrainingSteps = Field(1_000_000, description="gradient steps")
    batch_size: Batch = Field(256, description="transitions a gradient step")
    actor_layers: Layers = Field(4, description="linear layers of the actor")
    critic_layers: Layers = Field(3, description="linear layers of each of the two critics")
    width: Width = Field(256, description="hidden units a layer")
    actor_learning_rate: LearningRate = Field(
        3e-5, description="Adam's, of the actor and of the entropy's temperature"
    )
    critic_learning_rate: LearningRate = Field(3e-4, description="Adam's, of the critics")
    target_rate: float = Field(
        5e-3, gt=0, le=1, description="how far the target critics follow in a step"
    )
    discount: float = Field(0.99, ge=0, le=1, description="discount of rewards to come")
    conservatism: float = Field(10.0, ge=0, description="weight of the CQL(H) term, its alpha")
    sampled_actions: Copies = Field(
        10, description="actions a state that CQL(H) samples from each of its three proposals"
    )


class CheckpointConfig(Config):
    """Expert `checkpoint`: an actor and its twin critics, trained elsewhere."""

    method: Literal["checkpoint"] = Field(description="must be given")
    path: str = Field(
        description="a .safetensors file, or a .pt file of CORL's Cal-QL: see docs/design.md"
    )


class OwnExpertConfig(Config):
    """An expert of your own: see docs/extending.md."""

    method: Annotated[str, EXPERTS] = Field(
        description="must be given; the built-in ones have sections of their own, above"
    )
    options: Options = Field({}, description="of your expert, by name")


def _percent_bc_if_not_said(given: Any) -> Any:
    return {"method": "percent_bc", **given} if isinstance(given, Mapping) else given


def _tag_of(given: Any) -> str:
    method = (
        given.get("method")
        if isinstance(given, Mapping)
        else getattr(given, "method", "percent_bc")
    )
    return method if isinstance(method, str) and method in EXPERTS.builtin else "own"


ExpertConfig = Annotated[
    Annotated[PercentBCConfig, Tag("percent_bc")]
    | Annotated[CalQLConfig, Tag("cal_ql")]
    | Annotated[CheckpointConfig, Tag("checkpoint")]
    | Annotated[OwnExpertConfig, Tag("own")],
    Discriminator(_tag_of),
    BeforeValidator(_percent_bc_if_not_said),
]
"""How the near-optimal policy pi* and its action value q* are extracted from the dataset."""


class DistillConfig(Config):
    """How synthetic rows are optimised through an unrolled behavioural cloning."""

    objective: Annotated[str, OBJECTIVES] = Field(
        "pbc",
        description="`dbc`: the dataset's actions are the targets; `pbc`: the expert's; "
        "`av_pbc`: the expert's, weighted by its action value",
    )
    objective_options: Options = Field(
        {}, json_schema_extra=added({}), description="of your own objective, by name"
    )
    value_scale: Literal["mean", "paper"] = Field(
        "mean",
        description="`mean`: q*, clamped at 0 (where a fifth of the data's returns-to-go or more "
        "are negative: less its lowest value), divided by its mean; `paper`: beta * q*, unclamped",
    )
    beta: PositiveFloat = Field(0.02, description="scale of q* where `value_scale` is `paper`")
    synthetic_size: Rows = Field(64, description="synthetic rows")
    seeds: Copies = Field(1, description="independent distillations, run as one batch")
    layers: Layers = Field(2, description="linear layers of the cloned policy")
    width: Width = Field(1024, description="hidden units a layer")
    inner_steps: CloningSteps = Field(50, description="gradient steps of a cloning, T")
    window: Count | None = Field(
        20,
        description="inner steps that are differentiated, at most; null: all of them. Memory and "
        "time of an outer step fall with it",
    )
    truncation: Literal["last", "random"] = Field(
        "random",
        description="which inner steps the window takes: the last ones, or those before a random "
        "end of the unroll, anywhere from `window` to `inner_steps`",
    )
    inner_lr: LearningRate = Field(0.1, description="learning rate of a cloning, alpha")
    rate_lr: float = Field(
        0.01,
        ge=0,
        description="how fast each layer's inner learning rate is learned: Adam's learning rate on "
        "its logarithm; 0: it stays at `inner_lr`",
    )
    outer_steps: int = Field(
        600,
        ge=0,
        le=100_000_000,
        description="updates of the synthetic rows; 0: they stay as they were chosen",
    )
    outer_optimizer: Literal["adam", "sgd"] = Field(
        "adam", description="optimiser of the synthetic rows"
    )
    outer_lr: LearningRate = Field(0.03, description="its learning rate")
    outer_momentum: float = Field(0.9, ge=0, lt=1, description="of `sgd`")
    outer_schedule: Literal["constant", "cosine"] = Field(
        "cosine",
        json_schema_extra=added("constant"),
        description="of `outer_lr` and `rate_lr`; `cosine`: half a cosine down to 3 %",
    )
    state_noise: float = Field(
        0.3,
        ge=0,
        le=1e6,
        json_schema_extra=added(0.0),
        description="standard deviation, in normalised units, of what is added to three of four "
        "states of the meta-batch, where the expert is asked anew (under `dbc` the target stays "
        "that of the row); 0: nothing",
    )
    states: Literal["all", "teacher"] = Field(
        "all",
        json_schema_extra=added("all"),
        description="of the dataset, which policies are judged on and rows start from; `teacher`: "
        "of the episodes that `percent_bc` clones",
    )
    averaging: float = Field(
        0.98,
        ge=0,
        lt=1,
        description="decay of the moving average of the rows, which is what is returned (the plain "
        "average at first); 0: the last rows",
    )
    max_gradient_norm: PositiveFloat | None = Field(
        None, description="the hypergradient is scaled down to this norm; null: never"
    )
    max_gradient_ratio: float | None = Field(
        2.0,
        gt=1,
        le=1e6,
        json_schema_extra=added(None),
        description="the hypergradient, that of the inner learning rates too, is scaled down to "
        "this multiple of the moving average of its norm so scaled; null: never. Near 1 the "
        "average falls to the smallest norms and nearly every step is scaled: take 1.5 or more",
    )
    meta_batch_size: Batch = Field(1024, description="dataset states an outer step")
    tf32: bool = Field(
        False,
        description="on a GPU, matrix products in TF32: faster, with 10 bits of mantissa instead "
        "of 23",
    )
    initial_states: Annotated[str, SELECTIONS] = Field(
        "random",
        description="rows that the optimisation starts from: at `random`; the nearest to the "
        "centres of `kmeans`; at random from the `best` tenth by episode return; one from each of "
        "as many strata of the log `density`; at random from those that `sdr`, Stepwise Dual "
        "Ranking, keeps by density and value",
    )
    initial_options: Options = Field(
        {}, json_schema_extra=added({}), description="of your own selection, by name"
    )
    initial_actions: Literal["dataset", "expert"] = Field(
        "expert", description="actions of the rows that the optimisation starts from"
    )


class EvaluationConfig(Config):
    """How synthetic rows are judged: fresh policies trained on them, run in the environment."""

    policies: Runs = Field(10, description="fresh policies, K")
    episodes: Runs = Field(5, description="episodes a policy, M")
    curve: Runs = Field(
        1,
        description="evaluations along the distillation, evenly spaced; the last one, of the "
        "finished rows, counts",
    )
    ensemble: Copies = Field(
        1, description="networks of a policy, E, which acts by the mean of their actions"
    )
    architecture: Architecture | None = Field(
        None,
        description="of the network; `residual`: skip connections round the hidden layers. null, "
        "here and below: the rows' own",
    )
    layers: Layers | None = Field(None, description="its linear layers")
    optimizer: Optimizer | None = Field(
        None, description="of the cloning; its state lasts for all of the steps"
    )
    steps: CloningSteps | None = Field(None, description="its full-batch gradient steps")
    learning_rate: LearningRate | None = Field(
        None,
        description="its learning rate, of every layer; null: the rows' own, carried over to "
        "another depth or `momentum`, and 0.001 for `adam` and `adamw`",
    )


class PipelineConfig(Config):
    """One run of the whole pipeline."""

    dataset: str = Field(
        description="bundled or Minari id, a Minari folder, or a D4RL-layout .hdf5 or .npz file; "
        "`?env=ID&key=value` behind it names the environment"
    )
    reference_scores: Annotated[tuple[Return, Return] | None, BeforeValidator(_no_set)] = Field(
        None,
        json_schema_extra=added(None),
        description="undiscounted returns of a random and of an expert policy, which are 0 and 100 "
        "when normalised; null: as the dataset states them, or D4RL's",
    )
    clip_actions: bool = Field(
        False,
        json_schema_extra=added(False),
        description="clip the dataset's actions to the environment's bounds, as an environment "
        "does that takes any action; false: actions outside of them are refused",
    )
    seed: Seed = Field(0, description="root of every random stream")
    device: str = Field(
        "auto", description="`auto`, `cpu`, `cuda` or `cuda:N`", pattern=r"^(auto|cpu|cuda(:\d+)?)$"
    )
    density: DensityConfig = DensityConfig()
    weighting: WeightingConfig = WeightingConfig()
    expert: ExpertConfig = PercentBCConfig()
    distill: DistillConfig = DistillConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    _data: "OfflineDataset | None" = PrivateAttr(None)

    @model_validator(mode="wrap")
    @classmethod
    def _takes_a_dataset(cls, document: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Let `dataset` be a loaded one, which then goes beside the settings that name it."""
        data = document.get("dataset") if isinstance(document, Mapping) else None
        if data is None or isinstance(data, str):
            return handler(document)
        from sdw_core.offline_dataset import OfflineDataset

        if not isinstance(data, OfflineDataset):
            return handler(document)
        for key in ("reference_scores", "clip_actions"):
            if document.get(key):
                raise InputError(
                    f"`pipeline.{key}` counts where data are loaded, and this dataset is loaded "
                    f"already: give it there, as in `load(..., {key}={document[key]!r})`."
                )
        config = handler({**document, **data.settings})
        config._data = data
        return config

    @property
    def data(self) -> "OfflineDataset | None":
        """The loaded dataset, where one was given and the settings name it still."""
        if self._data is None:
            return None
        named = {"reference_scores": None, "clip_actions": False} | dict(self._data.settings)
        return self._data if all(getattr(self, k) == v for k, v in named.items()) else None

    @property
    def source(self) -> str:
        """What is loaded: the dataset, with what the settings do to it.

        >>> PipelineConfig(dataset="a-v0").source
        'a-v0'
        >>> PipelineConfig(dataset="a-v0", clip_actions=True).source
        'a-v0 {"clip_actions": true}'
        """
        changes = {"reference_scores": self.reference_scores, "clip_actions": self.clip_actions}
        said = {key: value for key, value in changes.items() if value}
        return f"{self.dataset} {json.dumps(said)}" if said else self.dataset
