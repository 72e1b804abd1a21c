"""What a process may use: processor cores and memory, within the control groups that hold it."""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch

CGROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def usable_cpus(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Cores that the process may be scheduled on, or a control group's quota if that is less.

    At least 1; part of a core counts as none.

    Args:
        cgroups: where control groups are mounted.
        membership: the file that names those of the process.
    """
    quotas = [
        quota
        for version, group in _groups("cpu", cgroups, membership)
        if (quota := _quota(group, version)) is not None
    ]
    return max(1, int(min([len(os.sched_getaffinity(0)), *quotas])))


def available_memory(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Free bytes: the machine's, or those of a control group that holds the process, if fewer.

    A container's limit is a control group's; a process that exceeds it is killed without a message.

    Args:
        cgroups: where control groups are mounted.
        membership: the file that names those of the process.
    """
    headrooms = [
        headroom
        for version, group in _groups("memory", cgroups, membership)
        if (headroom := _headroom(group, version)) is not None
    ]
    return min([psutil.virtual_memory().available, *headrooms])


def free_memory(device: "torch.device") -> int:
    """Free bytes of a device: on a GPU, those too that torch holds and does not use."""
    if device.type != "cuda":
        return available_memory()
    import torch  # here, for most that looks at resources needs none

    reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + reusable


def give_memory_back() -> None:
    """Give what was freed back to the system, where the C library would keep it: glibc does."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _groups(controller: str, cgroups: Path, membership: Path) -> Iterator[tuple[int, Path]]:
    """Version and folder of the process's groups, and of those above them."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            version, mount = 2, cgroups
        elif controller in controllers.split(","):
            version, mount = 1, cgroups / controller
        else:
            continue
        folder = mount / group.lstrip("/")
        for each in (folder, *folder.parents):
            if each.is_relative_to(mount):
                yield version, each


def _quota(group: Path, version: int) -> float | None:
    """Cores that one group may use on average; None if it has no limit."""
    try:
        if version == 2:
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text()
    except OSError:
        return None
    return None if quota in ("max", "-1") else int(quota) / int(period)


def _headroom(group: Path, version: int) -> int | None:
    """Bytes that one group leaves, its page cache counted as free; None if it has no limit."""
    limit, usage, reclaimable = (
        ("memory.max", "memory.current", "inactive_file")
        if version == 2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    )
    try:
        most = (group / limit).read_text().strip()
        used = int((group / usage).read_text())
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    return None if most == "max" else max(int(most) - used + int(counts.get(reclaimable, 0)), 0)
