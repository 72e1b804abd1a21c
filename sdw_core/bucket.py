"""Exports and reports in a bucket of an object storage: `s3://bucket/path`, `gs://bucket/path`.

Arrow speaks to S3, to what speaks as S3 does (MinIO; AWS_ENDPOINT_URL names it), and to Google
Cloud Storage, with the credentials that their own tools use. A bucket has no folders that could be
renamed: an export's manifest is written last, and without it the rest is no export.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from shutil import copyfileobj
from typing import TYPE_CHECKING, Self

from sdw_core.errors import InputError, first_line
from sdw_core.files import sha256_of_file
from sdw_core.manifest import MOST_DATA, NAME, PARTS
from sdw_core.validation import shown

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

BUCKETS = ("s3", "gs")
_NAME = r"[^?#@\s/]+"
ADDRESS = rf"(?P<scheme>s3|gs)://(?P<bucket>[a-z0-9][a-z0-9._-]+)/(?P<key>{_NAME}(/{_NAME})*)/?"
CONNECT, ANSWER = 10, 60
"""Seconds that a server has to be reached, and to answer."""
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Name a server that is none of AWS's."""
LOG_IN = {
    "s3": "log in as for AWS's own tools (`aws configure`, AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY)",
    "gs": "log in with `gcloud auth application-default login`, or name a key's file in "
    "GOOGLE_APPLICATION_CREDENTIALS",
}
TROUBLES = {
    r"no_such_bucket|bucket '.*' not found|bucket.* not exist": "there is no such bucket; make it, "
    "or correct its name",
    "access_denied|invalid_access_key|invalid_client_token|signature|credential|permission_denied"
    "|unauthenticated|forbidden|response code (401|403)": "it does not let you; {log_in}, or ask "
    "its owner",
    "network_connection|unavailable|deadline|timeout|resolve|connect": "it does not answer; look "
    "at the connection, and at AWS_ENDPOINT_URL, if that is set",
}
"""Words of Arrow's errors -> what is wrong, and the way out."""


@dataclass(frozen=True)
class Bucket:
    """A place in a bucket.

    Attributes:
        scheme: `s3` or `gs`.
        bucket: its name.
        key: the place within, as a path.

    >>> Bucket.at("s3://results/hopper/trial-7")
    Bucket(scheme='s3', bucket='results', key='hopper/trial-7')
    """

    scheme: str
    bucket: str
    key: str

    @classmethod
    def at(cls, address: str) -> Self:
        """The one that an address names.

        Raises:
            InputError: it is no address of one.
        """
        if parts := re.fullmatch(ADDRESS, address):
            return cls(parts["scheme"], parts["bucket"], parts["key"])
        raise InputError(
            "A place in a bucket is named s3://BUCKET/PATH or gs://BUCKET/PATH, without a user, a "
            f"password or options, not {shown(address)}; credentials are those of the cloud's own "
            "tools."
        )

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"

    def below(self, name: str) -> Self:
        """The place of that name below this one."""
        return type(self)(self.scheme, self.bucket, f"{self.key}/{name}")

    def fetch(self, folder: Path) -> None:
        """Copy the files of an export that lies here into a folder; any others stay.

        Raises:
            InputError: there is none, or the storage cannot be read.
        """
        with self._asking("read") as system:
            infos = system.get_file_info([f"{self._path}/{name}" for name in PARTS])
            found = {
                name: info.size for name, info in zip(PARTS, infos, strict=True) if info.is_file
            }
            if NAME not in found:
                raise InputError(
                    f"There is no export at {self}, or not the whole of one: its {NAME} is "
                    "missing; name the place of one, as `sdw export --to` printed it."
                )
            for name, size in found.items():
                if size > MOST_DATA:
                    raise InputError(
                        f"A file of an export may have {MOST_DATA} bytes at most, and {name} of "
                        f"{self} has {size}: nothing was fetched."
                    )
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with (
                    system.open_input_stream(f"{self._path}/{name}") as there,
                    (folder / name).open("wb") as here,
                ):
                    copyfileobj(there, here)

    def require_writable(self) -> None:
        """Refuse a place that this user cannot write to: a file is tried, and leaves nothing.

        Raises:
            InputError: there is no such bucket, it does not answer, or lets nobody in.
        """
        probe = f"{self._path}.sdw-probe-{os.getpid()}"
        with self._asking("written") as system:
            with system.open_output_stream(probe) as file:
                file.write(b"")
            system.delete_file(probe)

    def require_new(self) -> None:
        """Refuse a place at which something lies.

        Raises:
            InputError: something does, or the storage cannot be read.
        """
        from pyarrow.fs import FileType

        with self._asking("read") as system:
            if system.get_file_info(self._path).type != FileType.NotFound:
                raise InputError(f"{self} exists, and nothing is written over it; choose another.")

    def create(self, folder: Path) -> Self:
        """Write an export's folder here, the manifest last, and compare what lies here then.

        What came of an attempt that fails is removed.

        Raises:
            InputError: something lies here, the storage cannot be written, or holds other bytes.
        """
        self.require_new()
        with self._asking("written") as system:
            try:
                for name in sorted(PARTS, key=lambda name: name == NAME):
                    if (folder / name).is_file():
                        self._put(system, folder / name, f"{self._path}/{name}")
            except BaseException:
                system.delete_dir_contents(self._path, missing_dir_ok=True)
                raise
        return self

    def put(self, file: Path) -> Self:
        """Write a file here.

        Raises:
            InputError: something lies here, the storage cannot be written, or holds other bytes.
        """
        self.require_new()
        with self._asking("written") as system:
            self._put(system, file, self._path)
        return self

    @property
    def _path(self) -> str:
        return f"{self.bucket}/{self.key}"

    def _put(self, system: "FileSystem", file: Path, to: str) -> None:
        """Write a file, and refuse what comes back in other bytes."""
        with file.open("rb") as here, system.open_output_stream(to) as there:
            copyfileobj(here, there)
        with system.open_input_stream(to) as there:
            if sha256(there.read()).hexdigest() != sha256_of_file(file):
                system.delete_file(to)
                raise InputError(
                    f"{file.name} came back from {self} with other bytes than were sent: try again."
                )

    def _system(self) -> "FileSystem":
        from pyarrow.fs import GcsFileSystem, S3FileSystem, resolve_s3_region

        if self.scheme == "gs":
            return GcsFileSystem(retry_time_limit=timedelta(seconds=ANSWER))
        named = (os.environ.get(name) for name in ENDPOINTS)
        server = next(filter(None, named), "")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        scheme, mark, host = server.rpartition("://")
        return S3FileSystem(
            region=region if region or server else resolve_s3_region(self.bucket),
            endpoint_override=host.rstrip("/") or None,
            scheme=scheme if mark else None,
            connect_timeout=CONNECT,
            request_timeout=ANSWER,
        )

    @contextmanager
    def _asking(self, done: str) -> Iterator["FileSystem"]:
        """The file system that it lies in; what that answers is one sentence."""
        from pyarrow import ArrowException

        try:
            yield self._system()
        except InputError:
            raise
        except (OSError, ArrowException) as error:
            said, refused = str(error), f"{self} cannot be {done}"
            for words, trouble in TROUBLES.items():
                if re.search(words, said, re.IGNORECASE):
                    trouble = trouble.format(log_in=LOG_IN[self.scheme])
                    raise InputError(f"{refused}: {trouble}.") from None
            raise InputError(f"{refused} ({first_line(error).rstrip('.')}).") from None
