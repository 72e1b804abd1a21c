"""Which Ray an address means."""

import pytest
from ray._private.utils import check_version_info

from sdw_core.errors import InputError
from study.address import _chosen, _require_node, settled, unconnected

MINE, YOURS, OTHER = "10.0.0.1:6379", "10.0.0.2:6379", "10.0.0.3:6379"


@pytest.mark.parametrize(
    ("running", "last", "found"),
    [
        ({MINE: "me"}, None, MINE),
        ({YOURS: "you"}, None, YOURS),
        ({YOURS: "you", MINE: "me"}, None, MINE),
        ({YOURS: "you", MINE: "me"}, YOURS, MINE),
        ({OTHER: "me", MINE: "me"}, MINE, MINE),
    ],
)
def test_auto_is_a_ray_of_ones_own_if_there_is_one(running, last, found):
    assert _chosen(running, last, "me") == found


@pytest.mark.parametrize(
    ("running", "last", "said"),
    [
        ({}, MINE, "no Ray runs on this machine"),
        ({OTHER: "me", MINE: "me"}, YOURS, f"{MINE} of me, {OTHER} of me"),
        ({OTHER: "you", YOURS: "you"}, None, "any of 2 Rays on this machine"),
    ],
)
def test_auto_guesses_nothing(running, last, said):
    with pytest.raises(InputError, match=r"HOST:PORT") as caught:
        _chosen(running, last, "me")
    assert said in str(caught.value)


def test_the_environment_says_what_auto_means_and_not_what_is_given(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", MINE)
    assert (settled("auto"), settled(YOURS)) == (MINE, YOURS)


@pytest.mark.parametrize("address", ["ray://10.0.0.1:10001", "http://10.0.0.1:8265"])
def test_a_client_from_outside_is_sent_to_the_head(monkeypatch, address):
    for given in (address, "auto"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(
            InputError, match=r"no client from outside.*the address `auto`"
        ) as caught:
            settled(given)
        assert address in str(caught.value)


def test_a_machine_that_is_no_node_is_sent_to_the_head(monkeypatch):
    monkeypatch.setattr("study.address._running", dict)
    with pytest.raises(InputError, match=f"no node of the Ray cluster at {MINE}.*`kubectl exec`"):
        _require_node(MINE)


def test_versions_that_do_not_go_together_are_both_named():
    there = {"ray_version": "2.9.0", "python_version": "3.8.1"}
    with pytest.raises(RuntimeError) as said:
        check_version_info(there, "node 10.0.0.9")
    sentence = str(unconnected(MINE, said.value))
    assert sentence.startswith(f"The Ray cluster at {MINE} runs Ray 2.9.0 on Python 3.8.1, and ")
    assert "this process Ray 2.60" in sentence
    assert "\n" not in sentence
