"""A real SLURM of two nodes on one machine, of 2 CPUs each by its configuration.

Both nodes are the machine itself, each with a `slurmd` of its own. So two nodes of a job share
their ports, and their /tmp: as two jobs do on a node that a cluster's users share.
"""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

import psutil

from tests.integration.processes import World

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "sinfo", "scancel", "srun")
NODES = ("n1", "n2")
CONFIGURATION = """
ClusterName=sdw
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=5,sched_min_interval=0
KillWait=30
MpiDefault=none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=8000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=8000
PartitionName=debug Nodes=n1,n2 Default=YES State=UP MaxTime=1-00:00:00
"""


def missing() -> str | None:
    """What this machine lacks to run a SLURM; None where nothing lacks."""
    if os.geteuid():
        return "a SLURM of one's own needs root"
    lacking = [program for program in PROGRAMS if not shutil.which(program)]
    return f"a SLURM of one's own needs {', '.join(lacking)}" if lacking else None


class Slurm:
    """The two nodes and their controller.

    Attributes:
        world: whose processes find this SLURM.

    Args:
        world: in whose folder SLURM keeps what it writes.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._folder = world.path / "slurm"
        self._folder.mkdir()
        (self._folder / "state").mkdir()
        self._log = (self._folder / "started.log").open("w")
        self._configuration = self._folder / "slurm.conf"
        world.env["SLURM_CONF"] = str(self._configuration)
        given = {"host": socket.gethostname(), "folder": self._folder, "ports": free_ports(3)}
        self._configuration.write_text(CONFIGURATION.format(**given))

    def start(self) -> None:
        """Start the daemons; both nodes are idle then."""
        folder = self._folder / "munge"
        folder.mkdir()
        key = folder / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = [f"--{name}-file={folder / name}" for name in ("key", "log", "pid", "seed")]
        where = f"--socket={folder / 'socket'}"
        self._daemon("munged", "--foreground", "--force", where, *files)  # of a private folder
        wait_for(lambda: (folder / "socket").exists())
        self._daemon("slurmctld", "-D")
        for node in NODES:
            self._daemon("slurmd", "-D", "-N", node)
        wait_for(lambda: self.ask("sinfo", "--noheader", "--format=%T%D").split() == ["idle2"])

    def _daemon(self, *command: str) -> None:
        streams = {"stdout": self._log, "stderr": self._log, "stdin": subprocess.DEVNULL}
        subprocess.Popen(command, env=self.world.env, start_new_session=True, **streams)

    def end(self) -> None:
        """Kill the daemons and what jobs left; a job's own daemon has no environment to tell by."""
        self.world.kill()
        for process in psutil.process_iter(["name"]):
            with suppress(psutil.Error):
                if process.info["name"] == "slurmstepd" and any(
                    Path(file.path).is_relative_to(self._folder) for file in process.open_files()
                ):
                    process.kill()

    def ask(self, *command: str) -> str:
        """What one of SLURM's commands prints; nothing if it fails."""
        done = subprocess.run(command, env=self.world.env, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    def state(self, job: int) -> str:
        """Of a job, as `squeue` calls it: PENDING, RUNNING, COMPLETED, ..."""
        return self.ask("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}")


@contextmanager
def slurm_of(world: World) -> Iterator[Slurm]:
    """A SLURM for a block; neither it nor a job of it outlives that."""
    slurm = Slurm(world)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.end()


def wait_for(
    condition: Callable[[], object], said: Callable[[], str] = str, seconds: float = 300
) -> None:
    """Wait for a condition, for minutes on a busy machine.

    Args:
        condition: what is waited for.
        said: why it did not come, as far as one knows.
        seconds: how long.
    """
    begun = monotonic()
    while not condition():
        assert monotonic() - begun < seconds, said()
        sleep(0.2)


def free_ports(count: int) -> list[int]:
    """Ports on which nobody listens."""
    held = [socket.socket() for _ in range(count)]
    for each in held:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports
