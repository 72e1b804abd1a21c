"""The manifest of an export: what it may say, whoever wrote it.

An exported folder may come from anyone, and its checksums prove nothing against whoever edits it.
So a manifest is read as a spec is: key by key, within bounds, before anything that it names is
opened, imported, made or trained. What only those who trust its author should let it do (import a
module, give an environment's maker other arguments than known, harmless ones) needs `trust`.
"""

import json
import math
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import numpy as np
from pydantic import ConfigDict, Field

from sdw_core.config import (
    Architecture,
    CloningSteps,
    Config,
    Copies,
    Layers,
    LearningRate,
    Optimizer,
    Rows,
    Runs,
    Seed,
    Width,
)
from sdw_core.environment import OWN_WRAPPERS
from sdw_core.errors import InputError
from sdw_core.evaluate import Recipe
from sdw_core.labels import FILM, GIF, POSTER
from sdw_core.offline_dataset import LEAST_APART, MOST_APART, tell_apart
from sdw_core.validation import parse, shown

NAME = "manifest.json"
SCHEMA_VERSION = 3
"""1 had neither an environment's time limit nor its wrappers; 2 had no other files than `FILES`,
and those of a film."""
OF_ENSEMBLES = "_ensemble"
"""Ends the name of a score whose policies are ensembles: `synthetic`, `synthetic_ensemble`."""
DATA, TABLE, NPZ, CSV = (f"synthetic.{kind}" for kind in ("safetensors", "parquet", "npz", "csv"))
FILES = ("README.md", "card.png", TABLE, DATA)
"""That each export holds."""
CODE, CROISSANT = "policy.py", "croissant.json"
MINARI = tuple(f"minari/rows-v0/data/{name}" for name in ("main_data.hdf5", "metadata.json"))
"""Of the Minari dataset `rows-v0` in the folder `minari`."""
OTHERS = (CODE, CROISSANT, NPZ, CSV, *MINARI)
"""That an export may hold; also a film's three."""
PARTS = (NAME, *FILES, *OTHERS, FILM, POSTER, GIF)
"""All names of files in an export."""
MOST_BYTES = 10_000_000
"""Of the manifest, the card, a picture or the film: most are a hundredth of it."""
MOST_DATA = 1_000_000_000
"""Of the rows: distilled ones take a millionth of that."""
MOST_EPISODE = 50_000
"""Of a row in a Minari dataset, without its numbers: HDF5 takes a fifth of that."""
MOST_WIDTH = 10_000
"""Dimensions of an observation or of an action."""

HARMLESS = frozenset(
    {
        *("ctrl_cost_weight", "contact_cost_weight", "forward_reward_weight", "healthy_reward"),
        *("reset_noise_scale", "healthy_z_range", "healthy_angle_range", "healthy_state_range"),
        *("terminate_when_unhealthy", "exclude_current_positions_from_observation"),
        *("contact_force_range", "contact_cost_range", "impact_cost_range", "impact_cost_weight"),
        *("include_cfrc_ext_in_observation", "include_cinert_in_observation"),
        *("include_cvel_in_observation", "include_qfrc_actuator_in_observation"),
        *("use_contact_forces", "main_body", "frame_skip", "uph_cost_weight"),
        *("reward_control_weight", "reward_dist_weight", "reward_near_weight"),
        *("g", "goal_velocity", "continuous", "gravity", "enable_wind", "wind_power"),
        *("turbulence_power", "hardcore"),
    }
)
"""Arguments of Gymnasium's environments that change its numbers, and reach for nothing else."""
HARMLESS_WRAPPERS: dict[str, frozenset[str]] = {
    "ClipAction": frozenset(),
    "RescaleAction": frozenset({"min_action", "max_action"}),
    "StickyAction": frozenset({"repeat_action_probability", "repeat_action_duration"}),
    "RepeatAction": frozenset({"num_repeats"}),
    "ClipReward": frozenset({"min_reward", "max_reward"}),
    "RescaleObservation": frozenset({"min_obs", "max_obs"}),
    "FlattenObservation": frozenset(),
    "FrameStackObservation": frozenset({"stack_size"}),
    "MaxAndSkipObservation": frozenset({"skip"}),
    "DelayObservation": frozenset({"delay"}),
    "TimeAwareObservation": frozenset({"flatten", "normalize_time"}),
    "TimeLimit": frozenset({"max_episode_steps"}),
}
"""Gymnasium's wrappers that need nothing but numbers, and their arguments."""
MOST = {"frame_skip": 100, "stack_size": 100, "skip": 100, "num_repeats": 100, "delay": 1000}
"""Of what makes a step, or an observation, so many times as large."""
MOST_TOGETHER = 1000
"""Of all of these, multiplied: a wrapper repeats or stacks what another did."""
MOST_NUMBER = 1e6
"""Of any other argument; also the longest time limit."""
ARGUMENT = "a number of at most 1e6, true, false, null, or a list of at most 1000 such numbers"
FACTOR = "a whole number from 1 to "

STRICT: Any = Field(strict=True)
"""Numbers are numbers: no text that looks like one, no `true`."""
Number = Annotated[float, STRICT]
Whole = Annotated[Seed, STRICT]
Name = Annotated[str, Field(min_length=1, max_length=300)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="a SHA-256, in hex")]
Bounds = Annotated[tuple[Number, ...], Field(min_length=1, max_length=MOST_WIDTH)]


class Open(Config):
    """A section that later versions may add keys to: they change nothing of what is read here."""

    model_config = ConfigDict(extra="ignore")


class WrapperSection(Config):
    """A wrapper of the environment."""

    entry_point: Name
    kwargs: dict[Name, Any] = Field(max_length=50)


class FirstEnvironmentSection(Config):
    """The environment, in manifests of schema 1."""

    id: str = Field(
        pattern=r"^([\w.]+:)?[\w./-]+$",
        max_length=300,
        description="an id of Gymnasium's, or `module:id`",
    )
    kwargs: dict[Name, Any] = Field(max_length=50)
    action_low: Bounds
    action_high: Bounds
    reference_scores: tuple[Number, Number]


class EnvironmentSection(FirstEnvironmentSection):
    """The environment that policies are judged in."""

    max_episode_steps: Annotated[int, Field(strict=True, ge=1, le=int(MOST_NUMBER))]
    wrappers: tuple[WrapperSection, ...] = Field(max_length=20)


class RecipeSection(Config):
    """How policies are cloned from the rows."""

    layers: Layers = STRICT
    width: Width = STRICT
    steps: CloningSteps = STRICT
    learning_rates: tuple[Annotated[LearningRate, STRICT], ...] = Field(max_length=100)
    architecture: Architecture = "mlp"
    optimizer: Optimizer = "sgd"

    def recipe(self) -> Recipe:
        """The same, as the evaluation takes it."""
        return Recipe(**dict(self))


class SourceSection(Open):
    """The dataset that the rows were distilled from."""

    name: str = Field(max_length=10_000)
    content_hash: str = Field(max_length=200)
    license: str | None = Field(
        None, max_length=10_000, description="of the export; null: none was chosen"
    )
    episodes: Whole
    transitions: Whole


class EvaluationSection(Open):
    """How the stated scores were found."""

    policies: Runs = STRICT
    episodes: Runs = STRICT
    ensemble: Annotated[Copies, STRICT] = 1
    seed: Whole
    stage: str = Field(pattern=r"^[a-z_]{1,50}$", description="the name of a random stream")


class ScoreSection(Open):
    """Normalised returns: their mean, interquartile mean and interval, and each policy's."""

    mean: Number
    iqm: Number
    low: Number
    high: Number
    per_policy: tuple[Number, ...] = Field(min_length=1, max_length=1_000_000)
    ensemble: Annotated[Copies, STRICT] = Field(1, description="networks of each policy")


class SearchSection(ScoreSection):
    """What the search had found of the rows, and of those of other distillation seeds."""

    shrinkage: Number | None = Field(
        None, description="the rows' mean in the search less that on fresh seeds"
    )


class RaceSection(Open):
    """How a study's best trials were told apart on fresh seeds, by their numbers."""

    trial: Whole = Field(description="the one that the rows are of")
    contenders: tuple[Whole, ...] = Field(min_length=2, max_length=1_000_000)
    winner: Whole
    open: tuple[Whole, ...] = Field(
        max_length=1_000_000, description="the trials that cannot be told from the winner"
    )


class ScoresSection(Open):
    """Scores on fresh seeds, and what the search had found.

    Those of ensembles are there where `evaluation.ensemble` is more than 1; that of behavioural
    cloning of all the data where a study judged it. Each episode of that, and of the expert's,
    counts as a policy.
    """

    synthetic: ScoreSection
    random_subset: ScoreSection | None = None
    synthetic_ensemble: ScoreSection | None = None
    random_subset_ensemble: ScoreSection | None = None
    bc_all_data: ScoreSection | None = None
    expert: ScoreSection | None = None
    search: SearchSection | None = None
    race: RaceSection | None = None


class FirstManifest(Open):
    """A manifest of schema 1."""

    schema_version: Literal[1]
    environment: FirstEnvironmentSection
    rows: Rows = STRICT
    recipe: RecipeSection
    source: SourceSection
    config: dict[str, Any]
    distillation_seed: Whole
    evaluation: EvaluationSection
    scores: ScoresSection
    files: dict[str, Hash]
    checksum: Hash


class Manifest(FirstManifest):
    """A manifest as it is written now."""

    schema_version: Literal[2, 3]  # type: ignore[assignment]
    environment: EnvironmentSection


MODELS: dict[Any, type[FirstManifest]] = {1: FirstManifest, 2: Manifest, SCHEMA_VERSION: Manifest}


def read_manifest(folder: Path, trust: bool = False) -> tuple[dict[str, Any], FirstManifest]:
    """The manifest of a folder, as it stands and as it was checked; nothing else is opened.

    Args:
        folder: the exported dataset.
        trust: let it name a module to import, and any arguments and wrappers.

    Raises:
        InputError: the file is no manifest that this version reads, or holds what must not be.
    """
    document = parsed_json(read_regular(folder, NAME, MOST_BYTES), folder)
    version = document.get("schema_version") if isinstance(document, dict) else None
    if not isinstance(version, int) or version not in MODELS or isinstance(version, bool):
        raise InputError(
            f"{str(folder)!r} has manifest schema {shown(version)}, and this version reads "
            f"{', '.join(map(str, MODELS))}; export it again."
        )
    try:
        manifest = parse(MODELS[version], document, "")
        _require_sound(manifest)
    except InputError as error:
        refuse(folder, str(error))
    if not trust:
        _require_harmless(manifest.environment, folder)
    return document, manifest


def refuse(folder: Path, sentence: str) -> NoReturn:
    """Refuse a manifest for what the sentence says of it."""
    raise InputError(
        f"{NAME} of {str(folder)!r} is damaged; export the dataset again, or fetch it again from "
        f"where it came: {sentence}"
    )


def read_regular(folder: Path, name: str, most: int) -> bytes:
    """A plain file of an exported folder; no link is followed, and nothing is waited for.

    Raises:
        InputError: there is none, or it is larger than it may be.
    """
    try:
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (OSError, ValueError):
        state = "missing" if not os.path.lexists(folder / name) else "no plain file"
        _refuse_file(folder, name, state)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            _refuse_file(folder, name, "no plain file")
        if status.st_size > most:
            raise InputError(
                f"{name} of {str(folder)!r} may have {most} bytes at most, and has "
                f"{status.st_size}; export the dataset again."
            )
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(most)
    finally:
        os.close(descriptor)


def _refuse_file(folder: Path, name: str, state: str) -> NoReturn:
    if name == NAME:
        why = f"it has no readable {NAME}"
        if state != "missing":
            why = f"its {NAME} is {state} that can be read (`cp -rL` copies what links lead to)"
        raise InputError(
            f"{str(folder)!r} is not an exported synthetic dataset: {why}; give a folder that an "
            "export wrote."
        )
    if state != "missing":
        state += " that can be read (`cp -rL` copies what links lead to)"
    raise InputError(f"{name} of {str(folder)!r} is {state}; export the dataset again.")


def parsed_json(content: bytes, folder: Path) -> Any:
    """The document in a manifest's bytes: no key twice, numbers finite, text in Unicode.

    Raises:
        InputError: the file is no such document.
    """
    try:
        document = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_finite,
            parse_float=_finite,
        )
        json.dumps(document, ensure_ascii=False).encode("utf-8")  # half a surrogate pair
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, _Refused) else "it is no JSON in UTF-8"
        raise InputError(
            f"{str(folder)!r} is not an exported synthetic dataset: it has no readable {NAME} "
            f"({why}); give a folder that an export wrote."
        ) from None
    return document


class _Refused(ValueError):
    """What is wrong with JSON."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in document if keys.count(key) > 1)
        raise _Refused(f"the key {twice[:80]!r} stands twice in it")
    return document


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _Refused(f"{text[:40]} in it is no finite number")
    return number


def _require_sound(manifest: FirstManifest) -> None:
    """What the parts of a manifest must be to one another."""
    environment, recipe = manifest.environment, manifest.recipe
    with np.errstate(over="ignore"):  # becomes infinite, which is refused
        low = np.asarray(environment.action_low).astype(np.float32)
        high = np.asarray(environment.action_high).astype(np.float32)
    if low.shape != high.shape or not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
        raise InputError(
            "`environment.action_low` must lie below `environment.action_high`, both as long and "
            f"finite in 32 bits, not {shown(environment.action_low)} and "
            f"{shown(environment.action_high)}."
        )
    if not tell_apart(*environment.reference_scores):
        random, expert = environment.reference_scores
        raise InputError(
            "`environment.reference_scores` must be a random policy's return and a larger one of "
            f"an expert, {LEAST_APART:g} to {MOST_APART:g} more, not {random!r} and {expert!r}."
        )
    if len(recipe.learning_rates) != recipe.layers:
        raise InputError(
            f"`recipe.learning_rates` must be one for each of the {recipe.layers} layers, not "
            f"{len(recipe.learning_rates)}."
        )
    if recipe.architecture == "residual" and recipe.layers < 3:
        raise InputError(
            f"`recipe.layers` of a residual network must be at least 3, not {recipe.layers}."
        )
    networks, scores = manifest.evaluation.ensemble, dict(manifest.scores)
    if (scores["synthetic" + OF_ENSEMBLES] is not None) != (networks > 1):
        raise InputError(
            f"`scores.synthetic{OF_ENSEMBLES}` must be there where `evaluation.ensemble` is more "
            f"than 1, and nowhere else, and it is {networks}."
        )
    for name in ("synthetic", "random_subset", "bc_all_data", "expert"):
        for kind, stated, why in (
            ("", 1, "of single policies"),
            (OF_ENSEMBLES, networks, "as `evaluation.ensemble` says"),
        ):
            found = scores.get(name + kind)
            if found and found.ensemble != stated:
                raise InputError(
                    f"`scores.{name}{kind}.ensemble` must be {stated}, {why}, not {found.ensemble}."
                )
    together = {*FILES}
    for parts in ((FILM, POSTER, GIF), MINARI):
        together |= {*parts} if parts[0] in manifest.files else set()
    if odd := sorted((set(manifest.files) ^ together) - ({*OTHERS} - {*MINARI})):
        raise InputError(f"`files` must be {', '.join(FILES)}, and differs by {shown(odd[0])}.")


def _require_harmless(environment: FirstEnvironmentSection, folder: Path) -> None:
    """Refuse what only someone who trusts the manifest's author should let it do."""

    def untrusted(what: str) -> NoReturn:
        raise InputError(
            f"{NAME} of {str(folder)!r} may not by itself {what}; look at it, and if you trust "
            "whoever made it, read it with `trust`."
        )

    if ":" in environment.id:
        untrusted(f"import a module, and its environment is {environment.id!r}")
    for key, value in environment.kwargs.items():
        if key not in HARMLESS:
            untrusted(f"give an environment the argument {shown(key)}")
        if not _harmless(key, value):
            must = f"{FACTOR}{MOST[key]}" if key in MOST else ARGUMENT
            untrusted(f"give an environment's {key!r} {shown(value)}, which is not {must}")
    if not isinstance(environment, EnvironmentSection):
        return
    for wrapper in environment.wrappers:
        module, _, name = wrapper.entry_point.rpartition(":")
        own = module + "." == OWN_WRAPPERS or module.startswith(OWN_WRAPPERS)
        if not (own and re.fullmatch(r"[\w.]+", module) and name in HARMLESS_WRAPPERS):
            untrusted(f"wrap an environment in {shown(wrapper.entry_point)}")
        for key, value in wrapper.kwargs.items():
            if key not in HARMLESS_WRAPPERS[name] or not _harmless(key, value):
                untrusted(f"give the wrapper {name!r} the argument {shown(key)} as {shown(value)}")
    given = [environment.kwargs, *(wrapper.kwargs for wrapper in environment.wrappers)]
    factors = [each[key] for each in given for key in MOST.keys() & each.keys()]
    if math.prod(factors) > MOST_TOGETHER:
        untrusted(
            f"repeat and stack the steps of an environment more than {MOST_TOGETHER} times, and "
            f"its arguments and wrappers do so {' x '.join(map(str, factors))} times"
        )


def _harmless(key: str, value: Any) -> bool:
    if key in MOST:
        return type(value) is int and 1 <= value <= MOST[key]
    values: Sequence[Any] = value if isinstance(value, list) else [value]
    return len(values) <= 1000 and all(
        each in (None, "Infinity", "-Infinity")  # as `Environment.to_json` writes them
        or (isinstance(each, int | float) and abs(each) <= MOST_NUMBER)
        for each in values
    )
