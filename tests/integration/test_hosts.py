"""Studies on a cluster of several hosts."""

import json

import pytest

from tests.integration.hosts import Hosts


@pytest.mark.slow
def test_a_study_runs_on_the_workers_of_a_cluster(hosts: Hosts, spec: str) -> None:
    hosts.start_head()
    hosts.start_worker("w1")
    hosts.start_worker("w2")
    status, out, err = hosts.run("head", "launch", spec, "--address", hosts.address, "--json")
    assert status == 0, err
    document = json.loads(out)
    assert document["state"] == "finished"
    assert {trial["outcome"] for trial in document["trials"]} == {"COMPLETE"}
    assert {trial["node"] for trial in document["trials"]} <= {"w1", "w2"}
