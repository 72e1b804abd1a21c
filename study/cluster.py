"""Does a study fit a cluster: kinds of nodes, as far as a file or a cluster says what they have."""

from dataclasses import dataclass, field

from sdw_core.errors import InputError
from sdw_core.labels import counted
from search_spaces.spec import Resources
from study.preflight import GB, room_for

PLENTY = 1e6
"""Cores or GPUs of a node of which a file does not say how many it has."""


@dataclass(frozen=True)
class NodeType:
    """A kind of node; None stands for what the file does not say.

    Attributes:
        name: in the file.
        most: nodes of it, at most.
        cpu: cores of a node.
        gpu: GPUs of a node.
        memory: bytes of a node.
    """

    name: str
    most: int
    cpu: float | None = None
    gpu: float | None = None
    memory: float | None = None

    def room(self, resources: Resources, memory: int) -> int | None:
        """Trials that a node holds at a time; None if the file does not say enough.

        Args:
            resources: of a trial.
            memory: bytes of a trial.
        """
        cpu, gpu = self.cpu, self.gpu if resources.gpu else 0.0
        given = [PLENTY if each is None else each for each in (cpu, gpu)]
        known: float = room_for(resources, *given)
        if self.memory is not None:
            known = min(known, self.memory // memory)
        return None if known and (cpu is None or gpu is None) else int(known)

    def __str__(self) -> str:
        """What a node has: `worker (8 CPU, 1 GPU, 32 GB)`."""
        counts = ((self.cpu, "CPU"), (self.gpu, "GPU"))
        has = [f"{value:g} {unit}" for value, unit in counts if value is not None]
        has += [f"{self.memory / GB:.3g} GB"] if self.memory else []
        return f"{self.name} ({', '.join(has) or 'not said'})"


@dataclass(frozen=True)
class ClusterFile:
    """What a file says of a cluster.

    Attributes:
        what: begins a sentence about the file.
        reads_it: who takes such a file.
        head: the node that the driver runs on.
        workers: kinds of the other nodes.
        most: nodes beside the head, at most; None: as many as their kinds say.
        warnings: sentences.
    """

    what: str
    reads_it: str
    head: NodeType
    workers: list[NodeType]
    most: int | None = None
    warnings: list[str] = field(default_factory=list)

    def require_fit(self, resources: Resources, memory: int) -> int | None:
        """Refuse a cluster of which no node can hold a trial.

        Args:
            resources: of a trial.
            memory: bytes of a trial.

        Returns:
            Trials at a time that the cluster holds at its largest; None if the file does not say.

        Raises:
            InputError: no kind of node can hold a trial, or there can be none of those that can.
        """
        kinds = [self.head, *self.workers]
        rooms = [kind.room(resources, memory) for kind in kinds]
        known = [(room, kind) for room, kind in zip(rooms, kinds, strict=True) if room is not None]
        if len(known) == len(kinds) and not any(room and kind.most for room, kind in known):
            need = f"{resources.cpu} CPU, {resources.gpu:g} GPU and {memory / GB:.2g} GB of memory"
            fits = [kind.name for room, kind in known if room]
            if fits:
                raise InputError(
                    f"{self.what} lets there be no node of {', '.join(fits)}, and none of the "
                    f"other kinds can hold a trial, which needs {need}; raise the most that there "
                    "can be."
                )
            raise InputError(
                f"{self.what} has no kind of node that can hold a trial, which needs {need}: "
                f"{', '.join(map(str, kinds))}; choose larger nodes, or lower "
                "`study.resources`."
            )
        if len(known) < len(kinds):
            return None
        (total, _), *others = known
        left = sum(kind.most for kind in self.workers) if self.most is None else self.most
        for room, kind in sorted(others, key=lambda each: -each[0]):
            count = min(kind.most, left)
            total, left = total + room * count, left - count
        return total

    def warned(self, concurrency: int | str, holds: int | None) -> list[str]:
        """What to look at before a study is launched on it.

        Args:
            concurrency: of the study.
            holds: of `require_fit`.
        """
        said = list(self.warnings)
        if holds is not None and isinstance(concurrency, int) and concurrency > holds:
            said.append(
                f"{self.what} holds {counted(holds, 'trial')} at a time at its largest, and "
                f"`study.concurrency` is {concurrency}"
            )
        return said
