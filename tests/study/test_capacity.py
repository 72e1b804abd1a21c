"""What a cluster holds, now and once it has grown; trials that wait for a node with room."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from sdw_core.errors import InputError
from search_spaces.spec import Resources
from study.capacity import Cluster, Growth, Node, Places
from tests.study.conftest import small_spec

CPU, PAIR, QUARTER = Resources(cpu=1), Resources(cpu=2), Resources(cpu=1, gpu=0.25)
SHIPPED = Growth(types={Node("gpu_worker", 8, 1): 4}, most=4)
"""What the project's own cluster.yaml lets grow."""


def cluster(*nodes: Node, growth: Growth | None = None, kind: str = "") -> Cluster:
    """Idle nodes, of one node type."""
    there = {node.name: node for node in nodes}
    return Cluster(there, there, dict.fromkeys(there, kind), waiting=[], growth=growth)


HEAD = Node("head", 0, 0)
ONES = cluster(HEAD, Node("a", 1, 0), Node("b", 1, 0))


def test_a_trial_runs_on_one_node_whatever_all_nodes_have_together():
    assert (ONES.holds(CPU), ONES.holds(PAIR)) == (2, 0)
    threes = cluster(Node("a", 3, 0), Node("b", 3, 0))
    assert (threes.holds(CPU), threes.holds(PAIR)) == (6, 2)
    assert cluster(Node("a", 8, 0), Node("b", 0, 1)).holds(QUARTER) == 0


@pytest.mark.parametrize(("share", "fits"), [(0.25, 8), (0.4, 4), (0.1, 20), (1, 2), (2, 1)])
def test_a_share_of_a_gpu_is_of_one_gpu(share, fits):
    assert Node("two GPUs", 64, 2).room(Resources(cpu=1, gpu=share)) == fits


def test_a_trial_that_no_node_holds_is_refused_and_the_largest_named():
    ONES.require_room(CPU, "study")
    said = (
        r"^`study\.resources` asks for 2 CPU on one node, and the largest node of the cluster, "
        r"'[ab]', has 1 CPU; lower them, or add a larger node\.$"
    )
    with pytest.raises(InputError, match=said):
        ONES.require_room(PAIR, "study")
    cpus_only = cluster(Node("a", 64, 0), Node("b", 2, 1))
    with pytest.raises(InputError, match=r"asks for 4 CPU and 1 GPU .*'b', has 2 CPU and 1 GPU;"):
        cpus_only.require_room(Resources(cpu=4, gpu=1), "comparison")


def test_on_a_cluster_that_grows_its_node_types_count_before_there_is_a_worker():
    grows = cluster(HEAD, growth=SHIPPED)
    for need, places in ((CPU, 32), (PAIR, 16), (QUARTER, 16), (Resources(cpu=8, gpu=1), 4)):
        grows.require_room(need, "study")
        assert (grows.holds(need), grows.may_hold(need)) == (0, places)
    with pytest.raises(InputError, match=r"largest node type of the cluster, 'gpu_worker', has 8"):
        grows.require_room(Resources(cpu=9), "study")


def test_nodes_that_are_there_are_not_counted_a_second_time():
    one = cluster(HEAD, Node("w1", 8, 1), growth=SHIPPED, kind="gpu_worker")
    one = replace(one, kinds=one.kinds | {"head": "head"})
    assert (one.holds(QUARTER), one.may_hold(QUARTER)) == (4, 16)
    less = Growth(types={Node("small", 2, 0): 8, Node("large", 8, 0): 2}, most=3)
    assert cluster(HEAD, growth=less).may_hold(CPU) == 8 + 8 + 2


def test_the_autoscalers_file_says_what_may_be_added():
    document = {
        "max_workers": 10,
        "available_node_types": {
            "head": {"resources": {"CPU": 0}, "max_workers": 0},
            "cpu": {"resources": {"CPU": 16}},
            "gpu": {"resources": {"CPU": 8, "GPU": 1}, "min_workers": 1, "max_workers": 4},
        },
    }
    assert Growth.of(document) == Growth({Node("cpu", 16, 0): 10, Node("gpu", 8, 1): 4}, 10)


def test_an_autoscaler_that_does_not_say_what_it_may_add_is_asked_for_as_much_again():
    unknown = Growth(types={})
    assert cluster(HEAD, growth=unknown).may_hold(Resources(cpu=64)) == 2
    assert cluster(HEAD, Node("a", 4, 0), growth=unknown).may_hold(CPU) == 8


@pytest.mark.parametrize(
    ("asked", "now", "places"),
    [
        *[("auto", ONES, 2), ("1", ONES, 1), ("400", ONES, 2)],
        *[("auto", cluster(HEAD, growth=SHIPPED), 32), ("4", cluster(HEAD, growth=SHIPPED), 4)],
        ("auto", cluster(HEAD), 1),  # the nodes have gone: one trial waits for the next
    ],
)
def test_as_many_trials_are_under_way_as_the_cluster_may_hold(asked, now, places):
    study = small_spec(f"study.concurrency={asked}").study
    nodes = SimpleNamespace(now=now)
    assert Places(nodes, study.resources, study.concurrency, lambda **said: None)() == places


def test_the_driver_says_how_many_run_and_which_trials_wait_for_what():
    """Two trials are PENDING to Tune; the worker of one of them is starting."""
    told: list[dict[str, Any]] = []
    nodes = SimpleNamespace(now=ONES, look=lambda: True)
    study = small_spec().study
    need, asked = study.resources, study.concurrency
    places = Places(nodes, need, asked, lambda **said: told.append(said))
    trials = [
        SimpleNamespace(config={"number": number}, status=status)
        for number, status in ((3, "TERMINATED"), (4, "RUNNING"), (5, "PENDING"), (6, "PENDING"))
    ]
    places.look(trials)
    assert told == [{"trials_at_a_time": 2, "waiting": None}]
    busy = {"a": Node("a", 0, 0), "b": Node("b", 0.5, 0)}
    others = [Node("", 3, 0), Node("", 1, 0)]
    coming = {"gpu_worker": 2}
    nodes.now = replace(
        ONES, nodes={"a": ONES.nodes["a"]}, free=busy, waiting=others, starting=coming
    )
    places.look(trials)
    places.look(trials)
    waiting = {
        "trials": [6],
        "need": {"cpu": 1, "gpu": 0},
        "free": {"cpu": 0.5, "gpu": 0},
        "node": "b",
        "nodes": 1,
        "starting": {"gpu_worker": 2},
        "failed": {},
    }
    assert told[1:] == [{"trials_at_a_time": 1, "waiting": waiting}]
    nodes.now = replace(ONES, nodes={}, free={}, waiting=others)
    places.look(trials)
    nowhere = {"free": None, "node": None, "nodes": 0, "starting": {}}
    assert told[2]["waiting"] == waiting | nowhere
