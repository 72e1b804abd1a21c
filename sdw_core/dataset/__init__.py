"""The dataset stage: a reference becomes an `OfflineDataset`.

A reference is one of:

- a Minari id (`sdw/hopper-replay-mini-v0`): bundled, else local, else downloaded. Local datasets
  lie under `MINARI_DATASETS_PATH` (default `~/.minari/datasets`);
- the folder of a Minari dataset, the one that holds `data/metadata.json`, or its `data`, in any of
  Minari's formats (HDF5, arrow, parquet);
- a file, HDF5 or .npz, in D4RL's layout: `observations`, `actions`, `rewards`, `terminals` and,
  optionally, `timeouts` and `next_observations`; or in that of d3rlpy 1.x.

Each may be followed by the environment to use, as in `file.hdf5?env=Ant-v4&use_contact_forces=true`
(see `Environment.named`). Without that it is the one that the dataset states: Minari's
`eval_env_spec`, else its `env_spec`; or the HDF5 attribute `env_id` of a file.
"""

from sdw_core.dataset.check import Check, check
from sdw_core.dataset.loading import (
    available,
    datasets_folder,
    load,
    load_dataset,
    load_datasets,
)
from sdw_core.dataset.local import import_dataset, reference_scores_of, remove, set_reference
from sdw_core.offline_dataset import OfflineDataset, describe

__all__ = [
    "Check",
    "OfflineDataset",
    "available",
    "check",
    "datasets_folder",
    "describe",
    "import_dataset",
    "load",
    "load_dataset",
    "load_datasets",
    "reference_scores_of",
    "remove",
    "set_reference",
]
