"""`sdw slurm`: a study as a job of SLURM, with a Ray of its own inside the allocation.

What is submitted is one script, in the study's folder: lines for sbatch and a few settings, which
`script` writes, and then what `slurm.sh` holds, as it is. It starts Ray on the job's nodes, runs
`sdw resume`, and queues again when its time is over before the study is.

It assumes bash, a study folder and a Python environment that all nodes see under the same paths,
and nodes that reach one another.
"""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from math import ceil, inf
from pathlib import Path

from sdw_core.dataset import OfflineDataset
from sdw_core.errors import InputError
from sdw_core.files import write_text
from sdw_core.identity import Inventory
from sdw_core.labels import counted
from sdw_core.registry import module_path
from sdw_core.validation import nearest
from search_spaces import StudySpec
from study.folder import StudyFolder
from study.job import SCRIPT, WARNING, Allocation, ask, seconds, write_job
from study.preflight import GB, Need, estimate, require_launchable, require_runnable, room_for

DRIVER = 2 * GB
"""Bytes of memory on a node beside those of its trials: Ray's processes, and the driver's."""
ELSEWHERE = "slurm"
"""In the place of the address of a Ray: trials run on other machines than this one."""


@dataclass(frozen=True)
class Node:
    """A node of a partition, as `sinfo` tells.

    Attributes:
        cpus: all of its CPUs.
        gpus: all of its GPUs.
        memory: bytes; infinite where SLURM is not told.
        longest: seconds that a job may take on it in this partition.
    """

    cpus: int
    gpus: int
    memory: float
    longest: float

    def holds(self, spec: StudySpec, need: Need, asked: Allocation) -> int:
        """Trials at a time, of those that fit."""
        by_memory = max(0.0, self.memory - DRIVER) / need.memory_per_trial
        gpus = min(self.gpus, asked.gpus)
        return int(min(room_for(spec.study.resources, self.cpus, gpus), by_memory))


def nodes_of(partition: str | None) -> list[Node]:
    """The nodes of a partition; none are known where `sinfo` cannot say.

    Args:
        partition: its name, or several; None: the default one.

    Raises:
        InputError: there is no such partition.
    """
    told = ask("sinfo", "--noheader", "--Node", "--format=%P|%c|%m|%G|%l")
    found: dict[str, list[Node]] = {}
    for line in told.stdout.splitlines() if told.returncode == 0 else []:
        name, cpus, memory, gres, longest = line.split("|")
        gpus = re.findall(r"\bgpu(?::[^:,()]+)?:(\d+)", gres)
        stated = int(memory.rstrip("+"))
        node = Node(
            int(cpus.rstrip("+")),
            sum(map(int, gpus)),
            stated * 2**20 if stated > 1 else inf,
            seconds(longest),
        )
        found.setdefault(name, []).append(node)
    default = [name for name in found if name.endswith("*")]
    names = partition.split(",") if partition else default
    known = {name.rstrip("*"): nodes for name, nodes in found.items()}
    for name in names if known else []:
        if name.rstrip("*") not in known:
            raise InputError(f"There is no partition {name!r}: {nearest(name, known)}")
    return [node for name in names for node in known.get(name.rstrip("*"), [])]


def trials_per_node(spec: StudySpec, need: Need, asked: Allocation) -> int:
    """How many trials at a time each node of a job is to hold.

    Args:
        spec: the study.
        need: what it needs.
        asked: the job.

    Raises:
        InputError: fewer nodes than are asked for could hold a single one, or none for so long.
    """
    resources = spec.study.resources
    other = any(re.match(r"--gres|--gpus|-G", option) for option in asked.options)
    if resources.gpu and not asked.gpus and not other:
        raise InputError(
            f"A trial takes {resources.gpu:g} GPU (`study.resources.gpu`), and the job asks for "
            "none; give `gpus_per_node`."
        )
    if asked.gpus and not resources.gpu:
        raise InputError(
            f"The job asks for {asked.gpus_per_node} GPUs a node, and its trials take none; say "
            "with `study.resources.gpu` what share of a GPU a trial takes, or leave "
            "`gpus_per_node` out."
        )
    size, at_a_time = asked.nodes or 1, spec.study.concurrency
    wanted = min(spec.study.trials, spec.study.trials if at_a_time == "auto" else at_a_time)
    wanted = ceil(wanted / size)
    if asked.gpus:
        wanted = min(wanted, room_for(resources, sys.maxsize, asked.gpus))
    nodes = nodes_of(asked.partition)
    if not nodes or other:
        return max(1, wanted)
    where = f"the partition {asked.partition!r}" if asked.partition else "the default partition"
    longest = max(node.longest for node in nodes)
    if asked.time and seconds(asked.time) > longest:
        raise InputError(
            f"A job in {where} may take {longest / 3600:g} hours at most, and `time` is "
            f"{asked.time}; ask for less: the study goes on in a next job by itself."
        )
    able = sorted((node.holds(spec, need, asked) for node in nodes), reverse=True)
    fit = sum(holds > 0 for holds in able)
    if fit < size:
        gpu = f", {resources.gpu:g} GPU" if resources.gpu else ""
        largest = max(nodes, key=lambda node: (node.gpus, node.cpus, node.memory))
        has = f"{largest.cpus} CPU"
        has += f", {largest.gpus} GPU" if resources.gpu else ""
        has += f", {largest.memory / GB:.3g} GB" if largest.memory < inf else ""
        memory = (need.memory_per_trial + DRIVER) / GB
        raise InputError(
            f"A trial needs {resources.cpu} CPU{gpu} and {memory:.2g} GB with the driver, "
            f"{counted(size, 'node')} of that are asked for, and of the "
            f"{counted(len(nodes), 'node')} of {where} (the largest: {has}) {fit} hold one; lower "
            "`study.resources` or `nodes`, or name another `partition`."
        )
    return min(wanted, able[size - 1])


def script(folder: StudyFolder, spec: StudySpec, need: Need, asked: Allocation) -> str:
    """The job's script.

    Args:
        folder: the study's, which need not be there yet.
        spec: the study.
        need: what it needs.
        asked: the job.

    Raises:
        InputError: nodes cannot hold a trial.
    """
    asked = replace(asked, nodes=asked.nodes or 1)
    trials = trials_per_node(spec, need, asked)
    memory = ceil((trials * need.memory_per_trial + DRIVER) / 2**20)
    told = any(each.startswith("--mem") for each in asked.options)  # one way excludes the others
    ways = [
        f"--job-name={folder.name}",
        f"--output={str(folder.path).replace('%', '%%')}/slurm-%j.log",
        "--ntasks-per-node=1",
        f"--cpus-per-task={trials * spec.study.resources.cpu}",
        *[f"--mem={memory}M"] * (not told and counts_memory()),
        "--open-mode=append",
        "--requeue",
        f"--signal=B:USR1@{WARNING}",
        *replace(asked, options=()).arguments,
    ]
    lines = [f"#SBATCH {shlex.quote(way)}" for way in ways]
    lines += [f"#SBATCH {shlex.join(asked.options)}"] * bool(asked.options)
    exported = {
        "MINARI_DATASETS_PATH": os.environ.get("MINARI_DATASETS_PATH"),
        "PYTHONPATH": module_path(),
    }
    settings = [f"STUDY={folder.called}", f"PYTHON={shlex.quote(sys.executable)}"]
    settings += [f"export {k}={shlex.quote(value)}" for k, value in exported.items() if value]
    return "\n".join(
        [
            "#!/bin/bash",
            f"# The study {folder.name} on SLURM, for {counted(trials, 'trial')} at a time on each "
            f"of {counted(asked.nodes or 1, 'node')}.",
            "# Change what your site needs; this submits it again, as long as trials remain:",
            f"#   sdw slurm {folder.called} --resume",
            *lines,
            "",
            "# Every node sees both under these paths. Modules it needs are loaded here, or in",
            "# the shell that submits: sbatch hands its environment on.",
            *settings,
            files("study").joinpath("slurm.sh").read_text(encoding="utf-8"),
        ]
    )


def counts_memory() -> bool:
    """Whether this SLURM gives out memory, as it does CPUs."""
    told = ask("scontrol", "show", "config")
    return bool(re.search(r"^SelectTypeParameters\s*=.*MEMORY", told.stdout, re.I | re.M))


def require_slurm() -> None:
    """Refuse to submit from a machine without SLURM.

    Raises:
        InputError: there is no sbatch.
    """
    if not shutil.which("sbatch"):
        raise InputError(
            "A job is submitted by `sbatch`, which this machine does not have; go to the login "
            "node of a cluster with SLURM, or see the script with `--print`."
        )


def prepared(
    spec: StudySpec, storage: Path, asked: Allocation, to_submit: bool
) -> tuple[StudyFolder, str, dict[str, OfflineDataset]]:
    """Refuse a new study that could not run as such a job; nothing is written.

    Args:
        spec: the study.
        storage: the folder to make it in, which the nodes see.
        asked: the job.
        to_submit: whether this machine must have SLURM.

    Returns:
        Its folder, which is not made, the job's script, and the datasets that its search can reach.

    Raises:
        InputError: there is no SLURM, the study could not run, or nodes cannot hold a trial.
    """
    if to_submit:
        require_slurm()
    datasets, need = require_launchable(spec, storage, ELSEWHERE)
    folder = StudyFolder.require_free(spec, storage)
    return folder, script(folder, spec, need, asked), datasets


def launch(spec: StudySpec, storage: Path, text: str, datasets: dict[str, OfflineDataset]) -> int:
    """Make a study, and submit the job that runs it; if SLURM refuses, nothing is left.

    Args:
        spec: the study.
        storage: the folder to make it in.
        text: the job's script.
        datasets: that its search can reach.

    Returns:
        The job's number.

    Raises:
        InputError: SLURM refuses, or the study exists meanwhile.
    """
    inventory = Inventory.of(spec.reaching(), datasets)
    with StudyFolder.launched(spec, storage, inventory) as folder:
        write_text(folder.path / SCRIPT, text)
        return submit(folder)


def resume(folder: StudyFolder, asked: Allocation) -> int:
    """Submit a study that was interrupted, by the script in its folder where there is one.

    Args:
        folder: the study's.
        asked: the job; what it says counts more than the script.

    Returns:
        The job's number.

    Raises:
        Driven: a process or another job runs the study.
        InputError: there is no SLURM, nothing is left to run, the study could not go on, or SLURM
            refuses.
    """
    require_slurm()
    with folder.driving():  # by nobody else
        pass
    if not folder.book(to_write=True).remaining():
        raise InputError(
            f"The study {folder.name!r} is finished; ask for more trials with `sdw extend "
            f"{folder.called} --trials N`."
        )
    datasets = require_runnable(folder, ELSEWHERE)
    path, options = folder.path / SCRIPT, asked.arguments
    if not path.exists():
        spec = folder.spec()
        write_text(path, script(folder, spec, estimate(spec, datasets), asked))
        options = []
    return submit(folder, options)


def submit(folder: StudyFolder, options: Sequence[str] = ()) -> int:
    """Submit the script in a study's folder.

    Args:
        folder: the study's.
        options: of sbatch, which count more than the script's lines.

    Returns:
        The job's number.

    Raises:
        InputError: SLURM refuses; what it says is quoted.
    """
    done = ask("sbatch", "--parsable", *options, str(folder.path / SCRIPT))
    if done.returncode:
        said = (done.stderr.strip() or "no reason").splitlines()[-1]
        reason = said.removeprefix("sbatch: error: ").removesuffix(".")
        raise InputError(
            f"SLURM refuses the job ({reason}); change what is asked for, or see what there is "
            "with `sinfo`."
        )
    number = int(done.stdout.strip().partition(";")[0])  # of a federation the cluster follows
    write_job(folder.path, number)
    return number
