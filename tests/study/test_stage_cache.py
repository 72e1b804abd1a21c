"""The stage cache of a study: computed once by all trials, and pruned of what none needs."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from sdw_core.baselines import bc_on_all_data
from sdw_core.cache import StageCache, StageResult
from sdw_core.dataset import load
from sdw_core.errors import InputError
from sdw_core.stage_keys import density_key, expert_key
from study.folder import StudyFolder
from study.locations import cache_folder
from study.search import StudySearch
from study.stage_cache import all_contents, contents, prune, prune_all
from tests.sdw_core.processes import kill, start
from tests.study.conftest import small_spec
from tests.study.reports import report

RESULT = StageResult({"x": torch.arange(100.0)})


def filled(folder: StudyFolder) -> StageCache:
    """A cache with the density and the expert of all trials, and an entry that none uses."""
    config = folder.spec().pipeline
    content = load(config.dataset).content_hash
    cache = StageCache(folder.cache)
    cache.result("density", density_key(config, content), lambda: RESULT)
    cache.result("expert", expert_key(config, content), lambda: RESULT)
    cache.result("expert", "0" * 64, lambda: RESULT)
    return cache


def names(folder: StudyFolder) -> list[str]:
    return [entry.name for entry in StageCache(folder.cache).entries()]


@pytest.fixture
def two_trials(tmp_path: Path) -> StudyFolder:
    return StudyFolder.create(small_spec("study.trials=2"), tmp_path)


def test_entries_name_the_trials_that_use_them(folder):
    search = StudySearch(folder.book())
    for name in "ab":
        search.suggest(name)
    filled(folder)
    density, expert = contents(folder)
    (orphan,) = (e for e in all_contents(folder.cache, folder.path.parent) if not e.studies)
    assert (density.stage, density.trials, density.needed) == ("density", [0, 1], True)
    assert (expert.stage, expert.trials, expert.needed) == ("expert", [0, 1], True)
    assert (orphan.stage, orphan.trials, orphan.needed) == ("expert", [], False)
    assert (density.studies, expert.studies) == ([folder.name], [folder.name])
    assert density.bytes == (folder.cache / density.file).stat().st_size


def test_trials_whose_experts_differ_are_held_against_one_cloning_of_all_data(tmp_path):
    """By the study's own expert, whatever the trials' are."""
    searched = "search.expert.width={type: categorical, choices: [8, 16]}"
    folder = StudyFolder.create(small_spec("study.trials=8", searched), tmp_path)
    search = StudySearch(folder.book())
    widths = {search.suggest(name)["params"]["expert.width"] for name in "abcdefgh"}
    assert widths == {8, 16}
    spec, cache = folder.spec(), StageCache(folder.cache)
    content = load(spec.pipeline.dataset).content_hash
    cloning = bc_on_all_data(spec.pipeline, spec.pipeline.expert, spec.study.bc_steps)
    cache.result("expert", expert_key(cloning, content), lambda: RESULT)
    (entry,) = contents(folder)
    assert entry.trials == list(range(8))


def test_only_what_no_unfinished_trial_needs_goes(two_trials):
    search = StudySearch(two_trials.book())
    search.suggest("a")
    filled(two_trials)
    search.on_trial_complete("a", report(normalized_return=1.0))
    assert prune(two_trials, everything=False)["removed"] == []  # trial 1 is not asked yet
    found = prune_all(two_trials.cache, two_trials.path.parent, everything=False)
    assert [name.split("-")[1][:4] for name in found["removed"]] == ["0000"]
    assert len(names(two_trials)) == 2
    search.suggest("b")
    assert prune(two_trials, everything=False)["removed"] == []
    search.on_trial_complete("b", report(normalized_return=1.0))
    before = sum(path.stat().st_size for path in two_trials.cache.iterdir())
    found = prune(two_trials, everything=False)
    after = sum(path.stat().st_size for path in two_trials.cache.iterdir())
    assert len(found["removed"]) == 2
    assert found["bytes_freed"] == before - after > 0
    assert names(two_trials) == []


def test_all_means_all_of_a_study_or_of_the_cache(two_trials):
    StudySearch(two_trials.book()).suggest("a")
    filled(two_trials)
    assert len(prune(two_trials, everything=True)["removed"]) == 2
    assert [name[:11] for name in names(two_trials)] == ["expert-0000"]
    whole = two_trials.cache, two_trials.path.parent
    assert len(prune_all(*whole, everything=True)["removed"]) == 1
    assert names(two_trials) == []


def test_studies_of_a_storage_share_a_cache_and_spare_what_another_needs(two_trials):
    """Of a study made earlier, with a cache of its own, all is its own."""
    storage = two_trials.path.parent
    other = StudyFolder.create(small_spec("study.trials=1", "study.name=other"), storage)
    alone = StudyFolder.create(small_spec("study.name=alone"), storage)
    (alone.path / "cache").unlink()
    assert two_trials.cache == other.cache == storage / "cache"
    assert alone.cache == alone.path / "cache"
    search = StudySearch(other.book())
    search.suggest("a")
    StudySearch(two_trials.book()).suggest("a")
    filled(two_trials)
    filled(alone)
    search.on_trial_complete("a", report(normalized_return=1.0))
    assert prune(other, everything=False)["removed"] == []  # the first study needs them
    both = sorted([other.name, two_trials.name])
    assert all(entry.studies == both for entry in contents(other))
    assert len(contents(alone)) == len(prune(alone, everything=True)["removed"]) == 3
    assert len(names(two_trials)) == 3


def test_a_cache_that_is_named_is_linked_and_one_that_is_gone_is_made_again(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    folder = StudyFolder.create(small_spec(), tmp_path / "studies", cache=elsewhere)
    assert folder.cache == elsewhere
    filled(folder)
    assert len(list(elsewhere.glob("*.safetensors"))) == 3


def test_a_storage_that_is_moved_keeps_its_cache(tmp_path, monkeypatch):
    """However the storage was named: a command names it by a relative path."""
    monkeypatch.chdir(tmp_path)
    storage = Path("studies")
    StudyFolder.create(small_spec(), storage, cache=cache_folder(storage))
    moved = storage.rename("moved").resolve()
    (study,) = (file.parent for file in moved.glob("*/study.yaml"))
    assert StudyFolder(study).cache == moved / "cache"


@pytest.mark.parametrize("named", ["hf://user/cache", "s3://bucket/cache", "file"])
def test_a_cache_is_a_folder(named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    monkeypatch.setenv("SDW_CACHE", named)
    with pytest.raises(InputError, match=f"SDW_CACHE\\) is '{named}': name a folder"):
        cache_folder(tmp_path)


def test_what_is_not_the_caches_is_neither_listed_nor_removed(two_trials):
    """A cache can be a folder of the user's: files without an entry's name are theirs."""
    StudySearch(two_trials.book()).suggest("a")
    filled(two_trials)
    others = ["rows.safetensors", ".hidden", "expert-calql.checkpoint", ".nfs0000000000000001"]
    for name in others:
        (two_trials.cache / name).write_text("precious")
    (two_trials.cache / ".git").mkdir()
    assert not {entry.file for entry in contents(two_trials)} & {*others, ".git"}
    assert len(prune(two_trials, everything=True)["removed"]) == 2
    assert all((two_trials.cache / name).read_text() == "precious" for name in others)


BUSY = """if True:
    import sys, time
    from pathlib import Path
    from sdw_core.cache import StageCache
    def compute():
        Path(sys.argv[1], ".expert-00000000000000000000.safetensors.torn").write_text("half")
        print("computing", flush=True)
        time.sleep(60)
    StageCache(Path(sys.argv[1])).result("expert", "0" * 64, compute)
"""


def test_what_a_process_writes_stays_until_it_is_dead(two_trials):
    process = start(BUSY, two_trials.cache)
    assert process.stdout.readline() == "computing\n"
    whole = two_trials.cache, two_trials.path.parent
    found = prune_all(*whole, everything=True)
    assert (found["removed"], len(found["in_use"])) == ([], 1)
    kill(process)
    found = prune_all(*whole, everything=True)
    assert (len(found["removed"]), found["bytes_freed"]) == (1, len("half"))
    assert not list(two_trials.cache.glob(".*torn"))


def test_what_a_killed_training_left_goes_when_no_trial_needs_it(two_trials):
    search = StudySearch(two_trials.book())
    search.suggest("a")
    cache = filled(two_trials)
    config = two_trials.spec().pipeline
    content = load(config.dataset).content_hash
    needed = cache.checkpoint("expert", expert_key(config, content))
    orphan = cache.checkpoint("expert", "1" * 64)
    torn = orphan.with_name(f".{orphan.name}.x3k")
    for file in (needed, orphan, torn):
        file.write_text("half")
    entries = all_contents(two_trials.cache, two_trials.path.parent)
    listed = {entry.file: entry.needed for entry in entries}
    assert (listed[needed.name], listed[orphan.name]) == (True, False)
    found = prune_all(two_trials.cache, two_trials.path.parent, everything=False)
    assert {orphan.name, torn.name} < set(found["removed"])
    assert (needed.exists(), orphan.exists(), torn.exists()) == (True, False, False)
    assert needed.name in prune(two_trials, everything=True)["removed"]


TRIAL = """if True:
    import sys, time, json
    from pathlib import Path
    from sdw_core import pipeline
    from sdw_core.expert import percent_bc
    from study.folder import StudyFolder
    from study.trial import run_trial
    folder, number = StudyFolder(Path(sys.argv[1])), int(sys.argv[2])
    fits = folder.path / "fits"
    for module, stage in ((pipeline, "fit_density"), (percent_bc, "fit_percent_bc")):
        def counted(*arguments, _stage=stage, _fit=getattr(module, stage)):
            with fits.open("a") as log:
                log.write(_stage + "\\n")
            while (folder.path / "together").exists() and len(fits.read_text().split()) < 2:
                time.sleep(0.01)
            return _fit(*arguments)
        setattr(module, stage, counted)
    (folder.path / f"ready-{number}").touch()
    while not (folder.path / f"go-{number}").exists():
        time.sleep(0.001)
    config = folder.spec().pipeline_with({"weighting.temperature": 0.1 * (number + 1)})
    home = folder.trial(number)
    result = run_trial(number, config, home, folder.cache, folder.stop_flag, 1)
    print(json.dumps(result.to_json()))
"""


@pytest.mark.slow
def test_two_trials_that_need_the_same_density_and_expert_fit_them_once(folder):
    processes = [start(TRIAL, folder.path, number) for number in (0, 1)]
    while not all((folder.path / f"ready-{number}").exists() for number in (0, 1)):
        assert all(process.poll() is None for process in processes)
    for number in (0, 1):
        (folder.path / f"go-{number}").touch()
    both_complete(processes)
    assert sorted((folder.path / "fits").read_text().split()) == ["fit_density", "fit_percent_bc"]


def test_one_trial_fits_the_density_and_another_the_expert_at_the_same_time(folder):
    """Each fit waits for the other to begin."""
    (folder.path / "together").touch()
    processes = [start(TRIAL, folder.path, number) for number in (0, 1)]
    (folder.path / "go-0").touch()
    while not (folder.path / "fits").exists():
        assert all(process.poll() is None for process in processes)
    (folder.path / "go-1").touch()
    both_complete(processes)
    assert (folder.path / "fits").read_text().split() == ["fit_density", "fit_percent_bc"]


def both_complete(processes: list[subprocess.Popen[str]]) -> None:
    told = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert [json.loads(out)["outcome"] for out, _ in told] == ["COMPLETE"] * 2


def test_the_commands_print_what_there_is_and_what_went(two_trials, capsys):
    from tests.study.commands import sdw

    StudySearch(two_trials.book()).suggest("a")
    filled(two_trials)
    status, out, _ = sdw(capsys, "cache", "list", str(two_trials.path), "--json")
    document = json.loads(out)
    assert (status, document["study"], len(document["entries"])) == (0, two_trials.name, 2)
    assert set(document["entries"][0]) == {
        *("file", "stage", "bytes", "written", "trials", "needed", "studies"),
    }
    assert sdw(capsys, "cache", "list", str(two_trials.path))[1].count("yes") == 2
    status, out, _ = sdw(capsys, "cache", "prune", str(two_trials.path), "--json")
    document = json.loads(out)
    assert set(document) == {"study", "removed", "in_use", "bytes_freed"}
    assert document["removed"] == []
    assert "removed 2 files" in sdw(capsys, "cache", "prune", str(two_trials.path), "--all")[1]
    storage = ("--storage", str(two_trials.path.parent))
    assert "no study" in sdw(capsys, "cache", "list", *storage)[1]
    assert "removed 1 file," in sdw(capsys, "cache", "prune", *storage)[1]
    assert names(two_trials) == []
