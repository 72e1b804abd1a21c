"""Exports elsewhere: in a dataset hub, at an address such as `hf://user/name`, or in a bucket.

What lies there is copied to this machine, and read as a folder is. The hub is Hugging Face's, or
the one that HF_ENDPOINT names; its library keeps what was fetched, so that it can be read without a
connection later, and knows the user by `hf auth login` or HF_TOKEN. For buckets see `Bucket`.
"""

import os
import re
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Self

from sdw_core.bucket import BUCKETS, Bucket
from sdw_core.errors import InputError, described, first_line
from sdw_core.files import sha256_of_file
from sdw_core.manifest import MOST_DATA, PARTS
from sdw_core.validation import shown

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PREFIX = "hf://"
_NAME = r"[A-Za-z0-9]+(?:[-_.][A-Za-z0-9]+)*"
ADDRESS = rf"hf://(?:datasets/)?(?P<repository>{_NAME}/{_NAME})(?:@(?P<revision>[^@]+))?"
TIMEOUT = 10
"""Seconds that a hub has for its first answer."""


@contextmanager
def opened(where: str | Path) -> Iterator[Path]:
    """The folder on this machine that holds an export: a path's own, or a copy of an address's.

    Raises:
        InputError: the address is none, or what it names cannot be fetched.
    """
    if not is_address(where):
        yield Path(where)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "export"
        place(str(where)).fetch(folder)
        with calling(folder, str(where)):
            yield folder


@contextmanager
def calling(folder: Path, address: str) -> Iterator[None]:
    """Refusals of a copy, which nobody knows, name what it is a copy of."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(str(folder), address)) from None


def is_address(where: str | Path) -> bool:
    """Whether it names something elsewhere, and no path."""
    return isinstance(where, str) and "://" in where


def place(address: str) -> "HubDataset | Bucket":
    """What an address names.

    Raises:
        InputError: it is none.
    """
    if address.partition("://")[0] in BUCKETS:
        return Bucket.at(address)
    return HubDataset.at(address)


@dataclass(frozen=True)
class HubDataset:
    """A dataset repository of a hub.

    Attributes:
        repository: its user or organisation, and its name: `user/name`.
        revision: a commit, a branch or a tag; None: the newest.

    >>> HubDataset.at("hf://user/name@v1")
    HubDataset(repository='user/name', revision='v1')
    """

    repository: str
    revision: str | None = None

    @classmethod
    def at(cls, address: str) -> Self:
        """The one that an address names.

        Raises:
            InputError: it is no address of one.
        """
        if parts := re.fullmatch(ADDRESS, address, re.ASCII):
            return cls(parts["repository"], parts["revision"])
        raise InputError(
            "A dataset in a hub is named hf://USER/NAME, or hf://USER/NAME@REVISION, by letters, "
            f"digits, and single `-`, `_` or `.` between, not {shown(address)}."
        )

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}" + (f"@{self.revision}" if self.revision else "")

    def fetch(self, folder: Path, cache: Path | None = None) -> None:
        """Copy an export's files from the hub into a folder; any others stay where they are.

        Args:
            folder: is made if it is not there.
            cache: where the library keeps what it fetches; None: its own place.

        Raises:
            InputError: there is no such dataset for this user, or the hub does not answer.
        """
        api = _api()
        with self._asking(api, "read"):
            self._require_small(api)
            found = Path(
                api.snapshot_download(
                    self.repository,
                    repo_type="dataset",
                    revision=self.revision,
                    cache_dir=cache,
                    allow_patterns=[*PARTS],
                )
            )
        folder.mkdir(exist_ok=True)
        for name in PARTS:
            if (found / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                copyfile(found / name, folder / name)  # the library keeps links

    def create(self, folder: Path, names: Collection[str], private: bool) -> Self:
        """Make the repository with these files of the folder in one commit, and compare them.

        What came of an attempt that fails is removed.

        Returns:
            The same at its commit.

        Raises:
            InputError: the name is taken, the hub refuses the user or the files, or does not
                answer, or holds other bytes afterwards.
        """
        from huggingface_hub import CommitOperationAdd
        from huggingface_hub.errors import RepositoryNotFoundError

        api = _api()
        with self._asking(api, "write"):
            with suppress(RepositoryNotFoundError):
                api.dataset_info(self.repository, timeout=TIMEOUT)
                raise InputError(self._taken(api))
            api.create_repo(self.repository, repo_type="dataset", private=private or None)
            try:
                commit = api.create_commit(
                    self.repository,
                    repo_type="dataset",
                    operations=[CommitOperationAdd(name, folder / name) for name in names],
                    commit_message="Synthetic rows, exported by SDW-OBD",
                )
                made = type(self)(self.repository, commit.oid)
                made._require_same(folder, names)
            except BaseException as error:
                self._remove(api, error)
                raise
        return made

    def page(self) -> str:
        """Where a browser finds it."""
        tree = f"/tree/{self.revision}" if self.revision else ""
        return f"{_api().endpoint}/datasets/{self.repository}{tree}"

    def _require_small(self, api: "HfApi") -> None:
        info = api.dataset_info(
            self.repository, revision=self.revision, files_metadata=True, timeout=TIMEOUT
        )
        for file in info.siblings or ():
            if (file.size or 0) > MOST_DATA:
                raise InputError(
                    f"A file of an export may have {MOST_DATA} bytes at most, and "
                    f"{shown(file.rfilename)} of {self} has {file.size}: nothing was fetched."
                )

    def _require_same(self, folder: Path, names: Collection[str]) -> None:
        """Refuse what comes back from the hub in other bytes than the folder's."""
        with tempfile.TemporaryDirectory() as scratch:
            back = Path(scratch) / "back"
            self.fetch(back, Path(scratch) / "cache")
            for name in names:
                there = back / name
                if not there.is_file() or sha256_of_file(there) != sha256_of_file(folder / name):
                    raise InputError(
                        f"{name} came back from {self} with other bytes than were sent: nothing "
                        "was published; publish the folder again."
                    )

    def _remove(self, api: "HfApi", why: BaseException) -> None:
        try:
            api.delete_repo(self.repository, repo_type="dataset")
        except Exception as error:
            raise InputError(
                f"{self} was not published ({described(why)}), and what was made of it cannot be "
                f"removed ({described(error)}): remove it at {self.page()}."
            ) from None

    def _taken(self, api: "HfApi") -> str:
        return (
            f"Publishing never overwrites, and {PREFIX}{self.repository} exists at {api.endpoint}: "
            "choose another name."
        )

    @contextmanager
    def _asking(self, api: "HfApi", verb: str) -> Iterator[None]:
        """What a hub answers, or that it does not, in one sentence."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            raise InputError(self._refusal(api, verb, error)) from None

    def _refusal(self, api: "HfApi", verb: str, error: Exception) -> str:
        """What an error of the library's says, or the one that it came of."""
        from huggingface_hub.errors import HfHubHTTPError

        if isinstance(error, ValueError) and not isinstance(error, HfHubHTTPError):
            said = " ".join(str(error).split()).replace(". ", ": ").rstrip(".")
            return f"{api.endpoint} refuses to {verb} {self}: {said}."  # of a card, mostly
        found: BaseException | None = error
        while found and not isinstance(found, (HfHubHTTPError, *_unreachable())):
            found = found.__cause__
        if isinstance(found, HfHubHTTPError):
            status = found.response.status_code
            if status in (401, 403, 404):
                return (
                    f"{api.endpoint} does not let you {verb} {self}, or does not have it (it "
                    f"answered {status}): check the name, and log in with `hf auth login`, or set "
                    "HF_TOKEN."
                )
            if status == 409:
                return self._taken(api)
            return (
                f"{api.endpoint} cannot be made to {verb} {self}, and answered {status} "
                f"({first_line(found).rstrip('.')}): try again later."
            )
        if found:
            return (
                f"{api.endpoint} does not answer ({described(found)}): check the connection, and "
                "HF_ENDPOINT and HF_HUB_OFFLINE, if they are set."
            )
        raise error


def _api() -> "HfApi":
    from huggingface_hub import HfApi

    endpoint = os.environ.get("HF_ENDPOINT")
    return HfApi(endpoint=endpoint, library_name="sdw-obd", library_version=version("sdw-obd"))


def _unreachable() -> tuple[type[Exception], ...]:
    """What the hub's library raises where no hub answers."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    of_the_client = HfHubHTTPError.__bases__[0]  # of httpx or httpx2, as the library has it
    return (of_the_client, OfflineModeIsEnabled)
