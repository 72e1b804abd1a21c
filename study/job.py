"""The job of SLURM that is to run a study: what it asks for, where it is in the queue, its end.

The study's folder holds the job's number. Any machine with SLURM's commands can ask `squeue`.
Within a job, `python -m study.job ADDRESS NODES PID` waits for the nodes of its Ray.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from pathlib import Path
from time import monotonic, sleep, time

from sdw_core.errors import InputError
from sdw_core.files import read_whole, write_json

ASKED_ANEW = 10.0
"""Seconds for which an answer of `squeue` counts: a controller serves thousands of users."""
PATIENCE = 30.0
"""Seconds that one of SLURM's commands may take."""
JOINING = 300.0
"""Seconds to wait for nodes that do not join Ray."""
WARNING = 120
"""Seconds before the time is over at which the study is stopped: checkpoints are written in less.
SLURM may be a minute early."""
SHORTEST = 300
"""Seconds that a job may ask for at least: what is left of less, after Ray's start, is nothing."""
OWN = {
    **dict.fromkeys(("-N", "--nodes"), "--nodes"),
    **dict.fromkeys(("-t", "--time"), "--time"),
    **dict.fromkeys(("-p", "--partition"), "--partition"),
    "--gpus-per-node": "--gpus-per-node",
}
"""Options of sbatch that are options of ours too, which are checked."""
SCRIPT, NOTE = "slurm.sh", "slurm.json"
"""Where a study's folder holds the script of its job, and the job's number."""


@dataclass(frozen=True)
class Allocation:
    """What a job asks SLURM for.

    Attributes:
        nodes: how many; None: one, or as many as the script says that is there.
        time: the limit, as SLURM writes it; None: the partition's default.
        partition: where; None: the default one.
        gpus_per_node: `2` or `a100:2`; None: none.
        options: of sbatch, handed on as they are.
    """

    nodes: int | None = None
    time: str | None = None
    partition: str | None = None
    gpus_per_node: str | None = None
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what SLURM does not read.

        Raises:
            InputError: one of these is none.
        """
        if self.nodes is not None and self.nodes < 1:
            raise InputError(f"`nodes` must be 1 or more, not {self.nodes}; name how many.")
        if self.time is not None and seconds(self.time) < SHORTEST:
            raise InputError(
                f"`time` must be {SHORTEST // 60} minutes or more, for a study is stopped "
                f"{WARNING} s before its end, and {self.time!r} is less; ask for more."
            )
        if self.gpus_per_node is not None and not self.gpus:
            raise InputError(
                "`gpus_per_node` must be a number from 1 on, or a type and a number such as "
                f"`a100:2`, not {self.gpus_per_node!r}; give one, or leave it out."
            )
        if self.options and not self.options[0].startswith("-"):
            raise InputError(
                f"What follows the spec are options of sbatch, which begin with `-`, and "
                f"{self.options[0]!r} does not; write them as in `-- --account=mine`."
            )
        for option in self.options:
            name = option.partition("=")[0]
            if name in OWN:
                raise InputError(
                    f"{name!r} is an option of `sdw slurm` too, which checks it; give "
                    f"`{OWN[name]}` before the `--`."
                )

    @property
    def gpus(self) -> int:
        """GPUs of a node; 0: none are asked for."""
        read = re.fullmatch(r"(?:[\w.-]+:)?(\d+)", self.gpus_per_node or "0")
        return int(read[1]) if read else 0

    @property
    def arguments(self) -> list[str]:
        """As sbatch's command line has them."""
        given = {
            "--nodes": self.nodes,
            "--time": self.time,
            "--partition": self.partition,
            "--gpus-per-node": self.gpus_per_node,
        }
        named = [f"{key}={value}" for key, value in given.items() if value is not None]
        return [*named, *self.options]


def seconds(time: str) -> float:
    """A time limit as SLURM writes it.

    >>> seconds("90"), seconds("1:30:00"), seconds("2-12"), seconds("1-00:30")
    (5400, 5400, 216000, 88200)

    Raises:
        InputError: it is none.
    """
    if time.lower() in ("infinite", "unlimited"):
        return inf
    days, dash, clock = time.rpartition("-")
    units = {True: {1: (3600,), 2: (3600, 60)}, False: {1: (60,), 2: (60, 1)}}[bool(dash)]
    parts = clock.split(":")
    if not all(part.isdecimal() for part in [*parts, *[days] * bool(dash)]) or len(parts) > 3:
        raise InputError(
            "`time` must be minutes, H:MM:SS, D-HH or D-HH:MM:SS, as SLURM reads a time, not "
            f"{time!r}; give one such as 4:00:00."
        )
    sizes = units.get(len(parts), (3600, 60, 1))
    rest = sum(int(part) * size for part, size in zip(parts, sizes, strict=True))
    return 86400 * int(days or 0) + rest


@dataclass(frozen=True)
class Job:
    """A job in the queue of SLURM, or one that runs.

    Attributes:
        id: its number.
        state: as `squeue` says it, such as PENDING or RUNNING.
        reason: why it waits, as `squeue` says it.
        start: when SLURM expects to start it, or did; None: it does not say.
    """

    id: int
    state: str
    reason: str | None = None
    start: str | None = None

    def __str__(self) -> str:
        """`job 12 waits (Resources), expected to start at 2026-11-26T15:00:00`."""
        if self.state != "PENDING":
            return f"job {self.id} is {self.state}, and begins or ends"
        expected = f", expected to start at {self.start}" if self.start else ""
        return f"job {self.id} waits ({self.reason}){expected}"

    def cancel(self) -> None:
        """Take it out of the queue, or end it."""
        ask("scancel", str(self.id))
        _looked_up.cache_clear()


def job_of(folder: Path) -> Job | None:
    """The job in the queue that is to run a study; None if there is none, or this process is of it.

    Args:
        folder: the study's.
    """
    number = _number(folder)
    if number is None or str(number) == os.environ.get("SLURM_JOB_ID"):
        return None
    return _looked_up(int(number), int(time() // ASKED_ANEW))


def log_of(folder: Path) -> Path | None:
    """What a study's last job said, once it said something.

    Args:
        folder: the study's.
    """
    log = folder / f"slurm-{_number(folder)}.log"
    return log if log.exists() else None


def _number(folder: Path) -> int | None:
    return (read_whole(folder / NOTE) or {}).get("job")


def write_job(folder: Path, number: int) -> None:
    """Keep the number of a study's job."""
    write_json(folder / NOTE, {"job": number})


@lru_cache(maxsize=256)
def _looked_up(number: int, moment: int) -> Job | None:
    """What `squeue` says; a job that has left the queue is unknown to it, or has its final state.

    Args:
        number: the job's.
        moment: an answer counts for one of these.
    """
    answer = ask("squeue", "--noheader", "--format=%T|%r|%S", f"--jobs={number}")
    if answer.returncode or not answer.stdout.strip():
        return None
    state, reason, start = answer.stdout.splitlines()[0].strip().split("|")
    return Job(number, state, reason, None if start == "N/A" else start)


def ask(*command: str) -> "subprocess.CompletedProcess[str]":
    """Run one of SLURM's commands; where it is not installed, or hangs, it has failed."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, "", f"{command[0]} is not installed")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no answer within {PATIENCE:.0f} s")


def wait_for_nodes(address: str, nodes: int, starter: int) -> None:
    """Wait until a job's nodes have joined its Ray; after a while those must do that have.

    Args:
        address: of the Ray, HOST:PORT.
        nodes: how many the job has.
        starter: the process that starts Ray on them, and lives as long as Ray does.
    """
    import ray

    from study.address import REACH, knock

    host, _, port = address.rpartition(":")
    begun, there = monotonic(), 0
    while there < nodes and monotonic() - begun < JOINING and Path(f"/proc/{starter}").exists():
        try:
            knock(host, int(port), REACH)
            if not ray.is_initialized():
                ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            there = sum(node["Alive"] for node in ray.nodes())
        except Exception:  # whatever Ray raises before its first node is there
            there = 0
        if there < nodes:
            sleep(1)
    late = f"{nodes - there} of {nodes} nodes did not join Ray within {monotonic() - begun:.0f} s"
    if not there:
        sys.exit(f"sdw: {late}; see what Ray says, in the file beside this log.")
    if there < nodes:
        sys.stdout.write(f"sdw: {late}; going on with those that did\n")


if __name__ == "__main__":
    wait_for_nodes(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
