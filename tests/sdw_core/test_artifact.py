"""The exported folder: written whole, read exactly, checked before it is trusted."""

import dataclasses
import json
import re
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from huggingface_hub import DatasetCard
from safetensors.numpy import load_file

from sdw_core import __version__
from sdw_core.artifact import Artifact, read_artifact, score, write_artifact
from sdw_core.card import front_matter
from sdw_core.config import EvaluationConfig, PipelineConfig
from sdw_core.dataset import load
from sdw_core.environment import Wrapper
from sdw_core.errors import DivergenceError, InputError
from sdw_core.evaluate import Recipe
from sdw_core.files import sha256_of_file, sha256_of_json
from sdw_core.licenses import require_license
from sdw_core.policy import MLP, clone
from tests.sdw_core.exports import ROWS, SOURCE_STATES, make, return_of
from tests.sdw_core.processes import ROOT, run

FILES = [
    "README.md",
    "card.png",
    "croissant.json",
    "policy.py",
    "synthetic.parquet",
    "synthetic.safetensors",
]


def manifest_of(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest


# Exactness


def test_what_is_read_is_what_was_written(written: tuple[Artifact, Path]) -> None:
    artifact, folder = written
    read = read_artifact(folder)
    for field in ("observations", "actions"):
        np.testing.assert_array_equal(getattr(read, field), getattr(artifact, field))
    for name, value in vars(artifact.arena.units).items():
        np.testing.assert_array_equal(getattr(read.arena.units, name), value)
    assert read.arena.environment == artifact.arena.environment
    assert read.arena.reference_scores == artifact.arena.reference_scores
    assert read.recipe == artifact.recipe
    assert read.evidence == artifact.evidence


def test_evaluating_it_gives_the_manifests_score_exactly(written: tuple[Artifact, Path]) -> None:
    read = read_artifact(written[1])
    stated = read.evidence["evaluation"]
    evaluation = EvaluationConfig(policies=stated["policies"], episodes=stated["episodes"])
    for returns in (read.evaluate(evaluation, stated["seed"]), read.evaluate()):
        assert score(returns, stated["seed"]) == manifest_of(written[1])["scores"]["synthetic"]


def test_rows_are_in_environment_units(written: tuple[Artifact, Path]) -> None:
    artifact, folder = written
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(artifact.observations.shape, generator=generator).numpy()
    y = torch.randn(artifact.actions.shape, generator=generator).tanh().numpy()
    rows = load_file(folder / "synthetic.safetensors")
    np.testing.assert_allclose(
        (rows["observations"] - rows["observation_mean"]) / rows["observation_scale"], x, atol=1e-5
    )
    bound = artifact.arena.units.action_high  # the bounds of both environments are symmetric
    np.testing.assert_allclose(rows["actions"], bound * y, rtol=1e-6)
    assert {array.dtype for array in rows.values()} == {np.dtype(np.float32)}


def test_parquet_holds_the_same_rows(written: tuple[Artifact, Path]) -> None:
    rows = load_file(written[1] / "synthetic.safetensors")
    table = pd.read_parquet(written[1] / "synthetic.parquet")
    states, actions = rows["observations"].shape[1], rows["actions"].shape[1]
    assert list(table.columns) == [
        *(f"observation_{i}" for i in range(states)),
        *(f"action_{i}" for i in range(actions)),
        *(f"action_clipped_{i}" for i in range(actions)),
    ]
    arena = written[0].arena
    clipped = np.clip(rows["actions"], arena.units.action_low, arena.units.action_high)
    np.testing.assert_array_equal(
        table.to_numpy(), np.concatenate([rows["observations"], rows["actions"], clipped], axis=1)
    )


def test_the_manifest_says_all_that_is_needed_to_use_and_to_judge_it(
    written: tuple[Artifact, Path],
) -> None:
    artifact, folder = written
    manifest = manifest_of(folder)
    assert manifest["schema_version"] == 3
    assert manifest["rows"] == ROWS
    assert manifest["environment"]["id"] == artifact.arena.environment.id
    assert manifest["environment"]["reference_scores"] == [-20.5, 3000.25]
    assert manifest["recipe"] == {
        "layers": 3,
        "width": 16,
        "steps": 20,
        "learning_rates": [0.3, 0.123456789, 1e-7],
        "architecture": "mlp",
        "optimizer": "sgd",
    }
    assert manifest["source"]["content_hash"] == "ab" * 32
    assert PipelineConfig(**manifest["config"]).model_dump(mode="json") == manifest["config"]
    assert manifest["distillation_seed"] == 0
    assert manifest["evaluation"]["seed"] == 7
    assert set(manifest["scores"]["synthetic"]) == {"mean", "iqm", "low", "high", "per_policy"}
    assert len(manifest["scores"]["synthetic"]["per_policy"]) == 3
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["versions"]["sdw-obd"] == __version__
    assert {"python", "numpy", "gymnasium", "mujoco"} <= set(manifest["versions"])
    assert manifest["files"] == {name: sha256_of_file(folder / name) for name in FILES}


def test_an_export_of_before_there_were_other_architectures_and_optimisers_is_read(
    written: tuple[Artifact, Path], copy: Path
) -> None:
    manifest = manifest_of(copy)
    for key in ("architecture", "optimizer"):
        del manifest["recipe"][key]
    del manifest["checksum"]
    manifest["checksum"] = sha256_of_json(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert read_artifact(copy).recipe == written[0].recipe


def test_an_evaluation_may_change_the_recipe(written: tuple[Artifact, Path]) -> None:
    """And is then that of an artifact with this recipe as its own."""
    artifact = written[0]
    change = {"policies": 2, "episodes": 1, "layers": 4, "optimizer": "adam", "steps": 7}
    changed = artifact.evaluate(EvaluationConfig(**change, ensemble=2), 3)
    recipe = Recipe(4, 16, 7, (0.001,) * 4, "mlp", "adam")
    by_adam = dataclasses.replace(artifact, recipe=recipe)
    plain = EvaluationConfig(policies=2, episodes=1, ensemble=2)
    np.testing.assert_array_equal(by_adam.evaluate(plain, 3), changed)
    assert not np.isclose(artifact.evaluate(plain, 3), changed).any()


# The card


def test_the_card_begins_with_the_front_matter_of_dataset_hubs(
    written: tuple[Artifact, Path],
) -> None:
    _, front, text = (written[1] / "README.md").read_text().split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["license"] == "unknown"
    assert metadata["size_categories"] == ["n<1K"]
    assert metadata["configs"] == [{"config_name": "default", "data_files": "synthetic.parquet"}]
    assert written[0].arena.environment.id in metadata["pretty_name"]
    pictures = re.findall(r"!\[.*\]\((.*)\)", text)
    assert pictures == ["card.png"]
    height, width, _ = matplotlib.image.imread(written[1] / "card.png").shape
    assert width > 2 * height > 600
    score = written[0].evidence["scores"]["synthetic"]
    assert f"**{score['mean']:.1f}**" in text
    assert f"| these rows | {score['mean']:.1f} | {score['iqm']:.1f} |" in text


def test_the_cards_code_trains_the_policy_that_the_recipe_trains(
    written: tuple[Artifact, Path], tmp_path: Path
) -> None:
    artifact, folder = written
    _, code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    seed = "import torch; torch.manual_seed(0)\n"
    keep = "import sys; torch.save([p.detach() for p in policy.parameters()], sys.argv[1])"
    run(seed + code + keep, tmp_path / "policy", cwd=folder)  # the code as printed

    recipe, arena = artifact.recipe, artifact.arena
    x = torch.from_numpy(arena.units.normalized_states(artifact.observations))[None]
    y = torch.from_numpy(arena.units.unit_actions(artifact.actions))[None]
    network = MLP.build(x.shape[2], y.shape[2], recipe.layers, recipe.width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = network.sizes
        layers = [torch.nn.Linear(i, o) for i, o in pairwise(sizes)]
        for layer, gain in zip(layers, [2**0.5, 2**0.5, 1.0], strict=True):
            torch.nn.init.orthogonal_(layer.weight, gain)
            torch.nn.init.zeros_(layer.bias)
    initial = [
        p.detach() for layer in layers for p in (layer.weight.T[None], layer.bias[None, None])
    ]
    rates, equal = torch.tensor([recipe.learning_rates]), torch.full((1, ROWS), 1 / ROWS)
    trained = clone(network, initial, x, y, equal, rates, recipe.steps)
    assert (network(trained, x) - network(initial, x)).abs().max() > 0.05
    for mine, cards in zip(trained, torch.load(tmp_path / "policy"), strict=True):
        torch.testing.assert_close(mine[0].T.reshape(cards.shape), cards, rtol=1e-4, atol=1e-6)


NAMES = [
    'my "own": data\n---\nlicense: mit',
    "Läufer|`code`|<b>\x1b[31m",
    "x" * 500,
    "``",
    "# [a](b)",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_leaves_the_card_whole(
    written: tuple[Artifact, Path], tmp_path: Path, name: str
) -> None:
    """Front matter that hubs read, and a text whose markup is the card's own."""
    artifact = written[0]
    source = artifact.evidence["source"] | {"name": name, "license": name, "reference_source": name}
    named = dataclasses.replace(artifact, evidence=artifact.evidence | {"source": source})
    write_artifact(named, tmp_path / "a", SOURCE_STATES[:, : artifact.observations.shape[1]])
    content = (tmp_path / "a/README.md").read_text()
    data = DatasetCard(content).data
    assert data.license == "other"
    assert re.fullmatch(r"[a-z0-9.+-]{1,100}", data["license_name"])
    text = content.split("---\n", 2)[2]
    plain = (written[1] / "README.md").read_text().split("---\n", 2)[2]
    lines = [line for line in text.splitlines() if line.startswith(("#", "|", "!", "```"))]
    usual = [line for line in plain.splitlines() if line.startswith(("#", "|", "!", "```"))]
    assert lines == usual
    assert all(line.isprintable() for line in text.splitlines())
    assert read_artifact(tmp_path / "a").evidence["source"]["name"] == name


@pytest.mark.parametrize(
    ("rows", "category"),
    [
        (1, "n<1K"),
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (9999, "1K<n<10K"),
        (10_000, "10K<n<100K"),
        (100_000, "100K<n<1M"),
        (5_000_000, "1M<n<10M"),
        (10**12, "n>1T"),
    ],
)
def test_the_size_is_one_of_the_hubs_classes(rows: int, category: str) -> None:
    front = yaml.safe_load(front_matter(rows, "Hopper-v5", None))
    assert front["size_categories"] == [category]


@pytest.mark.parametrize(
    ("stated", "front"),
    [
        (None, {"license": "unknown"}),
        ("CC-BY-4.0", {"license": "cc-by-4.0"}),
        ("as is, ask me", {"license": "other", "license_name": "as-is-ask-me"}),
        (
            "BSD-4-Clause",  # SPDX has it, the hub has it not
            {"license": "other", "license_name": "bsd-4-clause"}
            | {"license_link": "https://spdx.org/licenses/BSD-4-Clause.html"},
        ),
    ],
)
def test_the_licence_is_the_sources_or_none_is_chosen(
    stated: str | None, front: dict[str, str]
) -> None:
    found = yaml.safe_load(front_matter(5, "Hopper-v5", stated))
    assert {key: found[key] for key in found if key.startswith("license")} == front


@pytest.mark.parametrize(
    ("given", "spelled"),
    [("CC-BY-4.0", "cc-by-4.0"), ("odc-by", "odc-by"), ("bsd-4-clause", "BSD-4-Clause")],
)
def test_a_licence_is_chosen_by_its_id(given: str, spelled: str) -> None:
    assert require_license(given) == spelled


@pytest.mark.parametrize(
    "given", ["do what you like", "apache2", "unknown", "other", "LicenseRef-mine", "", "mit\n", 3]
)
def test_what_is_no_licence_is_refused(given: Any) -> None:
    with pytest.raises(InputError, match=r"A licence is chosen by its id.*, not ") as caught:
        require_license(given)
    assert str(caught.value).count(". ") == 0


def test_the_card_tells_the_whole_environment_and_whose_scores_the_reference_is(
    written: tuple[Artifact, Path], tmp_path: Path
) -> None:
    artifact = written[0]
    limit = Wrapper("gymnasium.wrappers.common:TimeLimit", {"max_episode_steps": 7})
    environment = dataclasses.replace(
        artifact.arena.environment, max_episode_steps=33, wrappers=(limit,)
    )
    source = artifact.evidence["source"] | {"reference_source": "measured by me", "license": "mit"}
    changed = dataclasses.replace(
        artifact,
        arena=dataclasses.replace(artifact.arena, environment=environment),
        evidence=artifact.evidence | {"source": source},
    )
    write_artifact(changed, tmp_path / "a", SOURCE_STATES[:, : artifact.observations.shape[1]])
    text = (tmp_path / "a/README.md").read_text()
    assert "an episode ends after 33 steps at most; within" in text
    assert f'`{limit.entry_point}` with `{{"max_episode_steps": 7}}`' in text
    assert "an expert's (3000.2): `measured by me`." in text
    assert "The licence is `mit`." in text
    assert read_artifact(tmp_path / "a").arena.environment == environment
    assert "No licence is chosen" in (written[1] / "README.md").read_text()


# Policies


@pytest.mark.parametrize(
    "change", [{}, {"ensemble": 2, "layers": 4, "architecture": "residual", "optimizer": "adam"}]
)
def test_a_trained_policy_is_the_one_that_the_evaluation_judges(
    written: tuple[Artifact, Path], change: dict[str, Any]
) -> None:
    artifact = read_artifact(written[1])
    evaluation = EvaluationConfig(policies=2, episodes=1, **change)
    returns = artifact.evaluate(evaluation, seed=5)
    policy = artifact.train(seed=5, policy=1, evaluation=evaluation)
    assert return_of(policy.act, artifact, 5) == pytest.approx(returns[1, 0], rel=1e-3)
    assert returns[0, 0] != pytest.approx(returns[1, 0], rel=1e-2)


def test_a_policy_takes_one_observation_or_many_and_gives_actions_within_the_bounds(
    written: tuple[Artifact, Path],
) -> None:
    artifact = written[0]
    policy, units = artifact.train(), artifact.arena.units
    observations = np.random.default_rng(0).normal(0, 50, (2, 3, artifact.observations.shape[1]))
    actions = policy.act(observations)
    assert actions.shape == (2, 3, artifact.actions.shape[1])
    np.testing.assert_allclose(policy.act(observations[1, 2]), actions[1, 2], rtol=1e-5, atol=1e-6)
    assert (actions >= units.action_low - 1e-6).all()
    assert (actions <= units.action_high + 1e-6).all()
    assert np.ptp(actions) > 0.5 * (units.action_high - units.action_low).max()
    assert policy.act(observations[:, :0]).shape == (2, 0, artifact.actions.shape[1])
    for precision in (torch.float64, torch.bfloat16):
        found = artifact.train().to(precision).act(observations)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, actions, atol=0.1)


@pytest.mark.parametrize("number", [-1, 1.5, "a", None])
@pytest.mark.parametrize("name", ["seed", "policy"])
def test_what_counts_no_policy_is_refused(
    written: tuple[Artifact, Path], name: str, number: Any
) -> None:
    with pytest.raises(InputError, match=rf"^`{name}` must be a whole number, at least 0, not "):
        written[0].train(**{name: number})


@pytest.mark.parametrize(
    ("observation", "given"),
    [
        (np.zeros((2, 1)), r"an array of the shape \[2, 1\]"),
        ("abc", "'abc'"),
        ([[1.0], [1.0, 2.0]], r"\[\[1.0\], "),
        ({"state": 1}, r"\{'state': 1\}"),
        (None, r"an array of the shape \[\]"),
    ],
)
def test_what_is_no_observation_is_refused(
    written: tuple[Artifact, Path], observation: Any, given: str
) -> None:
    with pytest.raises(InputError, match=rf"observations of \d+ numbers, and was given {given}"):
        written[0].train().act(observation)


def test_a_policy_that_diverges_is_said_to(written: tuple[Artifact, Path]) -> None:
    with pytest.raises(DivergenceError, match="cloned from the rows with seed 0, became non-fin"):
        written[0].train(evaluation=EvaluationConfig(learning_rate=1e30, steps=50))


def test_a_saved_policy_acts_alike_on_any_number_of_observations(
    written: tuple[Artifact, Path], tmp_path: Path
) -> None:
    policy = written[0].train()
    policy.save(tmp_path / "policy.pt2")
    saved = torch.export.load(tmp_path / "policy.pt2").module()
    for count in (1, 2, 7):
        observations = torch.randn(count, written[0].observations.shape[1])
        torch.testing.assert_close(saved(observations), policy(observations))
    assert str(ROOT).encode() not in (tmp_path / "policy.pt2").read_bytes()
    with pytest.raises(InputError, match=r"never overwrites, and .*policy\.pt2' exists"):
        policy.save(tmp_path / "policy.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["policy.pt2"]


def test_a_policy_that_cannot_be_saved_leaves_no_file(
    written: tuple[Artifact, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(program: object, file: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.export, "save", full)
    with pytest.raises(OSError, match="No space left"):
        written[0].train().save(tmp_path / "new" / "policy.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_frame_and_a_notebook_show_the_rows(written: tuple[Artifact, Path]) -> None:
    artifact = written[0]
    assert artifact.frame().equals(pd.read_parquet(written[1] / "synthetic.parquet"))
    mean = artifact.evidence["scores"]["synthetic"]["mean"]
    assert f"<td>these rows</td><td>{mean:.1f}</td>" in artifact._repr_html_()
    assert repr(artifact) == f"Artifact({ROWS} rows for {artifact.arena.environment})"


# Ensembles


def test_an_export_of_ensembles_states_both_scores_and_both_are_found_again(
    ensembles: tuple[Artifact, Path],
) -> None:
    read, scores = read_artifact(ensembles[1]), manifest_of(ensembles[1])["scores"]
    assert (read.ensemble, read.evaluation().ensemble) == (4, 4)
    assert score(read.evaluate(), 7, 4) == scores["synthetic_ensemble"]
    assert score(read.evaluate(read.evaluation(ensemble=1)), 7) == scores["synthetic"]
    assert scores["synthetic_ensemble"]["ensemble"] == 4
    assert "ensemble" not in scores["synthetic"]
    assert scores["synthetic_ensemble"]["mean"] != pytest.approx(scores["synthetic"]["mean"])


def test_an_export_of_single_policies_is_written_as_it_was(written: tuple[Artifact, Path]) -> None:
    manifest = manifest_of(written[1])
    assert "ensemble" not in manifest["evaluation"]
    assert set(manifest["scores"]) == {"synthetic", "random_subset", "expert"}
    assert "nsemble" not in (written[1] / "README.md").read_text()


def test_the_single_policies_are_the_first_of_the_ensembles_networks(
    ensembles: tuple[Artifact, Path],
) -> None:
    artifact = read_artifact(ensembles[1])
    together = [artifact.train(seed=7, policy=p) for p in range(2)]
    members = [weights for policy in together for weights in policy.weights[0]]
    assert [policy.ensemble for policy in together] == [4, 4]
    for k in range(6):
        alone = artifact.train(seed=7, policy=k, ensemble=1)
        assert alone.ensemble == 1
        torch.testing.assert_close(alone.weights[0][0], members[k])


def test_the_policy_of_an_ensemble_is_one_file_and_the_one_that_is_judged(
    ensembles: tuple[Artifact, Path], tmp_path: Path
) -> None:
    artifact = read_artifact(ensembles[1])
    policy = artifact.train(seed=5, policy=1)
    returns = artifact.evaluate(artifact.evaluation(policies=2, episodes=1), seed=5)
    assert return_of(policy.act, artifact, 5) == pytest.approx(returns[1, 0], rel=1e-3)
    policy.save(tmp_path / "policy.pt2")
    saved = torch.export.load(tmp_path / "policy.pt2").module()
    observations = torch.randn(5, artifact.observations.shape[1])
    torch.testing.assert_close(saved(observations), policy(observations))
    assert "networks=4" in str(policy)


@pytest.mark.parametrize("ensemble", [0, -1, 1.5, "a", 10**6])
def test_what_is_no_number_of_networks_is_refused(
    written: tuple[Artifact, Path], ensemble: Any
) -> None:
    with pytest.raises(InputError, match=r"^`ensemble` must be ") as caught:
        written[0].train(ensemble=ensemble)
    assert str(caught.value).count("\n") == 0


def test_the_card_of_ensembles_names_both_scores(ensembles: tuple[Artifact, Path]) -> None:
    text, scores = (ensembles[1] / "README.md").read_text(), manifest_of(ensembles[1])["scores"]
    single, ensemble = scores["synthetic"], scores["synthetic_ensemble"]
    assert f"reaches a normalised return of\n**{single['mean']:.1f}**" in text
    assert "Ensembles of 4 such policies" in text
    assert f"reach **{ensemble['mean']:.1f}**" in text
    for name, found in (("these rows", single), ("these rows, ensembles of 4", ensemble)):
        assert f"| {name} | {found['mean']:.1f} | {found['iqm']:.1f} |" in text
    assert "| random rows, as many, ensembles of 4 |" in text
    shown = ensembles[0]._repr_html_()
    assert f"<td>these rows, ensembles of 4</td><td>{ensemble['mean']:.1f}</td>" in shown


def test_the_cards_code_trains_the_ensemble_that_the_manifest_states(
    ensembles: tuple[Artifact, Path], tmp_path: Path
) -> None:
    """Its first network is the policy that a card of single policies trains from the same draw."""
    artifact, folder = ensembles
    single = make(artifact.arena.environment.id)
    write_artifact(single, tmp_path / "single", SOURCE_STATES[:, : single.observations.shape[1]])
    alone, together = (
        re.findall(r"```python\n(.*?)```", (each / "README.md").read_text(), re.DOTALL)[1]
        for each in (tmp_path / "single", folder)
    )
    seed = "import sys, torch; torch.manual_seed(0)\n"
    keep = "torch.save([f(states) for f in (first, policy, *networks)], sys.argv[1])"
    program = f"{seed}{alone}first = policy\n{seed}{together}{keep}"
    run(program, tmp_path / "outputs", cwd=folder)
    first, mean, *networks = torch.load(tmp_path / "outputs")
    assert len(networks) == 4
    torch.testing.assert_close(networks[0], first)
    torch.testing.assert_close(mean, torch.stack(networks).mean(0))
    assert not torch.isclose(networks[0], networks[1]).all()


# Actions outside of the bounds


def test_what_lies_outside_of_the_bounds_is_said_and_clipped_beside(
    written: tuple[Artifact, Path], tmp_path: Path
) -> None:
    """By the rule of datasets: the clipped ones can be imported, the others cannot."""
    artifact = written[0]
    high = artifact.arena.units.action_high
    actions = np.zeros_like(artifact.actions)
    actions[0] = 2.5 * high
    actions[1] = high * (1 + 1e-6)  # rounding
    outside = dataclasses.replace(artifact, actions=actions)
    write_artifact(outside, tmp_path / "a", SOURCE_STATES[:, : artifact.observations.shape[1]])
    said = manifest_of(tmp_path / "a")["actions_outside_bounds"]
    assert said == pytest.approx({"share": 1 / ROWS, "largest": 2.5})
    assert "8.3 % of the action values lie outside" in (tmp_path / "a/README.md").read_text()
    assert "All actions lie within" in (written[1] / "README.md").read_text()
    np.testing.assert_array_equal(read_artifact(tmp_path / "a").actions, actions)
    table = pd.read_parquet(tmp_path / "a/synthetic.parquet")
    for name, refused in (("action_clipped", False), ("action", True)):
        columns = [f"{name}_{i}" for i in range(len(high))]
        file = tmp_path / f"{name}.npz"
        np.savez(
            file,
            observations=artifact.observations,
            actions=table[columns].to_numpy(),
            rewards=np.zeros(ROWS),
            terminals=np.zeros(ROWS),
            timeouts=np.arange(ROWS) % 6 == 5,
        )
        with pytest.raises(InputError, match="actions") if refused else nullcontext():
            load(f"{file}?env={artifact.arena.environment.id}", (0, 1))


# What is refused


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0], ids=["first", "middle", "last"])
def test_any_changed_file_is_named(copy: Path, name: str, place: float) -> None:
    content = bytearray((copy / name).read_bytes())
    content[round(place * (len(content) - 1))] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(InputError, match=f"^{name} of .* was changed after its export; export"):
        read_artifact(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(InputError, match=f"^{name} of .* is missing; export the dataset again"):
        read_artifact(copy)


def test_a_damaged_manifest_is_refused_or_readable_but_never_a_crash(copy: Path) -> None:
    sound, refusals = (copy / "manifest.json").read_bytes(), 0
    for position in range(0, len(sound), 9):
        damaged = bytearray(sound)
        damaged[position] ^= 1 << position % 7
        (copy / "manifest.json").write_bytes(damaged)
        try:
            read_artifact(copy)
        except InputError as error:
            refusals += str(error).count("\n") == 0
    assert refusals > len(sound) / 9 / 4


@pytest.mark.parametrize(
    "key", ["environment", "recipe", "files", "source", "config", "evaluation", "scores"]
)
@pytest.mark.parametrize("value", [None, 3, [], {}, "gone"])
def test_a_manifest_without_a_part_is_refused(copy: Path, key: str, value: Any) -> None:
    manifest = manifest_of(copy)
    evidence = key in ("source", "config", "evaluation", "scores")
    if value == "gone" or evidence:
        del manifest[key]
    else:
        manifest[key] = value
    del manifest["checksum"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"manifest.json of .* is damaged; export"):
        read_artifact(copy)
    manifest["checksum"] = sha256_of_json(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"manifest.json of .* is damaged; export"):
        read_artifact(copy)


def test_a_manifest_that_was_edited_is_refused(copy: Path) -> None:
    manifest = manifest_of(copy)
    manifest["evaluation"]["seed"] += 1
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"manifest.json of .* was changed after its export"):
        read_artifact(copy)


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"schema_version": 4}', "\udcff"])
def test_what_is_no_export_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"not an exported synthetic dataset|manifest schema"):
        read_artifact(tmp_path)


def test_a_folder_is_never_overwritten(written: tuple[Artifact, Path], tmp_path: Path) -> None:
    folder = tmp_path / "taken"
    folder.mkdir()
    (folder / "precious").write_text("mine")
    with pytest.raises(InputError, match=r"never overwrites, and .*taken' exists: remove it, or"):
        write_artifact(written[0], folder, SOURCE_STATES)
    assert [path.name for path in tmp_path.rglob("*")] == ["taken", "precious"]


def test_a_failure_leaves_nothing_half_written(
    written: tuple[Artifact, Path], tmp_path: Path
) -> None:
    artifact = written[0]
    scores = {**artifact.evidence["scores"], "search": {"mean": float("nan")}}  # no JSON
    broken = dataclasses.replace(artifact, evidence={**artifact.evidence, "scores": scores})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_artifact(
            broken, tmp_path / "export", SOURCE_STATES[:, : len(artifact.observations.T)]
        )
    assert list(tmp_path.iterdir()) == []
