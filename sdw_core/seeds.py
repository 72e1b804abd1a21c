"""Random streams derived by counter from one root seed.

A stream is addressed by `(root, stage, stream, step)`: nothing is drawn in sequence across stages,
problems or steps, so a pack, a retried stage or a resumed run draws exactly what an uninterrupted
single run draws.
"""

from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(root: int, stage: str, stream: int = 0, step: int = 0) -> int:
    """Seed in [0, 2**63) of the stream addressed by `(root, stage, stream, step)`.

    >>> derive_seed(0, "distill", 1, 2) == derive_seed(0, "distill", 1, 2)
    True
    >>> derive_seed(0, "distill", 1, 2) == derive_seed(0, "distill", 2, 1)
    False
    """
    sequence = np.random.SeedSequence(root, spawn_key=(crc32(stage.encode()), stream, step))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def torch_generator(
    root: int, stage: str, stream: int = 0, step: int = 0, device: "torch.device | str" = "cpu"
) -> "torch.Generator":
    """A torch generator at the start of the addressed stream."""
    import torch  # here, for what only looks at results needs no more than numpy

    return torch.Generator(device).manual_seed(derive_seed(root, stage, stream, step))


def numpy_generator(root: int, stage: str, stream: int = 0, step: int = 0) -> np.random.Generator:
    """A numpy generator at the start of the addressed stream."""
    return np.random.default_rng(derive_seed(root, stage, stream, step))
