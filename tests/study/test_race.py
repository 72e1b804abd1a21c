"""Races: the best trials told apart on fresh seeds, and what is said of them."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sdw_core.artifact import read_artifact
from sdw_core.errors import InputError
from sdw_core.files import write_json
from sdw_core.labels import shrunk
from study.confirm import hold_race
from study.export import export
from study.folder import StudyFolder
from study.html.study import study_page
from study.notes import study_note
from study.outcomes import read_result
from study.race import (
    DELTA,
    FEWEST,
    LEVEL,
    POLICIES,
    VERSION,
    Race,
    behind,
    entered,
    race,
    raced,
    ranked,
)
from study.snapshot import Snapshot
from tests.study.conftest import small_spec
from tests.study.reports import run_trials


def returns_of(values: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Returns [count, trials]: three policies in ten fall, deeper or less deep; pairs are alike."""
    shared, own = rng.standard_normal((count, 1)), rng.standard_normal((count, len(values)))
    z = 0.55 * shared + 0.835 * own
    fallen = z < -0.52
    depth = np.where(fallen, -35 + 12 * z, 15 + 4 * z)
    return values + depth + SHIFT


SHIFT = 0.3 * (35 + 12 * 1.159) - 0.7 * (15 + 4 * 0.497)
"""Of `returns_of`, which makes their mean the trial's value (1.159, 0.497: means of the parts)."""


def test_the_simulated_returns_have_the_values_as_their_means() -> None:
    values = np.array([10.0, 50.0])
    found = returns_of(values, 400_000, np.random.default_rng(0)).mean(0)
    assert found == pytest.approx(values, abs=0.3)


def test_a_dropped_trial_is_seldom_better_than_the_winner_which_beats_the_searchs() -> None:
    rng = np.random.default_rng(1)
    gains, wrong, best_lost, dropped, overstated = [], [], [], [], []
    for _ in range(1000):
        values = rng.normal(50, 8, 16)
        searched = returns_of(values, 10, rng).mean(0)
        top = np.argsort(-searched)[:5]

        def judge(number: int, round: int, values: np.ndarray = values) -> np.ndarray:
            drawn = np.random.default_rng([round, len(gains)])
            return returns_of(values, POLICIES, drawn)[:, number]

        found = race({int(number): (float(searched[number]), 10) for number in top}, judge, 60)
        gains.append(values[found.winner] - values[top[0]])
        overstated.append(searched[top[0]] - values[top[0]])
        wrong.append(any(values[n] > values[found.winner] + 1 for n in found.dropped))
        best_lost.append(int(top[np.argmax(values[top])]) in found.dropped)
        dropped.append(len(found.dropped))
    assert np.mean(wrong) <= LEVEL
    assert np.mean(best_lost) <= LEVEL
    assert np.mean(dropped) > 0.5  # or the former say nothing
    assert np.mean(gains) > 1.5
    assert np.mean(overstated) > 4  # what the search's own score promises too much


def test_where_few_policies_fall_and_deeply_a_steady_trial_is_seldom_dropped() -> None:
    """The first policies of the others may all stand, and then seem better beyond doubt."""
    rng, lost = np.random.default_rng(2), []
    for study in range(300):

        def judge(number: int, round: int, study: int = study) -> np.ndarray:
            drawn = np.random.default_rng([study, round, number])
            falls = 0.0 if number == 0 else 36.0 * (drawn.random(POLICIES) < 0.12)
            return (88 if number == 0 else 91) - falls + drawn.normal(0, 1, POLICIES)

        searched = {number: (float(rng.normal(87, 3)), 10) for number in range(5)}
        lost.append(0 in race(searched, judge, 40).dropped)
    assert np.mean(lost) <= LEVEL


def test_a_short_race_does_not_overrule_a_long_search() -> None:
    rng, gains = np.random.default_rng(3), []
    for study in range(300):
        values = rng.normal(50, 8, 16)
        searched = returns_of(values, 100, rng).mean(0)
        top = np.argsort(-searched)[:5]

        def judge(
            number: int, round: int, values: np.ndarray = values, study: int = study
        ) -> np.ndarray:
            return returns_of(values, POLICIES, np.random.default_rng([study, round]))[:, number]

        found = race({int(number): (float(searched[number]), 100) for number in top}, judge, 5)
        gains.append(values[found.winner] - values[top[0]])
    assert np.mean(gains) > -0.05


def test_a_race_judges_who_is_left_and_stays_within_its_budget() -> None:
    judged: list[tuple[int, int]] = []
    rng = np.random.default_rng(0)
    level = {3: 80.0, 7: 79.0, 1: 20.0}

    def judge(number: int, round: int) -> np.ndarray:
        judged.append((number, round))
        return level[number] + rng.standard_normal(POLICIES)

    found = race({1: (20.0, 10), 3: (80.0, 10), 7: (79.0, 10)}, judge, 16)
    assert found.dropped[1] == 3
    assert [round for number, round in judged if number == 1] == [0, 1, 2]
    assert len(judged) <= 16
    assert found.ranking[-1] == 1
    assert found.winner == 3
    assert found.mean(3) - found.mean(1) == pytest.approx(60, abs=2)
    assert Race.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_race_ends_when_one_is_left() -> None:
    def judge(number: int, round: int) -> np.ndarray:
        return 50.0 * number + np.arange(POLICIES) * (1 + 0.1 * number)

    found = race({0: (50.0, 10), 1: (60.0, 10)}, judge, 1000)
    assert (found.winner, found.dropped, found.open) == (1, {0: 3}, [])


def test_a_race_of_the_same_rows_ends_at_once() -> None:
    found = race({0: (50.0, 10), 1: (50.0, 10)}, lambda number, round: np.arange(16.0), 10**9)
    assert {len(each) for each in found.scores.values()} == {POLICIES}


def test_a_race_ends_when_no_other_is_better_than_the_winner_by_what_counts() -> None:
    """Steady policies, as those of ensembles are, tell that soon; whatever the budget is."""
    rng, worse, rounds = np.random.default_rng(4), [], []
    for study in range(200):
        values = rng.normal(90, 1, 5)

        def judge(
            number: int, round: int, values: np.ndarray = values, study: int = study
        ) -> np.ndarray:
            drawn = np.random.default_rng([study, round, number])
            return values[number] + drawn.normal(0, 2, POLICIES)

        searched = {n: (float(rng.normal(values[n], 0.6)), 10) for n in range(5)}
        found = race(searched, judge, 5 * 100)
        worse.append(max(values[n] for n in (found.winner, *found.open)) - values[found.winner])
        rounds.append(max(len(each) for each in found.scores.values()) // POLICIES)
    assert np.mean(np.array(worse) > DELTA) <= LEVEL
    assert max(rounds) < 100


def test_few_policies_and_equal_ones_are_told_apart_from_nothing() -> None:
    few = {0: np.zeros(FEWEST - 1), 1: np.full(FEWEST - 1, 90.0)}
    assert behind(few, 0.05) == []
    same = np.random.default_rng(0).normal(50, 20, 100)
    assert behind({0: same, 1: same.copy()}, 0.05) == []
    assert behind({0: same, 1: same + np.linspace(1, 2, 100)}, 0.05) == [0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """A study of three real trials, without Ray."""
    settings = ("study.trials=3", "study.confirm.budget=96", "pipeline.distill.seeds=2")
    spec = small_spec(*settings, "pipeline.distill.outer_steps=0")
    folder = StudyFolder.create(spec, tmp_path_factory.mktemp("studies"))
    run_trials(folder, 3)
    return folder


def test_the_best_trials_race_once_and_what_was_judged_is_kept(finished: StudyFolder) -> None:
    found = hold_race(finished, finished.book())
    assert found is not None
    assert found.contenders == tuple(finished.book().best(3))
    assert all(len(found.scores[number]) >= POLICIES for number in found.contenders)
    kept = {number: finished.trial(number) / "race.json" for number in found.contenders}
    before = {number: path.stat().st_mtime_ns for number, path in kept.items()}
    finished.race.unlink()
    assert hold_race(finished, finished.book()) == found
    assert {number: path.stat().st_mtime_ns for number, path in kept.items()} == before


def test_a_race_by_an_earlier_method_says_so_and_is_held_again(finished: StudyFolder) -> None:
    found = hold_race(finished, finished.book())
    assert found is not None
    told = {key: value for key, value in found.to_json().items() if key != "method"}
    write_json(finished.race, told)
    old = raced(finished, finished.book())
    assert old is not None
    assert (old.method, found.method) == (1, VERSION)
    assert "by the method of an earlier version" in old.verdict
    assert "by the method of an earlier version" not in found.verdict
    assert Snapshot.of(finished).best == [old.winner]
    assert hold_race(finished, finished.book()) == found == raced(finished, finished.book())


def test_rows_of_several_distillation_seeds_race_by_their_best_and_by_its_score_in_the_search(
    finished: StudyFolder,
) -> None:
    found = hold_race(finished, finished.book())
    assert found is not None
    for number, (score, policies) in found.searched.items():
        result = read_result(finished.trial(number))
        assert result is not None
        assert result.normalized_return is not None
        by_seed = np.reshape(result.normalized_return.per_policy, (2, 2)).mean(1)
        assert (score, policies) == (pytest.approx(by_seed.max()), 2)
        assert score >= result.normalized_return.mean
    assert "each by the best of its distillation seeds" in found.verdict


def test_policies_of_one_place_share_their_random_numbers(finished: StudyFolder) -> None:
    """Rows of no outer step and of equal number are the same, so that their policies are."""
    first, second = (
        json.loads((finished.trial(number) / "race.json").read_text())["rounds"][0]
        for number in finished.book().best(2)
    )
    assert len({*first}) == POLICIES
    rows = finished.book().rows()
    sizes = {rows[n].params["distill.synthetic_size"] for n in finished.book().best(2)}
    assert (first == second) == (len(sizes) == 1)


def test_the_winner_of_the_race_is_the_best_everywhere(
    finished: StudyFolder, tmp_path: Path
) -> None:
    book = finished.book()
    by_search = book.best(3)
    scores = {
        number: [10.0 * place + k for k in range(16)] for place, number in enumerate(by_search)
    }
    turned = Race(tuple(by_search), dict.fromkeys(by_search, (20.0, 2)), scores, {})
    write_json(finished.race, turned.to_json())
    assert raced(finished, book) == turned
    assert ranked(book, turned, 2) == by_search[:0:-1]
    snapshot = Snapshot.of(finished)
    assert snapshot.best == [by_search[-1]]
    assert snapshot.to_json()["race"]["winner"] == by_search[-1]
    (path,) = export(finished, ranked(book, hold_race(finished, finished.book())), tmp_path)
    assert path.name == f"trial-{by_search[-1]}"


def test_a_race_of_others_than_the_best_does_not_count(finished: StudyFolder) -> None:
    book = finished.book()
    best, *others = book.best(3)
    searched = dict.fromkeys(others, (20.0, 2))
    write_json(
        finished.race, Race(tuple(others), searched, {n: [1.0] for n in others}, {}).to_json()
    )
    assert raced(finished, book) is None
    assert Snapshot.of(finished).best == [best]


def test_a_small_budget_lets_fewer_enter(finished: StudyFolder) -> None:
    spec = small_spec("study.confirm.budget=32", "pipeline.distill.outer_steps=0")
    book = finished.book()
    book.spec = book.spec.model_copy(update={"study": spec.study})
    contenders, evaluations = entered(book)
    assert (contenders, evaluations) == (book.best(2), 2)
    share = small_spec("study.confirm.budget=1", "pipeline.distill.outer_steps=0")
    book.spec = book.spec.model_copy(update={"study": share.study})
    contenders, evaluations = entered(book)
    assert contenders == book.best(3)
    assert evaluations >= 3


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"a": 1}', '{"contenders": [], "searched": {}, "scores": {}, "dropped": {}}'],
)
def test_what_is_no_race_is_taken_for_none(finished: StudyFolder, text: str) -> None:
    finished.race.write_text(text)
    assert Snapshot.of(finished).race is None
    kept = finished.trial(finished.book().best()[0]) / "race.json"
    kept.write_text(text)
    assert hold_race(finished, finished.book()) is not None


def test_a_study_that_cannot_be_written_races_all_the_same(
    finished: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = hold_race(finished, finished.book())
    finished.race.unlink()
    for number in finished.book().best(3):
        (finished.trial(number) / "race.json").unlink()
    with monkeypatch.context() as unwritable:
        nowhere = SimpleNamespace(access=lambda path, mode: False, W_OK=os.W_OK)
        unwritable.setattr("study.confirm.os", nowhere)
        assert hold_race(finished, finished.book()) == found
    assert not finished.race.exists()


def test_unfinished_studies_and_those_of_one_trial_do_not_race(
    finished: StudyFolder, tmp_path: Path
) -> None:
    book = finished.book()
    book.spec = book.spec.model_copy(
        update={"study": book.spec.study.model_copy(update={"trials": 4})}
    )
    finished.race.unlink(missing_ok=True)
    assert hold_race(finished, book) is None
    assert entered(StudyFolder.create(small_spec(), tmp_path).book()) == ([], 0)


def test_studies_made_before_do_not_race_and_their_identity_does_not_change() -> None:
    with_race, without = small_spec(), small_spec("study.confirm=null")
    assert with_race.study.confirm is not None
    assert with_race.identity == without.identity


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ("budget=0", "greater than 0"),
        ("budget=.nan", "number"),
        ("budget=16", "32 episodes or more"),
        ("top=1", "at least 2"),
    ],
)
def test_a_race_that_cannot_be_is_refused(setting: str, rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        small_spec(f"study.confirm.{setting}")


def test_the_verdict_names_whom_the_winner_cannot_be_told_from() -> None:
    level = np.arange(16.0)
    scores = {4: list(level + 9), 2: list(level), 8: list(level + 8), 6: list(level + 7)}
    searched = dict.fromkeys(scores, (20.0, 2))
    assert Race((4, 2, 8, 6), searched, scores, {2: 1, 8: 1, 6: 1}).verdict.endswith(
        "trial 4 has the highest mean, and the others were clearly behind."
    )
    assert Race((4, 2, 8), searched, scores, {2: 1}).verdict.endswith("from trial 8.")
    assert Race((4, 2, 8, 6), searched, scores, {2: 1}).verdict.endswith("from trials 8 and 6.")


def test_an_export_and_the_page_say_how_the_race_went(
    finished: StudyFolder, tmp_path: Path
) -> None:
    finished.race.unlink(missing_ok=True)
    found = hold_race(finished, finished.book())
    assert found is not None
    (path,) = export(finished, [found.winner], tmp_path)
    scores = json.loads((path / "manifest.json").read_text())["scores"]
    assert scores["race"] == {"trial": found.winner} | found.told
    card = (path / "README.md").read_text()
    assert "raced on other fresh seeds: these won" in card
    result = read_result(finished.trial(found.winner))
    assert result is not None
    shrank = np.mean(result.of_best) - scores["synthetic"]["mean"]
    assert scores["search"]["shrinkage"] == pytest.approx(shrank)
    assert Snapshot.of(finished).to_json()["shrinkage"] == scores["search"]["shrinkage"]
    said = shrunk(scores["search"]["shrinkage"])
    assert f"That is {said}, by whose score" in card
    page = study_page(finished)
    assert found.verdict in page
    assert said in page
    assert found.verdict in study_note(Snapshot.of(finished), [[], [], []])


def test_exports_tell_of_the_last_race_and_keep_what_was_put_beside_them(
    finished: StudyFolder,
) -> None:
    finished.race.unlink(missing_ok=True)
    found = hold_race(finished, finished.book())
    assert found is not None
    first, second, *_ = found.ranking
    for number in (first, second):
        export(finished, [number])
    note = finished.exports / f"trial-{first}" / "note.txt"
    note.write_text("mine")
    before = (finished.exports / f"trial-{first}" / "manifest.json").read_bytes()
    export(finished, [first])
    assert (finished.exports / f"trial-{first}" / "manifest.json").read_bytes() == before
    turned = {first: found.scores[second], second: found.scores[first]}
    searched = dict.fromkeys(found.contenders, (0.0, 1))
    scores = {**found.scores, **turned}
    write_json(finished.race, Race(found.contenders, searched, scores, found.dropped).to_json())
    now = raced(finished, finished.book())
    assert now is not None
    export(finished, [now.winner])
    for number in (first, second):
        path = finished.exports / f"trial-{number}"
        assert read_artifact(path).evidence["scores"]["race"] == {"trial": number} | now.told
    won = {
        n: "these won" in (finished.exports / f"trial-{n}/README.md").read_text()
        for n in (first, second)
    }
    assert won == {n: n == now.winner for n in (first, second)}
    assert note.read_text() == "mine"
    assert not [path for path in finished.exports.iterdir() if path.name.startswith(".")]
