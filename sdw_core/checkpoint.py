"""Checkpoints of an optimisation: its tensors, its optimisers' moments, and how far it is."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from sdw_core.files import replaced_atomically

FORMAT = "1"
MOMENT = "optimizer/"
"""What the names of the optimisers' tensors begin with: `optimizer/OWNER/PARAMETER/MOMENT`."""


def write_checkpoint(
    path: Path,
    key: str,
    step: int,
    tensors: Mapping[str, Tensor],
    optimizers: Mapping[str, Optimizer],
) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: the file.
        key: a hash of all that it depends on.
        step: steps that are done.
        tensors: by name.
        optimizers: by name; their moments are kept.
    """
    kept = {name: tensor.detach() for name, tensor in tensors.items()}
    for owner, optimizer in optimizers.items():
        for index, moments in optimizer.state_dict()["state"].items():
            kept |= {f"{MOMENT}{owner}/{index}/{name}": m for name, m in moments.items()}
    with replaced_atomically(path) as scratch:
        save_file(
            {name: tensor.contiguous() for name, tensor in kept.items()},
            scratch,
            {"format": FORMAT, "key": key, "step": str(step)},
        )


def restore_checkpoint(
    path: Path | None, key: str, optimizers: Mapping[str, Optimizer]
) -> tuple[int, dict[str, Tensor]]:
    """The steps that are done and the tensors; the optimisers get their moments back.

    A checkpoint that is missing, damaged or of another key is not used: no step is done then.
    """
    if path is None:
        return 0, {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return 0, {}
    if (metadata.get("format"), metadata.get("key")) != (FORMAT, key):
        return 0, {}
    moments: dict[str, dict[int, dict[str, Tensor]]] = {owner: {} for owner in optimizers}
    for name in [name for name in stored if name.startswith(MOMENT)]:
        owner, index, moment = name.removeprefix(MOMENT).split("/")
        moments[owner].setdefault(int(index), {})[moment] = stored.pop(name)
    for owner, optimizer in optimizers.items():
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments[owner]})
    return int(metadata["step"]), stored
