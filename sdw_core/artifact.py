"""An exported synthetic dataset: one folder that can be used, checked and cited by itself.

synthetic.safetensors   observations [n, O] and actions [n, A] in environment units,
                        observation_mean [O], observation_scale [O]
synthetic.parquet       the same rows, a column a dimension, and the actions clipped to their bounds
manifest.json           environment, recipe, source, settings, scores, versions, checksums: see
                        `sdw_core.manifest`
croissant.json          the table, for tools that read Croissant: `sdw_core.croissant`
synthetic.npz, .csv, minari/    if they were asked for: see `sdw_core.formats`
policy.py               clones a policy from the rows with numpy alone: `sdw_core.standalone`
README.md, card.png     a dataset card with a picture
film.mp4, .png, .gif    if it was made: a film of the policies, see `sdw_core.film`
"""

import hashlib
import json
import os
import platform
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from numbers import Integral
from pathlib import Path
from shutil import copyfile
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save_file
from torch import Tensor

from sdw_core import standalone
from sdw_core.card import CITE, html_of, write_card
from sdw_core.cloned import ClonedPolicy
from sdw_core.config import EvaluationConfig
from sdw_core.croissant import write_croissant
from sdw_core.environment import Environment
from sdw_core.errors import DivergenceError, InputError
from sdw_core.evaluate import (
    Arena,
    Recipe,
    cloned,
    evaluate_rows,
    one_thread,
    require_feasible,
    unsound,
)
from sdw_core.files import created_folder, sha256_of_file, sha256_of_json
from sdw_core.formats import FORMATS
from sdw_core.labels import FILM
from sdw_core.manifest import (
    CODE,
    DATA,
    MOST_BYTES,
    MOST_DATA,
    MOST_EPISODE,
    MOST_WIDTH,
    NAME,
    SCHEMA_VERSION,
    TABLE,
    FirstManifest,
    read_manifest,
    read_regular,
    refuse,
)
from sdw_core.offline_dataset import ACTION_TOLERANCE
from sdw_core.protocols import applied, grid
from sdw_core.remote import opened
from sdw_core.seeds import torch_generator
from sdw_core.statistics import ReturnSummary, summarize
from sdw_core.units import Units
from sdw_core.validation import shown

CONFIRM = "confirm"
"""Random stream of the evaluations that a manifest states: never used in a search."""
EVIDENCE = ("source", "config", "distillation_seed", "evaluation", "scores")
PACKAGES = ("sdw-obd", "torch", "numpy", "gymnasium", "mujoco", "minari", "zuko")


Filming = Callable[["Artifact", Path], object]
"""Writes a film of an artifact to a path, with its still and its GIF."""


@dataclass(frozen=True, eq=False)
class Artifact:
    """A synthetic dataset with all that is needed to use and to judge it.

    The rows are held as the folder holds them, so that what was judged before the export is what a
    reader of the export gets, to the last bit.

    Attributes:
        observations: [n, O] float32, environment units.
        actions: [n, A] float32, environment units; values may lie outside of the environment's
            bounds, for they are what a policy is trained towards, and its tanh bounds what it does.
        arena: the environment, the normaliser and the reference scores.
        recipe: what the rows were distilled for.
        evidence: `source`, `config`, `distillation_seed`, `evaluation` and `scores`, as in the
            manifest.
    """

    observations: NDArray[np.float32]
    actions: NDArray[np.float32]
    arena: Arena
    recipe: Recipe
    evidence: dict[str, Any]

    @classmethod
    def distilled(
        cls,
        observations: Tensor,
        actions: Tensor,
        arena: Arena,
        recipe: Recipe,
        evidence: dict[str, Any],
    ) -> Self:
        """Of rows as they were distilled: x [n, O] normalised, y [n, A] in [-1, 1]."""
        return cls(
            arena.units.environment_states(observations.cpu().numpy()),
            arena.units.environment_actions(actions.cpu().numpy()),
            arena,
            recipe,
            evidence,
        )

    @property
    def states(self) -> NDArray[np.float32]:
        """[n, O] the observations as policies see them."""
        return self.arena.units.normalized_states(self.observations)

    @property
    def clipped_actions(self) -> NDArray[np.float32]:
        """[n, A] the actions at the environment's bounds where they lie outside of them."""
        return np.clip(self.actions, self.arena.units.action_low, self.arena.units.action_high)

    @property
    def ensemble(self) -> int:
        """Networks of a policy, E, as the manifest states them; see `train`."""
        return int(self.evidence["evaluation"].get("ensemble", 1))

    @property
    def actions_outside_bounds(self) -> dict[str, float]:
        """Share of the action values outside of the bounds, and the largest, in half-widths.

        Outside is what an `OfflineDataset` would refuse.
        """
        size = np.abs(self.arena.units.unit_actions(self.actions))
        outside = size > 1 + 2 * ACTION_TOLERANCE
        return {"share": float(outside.mean()), "largest": float(size.max())}

    def evaluation(self, **changes: Any) -> EvaluationConfig:
        """The evaluation that the manifest states, with changes, such as `optimizer="adam"`.

        It is of ensembles where the manifest states ensembles; `ensemble=1`: of single policies.

        Raises:
            InputError: a change is no valid setting.
        """
        stated = self.evidence["evaluation"]
        size = {key: stated[key] for key in ("policies", "episodes")}
        return EvaluationConfig(**(size | {"ensemble": self.ensemble} | changes))

    def evaluate(
        self,
        evaluation: EvaluationConfig | None = None,
        seed: int | None = None,
        stage: str | None = None,
    ) -> NDArray[np.float64]:
        """Normalised returns [K, M] of fresh policies trained on the rows.

        On one torch thread, so that everyone finds the same numbers.

        Args:
            evaluation: how many policies and episodes, and what differs from the rows' own recipe;
                None: as the manifest states, where the returns are those of its score (of the
                ensembles' one, if it has both).
            seed: root seed; None: the manifest's.
            stage: random stream below the seed; None: the manifest's.

        Raises:
            InputError: the recipe cannot be changed as the evaluation asks.
            DivergenceError: a policy became non-finite while it was cloned.
        """
        stated = self.evidence["evaluation"]
        evaluation = evaluation or self.evaluation()
        seed = stated["seed"] if seed is None else seed
        _require_counted(seed=seed)
        with one_thread():
            return evaluate_rows(
                *self._training_set,
                [applied(evaluation, self.recipe)],
                self.arena,
                evaluation.policies,
                evaluation.episodes,
                seed,
                stage or stated["stage"],
                ensemble=evaluation.ensemble,
            )

    def evaluate_protocols(
        self,
        policies: int | None = None,
        episodes: int | None = None,
        seed: int | None = None,
        say: Callable[[str], None] = lambda said: None,
    ) -> dict[str, Any]:
        """What each protocol of the field makes of the rows: see `protocols.grid`.

        Args:
            policies: K; None: the manifest's.
            episodes: M; None: the manifest's.
            seed: root seed; None: the manifest's.
            say: told which protocol is evaluated.

        Returns:
            Name -> `recipe`, `ensemble` and `normalized_return`, null where policies diverge.
        """
        stated = self.evidence["evaluation"]
        protocols = grid(
            self.recipe, policies or stated["policies"], episodes or stated["episodes"]
        )
        found: dict[str, Any] = {}
        for name, protocol in protocols.items():
            say(f"evaluating {len(found) + 1} of {len(protocols)}: {name}")
            found[name] = {
                "recipe": asdict(applied(protocol, self.recipe)),
                "ensemble": protocol.ensemble,
                "normalized_return": None,
            }
            with suppress(DivergenceError):
                returns = self.evaluate(protocol, seed)
                used = stated["seed"] if seed is None else seed
                found[name]["normalized_return"] = score(returns, used, protocol.ensemble)
        return found

    def train(
        self,
        seed: int = 0,
        policy: int = 0,
        evaluation: EvaluationConfig | None = None,
        ensemble: int | None = None,
    ) -> ClonedPolicy:
        """A policy that is cloned from the rows: the very one that `evaluate` judges.

        It is an ensemble, which acts by the mean of its networks' actions, where the manifest
        states one.

        Args:
            seed: root seed.
            policy: which of the policies of `evaluate` at that seed, from 0.
            evaluation: what differs from the rows' own recipe; None: as the manifest states.
            ensemble: networks of the policy, E; 1: a single network; None: the evaluation's.

        Raises:
            InputError: E is no such number, or the recipe cannot be changed as the evaluation asks.
            DivergenceError: the policy became non-finite.
        """
        _require_counted(seed=seed, policy=policy)
        evaluation = evaluation or self.evaluation()
        if ensemble is not None:
            evaluation = EvaluationConfig(**evaluation.model_dump() | {"ensemble": ensemble})
        recipe, networks = applied(evaluation, self.recipe), evaluation.ensemble
        x, y = self._training_set
        require_feasible(recipe, x.shape[2], y.shape[2], x.shape[1], 1, 1, networks)
        stage = self.evidence["evaluation"]["stage"]
        first = policy * networks
        generators = [torch_generator(seed, stage, first + e) for e in range(networks)]
        with one_thread():
            network, parameters = cloned(x, y, [recipe], generators)
        if unsound(parameters):
            raise DivergenceError(
                f"policy {policy}, cloned from the rows with seed {seed}, became non-finite; lower "
                "the evaluation's `learning_rate`."
            )
        return ClonedPolicy(network, parameters, self.arena.units)

    @property
    def _training_set(self) -> tuple[Tensor, Tensor]:
        """x [1, n, O] and y [1, n, A], in the units of networks."""
        actions = self.arena.units.unit_actions(self.actions)
        return torch.from_numpy(self.states[None]), torch.from_numpy(actions[None])

    def frame(self) -> pd.DataFrame:
        """The rows, a column a dimension, and the actions clipped to their bounds."""
        parts = {
            "observation": self.observations,
            "action": self.actions,
            "action_clipped": self.clipped_actions,
        }
        return pd.DataFrame(
            {
                f"{name}_{i}": column
                for name, values in parts.items()
                for i, column in enumerate(np.ascontiguousarray(values, np.float32).T)
            }
        )

    def __repr__(self) -> str:
        return f"Artifact({len(self.observations)} rows for {self.arena.environment})"

    def _repr_html_(self) -> str:
        return html_of(self.states, self.evidence["scores"])


def _require_counted(**numbers: int) -> None:
    """Refuse what addresses no random stream."""
    for name, number in numbers.items():
        if not isinstance(number, Integral) or number < 0:
            raise InputError(
                f"`{name}` must be a whole number, at least 0, not {shown(number)}: give another."
            )


def score(returns: NDArray[np.float64], seed: int, ensemble: int = 1) -> dict[str, Any]:
    """A manifest's account of an evaluation of policies of E networks."""
    summary: ReturnSummary = summarize(returns, seed, ensemble=ensemble)
    return summary.to_json()


def write_artifact(
    artifact: Artifact,
    folder: Path,
    source_states: NDArray[np.float32],
    film: Filming | None = None,
    formats: Collection[str] = (),
) -> None:
    """Write the folder, whole or not at all, and read it back.

    Args:
        artifact: what to write.
        folder: must not exist.
        source_states: some of the source's normalised states [*, O], for the picture.
        film: makes a film of it for the folder and its card; None: no film.
        formats: beside safetensors and parquet; see `sdw_core.formats`.

    Raises:
        InputError: the folder exists.
    """
    arena = artifact.arena
    rows = {
        "observations": artifact.observations,
        "actions": artifact.actions,
        "observation_mean": arena.units.observation_mean,
        "observation_scale": arena.units.observation_scale,
    }
    rows = {name: np.ascontiguousarray(array, np.float32) for name, array in rows.items()}
    try:
        with created_folder(folder) as scratch:
            save_file(rows, scratch / DATA)
            table = artifact.frame()
            table.to_parquet(scratch / TABLE, index=False)
            copyfile(standalone.__file__, scratch / CODE)
            for name in formats:
                FORMATS[name](rows, table, arena, scratch)
            if film:
                film(artifact, scratch / FILM)
            manifest = _manifest(artifact)
            write_croissant(manifest, table.columns, CITE, scratch)
            write_card(manifest, artifact.states, source_states, scratch)
            seal(manifest, scratch)
            read_artifact(scratch, trust=True)
    except FileExistsError:
        refuse_existing(folder)
        raise


def seal(manifest: dict[str, Any], folder: Path) -> None:
    """Write a manifest beside the files that it is of, with their checksums and its own."""
    manifest.pop("checksum", None)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest["files"] = {str(path.relative_to(folder)): sha256_of_file(path) for path in files}
    manifest["checksum"] = sha256_of_json(manifest)
    (folder / NAME).write_text(json.dumps(manifest, indent=2, allow_nan=False) + "\n")


def refuse_existing(folder: Path) -> None:
    """Refuse a folder that an export would overwrite.

    Raises:
        InputError: the folder exists.
    """
    if os.path.lexists(folder):
        raise InputError(
            f"An export never overwrites, and {str(folder)!r} exists: remove it, or choose another "
            "folder."
        ) from None


def read_artifact(folder: str | Path, trust: bool = False) -> Artifact:
    """Read an exported folder, whoever made it, and verify every checksum.

    The manifest and the sizes of the files are checked before anything is read whole; the
    environment is made last.

    Args:
        folder: the exported dataset; or its address in a dataset hub, such as `hf://user/name`.
        trust: whoever made it may name a module, which is imported, and any arguments and wrappers
            of the environment.

    Raises:
        InputError: the folder is no export, a file is missing or was changed, it was written by a
            newer version, it holds what must not be, or it needs trust; or it cannot be fetched.
    """
    with opened(folder) as found:
        document, manifest, (observations, actions, units) = verified(found, trust)
        environment = Environment.of_json(document["environment"])
        _require_fit(found, units, environment)
    return Artifact(
        observations,
        actions,
        Arena(environment, units, manifest.environment.reference_scores),
        manifest.recipe.recipe(),
        {key: document[key] for key in EVIDENCE},
    )


def verified(
    folder: Path, trust: bool
) -> tuple[dict[str, Any], FirstManifest, tuple[NDArray[np.float32], NDArray[np.float32], Units]]:
    """The manifest, as it stands and as it was checked, and the rows, every checksum verified.

    Nothing that the manifest names is imported or made.
    """
    document, manifest = read_manifest(folder, trust)
    unsigned = {key: value for key, value in document.items() if key != "checksum"}
    if document["checksum"] != sha256_of_json(unsigned):
        raise InputError(
            f"{NAME} of {str(folder)!r} was changed after its export; export the dataset again."
        )
    return document, manifest, _read_rows(folder, manifest)


def _read_rows(
    folder: Path, manifest: FirstManifest
) -> tuple[NDArray[np.float32], NDArray[np.float32], Units]:
    """Observations, actions and their units, once every file is what the manifest says."""
    count, outputs = manifest.rows, len(manifest.environment.action_low)
    most = MOST_BYTES + 4 * (count * (MOST_WIDTH + outputs) + 2 * MOST_WIDTH)
    content = _verified(folder, manifest, DATA, min(most, MOST_DATA))
    try:
        rows: dict[str, NDArray[Any]] = load(content)
    except (SafetensorError, LookupError, TypeError, ValueError):
        refuse(folder, f"{DATA} cannot be read.")
    inputs = rows["observations"].shape[-1] if "observations" in rows else 1
    shapes = {
        "observations": (count, inputs),
        "actions": (count, outputs),
        "observation_mean": (inputs,),
        "observation_scale": (inputs,),
    }
    for name in manifest.files:
        if name != DATA:
            size = MOST_BYTES + count * (100 * (inputs + outputs) + MOST_EPISODE)
            _verified(folder, manifest, name, min(size, MOST_DATA))
    if set(rows) != set(shapes) or not 1 <= inputs <= MOST_WIDTH:
        refuse(folder, f"{DATA} must hold {', '.join(shapes)}, at most {MOST_WIDTH} wide.")
    for name, shape in shapes.items():
        if rows[name].shape != shape or rows[name].dtype != np.float32:
            refuse(
                folder,
                f"`{name}` of {DATA} must be {list(shape)} float32, as the manifest's `rows` and "
                f"bounds say, not {list(rows[name].shape)} {rows[name].dtype}.",
            )
    bounds = manifest.environment.action_low, manifest.environment.action_high
    low, high = (np.asarray(each, np.float32) for each in bounds)
    units = Units(rows["observation_mean"], rows["observation_scale"], low, high)
    with np.errstate(all="ignore"):
        states = units.normalized_states(rows["observations"])
    if not (units.observation_scale > 0).all():
        refuse(folder, f"`observation_scale` of {DATA} must be above 0.")
    for name, values in (rows | {"observations": states}).items():
        if not np.isfinite(values).all():
            refuse(folder, f"`{name}` of {DATA} must be finite, also when they are normalised.")
    return rows["observations"], rows["actions"], units


def _verified(folder: Path, manifest: FirstManifest, name: str, most: int) -> bytes:
    content = read_regular(folder, name, most)
    if hashlib.sha256(content).hexdigest() != manifest.files[name]:
        raise InputError(
            f"{name} of {str(folder)!r} was changed after its export; export the dataset again."
        )
    return content


def _require_fit(folder: Path, units: Units, environment: Environment) -> None:
    """Refuse rows of another environment than the one that the manifest names."""
    spaces, inputs = environment.spaces, len(units.observation_mean)
    low, high = units.action_low, units.action_high
    same = np.array_equal(low, spaces.action_low) and np.array_equal(high, spaces.action_high)
    if inputs != spaces.observations or not same:
        raise InputError(
            f"The rows of {str(folder)!r} must fit their environment, and have observations "
            f"{inputs} wide and actions in {_range(low, high)}, where {environment} has "
            f"{spaces.observations} and {_range(spaces.action_low, spaces.action_high)}; export "
            "the dataset again, from the environment that it is for."
        )


def _range(low: NDArray[np.float32], high: NDArray[np.float32]) -> str:
    shown_low, shown_high = (
        np.array2string(each, threshold=6, edgeitems=2) for each in (low, high)
    )
    return f"{shown_low} to {shown_high}".replace("\n", "")


def _manifest(artifact: Artifact) -> dict[str, Any]:
    arena = artifact.arena
    return {
        "schema_version": SCHEMA_VERSION,
        "environment": {
            **arena.environment.to_json(),
            "action_low": arena.units.action_low.tolist(),
            "action_high": arena.units.action_high.tolist(),
            "reference_scores": list(arena.reference_scores),
        },
        "rows": len(artifact.observations),
        "actions_outside_bounds": artifact.actions_outside_bounds,
        "recipe": asdict(artifact.recipe),
        **artifact.evidence,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that results depend on, here and now."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
