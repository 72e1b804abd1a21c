"""`policy.py` of an export: numpy alone, and the policy that torch would have cloned."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sdw_core import standalone
from sdw_core.artifact import CONFIRM, Artifact
from sdw_core.policy import MLP
from sdw_core.seeds import torch_generator
from tests.sdw_core.exports import return_of

ALONE = """
import json, sys
from policy import clone
act = clone(seed=3)
found = act(json.loads(sys.argv[1]))
print(json.dumps([found.dtype.name, found.tolist()]))
for name in ("torch", "safetensors", "sdw_core"):
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f"{name} could be imported")
"""


def test_it_runs_where_nothing_but_numpy_is_installed(
    ensembles: tuple[Artifact, Path], tmp_path: Path
) -> None:
    """In an interpreter without site-packages, whose path holds numpy's own folders."""
    artifact, folder = ensembles
    (tmp_path / "installed").mkdir()
    for part in Path(np.__file__).parents[1].glob("numpy*"):
        (tmp_path / "installed" / part.name).symlink_to(part)
    observations = np.random.default_rng(0).normal(size=(5, len(artifact.observations.T)))
    path = {"PYTHONPATH": f"{tmp_path}/installed", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-S", "-c", ALONE, str(observations.tolist())]
    ran = subprocess.run(command, env=path, cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    here = standalone.clone(seed=3, ensemble=artifact.ensemble, folder=folder)(observations)
    assert ran.stdout == f'["float32", {here.tolist()}]\n'
    low, high = artifact.arena.units.action_low, artifact.arena.units.action_high
    assert here.shape == (5, len(low))
    assert ((low <= here) & (here <= high)).all()
    other = standalone.clone(seed=4, folder=folder)(observations)
    assert np.abs(other - here).max() > 0.05


@pytest.mark.parametrize("networks", [1, 4])
def test_from_torchs_draw_it_is_torchs_policy_in_the_environment_too(
    written: tuple[Artifact, Path], monkeypatch: pytest.MonkeyPatch, networks: int
) -> None:
    """The draw of policy 1 at seed 5: then actions and an episode's return agree."""
    artifact, folder = written
    draws = iter(range(networks, 2 * networks))

    def drawn(sizes: list[int], rng: np.random.Generator) -> standalone.Layers:
        generator = torch_generator(5, CONFIRM, next(draws))
        parameters = MLP(tuple(sizes)).initial_parameters([generator])
        arrays = [each[0].double().numpy() for each in parameters]
        return [(w, b[0]) for w, b in zip(arrays[::2], arrays[1::2], strict=True)]

    monkeypatch.setattr(standalone, "initial", drawn)
    act = standalone.clone(ensemble=networks, folder=folder)
    policy = artifact.train(seed=5, policy=1, ensemble=networks)
    observations = np.random.default_rng(0).normal(0, 5, (20, len(artifact.observations.T)))
    found, torchs = act(observations), policy.act(observations)
    np.testing.assert_allclose(found, torchs, rtol=1e-4, atol=1e-5)
    assert torch.from_numpy(torchs).std() > 0.1
    expected = return_of(policy.act, artifact, 5)
    assert return_of(act, artifact, 5) == pytest.approx(expected, rel=1e-3)


def test_it_draws_as_networks_are_drawn() -> None:
    """Orthogonal, of gain sqrt(2) and in the last layer 1; signs are as likely either way."""
    rng = np.random.default_rng(0)
    for weight, bias in standalone.initial([3, 8, 8, 2], rng)[:-1]:
        small = weight if len(weight) < len(weight.T) else weight.T
        np.testing.assert_allclose(small @ small.T, 2 * np.eye(len(small)), atol=1e-12)
        assert not bias.any()
    last = standalone.initial([3, 8, 8, 2], rng)[-1][0]
    np.testing.assert_allclose(last.T @ last, np.eye(2), atol=1e-12)
    diagonals = [np.diag(standalone.initial([4, 4], rng)[0][0]) for _ in range(200)]
    assert np.abs(np.mean(diagonals, axis=0)).max() < 0.15
