"""Attempts: what is asked again, and when it has failed."""

import json
from collections.abc import Callable

import pytest

from study.attempts import NODE_DEATHS, WORKER_DEATHS, Attempts, Death
from study.outcomes import TrialResult


class Listed(Attempts):
    """Attempts at numbers, whose results are kept in memory."""

    def __init__(self, *numbers: int, stopping: Callable[[], bool] = lambda: False) -> None:
        super().__init__(stopping, None, lambda: 2, ["value"], ["max"])
        self.waiting = list(numbers)
        self.results: dict[int, TrialResult] = {}

    def propose(self):
        return {"number": self.waiting.pop(0)} if self.waiting else None

    def requeue(self, number):
        self.waiting.insert(0, number)

    def record(self, number, result, ray_trial_id):
        self.results[number] = result

    def attempt(self, end: Death | None) -> None:
        """The next one ends without an outcome."""
        assert self.suggest("a") == {"number": 0}
        if end:
            self.on_death("a", end)
        self.on_trial_complete("a", None, error=bool(end))


def death(with_node: Callable[[], bool]) -> Death:
    return Death("infrastructure: the worker died on w1", "w1", with_node)


@pytest.mark.parametrize(
    ("with_node", "allowed", "reason"),
    [
        (False, WORKER_DEATHS, "infrastructure: the worker died on w1"),
        (True, NODE_DEATHS, f"infrastructure: {NODE_DEATHS + 1} nodes were lost under it, w1 last"),
    ],
)
def test_what_dies_is_asked_again_as_often_as_allowed(with_node, allowed, reason):
    search = Listed(0)
    for _ in range(allowed):
        search.attempt(death(lambda: with_node))
        assert search.waiting == [0]
    search.attempt(death(lambda: with_node))
    assert (search.results[0].outcome, search.results[0].reason) == ("FAILED", reason)
    assert search.suggest("a") == "FINISHED"


def test_a_death_that_turns_out_to_be_a_nodes_is_not_held_against_the_trial():
    search, known = Listed(0), False
    for _ in range(WORKER_DEATHS):
        search.attempt(death(lambda: known))
    known = True
    for _ in range(WORKER_DEATHS):
        search.attempt(death(lambda: False))
    assert search.waiting == [0]


def test_what_a_stop_ends_before_it_begins_waits():
    search = Listed(0)
    search.attempt(None)
    assert search.waiting == [0]


def test_the_end_is_not_told_while_anything_is_under_way_that_may_have_to_be_asked_again():
    asked = False
    search = Listed(0, 1, stopping=lambda: asked)
    search.suggest("a")
    search.suggest("b")
    assert search.suggest("c") is None
    search.on_trial_complete("a", {"document": json.dumps({"outcome": "COMPLETE"})})
    assert search.suggest("c") is None
    asked = True
    assert search.suggest("c") == "FINISHED"
    search.on_trial_complete("b", {"document": json.dumps({"outcome": "STOPPED"})})
    assert (search.waiting, search.trouble) == ([1], None)
