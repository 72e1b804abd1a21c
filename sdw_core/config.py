"""The settings of a pipeline: one frozen, validated model per stage.

Unknown keys are errors that name the nearest valid key. Every field carries its meaning, so that
the reference in `docs/configuration.md` is generated from here.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from sdw_core.errors import InputError

Model = TypeVar("Model", bound=BaseModel)


class Config(BaseModel):
    """A frozen section of settings that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class DensityConfig(Config):
    """How log d(s), the log density of normalised states, is estimated."""

    model: Literal["maf", "nsf", "gaussian"] = Field(
        "maf",
        description="masked autoregressive flow, neural spline flow, or full-covariance Gaussian",
    )
    transforms: PositiveInt = Field(5, description="autoregressive transforms of a flow")
    hidden_features: PositiveInt = Field(100, description="hidden units of each transform")
    batch_size: PositiveInt = Field(1024, description="states a gradient step")
    learning_rate: PositiveFloat = Field(1e-3, description="Adam's, cosine-annealed to zero")
    steps: PositiveInt = Field(900, description="gradient steps of a flow, at most")
    patience: PositiveInt = Field(
        3,
        description="tenths of the steps without a better held-out log-likelihood before "
        "fitting stops",
    )
    holdout: float = Field(0.1, gt=0, lt=1, description="fraction of states held out, at random")


class WeightingConfig(Config):
    """How a density becomes the weight w(s) of a state in the distillation loss."""

    scheme: Literal["reciprocal", "rank"] = Field(
        "reciprocal",
        description="`reciprocal`: d^-temperature; `rank`: (quantile rank of d)^-temperature",
    )
    temperature: float = Field(
        0.1, ge=0, description="0: no density weighting; 1: exact reciprocal (density or rank)"
    )
    clip_quantile: float = Field(
        0.01, ge=0, lt=1, description="densities below this quantile count as the quantile"
    )


class ExpertConfig(Config):
    """How the near-optimal policy pi* and its action value q* are extracted from the dataset."""

    method: Literal["percent_bc"] = Field(
        "percent_bc", description="behavioural cloning of the episodes with the highest return"
    )
    fraction: float = Field(
        0.1,
        gt=0,
        le=1,
        description="fraction of the transitions that is cloned: whole episodes, the best first",
    )
    layers: PositiveInt = Field(4, description="linear layers of the policy and of the value")
    width: PositiveInt = Field(256, description="hidden units a layer")
    steps: PositiveInt = Field(2000, description="gradient steps of the policy")
    value_steps: PositiveInt = Field(2000, description="gradient steps of the action value")
    batch_size: PositiveInt = Field(256, description="transitions a gradient step")
    learning_rate: PositiveFloat = Field(3e-4, description="Adam's")
    discount: float = Field(0.99, ge=0, le=1, description="discount of the returns-to-go")


class DistillConfig(Config):
    """How synthetic rows are optimised through an unrolled behavioural cloning."""

    objective: Literal["dbc", "pbc", "av_pbc"] = Field(
        "av_pbc",
        description="`dbc`: the dataset's actions are the targets; `pbc`: the expert's; "
        "`av_pbc`: the expert's, weighted by its action value",
    )
    value_scale: Literal["mean", "paper"] = Field(
        "mean",
        description="`mean`: q*, clamped at 0, divided by its mean; `paper`: beta * q*, unclamped",
    )
    beta: PositiveFloat = Field(0.02, description="scale of q* where `value_scale` is `paper`")
    synthetic_size: PositiveInt = Field(64, description="synthetic rows")
    seeds: PositiveInt = Field(1, description="independent distillations, run as one batch")
    layers: PositiveInt = Field(4, description="linear layers of the cloned policy")
    width: PositiveInt = Field(128, description="hidden units a layer")
    inner_steps: PositiveInt = Field(50, description="gradient steps of a cloning, T")
    window: PositiveInt | None = Field(
        20,
        description="inner steps that are differentiated, at most; null: all of them. Memory and "
        "time of an outer step fall with it",
    )
    truncation: Literal["last", "random"] = Field(
        "random",
        description="which inner steps the window takes: the last ones, or those before a random "
        "end of the unroll, anywhere from `window` to `inner_steps`",
    )
    inner_lr: PositiveFloat = Field(0.1, description="learning rate of a cloning, alpha")
    outer_steps: PositiveInt = Field(500, description="updates of the synthetic rows")
    outer_optimizer: Literal["adam", "sgd"] = Field(
        "adam", description="optimiser of the synthetic rows"
    )
    outer_lr: PositiveFloat = Field(0.03, description="its learning rate")
    outer_momentum: float = Field(0.9, ge=0, lt=1, description="of `sgd`")
    max_gradient_norm: PositiveFloat | None = Field(
        None, description="the hypergradient is scaled down to this norm; null: never"
    )
    meta_batch_size: PositiveInt = Field(1024, description="dataset states an outer step")
    initial_actions: Literal["dataset", "expert"] = Field(
        "expert", description="actions of the rows that the optimisation starts from"
    )


class EvaluationConfig(Config):
    """How synthetic rows are judged: fresh policies trained on them, run in the environment."""

    policies: PositiveInt = Field(10, description="fresh policies, K")
    episodes: PositiveInt = Field(5, description="episodes a policy, M")


class PipelineConfig(Config):
    """One run of the whole pipeline."""

    dataset: str = Field(description="bundled or Minari id, or a D4RL-layout .hdf5 file")
    seed: int = Field(0, ge=0, description="root of every random stream")
    device: str = Field(
        "auto", description="`auto`, `cpu`, `cuda` or `cuda:N`", pattern=r"^(auto|cpu|cuda(:\d+)?)$"
    )
    density: DensityConfig = DensityConfig()
    weighting: WeightingConfig = WeightingConfig()
    expert: ExpertConfig = ExpertConfig()
    distill: DistillConfig = DistillConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


def parse(model: type[Model], document: Any, where: str) -> Model:
    """Validate `document` as a `model`; `where` names the document's root in messages.

    Raises:
        InputError: one sentence with the path, what was received and the nearest valid choice.
    """
    if not isinstance(document, Mapping):
        raise InputError(f"{where} must be a mapping of keys to values, not {document!r}.")
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise InputError(_sentence(model, error, where)) from None


def nearest(word: str, choices: Iterable[str]) -> str:
    """A hint that ends a sentence: the nearest choice, or else all of them.

    >>> nearest("steps", ["outer_steps", "seeds"])
    'did you mean `outer_steps`?'
    """
    valid = sorted(choices)
    close = get_close_matches(word, valid, n=1, cutoff=0.6)
    if close:
        return f"did you mean `{close[0]}`?"
    return "the choices are " + ", ".join(f"`{choice}`" for choice in valid) + "."


def submodel(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation holds (`Model`, `Model | None`), if it holds one."""
    if get_origin(annotation) in (Union, UnionType):
        return next((model for arg in get_args(annotation) if (model := submodel(arg))), None)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def _sentence(model: type[BaseModel], error: ValidationError, where: str) -> str:
    details = error.errors()[0]
    location = details["loc"]
    path = ".".join([where, *map(str, location)]) if where else ".".join(map(str, location))
    received = details["input"]
    if details["type"] == "extra_forbidden":
        owner: type[BaseModel] | None = model
        for part in location[:-1]:
            field = owner.model_fields.get(str(part)) if owner else None
            owner = submodel(field.annotation) if field else None
        hint = nearest(str(location[-1]), owner.model_fields) if owner else ""
        return f"unknown key `{path}`: {hint}"
    if details["type"] == "missing":
        return f"`{path}` is missing: it has no default and must be given."
    if details["type"] == "literal_error":
        choices = [choice.strip(" '") for choice in _literal_choices(details["ctx"]["expected"])]
        return f"`{path}` cannot be {received!r}: {nearest(str(received), choices)}"
    message = details["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return f"`{path}` {message}, not {received!r}."


def _literal_choices(expected: str) -> list[str]:
    return expected.replace(" or ", ", ").split(", ")
