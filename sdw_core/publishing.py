"""An export that goes to a dataset hub, and one that comes from there, byte for byte."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

from sdw_core.artifact import refuse_existing, seal, verified
from sdw_core.card import relicensed
from sdw_core.croissant import relicense
from sdw_core.errors import InputError
from sdw_core.files import created_folder
from sdw_core.licenses import require_license
from sdw_core.manifest import NAME, PARTS
from sdw_core.remote import HubDataset, calling, place

CARD = "README.md"


def publish(
    folder: str | Path, address: str, license: str | None = None, private: bool = False
) -> HubDataset:
    """Put an export into a new repository of a dataset hub, whole or not at all.

    Its checksums are verified before, and afterwards against what comes back from the hub. What
    lies in the folder beside the files that the manifest lists is not published.

    Args:
        folder: the export; it is not changed.
        address: such as `hf://user/name`.
        license: by its id, such as `cc-by-4.0`: what is published states it, in its card and its
            manifest; None: the one that the manifest states.
        private: only those whom you name can see it.

    Returns:
        The dataset at the commit that was made.

    Raises:
        InputError: the folder is no whole export, or states no licence and none is given; the
            address is none, or taken; or the hub refuses or does not answer.
    """
    dataset, license = HubDataset.at(address), None if license is None else require_license(license)
    if dataset.revision:
        raise InputError(
            f"Publishing makes a repository, and {address!r} names a revision of one: leave "
            f"`@{dataset.revision}` out."
        )
    with _under(Path(folder), license) as whole:
        _, manifest, _ = verified(whole, trust=True)
        return dataset.create(whole, [NAME, *manifest.files], private)


def pull(address: str, to: str | Path) -> Path:
    """Write what an address names as a new folder, every checksum verified.

    Args:
        address: such as `hf://user/name`, or `hf://user/name@REVISION`; or `s3://bucket/path`.
        to: must not exist.

    Raises:
        InputError: the folder exists, or nothing whole lies at the address, or it is no export.
    """
    found, to = place(address), Path(to)
    refuse_existing(to)
    try:
        with created_folder(to) as scratch:
            found.fetch(scratch)
            with calling(scratch, address):
                _, manifest, _ = verified(scratch, trust=True)
            for name in {*PARTS} - {NAME, *manifest.files}:
                (scratch / name).unlink(missing_ok=True)
    except FileExistsError:
        refuse_existing(to)
        raise
    return to


@contextmanager
def _under(folder: Path, license: str | None) -> Iterator[Path]:
    """The folder, or a copy of it under another licence."""
    document, manifest, _ = verified(folder, trust=True)
    stated = manifest.source.license
    if license is None and stated is None:
        raise InputError(
            f"What is published needs a licence, and {str(folder)!r} states none in its {NAME}, "
            "whatever its card says: choose one by its id, such as cc-by-4.0, with `license`."
        )
    if license is None or license == stated:
        yield folder
        return
    with TemporaryDirectory() as scratch:
        copy = Path(scratch)
        for name in manifest.files:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            copyfile(folder / name, copy / name)
        card = (folder / CARD).read_text(encoding="utf-8")
        (copy / CARD).write_text(relicensed(card, stated, license), encoding="utf-8")
        relicense(copy, license)
        document["source"]["license"] = license
        seal(document, copy)
        yield copy
