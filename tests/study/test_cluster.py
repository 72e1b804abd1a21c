"""What a file of a cluster says, against what a study needs."""

import json
from pathlib import Path

import pytest
import yaml

from sdw_core.errors import InputError
from search_spaces.spec import Resources
from study.manifests import read_cluster
from tests.study.commands import sdw

ROOT = Path(__file__).parents[2]
LAUNCHER = ["cluster.yaml", "clusters/gcp.yaml", "clusters/on-premises.yaml"]
KUBERAY = "clusters/kuberay.yaml"
GB = 10**9


def shipped(name: str) -> str:
    return (ROOT / name).read_text()


def described(tmp_path: Path, text: str):
    (tmp_path / "c.yaml").write_text(text)
    return read_cluster(tmp_path / "c.yaml")


@pytest.mark.parametrize("name", [*LAUNCHER, KUBERAY])
def test_the_shipped_clusters_hold_the_quickstart_and_ask_for_a_token(name):
    cluster = read_cluster(ROOT / name)
    holds = cluster.require_fit(Resources(), GB)
    assert holds == (None if "premises" in name else 32)
    assert cluster.warned(1, holds) == []
    text = shipped(name)
    assert "0.0.0.0" not in text
    if name == KUBERAY:
        assert "authOptions:\n      mode: token" in text
    else:
        starts = [line for line in text.splitlines() if "ray start" in line]
        assert all("RAY_AUTH_MODE=token" in line for line in starts)
        assert "/.ray/auth_token: ~/.ray/auth_token" in text
        assert "--dashboard-host=127.0.0.1" in text
    need = Resources(cpu=4, gpu=0.5)
    assert cluster.require_fit(need, GB) == (None if "premises" in name else 8)


SKYPILOT = {
    *("name", "workdir", "num_nodes", "resources", "envs", "secrets", "file_mounts", "setup"),
    *("run", "config", "service", "volumes"),
}
"""Keys of a task, by https://docs.skypilot.co/en/latest/reference/yaml-spec.html."""
SKYPILOT_RESOURCES = {
    *("infra", "accelerators", "accelerator_args", "cpus", "memory", "instance_type", "use_spot"),
    *("disk_size", "disk_tier", "network_tier", "image_id", "ports", "labels", "autostop"),
    *("any_of", "ordered", "job_recovery"),
}


def test_the_shipped_task_of_skypilot_has_keys_that_skypilot_knows():
    task = yaml.safe_load(shipped("clusters/skypilot.yaml"))
    assert task.keys() <= SKYPILOT
    assert task["resources"].keys() <= SKYPILOT_RESOURCES
    assert task["secrets"] == {"RAY_AUTH_TOKEN": None}
    assert task["envs"]["RAY_AUTH_MODE"] == "token"
    assert "--dashboard-host=127.0.0.1" in task["run"]


CPU_ONLY = shipped("cluster.yaml").replace('{"CPU": 8, "GPU": 1}', '{"CPU": 8, "GPU": 0}')
REFUSED = {
    "cores": (shipped("cluster.yaml"), Resources(cpu=9), "head (0 CPU), gpu_worker (8 CPU, 1 GPU)"),
    "GPUs": (CPU_ONLY, Resources(gpu=1), "gpu_worker (8 CPU, 0 GPU)"),
    "memory": (shipped(KUBERAY), Resources(), "gpu-workers (8 CPU, 1 GPU, 34.4 GB)"),
    "no worker": (
        shipped("cluster.yaml").replace("max_workers: 4\n    node", "max_workers: 0\n    node"),
        Resources(),
        "lets there be no node of gpu_worker",
    ),
    "no autoscaler, and no replicas": (
        shipped(KUBERAY).replace("Autoscaling: true", "Autoscaling: false"),
        Resources(),
        "lets there be no node of gpu-workers",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_trial_that_no_node_can_hold_is_refused_with_what_nodes_have(tmp_path, case):
    text, resources, said = REFUSED[case]
    cluster = described(tmp_path, text)
    with pytest.raises(InputError, match=r"can hold a trial, which needs") as caught:
        cluster.require_fit(resources, 40 * GB if case == "memory" else GB)
    assert said in str(caught.value)


INVALID = {
    "nothing in it": ("\n# nothing\n", "is empty"),
    "a core that is misspelt": (
        shipped("cluster.yaml").replace('"CPU": 8', '"cpu": 8'),
        "`available_node_types.gpu_worker.cpu`: did you mean `CPU`?",
    ),
    "a key of EC2": (
        shipped("cluster.yaml").replace("InstanceType: g6", "InstanceTypes: g6"),
        "`available_node_types.gpu_worker.InstanceTypes`: did you mean `InstanceType`?",
    ),
    "a key of Compute Engine": (
        shipped("clusters/gcp.yaml").replace("machineType: g2", "machine_type: g2"),
        "`available_node_types.gpu_worker.machine_type`: did you mean `machineType`?",
    ),
    "a key of the launcher": (
        shipped("cluster.yaml").replace("idle_timeout_minutes", "idle_minutes"),
        "'idle_minutes' was unexpected",
    ),
    "machines without a head": (
        shipped("clusters/on-premises.yaml").replace("head_ip", "head"),
        "is not valid for the Ray cluster launcher: ",
    ),
    "a key of KubeRay": (
        shipped(KUBERAY).replace("maxReplicas", "maxReplica"),
        "unknown key `spec.rayClusterSpec.workerGroupSpecs.0.maxReplica`: did you mean",
    ),
    "another API": (shipped(KUBERAY).replace("ray.io/v1", "ray.io/v7"), "`apiVersion` cannot be"),
    "a quantity": (shipped(KUBERAY).replace("8Gi", "8 GB"), "the quantity '8 GB'"),
    "no volume in common": (
        shipped(KUBERAY).replace(
            "claimName: sdw-shared}\n    worker", "claimName: own}\n    worker"
        ),
        "no volume that the head and gpu-workers mount at one path",
    ),
    "another kind": (
        "kind: Pod\n---\nkind: Service\n",
        "no RayCluster and no RayJob, but Pod, Ser",
    ),
    "SkyPilot": (shipped("clusters/skypilot.yaml"), "seems to be a task of SkyPilot"),
}


@pytest.mark.parametrize("case", INVALID)
def test_what_nobody_would_take_is_refused(tmp_path, capsys, case):
    text, said = INVALID[case]
    with pytest.raises(InputError) as caught:
        described(tmp_path, text)
    sentence = str(caught.value)
    assert said in sentence
    assert "\n" not in sentence
    assert capsys.readouterr() == ("", "")  # also of what Ray itself prints


def test_a_cluster_is_read_as_part_of_a_job_or_alone(tmp_path):
    claim, job = yaml.safe_load_all(shipped(KUBERAY))
    alone = {**job, "kind": "RayCluster", "spec": job["spec"]["rayClusterSpec"]}
    assert (
        described(tmp_path, yaml.safe_dump_all([claim, alone])).require_fit(Resources(), GB) == 32
    )


def test_what_may_be_forgotten_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [line for line in shipped("cluster.yaml").splitlines() if "mount -t" not in line]
    (tmp_path / "c.yaml").write_text("\n".join(lines))
    asked = ("--set", "study.concurrency=64", "--set", "study.resources={cpu: 4, gpu: 0.5}")
    status, out, err = sdw(
        capsys, "validate", "quickstart", "--cluster", "c.yaml", *asked, "--json"
    )
    document = json.loads(out)
    assert (status, document["cluster_holds"]) == (0, 8)
    mount, many = document["warnings"]
    assert "mounts no storage that all nodes share" in mount
    assert "holds 8 trials at a time at its largest, and `study.concurrency` is 64" in many
    assert f"warning: {many}" in err
