"""Local datasets: made of one's own data, under a Minari id."""

from pathlib import Path

import minari.namespace

from sdw_core.dataset.loading import BUNDLED, DATASET_ID, datasets_folder, load, split_reference
from sdw_core.dataset.minari_files import write_minari
from sdw_core.errors import InputError, SDWError, described
from sdw_core.files import created_folder
from sdw_core.offline_dataset import Scores


def import_dataset(
    source: str,
    name: str,
    environment: str | None = None,
    reference_scores: Scores | None = None,
    clip_actions: bool = False,
) -> str:
    """Store a dataset as the local Minari dataset `name`, whole or not at all.

    What is loaded from it equals what is loaded from the source.

    Returns:
        The reference to use it by: the name, with `?env=module:ID` behind it where a module must be
        imported to register its environment. A dataset does not decide what is imported.

    Args:
        source: any reference that `load` takes.
        name: a Minari id that is free.
        environment: as for `?env=`; None: what the source states.
        reference_scores, clip_actions: as for `load`.

    Raises:
        InputError: the source is not a valid dataset (as in `load`), the name is malformed or
            taken.
        SDWError: the dataset could not be written.
    """
    if not DATASET_ID.fullmatch(name):
        raise InputError(
            f"a dataset's name must be words joined by `/` that end in a version, not {name!r}: "
            "choose one such as `my/hopper-v0`."
        )
    folder = datasets_folder() / name
    if folder.exists() or (BUNDLED / name).exists():
        raise InputError(
            f"a dataset is never overwritten, and `{name}` exists already: choose another name or "
            "version."
        )
    where, named = split_reference(source)
    if named and environment and named != environment:
        raise InputError(
            f"the environment is named twice, {named!r} and {environment!r}: name it once."
        )
    environment = environment or named
    reference = f"{where}?env={environment}" if environment else where
    dataset = load(reference, reference_scores, clip_actions)
    try:
        with created_folder(folder) as scratch:
            write_minari(
                dataset, name, scratch / "data", description=f"Imported from {Path(where).name}."
            )
        namespace = name.rpartition("/")[0]
        if namespace and namespace not in minari.namespace.list_local_namespaces():
            minari.namespace.create_namespace(namespace)
    except OSError as error:
        raise SDWError(f"`{name}` could not be written to {folder} ({described(error)}).") from None
    own = dataset.environment.id.partition(":")[1]
    return f"{name}?env={dataset.environment}" if own else name
