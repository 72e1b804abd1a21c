"""Files that describe a cluster: of Ray's cluster launcher, and manifests of KubeRay.

They are read without a network, and say only what is in them: what a machine of some name has is
the cloud's knowledge, and what its image mounts is the image's.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sdw_core.errors import InputError, first_line
from sdw_core.validation import parse, shown
from search_spaces.documents import StrictLoader, read_yaml
from study.cluster import ClusterFile, NodeType

KUBERAY = ("RayCluster", "RayJob")
GPU = "nvidia.com/gpu"
_MOUNTS = re.compile(
    r"\bmount\b|\b(amazon-)?efs\b|\bsshfs\b|\bgcsfuse\b|\bs3fs\b|\bjuicefs\b|\bblobfuse2?\b|"
    r"\blustre\b|/etc/fstab|(^|\s)(-v|--volume)\b"
)
"""What a command says that makes a file system appear, or hands one to a container."""
_UNITS = {"": 1, "m": 1e-3} | {
    f"{prefix}{i}": (1024 if i else 1000) ** power
    for power, prefix in enumerate("kMGTP", 1)
    for i in ("", "i")
}
_UNITS["Ki"] = 1024
_NODE_CONFIG = {
    "aws": """AdditionalInfo BlockDeviceMappings CapacityReservationSpecification ClientToken
        CpuOptions CreditSpecification DisableApiStop DisableApiTermination DryRun EbsOptimized
        EnablePrimaryIpv6 EnclaveOptions HibernationOptions IamInstanceProfile ImageId
        InstanceInitiatedShutdownBehavior InstanceMarketOptions InstanceType Ipv6AddressCount
        Ipv6Addresses KernelId KeyName LaunchTemplate LicenseSpecifications MaintenanceOptions
        MaxCount MetadataOptions MinCount Monitoring NetworkInterfaces NetworkPerformanceOptions
        Placement PrivateDnsNameOptions PrivateIpAddress RamdiskId SecurityGroupIds SecurityGroups
        SubnetId SubnetIds TagSpecifications UserData""",
    "gcp": """advancedMachineFeatures canIpForward confidentialInstanceConfig deletionProtection
        description disks displayDevice guestAccelerators hostname instanceTemplate
        keyRevocationActionType labels machineType metadata minCpuPlatform name
        networkInterfaces networkPerformanceConfig params privateIpv6GoogleAccess
        reservationAffinity resourcePolicies runtimeVersion scheduling serviceAccounts
        shieldedInstanceConfig sourceMachineImage tags acceleratorConfig acceleratorType
        networkConfig schedulingConfig serviceAccount""",
}
"""Keys of `node_config` by provider: of EC2's RunInstances, of Compute Engine's instances and TPUs.

A key that is like one of them, and is none, is refused; others are left to the provider."""


def read_cluster(path: Path) -> ClusterFile:
    """What a file of Ray's cluster launcher, or a manifest of KubeRay, says.

    Raises:
        InputError: the file is missing, no YAML, or nothing that these take.
    """
    what = f"The cluster file {str(path)!r}"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"There is no cluster file {str(path)!r}.") from None
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"{what} must be UTF-8 text, and cannot be read ({error}).") from None
    documents = [read_yaml(part, what, StrictLoader) for part in re.split(r"(?m)^---.*$", text)]
    documents = [document for document in documents if document is not None]
    if not documents:
        raise InputError(
            f"{what} is empty; copy the project's cluster.yaml, or a file of its clusters/."
        )
    for document in documents:
        if not isinstance(document, dict):
            raise InputError(
                f"{what} must hold a mapping, not {shown(document)}; write one for the Ray cluster "
                "launcher, as the project's own cluster.yaml is."
            )
    for document in documents:
        if document.get("kind") in KUBERAY:
            return _of_kuberay(document, what)
    if any("kind" in document for document in documents):
        kinds = ", ".join(str(document.get("kind")) for document in documents)
        raise InputError(
            f"{what} holds no RayCluster and no RayJob, but {kinds}; give one of them."
        )
    if "provider" not in documents[0] and "run" in documents[0]:
        raise InputError(
            f"{what} seems to be a task of SkyPilot, and files of the Ray cluster launcher and of "
            "KubeRay are checked here; check it with `sky launch --dryrun`."
        )
    return _of_launcher(documents[0], what)


def _of_launcher(document: dict[str, Any], what: str) -> ClusterFile:
    """By Ray's own validator, which is private: Ray's version is pinned."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    reads_it = "the Ray cluster launcher"
    said = StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            prepared = prepare_config(document)
            validate_config(prepared)
    except Exception as error:
        reason = first_line(error).rstrip(".") or " ".join(said.getvalue().split()).rstrip(".")
        if isinstance(error, KeyError):
            reason = f"it has no key {reason}"
        reason = reason or type(error).__name__
        raise InputError(f"{what} is not valid for {reads_it}: {reason}.") from None
    provider, head = prepared["provider"]["type"], prepared["head_node_type"]
    kinds = {}
    for name, kind in prepared["available_node_types"].items():
        where = f"available_node_types.{name}"
        _refuse_misspelt(kind["node_config"], _NODE_CONFIG.get(provider, "").split(), what, where)
        has = kind["resources"]
        _refuse_misspelt(has, ["CPU", "GPU", "memory", "object_store_memory"], what, where)
        # The launcher asks the cloud for what is not said; a GPU that is not said may be there.
        has = has.get("CPU"), has.get("GPU"), has.get("memory")
        kinds[name] = NodeType(name, kind["max_workers"], *has)
    workers = [kind for kind in kinds.values() if kind.name != head or kind.most]
    own = replace(kinds[head], most=1)
    cluster = ClusterFile(what, reads_it, own, workers, prepared["max_workers"])
    if provider != "local" and not any(_MOUNTS.search(text) for text in _texts(document)):
        cluster.warnings.append(
            f"{what} mounts no storage that all nodes share, unless their image does; a study's "
            "`storage` must lie on one"
        )
    return cluster


def _texts(value: Any) -> Iterator[str]:
    """All text in a document, without keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(each)


def _refuse_misspelt(given: Mapping[str, Any], known: list[str], what: str, where: str) -> None:
    """Refuse a key that is like one of those that are known, and none of them."""
    lower = {each.lower(): each for each in known}
    for key in given:
        close = get_close_matches(str(key).lower(), lower, n=1, cutoff=0.85)
        if key not in known and close:
            raise InputError(
                f"{what} has an unknown key `{where}.{key}`: did you mean `{lower[close[0]]}`?"
            )


class _Strict(BaseModel):
    """The parts of KubeRay's `ray.io/v1` that bear on a study; see its API reference, v1.7."""

    model_config = ConfigDict(extra="forbid")


class _Container(BaseModel):
    """Of a pod; Kubernetes itself knows more keys."""

    name: str
    image: str
    resources: dict[str, Any] = Field(default_factory=dict)
    volumeMounts: list[dict[str, Any]] = Field(default_factory=list)


class _Pod(BaseModel):
    containers: list[_Container] = Field(min_length=1)
    volumes: list[dict[str, Any]] = Field(default_factory=list)


class _Template(_Strict):
    metadata: dict[str, Any] = Field(default_factory=dict)
    spec: _Pod


class _Group(_Strict):
    template: _Template
    rayStartParams: dict[str, str] = Field(default_factory=dict)
    resources: dict[str, Any] = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)


class _Head(_Group):
    headService: dict[str, Any] | None = None
    enableIngress: bool | None = None
    serviceType: str | None = None


class _Workers(_Group):
    groupName: str
    replicas: int | None = None
    minReplicas: int = 0
    maxReplicas: int = 2**31 - 1
    numOfHosts: int = 1
    idleTimeoutSeconds: int | None = None
    scaleStrategy: dict[str, Any] | None = None
    suspend: bool | None = None


class _ClusterSpec(_Strict):
    headGroupSpec: _Head
    workerGroupSpecs: list[_Workers] = Field(default_factory=list)
    rayVersion: str | None = None
    enableInTreeAutoscaling: bool = False
    autoscalerOptions: dict[str, Any] | None = None
    authOptions: dict[str, Any] | None = None
    gcsFaultToleranceOptions: dict[str, Any] | None = None
    headServiceAnnotations: dict[str, str] | None = None
    managedBy: str | None = None
    suspend: bool | None = None
    upgradeStrategy: dict[str, Any] | None = None


class _JobSpec(_Strict):
    rayClusterSpec: _ClusterSpec
    entrypoint: str = ""
    runtimeEnvYAML: str = ""
    jobId: str = ""
    metadata: dict[str, str] = Field(default_factory=dict)
    submissionMode: str = "K8sJobMode"
    submitterPodTemplate: dict[str, Any] | None = None
    submitterConfig: dict[str, Any] | None = None
    entrypointNumCpus: float = 0
    entrypointNumGpus: float = 0
    entrypointResources: str = ""
    clusterSelector: dict[str, str] | None = None
    shutdownAfterJobFinishes: bool = False
    ttlSecondsAfterFinished: int = 0
    activeDeadlineSeconds: int | None = None
    waitingDeadlineSeconds: int | None = None
    preRunningDeadlineSeconds: int | None = None
    backoffLimit: int = 0
    deletionStrategy: dict[str, Any] | None = None
    managedBy: str | None = None
    suspend: bool = False


class _Manifest(_Strict):
    apiVersion: str = Field(pattern=r"^ray\.io/v1(alpha1)?$", description="`ray.io/v1`")
    kind: str
    metadata: dict[str, Any]


class _RayCluster(_Manifest):
    spec: _ClusterSpec


class _RayJob(_Manifest):
    spec: _JobSpec


def _of_kuberay(document: dict[str, Any], what: str) -> ClusterFile:
    try:
        if document["kind"] == "RayJob":
            spec = parse(_RayJob, document, "").spec.rayClusterSpec
        else:
            spec = parse(_RayCluster, document, "").spec
    except InputError as error:
        raise InputError(f"{what} is not valid for KubeRay: {error}") from None
    head, workers = _of_group("the head", 1, spec.headGroupSpec, what), []
    for group in spec.workerGroupSpecs:
        most = group.maxReplicas if spec.enableInTreeAutoscaling else group.replicas or 0
        workers.append(_of_group(group.groupName, most * group.numOfHosts, group, what))
    _require_shared_mount(spec, what)
    return ClusterFile(what, "KubeRay", head, workers)


def _of_group(name: str, most: int, group: _Group, what: str) -> NodeType:
    """What Ray takes for a pod's resources: start parameters, or else its container's limits."""
    container, given = group.template.spec.containers[0].resources, group.rayStartParams
    has = {**container.get("requests", {}), **container.get("limits", {})}
    cpu = given.get("num-cpus", group.resources.get("CPU", has.get("cpu")))
    gpu = given.get("num-gpus", group.resources.get("GPU", has.get(GPU, 0)))
    memory = given.get("memory", group.resources.get("memory", has.get("memory")))
    amounts = [None if each is None else _amount(each, what) for each in (cpu, gpu, memory)]
    return NodeType(name, most, *amounts)


def _amount(quantity: Any, what: str) -> float:
    """A Kubernetes quantity as a number: `500m` is 0.5, `4Gi` is 4 * 2**30."""
    match = re.fullmatch(r"([0-9.]+)(m|[kKMGTP]i?)?", str(quantity))
    if not match or (match[2] or "") not in _UNITS:
        raise InputError(f"{what} has the quantity {shown(quantity)}; write one such as 4 or 32Gi.")
    return float(match[1]) * float(_UNITS[match[2] or ""])


def _require_shared_mount(spec: _ClusterSpec, what: str) -> None:
    """Refuse pods without a volume that the head and every group mount: nothing else is shared."""
    head, *others = [
        (getattr(group, "groupName", "the head"), _volumes(group.template.spec))
        for group in (spec.headGroupSpec, *spec.workerGroupSpecs)
    ]
    apart = [name for name, volumes in others if not volumes & head[1]]
    if others and apart:
        raise InputError(
            f"{what} has no volume that the head and {', '.join(apart)} mount at one path, and a "
            "study's `storage` must lie on one; mount a claim that many pods can write "
            "(ReadWriteMany) in all of them."
        )


def _volumes(pod: _Pod) -> set[tuple[str, str]]:
    """(source, path) of each volume of the first container that outlives and leaves its pod."""
    sources = {
        volume.get("name"): repr({key: value for key, value in volume.items() if key != "name"})
        for volume in pod.volumes
        if not volume.keys() & {"emptyDir", "configMap", "secret", "downwardAPI", "projected"}
    }
    mounts = pod.containers[0].volumeMounts
    return {
        (sources[mount["name"]], mount.get("mountPath", ""))
        for mount in mounts
        if mount.get("name") in sources
    }
