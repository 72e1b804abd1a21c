"""What a process can still take, within the limits of the groups that hold it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sdw_core.memory import CGROUPS, available_memory

MB = 2**20


def machine(folder: Path) -> tuple[Path, Path]:
    """A control-group tree (version 2) of which the process is in /pod/container."""
    cgroups, membership = folder / "cgroup", folder / "membership"
    (cgroups / "pod" / "container").mkdir(parents=True)
    membership.write_text("0::/pod/container\n")
    return cgroups, membership


def limit(group: Path, most: int | str, used: int, cache: int = 0, version: int = 2) -> None:
    group.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    (group / names[0]).write_text(f"{most}\n")
    (group / names[1]).write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon {used - cache}\n{names[2]} {cache}\n")


def test_without_limits_it_is_the_machines(tmp_path: Path) -> None:
    for cgroups, membership in (
        machine(tmp_path),
        (tmp_path / "none", tmp_path / "no file"),
    ):
        found = available_memory(cgroups, membership)
        assert abs(found - psutil.virtual_memory().available) < 500 * MB


def test_the_narrowest_limit_counts_and_page_cache_is_free(tmp_path: Path) -> None:
    cgroups, membership = machine(tmp_path)
    limit(cgroups / "pod" / "container", "max", 10 * MB)
    limit(cgroups / "pod", 100 * MB, 70 * MB, cache=20 * MB)
    assert available_memory(cgroups, membership) == 50 * MB
    limit(cgroups / "pod" / "container", 60 * MB, 40 * MB)
    assert available_memory(cgroups, membership) == 20 * MB
    limit(cgroups / "pod" / "container", 60 * MB, 61 * MB)
    assert available_memory(cgroups, membership) == 0


def test_a_container_that_sees_only_its_own_group(tmp_path: Path) -> None:
    """The path of its group is the host's, and its mount begins at the group itself."""
    cgroups, membership = machine(tmp_path)
    limit(cgroups, 64 * MB, 14 * MB)
    membership.write_text("0::/../../elsewhere\n")
    assert available_memory(cgroups, membership) == 50 * MB


def test_version_1(tmp_path: Path) -> None:
    cgroups, membership = machine(tmp_path)
    membership.write_text("5:cpu,cpuacct:/a\n4:memory:/pod\n1:name=systemd:/\n0::/\n")
    limit(cgroups / "memory", 2**63 - 4096, 900 * MB, version=1)
    limit(cgroups / "memory" / "pod", 100 * MB, 60 * MB, cache=10 * MB, version=1)
    assert available_memory(cgroups, membership) == 50 * MB


@pytest.fixture
def real_group() -> Iterator[Path]:
    """A control group of 600 MB on this machine."""
    version_1 = (CGROUPS / "memory").is_dir()
    group = CGROUPS / ("memory/sdw-obd-test" if version_1 else "sdw-obd-test")
    try:
        group.mkdir()
        name = "memory.limit_in_bytes" if version_1 else "memory.max"
        (group / name).write_text(str(600 * MB))
    except OSError as error:
        if group.exists():
            group.rmdir()
        pytest.skip(f"makes a control group here: {error}")
    yield group
    group.rmdir()


def test_a_process_in_a_real_group(real_group: Path) -> None:
    code = """if True:
        import os, sys
        open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
        from sdw_core.memory import available_memory
        kept = bytearray(200 * 2**20)
        print(available_memory())
    """
    done = subprocess.run(
        [sys.executable, "-c", code, real_group], check=True, capture_output=True, text=True
    )
    assert 300 * MB < int(done.stdout) < 400 * MB
