"""An exported synthetic dataset: one folder that can be used, checked and cited by itself.

synthetic.safetensors   observations [n, O] and actions [n, A] in environment units,
                        observation_mean [O], observation_scale [O]
synthetic.parquet       the same rows, a column a dimension
manifest.json           environment, recipe, source, settings, scores, versions, checksums
README.md, card.png     a dataset card with a picture
"""

import json
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import gymnasium
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from sdw_core.card import write_card
from sdw_core.config import EvaluationConfig, nearest
from sdw_core.environment import Environment
from sdw_core.errors import InputError
from sdw_core.evaluate import Arena, Recipe, evaluate_rows
from sdw_core.files import created_folder, read_json, sha256_of_file, sha256_of_json
from sdw_core.protocols import applied
from sdw_core.statistics import ReturnSummary, summarize

SCHEMA_VERSION = 1
CONFIRM = "confirm"
"""Random stream of the evaluations that a manifest states: never used in a search."""
FILES = ("README.md", "card.png", "synthetic.parquet", "synthetic.safetensors")
LIBRARIES = ("sdw-obd", "torch", "numpy", "gymnasium", "mujoco", "minari", "zuko")


@dataclass(frozen=True)
class Artifact:
    """A synthetic dataset with all that is needed to use and to judge it.

    The rows are held as the folder holds them, so that what was judged before the export is what a
    reader of the export gets, to the last bit.

    Attributes:
        observations: [n, O] float32, environment units.
        actions: [n, A] float32, environment units.
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
            arena.environment_states(observations.cpu().numpy()),
            arena.environment_actions(actions.cpu().numpy()),
            arena,
            recipe,
            evidence,
        )

    def evaluate(
        self, evaluation: EvaluationConfig, seed: int, stage: str = CONFIRM
    ) -> NDArray[np.float64]:
        """Normalised returns [K, M] of fresh policies trained on the rows.

        Raises:
            InputError: the recipe cannot be changed as the evaluation asks.
            DivergenceError: a policy became non-finite while it was cloned.
        """
        return evaluate_rows(
            torch.from_numpy(self.arena.normalized_states(self.observations[None])),
            torch.from_numpy(self.arena.unit_actions(self.actions[None])),
            [applied(evaluation, self.recipe)],
            self.arena,
            evaluation.policies,
            evaluation.episodes,
            seed,
            stage,
            ensemble=evaluation.ensemble,
        )


def score(returns: NDArray[np.float64], seed: int) -> dict[str, Any]:
    """A manifest's account of an evaluation."""
    summary: ReturnSummary = summarize(returns, seed)
    return summary.to_json()


def write_artifact(artifact: Artifact, folder: Path, source_states: NDArray[np.float32]) -> None:
    """Write the folder, whole or not at all, and read it back.

    Args:
        artifact: what to write.
        folder: must not exist.
        source_states: some of the source's normalised states [*, O], for the picture.

    Raises:
        InputError: the folder exists.
    """
    arena = artifact.arena
    rows = {
        "observations": artifact.observations,
        "actions": artifact.actions,
        "observation_mean": arena.observation_mean,
        "observation_scale": arena.observation_scale,
    }
    rows = {name: np.ascontiguousarray(array, np.float32) for name, array in rows.items()}
    columns = {
        f"{name[:-1]}_{i}": column
        for name in ("observations", "actions")
        for i, column in enumerate(rows[name].T)
    }
    try:
        with created_folder(folder) as scratch:
            save_file(rows, scratch / "synthetic.safetensors")
            pd.DataFrame(columns).to_parquet(scratch / "synthetic.parquet", index=False)
            manifest = _manifest(artifact)
            write_card(artifact, rows, manifest, source_states, scratch)
            manifest["files"] = {
                path.name: sha256_of_file(path) for path in sorted(scratch.iterdir())
            }
            manifest["checksum"] = sha256_of_json(manifest)
            (scratch / "manifest.json").write_text(
                json.dumps(manifest, indent=2, allow_nan=False) + "\n"
            )
            read_artifact(scratch)
    except FileExistsError:
        refuse_existing(folder)
        raise


def refuse_existing(folder: Path) -> None:
    """Refuse a folder that an export would overwrite.

    Raises:
        InputError: it exists.
    """
    if folder.exists():
        raise InputError(
            f"An export never overwrites, and {str(folder)!r} exists: remove it, or choose another "
            "folder with `--to`."
        ) from None


def read_artifact(folder: Path) -> Artifact:
    """Read an exported folder and verify every checksum.

    Raises:
        InputError: it is no such folder, a file is missing or was changed, or it was written by a
            newer version.
    """
    try:
        manifest = read_json(folder / "manifest.json")
    except (OSError, ValueError, RecursionError):
        raise InputError(
            f"{str(folder)!r} is not an exported synthetic dataset: it has no readable "
            "manifest.json; give a folder that `sdw export` or `sdw distill --to` wrote."
        ) from None
    if not isinstance(manifest, dict) or manifest.get("schema_version") != SCHEMA_VERSION:
        found = manifest.get("schema_version") if isinstance(manifest, dict) else None
        raise InputError(
            f"{str(folder)!r} has manifest schema {found!r}, and this version reads "
            f"{SCHEMA_VERSION}; export it again."
        )
    try:
        if manifest.pop("checksum") != sha256_of_json(manifest):
            raise InputError(
                f"manifest.json of {str(folder)!r} was changed after its export; export the "
                "dataset again."
            )
        _verify(folder, manifest["files"])
        return _artifact(manifest, load_file(folder / "synthetic.safetensors"))
    except (AttributeError, LookupError, OSError, SafetensorError, TypeError, ValueError):
        raise InputError(
            f"manifest.json of {str(folder)!r} is damaged; export the dataset again."
        ) from None


def _verify(folder: Path, checksums: dict[str, str]) -> None:
    for name in {*FILES, *checksums}:
        path = folder / name
        if not path.exists() or sha256_of_file(path) != checksums[name]:
            state = "was changed after its export" if path.exists() else "is missing"
            raise InputError(f"{name} of {str(folder)!r} {state}; export the dataset again.")


def _artifact(manifest: dict[str, Any], rows: dict[str, NDArray[np.float32]]) -> Artifact:
    environment, recipe = manifest["environment"], manifest["recipe"]
    if environment["id"] not in gymnasium.registry:  # and no "module:id", which would be imported
        raise InputError(
            f"The rows are for the environment {environment['id']!r}, which Gymnasium does not "
            "know here: " + nearest(str(environment["id"]), gymnasium.registry)
        )
    low, high = environment["reference_scores"]
    arena = Arena(
        Environment.of_json(environment),
        rows["observation_mean"],
        rows["observation_scale"],
        np.asarray(environment["action_low"], np.float32),
        np.asarray(environment["action_high"], np.float32),
        (low, high),
    )
    return Artifact(
        rows["observations"],
        rows["actions"],
        arena,
        Recipe(**{**recipe, "learning_rates": tuple(recipe["learning_rates"])}),
        {key: manifest[key] for key in EVIDENCE},
    )


EVIDENCE = ("source", "config", "distillation_seed", "evaluation", "scores")


def _manifest(artifact: Artifact) -> dict[str, Any]:
    arena = artifact.arena
    return {
        "schema_version": SCHEMA_VERSION,
        "environment": {
            **arena.environment.to_json(),
            "action_low": arena.action_low.tolist(),
            "action_high": arena.action_high.tolist(),
            "reference_scores": list(arena.reference_scores),
        },
        "rows": len(artifact.observations),
        "recipe": asdict(artifact.recipe),
        **artifact.evidence,
        "versions": {"python": platform.python_version()}
        | {library: version(library) for library in LIBRARIES},
    }
