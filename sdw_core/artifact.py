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
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from sdw_core.card import write_card
from sdw_core.errors import InputError
from sdw_core.evaluate import Arena, Recipe, evaluate_rows
from sdw_core.files import created_folder, read_json, sha256_of_file
from sdw_core.statistics import ReturnSummary, summarize

SCHEMA_VERSION = 1
CONFIRM = "confirm"
"""Random stream of the evaluations that a manifest states: never used in a search."""
LIBRARIES = ("sdw-obd", "torch", "numpy", "gymnasium", "mujoco", "minari", "zuko")


@dataclass(frozen=True)
class Artifact:
    """A synthetic dataset with all that is needed to use and to judge it.

    Attributes:
        observations: x [n, O], normalised.
        actions: y [n, A], in units of the action range.
        arena: the environment, the normaliser and the reference scores.
        recipe: how policies are trained on the rows.
        evidence: `source`, `config`, `distillation_seed`, `evaluation` and `scores`, as in the
            manifest.
    """

    observations: Tensor
    actions: Tensor
    arena: Arena
    recipe: Recipe
    evidence: dict[str, Any]

    def evaluate(
        self, policies: int, episodes: int, seed: int, stage: str = CONFIRM
    ) -> NDArray[np.float64]:
        """Normalised returns [K, M] of fresh policies trained on the rows."""
        return evaluate_rows(
            self.observations[None],
            self.actions[None],
            self.recipe,
            self.arena,
            policies,
            episodes,
            seed,
            stage,
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
    half = (arena.action_high - arena.action_low) / 2
    observations = artifact.observations.cpu().numpy() * arena.observation_scale
    rows = {
        "observations": observations + arena.observation_mean,
        "actions": artifact.actions.cpu().numpy() * half + arena.action_low + half,
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
            (scratch / "manifest.json").write_text(
                json.dumps(manifest, indent=2, allow_nan=False) + "\n"
            )
            read_artifact(scratch)
    except FileExistsError:
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
    except (OSError, ValueError):
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
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.exists() or sha256_of_file(path) != expected:
            state = "was changed after its export" if path.exists() else "is missing"
            raise InputError(f"{name} of {str(folder)!r} {state}; export the dataset again.")
    try:
        rows = load_file(folder / "synthetic.safetensors")
    except SafetensorError as error:
        raise InputError(f"{str(folder)!r} holds unreadable rows: {error}.") from None
    arena = Arena(
        manifest["environment"]["id"],
        manifest["environment"]["kwargs"],
        rows["observation_mean"],
        rows["observation_scale"],
        np.asarray(manifest["environment"]["action_low"], np.float32),
        np.asarray(manifest["environment"]["action_high"], np.float32),
        tuple(manifest["environment"]["reference_scores"]),
    )
    half = (arena.action_high - arena.action_low) / 2
    recipe = manifest["recipe"]
    return Artifact(
        torch.from_numpy((rows["observations"] - arena.observation_mean) / arena.observation_scale),
        torch.from_numpy((rows["actions"] - arena.action_low - half) / half),
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
            "id": arena.environment,
            "kwargs": dict(arena.kwargs),
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
