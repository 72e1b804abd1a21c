"""One look at a study, from its folder alone, in whatever state the study is."""

import json
from dataclasses import replace
from time import time

import pytest

from sdw_core.errors import SDWError
from sdw_core.files import write_json
from study.folder import StudyFolder
from study.search import StudySearch
from study.snapshot import Failures, Snapshot
from tests.study.conftest import small_spec
from tests.study.reports import report


def ended(node: str, seconds: float, **metrics: float) -> dict[str, object]:
    """What Tune tells of a COMPLETE trial of 1 s before, 6 s in and 2 s after its distillation."""
    told = json.loads(str(report(**metrics)["document"]))
    stages = {"density": 1.0, "distill": 6.0, "evaluate": 2.0}
    return {"document": json.dumps(told | {"node": node, "seconds": seconds, "stages": stages})}


@pytest.fixture
def study(folder: StudyFolder) -> StudyFolder:
    """One trial COMPLETE, two FAILED for one reason, one distilling on b, one just begun."""
    search = StudySearch(folder.book())
    for name in "abcde":
        search.suggest(name)
    search.on_trial_complete("a", ended("node-a", 9.0, normalized_return=41.26))
    for name, number in (("b", 3), ("c", 17)):
        told = {"outcome": "FAILED", "reason": f"divergence: not finite at step {number}"}
        search.on_trial_complete(name, {"document": json.dumps(told)})
    said = {"stage": "distill", "fraction": 0.5, "seconds": 4.0, "node": "node-b"}
    write_json(folder.trial(3) / "progress.json", said | {"distilling": 8.0, "begun": time()})
    return folder


def test_it_counts_the_trials_by_state_stage_and_node(study):
    with study.driving():
        seen = Snapshot.of(study)
    assert (seen.state, len(seen.settled), seen.total) == ("running", 3, 16)
    assert seen.outcomes == {"COMPLETE": 1, "FAILED": 2, "RUNNING": 2}
    assert seen.stages == {"dataset": 1, "distill": 1}
    assert seen.nodes == {"node-b": 1}
    assert seen.best == [0]


def test_trials_that_wait_for_a_node_say_so_until_they_run_or_end(study):
    waiting = {"trials": [0, 4], "need": {"cpu": 2, "gpu": 0.5}, "nodes": 2}
    waiting |= {"free": {"cpu": 1, "gpu": 0}, "node": "node-b", "starting": {}, "failed": {}}
    with study.driving() as driver:
        driver.tell(waiting=waiting)
        seen = Snapshot.of(study)
        assert [row.outcome for row in seen.trials[3:]] == ["RUNNING", "WAITING"]
        assert [(trial.number, trial.node) for trial in seen.under_way] == [(3, "node-b")]
        assert seen.trials[3].node == "node-b"
        assert seen.to_json()["waiting"] == waiting | {"trials": [4]}
        room = "2 CPU and 0.5 GPU on a node; most is free on node-b of 2 nodes: 1 CPU and 0 GPU"
        assert str(seen.waiting) == room
        assert seen.story(seen.row(4)) == f"Trial 4 waits for {room}."
        grows = {"nodes": 0, "free": None, "node": None}
        grows |= {"starting": {"large": 2}, "failed": {"spot": "no capacity"}}
        driver.tell(waiting=waiting | grows)
        assert str(Snapshot.of(study).waiting) == (
            "2 CPU and 0.5 GPU on a node; there is no node; 2 large being started; "
            "no spot could be started (no capacity)"
        )
        driver.tell(waiting=None)
        assert Snapshot.of(study).waiting is None


def test_a_database_that_breaks_while_one_looks_is_said(study):
    book = study.book()
    for file in study.path.glob("study.db*"):
        file.write_bytes(b"no database" * 1000)
    with pytest.raises(SDWError, match=r"cannot be read .*--rebuild"):
        Snapshot.of(study, book)


def test_failures_are_grouped_by_what_their_reasons_have_in_common(study):
    reason = "divergence: not finite at step 3"
    assert Snapshot.of(study).failures == [Failures("divergence", reason, [1, 2])]


def test_trials_whose_driver_is_gone_wait(study):
    seen = Snapshot.of(study)
    assert (seen.state, seen.driver, seen.under_way) == ("stopped", {}, [])
    assert seen.outcomes == {"COMPLETE": 1, "FAILED": 2, "WAITING": 2}
    assert seen.trials_per_hour is None
    assert seen.seconds_left is None
    assert seen.next_commands[0] == ("go on", f"sdw resume {study.called}")


def test_the_time_left_is_that_of_trials_under_way_and_to_come_on_the_places_there_are(study):
    with study.driving() as heartbeat:
        heartbeat.tell(trials_at_a_time=2)
        seen = Snapshot.of(study)
    under_way = 0.5 * 8 + 2, 1 + 6 + 2  # at its own pace, and at that of the trial that ended
    to_come = 16 - 3 - 2
    assert seen.seconds_left == pytest.approx((sum(under_way) + to_come * 9) / 2)
    assert seen.done == pytest.approx(3 + 1 - 6 / 9)


def test_the_time_left_is_known_before_a_trial_has_ended(folder):
    search = StudySearch(folder.book())
    for name in "ab":
        search.suggest(name)
    with folder.driving() as heartbeat:
        heartbeat.tell(trials_at_a_time=2)
        assert Snapshot.of(folder).seconds_left is None
        for number, fraction in ((0, 0.25), (1, 0.5)):
            said = {"stage": "distill", "fraction": fraction, "seconds": 30.0, "distilling": 10.0}
            write_json(folder.trial(number) / "progress.json", said)
        left = (0.75 + 0.5) * 10 + 2 * 4 + 14 * 14  # evaluation: 0.4 of distillation
        assert Snapshot.of(folder).seconds_left == pytest.approx(left / 2)


def test_throughput_counts_what_ended_since_the_driver_came(study):
    search = StudySearch(study.book())
    with study.driving() as heartbeat:
        heartbeat.tell(begun=time() - 100)
        rows = [replace(row, ended=None) for row in Snapshot.of(study).trials]
        before = replace(Snapshot.of(study), trials=rows)
        assert before.trials_per_hour is None  # what ended before the driver came
        search.suggest("f")
        search.on_trial_complete("f", ended("node-a", 9.0, normalized_return=3.0))
        seen = Snapshot.of(study)
        since_then = seen.at - min(row.ended for row in seen.trials if row.ended)
        assert seen.trials_per_hour == pytest.approx(4 * 3600 / (9 + since_then), rel=0.01)


def test_it_says_what_happened_to_each_trial_in_a_sentence(study):
    with study.driving():
        seen = Snapshot.of(study)
        stories = [seen.story(row) for row in seen.trials]
    assert stories == [
        "Trial 0 ran 9 s on node-a and reached normalised return 41.26, the best so far.",
        "Trial 1 failed (divergence: not finite at step 3).",
        "Trial 2 failed (divergence: not finite at step 17).",
        "Trial 3 runs on node-b: distill (5/6), 50 %.",
        "Trial 4 runs: dataset (1/6), 0 %.",
    ]
    book = study.book()
    book.retry_failed()
    seen = Snapshot.of(study)
    assert seen.story(seen.row(1)).endswith("; it was asked again as trial 5.")
    waits = f"Trial 5 waits for its turn, which `sdw resume {study.called}` gives."
    assert seen.story(seen.row(5)) == waits


def test_a_study_without_a_trial_and_one_of_failures_alone_are_seen(folder):
    seen = Snapshot.of(folder)
    assert (seen.state, seen.trials, seen.best, seen.failures) == ("stopped", [], [], [])
    search = StudySearch(folder.book())
    for index in range(folder.spec().study.trials):
        search.suggest(str(index))
        search.on_trial_complete(str(index), report("FAILED"))
    seen = Snapshot.of(folder)
    assert (seen.state, seen.best, seen.exports) == ("finished", [], [])
    assert len(seen.failures[0].trials) == seen.total
    assert ("try failed again", f"sdw retry-failed {folder.called}") in seen.next_commands


def test_a_pareto_front_says_where_its_exports_lie(pareto):
    search = StudySearch(pareto.book())
    for index, found in enumerate((3.0, 5.0)):
        size = search.suggest(str(index))["params"]["distill.synthetic_size"]
        search.on_trial_complete(str(index), report(normalized_return=found, synthetic_size=size))
    seen = Snapshot.of(pareto)
    assert 1 in seen.best
    assert "on the Pareto front" in seen.story(seen.row(1))
    (pareto.exports / "trial-1").mkdir(parents=True)
    assert seen.exports == [pareto.exports / "trial-1"]


def test_more_trials_are_seen_at_once_by_a_book_that_is_open(study):
    book = study.book()
    study.extend(4)
    assert Snapshot.of(study, book).total == small_spec().study.trials + 4
