"""What a process may use, within the limits of the groups that hold it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sdw_core.resources import CGROUPS, available_memory, usable_cpus
from tests.sdw_core.processes import run

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


# Memory


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
        from sdw_core.resources import available_memory
        kept = bytearray(200 * 2**20)
        print(available_memory())
    """
    done = subprocess.run(
        [sys.executable, "-c", code, real_group], check=True, capture_output=True, text=True
    )
    assert 300 * MB < int(done.stdout) < 400 * MB


# Cores


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 64, all of which the process may be scheduled on."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))


def quota(group: Path, cores: float | None, version: int = 2) -> None:
    group.mkdir(parents=True, exist_ok=True)
    if version == 2:
        most = "max" if cores is None else int(100_000 * cores)
        (group / "cpu.max").write_text(f"{most} 100000\n")
    else:
        most = -1 if cores is None else int(50_000 * cores)
        (group / "cpu.cfs_quota_us").write_text(f"{most}\n")
        (group / "cpu.cfs_period_us").write_text("50000\n")


@pytest.mark.usefixtures("cores")
def test_without_a_quota_all_cores_count_that_the_process_may_be_scheduled_on(
    tmp_path: Path,
) -> None:
    cgroups, membership = machine(tmp_path)
    quota(cgroups / "pod", None)
    assert usable_cpus(cgroups, membership) == 64
    assert usable_cpus(tmp_path / "none", tmp_path / "no file") == 64


@pytest.mark.usefixtures("cores")
@pytest.mark.parametrize(
    ("own", "above", "found"),
    [(None, 2, 2), (8, 2, 2), (2, 8, 2), (2.5, None, 2), (0.5, None, 1), (100, None, 64)],
)
@pytest.mark.parametrize("version", [1, 2])
def test_the_narrowest_quota_counts(
    tmp_path: Path, own: float | None, above: float | None, found: int, version: int
) -> None:
    cgroups, membership = machine(tmp_path)
    membership.write_text(
        "0::/pod/container\n" if version == 2 else "7:cpu,cpuacct:/pod/container\n0::/\n"
    )
    mount = cgroups if version == 2 else cgroups / "cpu"
    quota(mount / "pod" / "container", own, version)
    quota(mount / "pod", above, version)
    assert usable_cpus(cgroups, membership) == found


def test_an_affinity_counts() -> None:
    """A batch system's cpuset, or `taskset`."""
    code = """if True:
        import os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        from sdw_core.resources import usable_cpus
        print(usable_cpus())
    """
    assert run(code) == "1\n"
