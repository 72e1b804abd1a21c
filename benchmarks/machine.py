"""The machine that a figure was measured on, and how fast it multiplies."""

import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from sdw_core.resources import usable_cpus


def describe(device: torch.device) -> dict[str, str | int]:
    """Processor and its vector instructions, cores, threads, versions."""
    about: dict[str, str | int] = {
        "processor": _processor(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "cores": usable_cpus(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device.type == "cuda":
        about["device"] = torch.cuda.get_device_name(device)
    return about


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock time of one call, the device's queue emptied."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def side_by_side(
    works: dict[str, Callable[[], object]], device: torch.device, rounds: int, budget: float
) -> dict[str, dict[str, float]]:
    """Fastest and median seconds of each, run in turn so that they meet the same disturbances.

    Each is run once before. Rounds end early, after two, once `budget` seconds are spent.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    start = time.perf_counter()
    for work in works.values():
        work()
    for done in range(rounds):
        if done >= 2 and time.perf_counter() - start > budget:
            break
        for name, work in works.items():
            times[name].append(seconds(work, device))
    return {
        name: {"fastest": min(spent), "median": statistics.median(spent)}
        for name, spent in times.items()
    }


def peak_bytes() -> int:
    """The most memory that this process has had resident.

    From /proc where there is one: what `getrusage` says includes the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else 1024 * peak


def product(
    rows: int,
    inner: int,
    columns: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Callable[[], object]:
    """About two GFLOP of matrix products of one shape; `product_flops` says exactly."""
    a, b, out = (
        torch.randn(*size, device=device).to(dtype)
        for size in ((rows, inner), (inner, columns), (rows, columns))
    )

    def work() -> None:
        for _ in range(_repeats(rows, inner, columns)):
            torch.mm(a, b, out=out)

    return work


def product_flops(rows: int, inner: int, columns: int) -> int:
    """Floating-point operations of one call of `product`."""
    return 2 * rows * inner * columns * _repeats(rows, inner, columns)


def _repeats(rows: int, inner: int, columns: int) -> int:
    return max(1, 2**30 // (rows * inner * columns))


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
