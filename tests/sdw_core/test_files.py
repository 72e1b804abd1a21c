"""Whole or absent, also when a process is killed at the worst moment."""

import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from sdw_core.files import (
    created_folder,
    made_folder,
    read_json,
    read_whole,
    replaced_atomically,
    sha256_of_file,
    sha256_of_json,
    write_json,
    write_text,
)
from tests.sdw_core.processes import kill, start

json_documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)  # fmt: skip


def test_a_clean_exit_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    for content in ("first", "second"):
        with replaced_atomically(path) as scratch:
            scratch.write_text(content)
            assert scratch.parent == path.parent  # on one file system, so that a rename is atomic
        assert path.read_text() == content
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_no_scratch(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with replaced_atomically(path) as scratch:
            scratch.write_text("half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_killed_before_the_rename_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    writer = start(
        """if True:
        import sys, time
        from pathlib import Path
        from sdw_core.files import replaced_atomically
        with replaced_atomically(Path(sys.argv[1])) as scratch:
            scratch.write_text("half of the n")
            print("writing", flush=True)
            time.sleep(60)
        """,
        path,
    )
    assert writer.stdout
    assert writer.stdout.readline() == "writing\n"
    kill(writer)
    assert path.read_text() == "old"


def test_a_document_is_whole_whenever_it_is_read_and_its_writer_killed(tmp_path: Path) -> None:
    path = tmp_path / "document.json"
    for reads in (0, 1, 7, 150):
        path.unlink(missing_ok=True)
        writer = start(
            """if True:
            import itertools, sys
            from pathlib import Path
            from sdw_core.files import write_text
            for turn in itertools.count():
                write_text(Path(sys.argv[1]), f"{turn} " * 100_000)
            """,
            path,
        )
        while not path.exists():
            assert writer.poll() is None
            time.sleep(0.001)
        for _ in range(reads):
            words = path.read_text().split()
            assert words == words[:1] * 100_000
        kill(writer)
        words = path.read_text().split()
        assert words == words[:1] * 100_000


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "parent" / "folder"
    with created_folder(path) as scratch:
        (scratch / "a").write_text("1")
        (scratch / "b").mkdir()
        assert not path.exists()
    assert sorted(file.name for file in path.iterdir()) == ["a", "b"]
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious").touch()
    with pytest.raises(FileExistsError), created_folder(tmp_path / "folder"):
        pass
    assert [file.name for file in tmp_path.rglob("*")] == ["folder", "precious"]


def test_a_link_to_nothing_is_no_free_name(tmp_path: Path) -> None:
    (tmp_path / "folder").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError), created_folder(tmp_path / "folder"):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("content", ["", "file"])
def test_a_folder_that_another_made_meanwhile_stays_as_it_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / "folder"

    def both() -> None:
        with created_folder(path) as scratch:
            (scratch / "mine").touch()
            path.mkdir()
            (path / content).touch()

    with pytest.raises(FileExistsError, match=str(path)):
        both()
    assert list(tmp_path.iterdir()) == [path]
    assert [file.name for file in path.iterdir()] == [content] * bool(content)


def test_an_error_leaves_no_folder(tmp_path: Path) -> None:
    def fail() -> None:
        with created_folder(tmp_path / "folder") as scratch:
            (scratch / "a").write_text("1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_no_folder_of_that_name(tmp_path: Path) -> None:
    writer = start(
        """if True:
        import sys, time
        from pathlib import Path
        from sdw_core.files import created_folder
        with created_folder(Path(sys.argv[1])) as scratch:
            (scratch / "a").write_text("1")
            print("writing", flush=True)
            time.sleep(60)
        """,
        tmp_path / "folder",
    )
    assert writer.stdout
    assert writer.stdout.readline() == "writing\n"
    kill(writer)
    assert not (tmp_path / "folder").exists()
    with created_folder(tmp_path / "folder"):
        pass


@given(document=json_documents)
def test_a_document_is_read_as_it_was_written(
    document: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "document.json"
    write_json(path, document)
    assert read_json(path) == document


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_no_json_is_refused_and_nothing_written(number: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "document.json", {"a": [number]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "\0"])
def test_what_is_no_whole_document_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "document.json"
    assert read_whole(path) is None
    path.write_text(text)
    assert read_whole(path) is None
    write_json(path, {"a": 1})
    assert read_whole(path) == {"a": 1}


def test_text_is_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "θ → π*")
    assert (tmp_path / "text").read_bytes() == "θ → π*".encode()


@pytest.fixture(params=[0o022, 0o002, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_the_umask_decides_who_may_read_and_write(tmp_path: Path, umask: int) -> None:
    """Whatever a writer does: safetensors puts a file of mode 0600 into the scratch's place."""
    rows = {"rows": np.zeros((2, 3), np.float32)}
    write_text(tmp_path / "new" / "text", "text")
    with replaced_atomically(tmp_path / "new" / "rows.safetensors") as scratch:
        save_file(rows, scratch)
    with created_folder(tmp_path / "new" / "folder") as folder:
        (folder / "below").mkdir()
        save_file(rows, folder / "below" / "rows.safetensors")
        (folder / "text").write_text("text")
    found = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "new").rglob("*")}
    folders = {"folder", "below"}
    assert set(found) == folders | {"text", "rows.safetensors"}
    assert found == {n: (0o777 if n in folders else 0o666) & ~umask for n in found}
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o777 & ~umask


def test_a_groups_folder_stays_the_groups(tmp_path: Path) -> None:
    """Files and folders below one with the setgid bit inherit its group, and folders the bit."""
    tmp_path.chmod(0o2775)
    with created_folder(tmp_path / "folder") as folder:
        (folder / "below").mkdir()
    write_text(tmp_path / "parent" / "text", "text")
    made = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert len(made) == 3
    assert all(path.stat().st_mode & stat.S_ISGID for path in made)


@pytest.mark.parametrize("write", [replaced_atomically, created_folder])
def test_an_error_leaves_none_of_the_parents_that_were_made(tmp_path: Path, write) -> None:
    (tmp_path / "there").mkdir()

    def fail(path: Path) -> None:
        with write(path):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail(tmp_path / "there" / "new" / "deeper" / "it")
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]


def test_parents_that_another_uses_meanwhile_stay(tmp_path: Path) -> None:
    def fail() -> None:
        with made_folder(tmp_path / "new" / "deeper"):
            (tmp_path / "new" / "anothers").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "anothers"]


def test_checksums_are_the_published_ones(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2
    assert sha256_of_file(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    assert sha256_of_json({}) == (
        "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    )


def test_a_document_hash_ignores_the_order_of_keys_and_nothing_else() -> None:
    one = {"a": 1, "b": [1, 2]}
    assert sha256_of_json(one) == sha256_of_json(json.loads('{"b": [1, 2], "a": 1}'))
    assert sha256_of_json(one) != sha256_of_json({"a": 1, "b": [2, 1]})
    assert sha256_of_json(one) != sha256_of_json({"a": "1", "b": [1, 2]})
