"""Commands run in the tests' own process, in a folder of their own, on data of their own."""

import sys
from pathlib import Path

import h5py
import numpy as np

from study.cli import main


def sdw(capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the command."""
    capsys.readouterr()
    before, sys.argv = sys.argv, ["sdw", *map(str, arguments)]
    try:
        main()
        status = 0
    except SystemExit as leaving:
        status = int(leaving.code or 0)
    finally:
        sys.argv = before
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def write_d4rl(path: Path, **changes: object) -> Path:
    """Two episodes of Hopper's shape."""
    generator = np.random.default_rng(0)
    arrays: dict[str, object] = {
        "observations": generator.normal(size=(40, 11)).astype(np.float32),
        "actions": generator.uniform(-1, 1, size=(40, 3)).astype(np.float32),
        "rewards": np.ones(40, np.float32),
        "terminals": np.arange(40) % 20 == 19,
        "timeouts": np.zeros(40, bool),
    } | changes
    with h5py.File(path, "w") as file:
        file.attrs["env_id"] = "Hopper-v5"
        for name, array in arrays.items():
            file[name] = array
    return path
