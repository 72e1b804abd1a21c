"""What a node of a cluster is asked before trials run on it.

All of this is sent to nodes by value, as a node may lack this package: it needs nothing but
Python's own library and, within functions, Ray.
"""

import hashlib
import json
import os
import platform
import socket
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any

ANSWER = 90.0
"""Seconds that a node has to answer: its Python starts first, from a slow disk perhaps."""
CLOCK = 10.0
"""Seconds by which a node's clock may differ from the driver's."""
FOUND_LATE = 3.0
"""Seconds until which a network file system may not show a new file to another host."""
BRIEF = 16
"""Digits of a node's id that tell the nodes of a cluster apart."""
OURS = "sdw-obd"


def versions() -> dict[str, str]:
    """What has to be the same on every node: name -> version, empty for what is not there."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for name in ("ray", "torch", OURS):
        try:  # a CPU and a CUDA build of one version go together
            found[name] = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found | {"code": code()}


def code() -> str:
    """A hash of this package's code; empty where it is not installed."""
    digest = hashlib.sha256()
    for package in ("sdw_core", "search_spaces", "study"):
        spec = util.find_spec(package)
        if spec is None or not spec.origin:
            return ""
        root = Path(spec.origin).parent
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{package}/{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def ahead_of_storage(folder: str) -> float:
    """Seconds that this host's clock is ahead of the file system's.

    Raises:
        OSError: the folder cannot be written.
    """
    probe = Path(folder) / f".probe-{uuid.uuid4().hex}"
    try:
        probe.write_bytes(b"written to see whether this host can")
        return time.time() - probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def troubles(
    folder: str, driver: Mapping[str, Any], wanted: Mapping[str, str], ahead: float
) -> list[str]:
    """Why no trial can run on this node: what is wrong, and the way out; [] if one can.

    Args:
        folder: of the study.
        driver: what `driver.json` there says of the process that asks.
        wanted: `versions` there.
        ahead: `ahead_of_storage` there.
    """
    return [*_of_versions(versions(), wanted), *_of_storage(folder, driver, ahead)]


def _of_versions(found: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    if not found["code"]:
        said = f"{OURS} is not installed for {sys.executable}"
        return [f"{said}: install {OURS} {wanted[OURS]} there".replace("  ", " ")]
    differ = [
        f"{name} {found[name] or 'is missing'}, not {version}: install {name} {version} there"
        for name, version in wanted.items()
        if name != "code" and found[name] != version
    ]
    if differ or found["code"] == wanted["code"]:
        return differ
    where = Path(util.find_spec("study").origin).parents[1]  # type: ignore[union-attr, arg-type]
    return [f"other code of {OURS} {found[OURS]} than the driver's, in {where}: bring it there"]


def _of_storage(folder: str, driver: Mapping[str, Any], ahead: float) -> list[str]:
    if not _sees(folder, driver):
        said = f"does not see what is written to {folder}"
        return [f"{said}: mount it there, or choose a `storage` that all nodes share"]
    try:
        skew = ahead_of_storage(folder) - ahead
    except OSError as error:
        said = f"cannot write to {folder} ({error.strerror}) as user {os.getuid()}"
        return [f"{said}: make it writable there"]
    if abs(skew) > CLOCK:
        way = "ahead of" if skew > 0 else "behind"
        return [f"its clock is {abs(skew):.0f} s {way} the driver's: set it, as with NTP"]
    return []


def _sees(folder: str, driver: Mapping[str, Any]) -> bool:
    """Whether the driver's sign of life is here, and not one in another folder of that name."""
    until = time.monotonic() + FOUND_LATE
    while True:
        try:
            note = json.loads((Path(folder) / "driver.json").read_text(encoding="utf-8"))
            if all(note.get(key) == value for key, value in driver.items()):
                return True
        except (OSError, ValueError):
            pass
        if time.monotonic() > until:
            return False
        time.sleep(0.5)


def refusal(asked: Sequence[str], question: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a worker says of its node if no trial can run there, and None if one can.

    Args:
        asked: the beginnings of the ids of nodes that have passed.
        question: the arguments of `troubles`.
    """
    import ray

    own = ray.get_runtime_context().get_node_id()
    if own[:BRIEF] in asked:
        return None
    answers: list[list[str]] = []
    look = threading.Thread(target=lambda: answers.append(troubles(**question)), daemon=True)
    look.start()
    look.join(ANSWER)  # a network file system that hangs would hold a trial for ever
    found = (
        answers[0] if answers else [f"did not answer within {ANSWER:.0f} s: look at its storage"]
    )
    return {"node": socket.gethostname(), "id": own, "troubles": found} if found else None


def trial(
    config: dict[str, Any],
    work: bytes,
    metrics: Sequence[str],
    asked: Sequence[str],
    question: Mapping[str, Any],
) -> None:
    """What Tune runs on a node: the trial, unless the node is refused, which is reported instead.

    Args:
        config: of the trial.
        work: the pickled function that runs it.
        metrics: of which every report must hold something.
        asked: see `refusal`.
        question: see `refusal`.
    """
    from ray import cloudpickle, tune

    refused = refusal(asked, question)
    if refused:
        nothing = dict.fromkeys(metrics, float("nan"))
        tune.report({**nothing, "document": json.dumps({"refused": refused})})
        return
    cloudpickle.loads(work)(config)
