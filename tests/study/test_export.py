"""Exports: whole folders, written once, with scores on seeds that the search never used."""

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from sdw_core.artifact import CONFIRM, read_artifact, score
from sdw_core.cache import StageCache
from sdw_core.config import EvaluationConfig
from sdw_core.errors import InputError
from sdw_core.evaluate import rollout
from sdw_core.expert.percent_bc import PercentBC
from sdw_core.files import sha256_of_json
from sdw_core.labels import FILM, GIF, POSTER
from sdw_core.pipeline import Pipeline
from study.export import export
from study.folder import StudyFolder
from study.runner import _outcome
from study.search import StudySearch
from study.signals import Ended
from study.stage_cache import contents
from study.trial import run_trial
from tests.study.conftest import small_spec


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """A study of two real trials, one after the other, without Ray."""
    folder = StudyFolder.create(small_spec("study.trials=2"), tmp_path_factory.mktemp("studies"))
    search = StudySearch(folder.book())
    for name in "ab":
        trial = search.suggest(name)
        config = folder.spec().pipeline_with(trial["params"])
        number = trial["number"]
        result = run_trial(
            number, config, folder.trial(number), folder.cache, folder.stop_flag, threads=1
        )
        search.on_trial_complete(name, {"document": json.dumps(result.to_json())})
    return folder


@pytest.fixture(scope="module")
def exported(finished: StudyFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    (path,) = export(finished, [1], tmp_path_factory.mktemp("exports"))
    return path


def test_an_export_holds_the_trials_rows_and_both_of_its_scores(finished, exported):
    manifest = json.loads((exported / "manifest.json").read_text())
    (_, row) = finished.book().rows()
    assert manifest["rows"] == row.params["distill.synthetic_size"]
    assert manifest["config"]["weighting"]["temperature"] == row.params["weighting.temperature"]
    assert manifest["scores"]["search"]["mean"] == pytest.approx(row.values[0])
    scores = {"synthetic", "random_subset", "bc_all_data", "expert", "search"}
    assert set(manifest["scores"]) == scores
    card = (exported / "README.md").read_text()
    assert f"| BC on all data | {manifest['scores']['bc_all_data']['mean']:.1f} |" in card
    assert "one policy, trained on every transition of the source in 20 steps" in card


def test_the_score_of_an_export_is_of_fresh_seeds_and_can_be_computed_again(exported):
    artifact = read_artifact(exported)
    scores, stated = artifact.evidence["scores"], artifact.evidence["evaluation"]
    assert scores["synthetic"]["per_policy"] != scores["search"]["per_policy"]
    evaluation = EvaluationConfig(policies=stated["policies"], episodes=stated["episodes"])
    again = artifact.evaluate(evaluation, stated["seed"])
    assert score(again, stated["seed"]) == scores["synthetic"]


def test_a_second_export_has_the_same_rows_and_scores(finished, exported, tmp_path):
    (again,) = export(finished, [1], tmp_path)
    for name in ("synthetic.safetensors", "synthetic.parquet", "README.md"):
        assert (again / name).read_bytes() == (exported / name).read_bytes()


def test_confirmed_scores_count_for_the_settings_that_they_were_found_with(
    finished, exported, tmp_path
):
    kept = finished.trial(1) / "confirmed.json"
    scores = json.loads(kept.read_text())
    stale = scores | {"config_hash": "of another", "synthetic": scores["expert"]}
    kept.write_text(json.dumps(stale))
    (again,) = export(finished, [1], tmp_path)
    manifest = json.loads((again / "manifest.json").read_text())
    assert manifest["scores"] == json.loads((exported / "manifest.json").read_text())["scores"]
    assert json.loads(kept.read_text()) == scores


def scores_of(export: Path) -> dict[str, Any]:
    scores: dict[str, Any] = json.loads((export / "manifest.json").read_text())["scores"]
    return scores


def copied(study: StudyFolder, to: Path, **changes: object) -> StudyFolder:
    """A study that was judged nowhere yet, with other settings of how it runs."""
    copy = StudyFolder(shutil.copytree(study.path, to / study.name))
    for kept in copy.path.glob("trials/*/confirmed.json"):
        kept.unlink()
    spec = yaml.safe_load((copy.path / "study.yaml").read_text())
    spec["study"] |= changes
    (copy.path / "study.yaml").write_text(yaml.safe_dump(spec))
    return copy


def test_all_of_the_data_are_cloned_once_and_judged_as_often_from_the_same_starts(
    finished, exported, tmp_path, monkeypatch
):
    """By what `percent_bc` makes of every episode, whatever the study's own expert is."""
    stated = scores_of(exported)["bc_all_data"]
    config = finished.spec().pipeline
    cloning = {"fraction": 1.0, "steps": 20, "value_steps": 50}
    config = config.model_copy(update={"expert": config.expert.model_copy(update=cloning)})
    prepared = Pipeline(config).prepare()
    arena, size = prepared.arena, (config.evaluation.policies, config.evaluation.episodes)

    def policy(states):
        return prepared.expert.actions(states.flatten(0, -2)).reshape(*states.shape[:-1], -1)

    act = arena.actor(policy, "cpu")
    returns = arena.normalized(rollout(act, arena, *size, config.seed, CONFIRM)).reshape(-1, 1)
    assert stated == score(returns, config.seed) | {"steps": 20}

    monkeypatch.setattr(PercentBC, "fit", None)  # nothing is cloned a second time
    again = copied(finished, tmp_path)
    for path in export(again, [0, 1], tmp_path / "exports"):
        assert scores_of(path)["bc_all_data"] == stated
    entries = {entry.path.name: entry for entry in StageCache(again.cache).entries()}
    assert {entry.file: entry.trials for entry in contents(again)} == {
        name: [0, 1] for name in entries
    }
    assert [entry.stage for entry in entries.values()].count("judged") == 1


def test_a_cloning_of_all_data_that_was_interrupted_goes_on_where_it_was(finished, tmp_path):
    studies = [copied(finished, tmp_path / name, bc_steps=550) for name in ("whole", "ended")]
    (whole,) = export(studies[0], [0])

    def ending(said: str) -> None:
        if said.endswith(" 92%"):
            raise Ended(signal.SIGTERM)

    with pytest.raises(Ended):
        export(studies[1], [0], say=ending)
    heard: list[str] = []
    (resumed,) = export(studies[1], [0], say=heard.append)
    shares = [int(found[1]) for said in heard if (found := re.search(r"(\d+)%", said))]
    assert min(shares) == 92
    assert scores_of(resumed) == scores_of(whole)


def test_rows_that_were_judged_before_are_held_against_another_cloning_alone(
    finished, exported, tmp_path, monkeypatch
):
    """As those of an earlier version, which cloned none; 0 steps: none."""
    kept = json.loads((finished.trial(1) / "confirmed.json").read_text())
    monkeypatch.setattr("study.confirm.confirmed_scores", None)
    for steps, before in ((20, kept.keys() - {"bc_all_data"}), (0, kept), (30, kept)):
        copy = copied(finished, tmp_path / str(steps), bc_steps=steps)
        document = {key: kept[key] for key in before}
        (copy.trial(1) / "confirmed.json").write_text(json.dumps(document))
        (path,) = export(copy, [1])
        found = scores_of(path)
        assert found.get("bc_all_data", {}).get("steps", 0) == steps
        assert found["synthetic"] == kept["synthetic"]
        assert (found == scores_of(exported)) == (steps == 20)
        assert json.loads((copy.trial(1) / "confirmed.json").read_text()).items() >= found.items()


@pytest.fixture(scope="module")
def of_ensembles(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """A study that searched single policies and ensembles: a real trial of each, without Ray."""
    choices = "search.evaluation.ensemble={type: categorical, choices: [1, 3]}"
    spec = small_spec("study.trials=8", choices, "pipeline.distill.outer_steps=0")
    folder = StudyFolder.create(spec, tmp_path_factory.mktemp("studies"))
    search, kinds = StudySearch(folder.book()), set()
    for name in "abcdefgh":
        trial = search.suggest(name)
        ensemble = trial["params"]["evaluation.ensemble"]
        if ensemble not in kinds:
            result = _outcome(folder, trial["number"], trial["params"], lambda step, value: None)
            search.on_trial_complete(name, {"document": json.dumps(result.to_json())})
        kinds.add(ensemble)
    assert kinds == {1, 3}
    return folder


def test_an_ensemble_that_was_searched_is_exported_beside_the_single_policy(of_ensembles, tmp_path):
    complete = [row for row in of_ensembles.book().rows() if row.outcome == "COMPLETE"]
    for row in complete:
        (path,) = export(of_ensembles, [row.number], tmp_path)
        manifest = json.loads((path / "manifest.json").read_text())
        kept = json.loads((of_ensembles.trial(row.number) / "confirmed.json").read_text())
        assert kept.items() >= manifest["scores"].items()
        assert read_artifact(path).ensemble == row.ensemble == row.params["evaluation.ensemble"]
        named = {key for key, found in manifest["scores"].items() if "ensemble" in found}
        if row.ensemble == 1:
            assert named == set()
            assert "ensemble" not in manifest["evaluation"]
            assert "ensemble" not in kept
        else:
            assert named == {"synthetic_ensemble", "random_subset_ensemble", "search"}
            assert {manifest["scores"][key]["ensemble"] for key in named} == {3}
            assert manifest["scores"]["search"]["mean"] == pytest.approx(row.values[0])


def test_ensembles_that_were_confirmed_as_single_policies_are_judged_anew(of_ensembles, tmp_path):
    """An earlier version judged by single policies alone, and said nothing of ensembles."""
    number = next(row.number for row in of_ensembles.book().rows() if row.ensemble == 3)
    (before,) = export(of_ensembles, [number], tmp_path / "before")
    kept = of_ensembles.trial(number) / "confirmed.json"
    scores = json.loads(kept.read_text())
    old = {key: found for key, found in scores.items() if "ensemble" not in key}
    kept.write_text(json.dumps(old))
    (again,) = export(of_ensembles, [number], tmp_path / "again")
    manifests = [json.loads((path / "manifest.json").read_text()) for path in (before, again)]
    assert manifests[0]["scores"] == manifests[1]["scores"]
    assert json.loads(kept.read_text()) == scores


@pytest.mark.parametrize("lost", ["result.json", "rows.safetensors", "all"])
def test_a_trial_whose_result_is_gone_is_refused_with_a_way_out(finished, tmp_path, lost):
    copy = StudyFolder(shutil.copytree(finished.path, tmp_path / finished.name))
    home = copy.trial(0)
    shutil.rmtree(home) if lost == "all" else (home / lost).unlink()
    with pytest.raises(InputError, match=r"trials/0' does not hold .* put it back.*--rebuild"):
        export(copy, [1, 0], tmp_path / "exports")
    assert not (tmp_path / "exports").exists()


def test_damaged_rows_are_refused_with_a_way_out_that_works(finished, tmp_path):
    copy = StudyFolder(shutil.copytree(finished.path, tmp_path / finished.name))
    (copy.trial(0) / "rows.safetensors").write_text("damaged")
    with pytest.raises(InputError, match=r"does not hold .* remove that folder and .*--rebuild"):
        export(copy, [0], tmp_path / "exports")
    shutil.rmtree(copy.trial(0))
    book, _ = copy.rebuild()
    assert [row.outcome for row in book.rows()] == ["WAITING", "COMPLETE"]


@pytest.mark.parametrize("file", ["confirmed.json", "result.json", "record.json"])
@pytest.mark.parametrize("text", ["", "[]"])
def test_a_damaged_document_is_as_good_as_none(finished, exported, tmp_path, file, text):
    copy = StudyFolder(shutil.copytree(finished.path, tmp_path / finished.name))
    (copy.trial(1) / file).write_text(text)
    assert len(copy.book().rows()) == 2
    if file == "result.json":
        with pytest.raises(InputError, match="does not hold the result"):
            export(copy, [1], tmp_path / "exports")
    else:
        (again,) = export(copy, [1], tmp_path / "exports")
        stated = [json.loads((each / "manifest.json").read_text()) for each in (again, exported)]
        assert stated[0]["scores"] == stated[1]["scores"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"datasets": []}'])
def test_damaged_sources_are_refused_with_a_way_out(finished, tmp_path, text):
    copy = StudyFolder(shutil.copytree(finished.path, tmp_path / finished.name))
    (copy.path / "sources.json").write_text(text)
    with pytest.raises(InputError, match=r"sources\.json' .* remove it"):
        export(copy, [1], tmp_path / "exports")


def test_one_folder_that_exists_refuses_the_whole_export(finished, tmp_path):
    (tmp_path / "trial-1").mkdir()
    with pytest.raises(InputError, match="never overwrites"):
        export(finished, [0, 1], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["trial-1"]


def test_a_study_without_a_complete_trial_has_nothing_to_export(folder, tmp_path):
    with pytest.raises(InputError, match="no COMPLETE trial"):
        export(folder, folder.book().best(), tmp_path / "exports")
    assert not (tmp_path / "exports").exists()


def test_a_film_is_part_of_a_new_export_and_is_laid_beside_one_that_was_there(finished, tmp_path):
    """Which is then left as it is, and is read as before."""
    made = []

    def film(artifact, to):
        made.append(to)
        for name in (FILM, POSTER, GIF):
            (to.parent / name).write_bytes(b"pictures")

    (new,) = export(finished, [0], tmp_path / "new", film=film)
    manifest = json.loads((new / "manifest.json").read_text())
    assert {FILM, POSTER, GIF} < set(manifest["files"])
    assert f"]({GIF})" in (new / "README.md").read_text()
    (own,) = export(finished, [0])
    before = (own / "manifest.json").read_bytes()
    assert export(finished, [0], film=film) == export(finished, [0], film=film) == [own]
    assert (own / GIF).read_bytes() == b"pictures"
    assert (own / "manifest.json").read_bytes() == before
    assert made[1:] == [own / FILM]  # once
    shutil.rmtree(own)
    del manifest["files"][GIF], manifest["checksum"]
    manifest["checksum"] = sha256_of_json(manifest)
    (new / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"`files` must be .* differs by 'film.gif'"):
        read_artifact(new)
