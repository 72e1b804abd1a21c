"""How much memory a process can still take."""

from collections.abc import Iterator
from pathlib import Path

import psutil

CGROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def available_memory(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Bytes: of the machine, or of a control group that holds the process, if that has fewer left.

    A container's limit is one of a control group, and what exceeds it is killed without a word.

    Args:
        cgroups: where control groups are mounted.
        membership: the file that names those of the process.
    """
    return min([psutil.virtual_memory().available, *_headrooms(cgroups, membership)])


def _headrooms(cgroups: Path, membership: Path) -> Iterator[int]:
    """What the memory limits of the process's groups, and of those above them, leave."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            mount, names = cgroups, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount = cgroups / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = mount / group.lstrip("/")
        for each in (folder, *folder.parents):
            if each.is_relative_to(mount):
                yield from _headroom(each, *names)


def _headroom(group: Path, limit: str, usage: str, reclaimable: str) -> Iterator[int]:
    """What one group leaves, its page cache counted as free; nothing if it has no limit."""
    try:
        most = (group / limit).read_text().strip()
        used = int((group / usage).read_text())
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:
        return
    if most != "max":
        yield max(int(most) - used + int(counts.get(reclaimable, 0)), 0)
