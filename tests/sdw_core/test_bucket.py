"""Exports in a bucket; see `tests/study/test_bucket.py` for one of S3."""

from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from pyarrow.fs import FSSpecHandler, PyFileSystem

from sdw_core.artifact import Artifact, read_artifact
from sdw_core.bucket import Bucket
from sdw_core.errors import InputError
from sdw_core.files import sha256_of_file
from sdw_core.manifest import NAME
from sdw_core.publishing import pull


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A bucket `b` that lies in a folder of this machine."""
    folders = fsspec.filesystem("file", auto_mkdir=True)  # made as a bucket's are: by their files
    below = DirFileSystem(str(tmp_path / "buckets"), folders)
    system = PyFileSystem(FSSpecHandler(below))
    (tmp_path / "buckets" / "bbb").mkdir(parents=True)
    monkeypatch.setattr(Bucket, "_system", lambda _: system)
    return Bucket.at("s3://bbb/rows")


@pytest.fixture
def exported(ensembles: tuple[Artifact, Path]) -> Path:
    return ensembles[1]


@pytest.mark.parametrize(
    "address",
    [
        *("s3://", "s3://b", "s3://bucket", "s3://bucket/", "s3:/bucket/x", "s3://bucket//x"),
        *("s3://key:secret@bucket/x", "s3://bucket/x?endpoint_override=y", "S3://bucket/x"),
        *("abfs://bucket/x", "s3://bucket/a b"),
    ],
)
def test_what_names_no_place_in_a_bucket_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="is named s3://BUCKET/PATH or gs://BUCKET/PATH"):
        Bucket.at(address)


@pytest.mark.parametrize("address", ["s3://my-results/a/trial-7", "gs://my_results/x.html"])
def test_an_address_is_read_and_written_alike(address: str) -> None:
    assert str(Bucket.at(address)) == str(Bucket.at(f"{address}/")) == address


def test_what_is_written_is_read_back_and_nothing_is_written_over(
    bucket: Bucket, exported: Path, tmp_path: Path
) -> None:
    bucket.require_writable()
    assert [*(tmp_path / "buckets" / "bbb").iterdir()] == []
    assert bucket.create(exported) == bucket
    kept = {path.name: sha256_of_file(path) for path in exported.iterdir()}
    back = pull(str(bucket), tmp_path / "back")
    assert {path.name: sha256_of_file(path) for path in back.iterdir()} == kept
    assert read_artifact(str(bucket)).observations.shape == read_artifact(back).observations.shape
    for again in (lambda: bucket.create(exported), lambda: bucket.put(exported / NAME)):
        with pytest.raises(InputError, match="s3://bbb/rows exists, and nothing is written over"):
            again()


def test_what_was_changed_or_is_not_whole_is_refused(
    bucket: Bucket, exported: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="There is no export at s3://bbb/rows"):
        read_artifact(str(bucket))
    bucket.create(exported)
    there = tmp_path / "buckets" / "bbb" / "rows"
    rows = there / "synthetic.safetensors"
    rows.write_bytes(rows.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match="s3://bbb/rows"):
        read_artifact(str(bucket))
    with pytest.raises(InputError, match="s3://bbb/rows"):
        pull(str(bucket), tmp_path / "back")
    assert not (tmp_path / "back").exists()
    (there / NAME).unlink()
    with pytest.raises(InputError, match=f"its {NAME} is missing"):
        pull(str(bucket), tmp_path / "back")


def test_a_write_that_fails_leaves_nothing(
    bucket: Bucket, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Bucket._put

    def fails_at_the_manifest(self: Bucket, system: object, file: Path, to: str) -> None:
        if file.name == NAME:
            raise OSError("AWS Error NETWORK_CONNECTION during PutObject operation: curlCode: 7")
        whole(self, system, file, to)  # type: ignore[arg-type]

    monkeypatch.setattr(Bucket, "_put", fails_at_the_manifest)
    with pytest.raises(InputError, match="s3://bbb/rows cannot be written: it does not answer;"):
        bucket.create(exported)
    assert [*(tmp_path / "buckets" / "bbb").rglob("*.*")] == []


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("AWS Error NO_SUCH_BUCKET during CreateMultipartUpload", "there is no such bucket"),
        ("Bucket 'bbb' not found", "there is no such bucket"),
        ("AWS Error ACCESS_DENIED during PutObject operation: Access Denied", "`aws configure`"),
        ("AWS Error UNKNOWN (HTTP status 403) ... InvalidAccessKeyId: the signature", "aws config"),
        ("google::cloud::Status(UNAUTHENTICATED: ...)", "does not let you"),
        ("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7", "not answer"),
        ("something else.", r"cannot be written \(something else\)\."),
    ],
)
def test_what_a_storage_says_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, said: str, sentence: str
) -> None:
    def refuses(self: Bucket) -> None:
        raise OSError(said)

    monkeypatch.setattr(Bucket, "_system", refuses)
    with pytest.raises(InputError, match=sentence) as caught:
        Bucket.at("s3://bbb/rows").require_writable()
    assert str(caught.value).startswith("s3://bbb/rows cannot be written")
    assert str(caught.value).count(". ") == 0
