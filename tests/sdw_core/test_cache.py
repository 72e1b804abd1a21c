"""The stage cache: computed once, whole or absent, and never trusted blindly."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sdw_core.cache import StageCache, StageResult
from sdw_core.errors import StopRequested
from sdw_core.waiting import GoOn
from tests.sdw_core.processes import kill, start

KEY = StageCache.key("stage", 1, {"a": 1}, "input")


def small_result(value: float = 1.5) -> StageResult:
    tensors = {
        "values": torch.arange(6.0).reshape(2, 3) * value,
        "flags": torch.tensor([True, False]),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 4),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
    }
    return StageResult(tensors, {"log_likelihood": -6.25, "nested": {"text": "θ"}})


def never() -> StageResult:
    raise AssertionError("computed again")


def assert_equal(one: StageResult, other: StageResult) -> None:
    assert one.document == other.document
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, other.tensors[name])
        assert tensor.dtype == other.tensors[name].dtype


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("."))


def test_a_result_is_computed_once(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "here"
    assert_equal(StageCache(folder).result("stage", KEY, small_result), small_result())
    assert_equal(StageCache(folder).result("stage", KEY, never), small_result())
    assert len(entries(folder)) == 1


def test_tensors_that_share_memory_are_kept(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    made = StageResult(
        {"whole": whole, "again": whole, "part": whole[:3], "rows": whole.view(2, 3)}
    )
    StageCache(tmp_path).result("stage", KEY, lambda: made)
    assert_equal(StageCache(tmp_path).result("stage", KEY, never), made)


def test_no_folder_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cache = StageCache(None)
    assert_equal(cache.result("stage", KEY, small_result), small_result())
    assert_equal(cache.result("stage", KEY, lambda: small_result(2)), small_result(2))
    assert list(tmp_path.iterdir()) == []


def test_whether_a_result_is_computed_elsewhere(tmp_path: Path) -> None:
    here, other = StageCache(tmp_path / "made"), StageCache(tmp_path / "made")
    seen = []

    def compute() -> StageResult:
        seen.extend([other.computed_elsewhere("stage", KEY), other.computed_elsewhere("s", KEY)])
        return small_result()

    assert not here.computed_elsewhere("stage", KEY)
    assert not (tmp_path / "made").exists()
    here.result("stage", KEY, compute)
    assert seen == [True, False]
    assert not here.computed_elsewhere("stage", KEY)
    assert not StageCache(None).computed_elsewhere("stage", KEY)


def test_an_error_stores_nothing_and_releases_the_entry(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="computed again"):
        StageCache(tmp_path).result("stage", KEY, never)
    assert entries(tmp_path) == []
    assert_equal(StageCache(tmp_path).result("stage", KEY, small_result), small_result())


@pytest.mark.parametrize(
    "other",
    [
        StageCache.key("other", 1, {"a": 1}, "input"),
        StageCache.key("stage", 2, {"a": 1}, "input"),
        StageCache.key("stage", 1, {"a": 2}, "input"),
        StageCache.key("stage", 1, {"a": 1, "b": None}, "input"),
        StageCache.key("stage", 1, {"a": 1}, "another"),
        StageCache.key("stage", 1, {"a": 1}, "input", "0"),
        StageCache.key("stage", 1, {"a": 1}, "inp", "ut"),
    ],
)
def test_whatever_differs_makes_another_key(other: str, tmp_path: Path) -> None:
    assert other != KEY
    cache = StageCache(tmp_path)
    cache.result("stage", KEY, small_result)
    assert_equal(cache.result("stage", other, lambda: small_result(2)), small_result(2))
    assert_equal(cache.result("stage", KEY, never), small_result())


def test_the_order_of_settings_does_not_make_another_key() -> None:
    assert StageCache.key("s", 1, {"a": 1, "b": 2}) == StageCache.key("s", 1, {"b": 2, "a": 1})


# Damaged entries


def test_any_flipped_byte_is_noticed(tmp_path: Path) -> None:
    cache = StageCache(tmp_path)
    cache.result("stage", KEY, small_result)
    (entry,) = entries(tmp_path)
    sound = entry.read_bytes()
    data = sum(tensor.nbytes for tensor in small_result().tensors.values())
    header, computed = len(sound) - data, []

    def compute() -> StageResult:
        computed.append(position)
        return small_result()

    for position in (*range(0, header, 5), *range(header, len(sound))):
        damaged = bytearray(sound)
        damaged[position] ^= 1 << position % 8
        entry.write_bytes(damaged)
        assert_equal(cache.result("stage", KEY, compute), small_result())
    assert set(range(header, len(sound))) <= set(computed)


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, -1])
def test_a_truncated_entry_is_computed_again(kept: float, tmp_path: Path) -> None:
    cache = StageCache(tmp_path)
    cache.result("stage", KEY, small_result)
    (entry,) = entries(tmp_path)
    sound = entry.read_bytes()
    entry.write_bytes(sound[: int(kept * len(sound)) if kept == 0.5 else int(kept)])
    assert_equal(cache.result("stage", KEY, lambda: small_result(2)), small_result(2))
    assert_equal(cache.result("stage", KEY, never), small_result(2))


def test_an_entry_of_someone_else_is_computed_again(tmp_path: Path) -> None:
    cache = StageCache(tmp_path)
    cache.result("stage", KEY, small_result)
    (entry,) = entries(tmp_path)
    save_file({"values": torch.zeros(3)}, entry)
    assert_equal(cache.result("stage", KEY, small_result), small_result())


# Several processes

RACE = """if True:
    import sys, time, torch
    from pathlib import Path
    from sdw_core.cache import StageCache, StageResult
    folder, me = Path(sys.argv[1]), sys.argv[2]
    def compute():
        with (folder / "computed").open("a") as log:
            log.write(me)
        time.sleep(0.5)
        return StageResult({"x": torch.arange(4.0)}, {"by": me})
    (folder / f"ready-{me}").touch()
    while not (folder / "go").exists():
        time.sleep(0.001)
    result = StageCache(folder / "cache").result("stage", "0" * 64, compute)
    assert torch.equal(result.tensors["x"], torch.arange(4.0))
    print(result.document["by"])
"""


def test_processes_that_need_the_same_result_compute_it_once(tmp_path: Path) -> None:
    processes = [start(RACE, tmp_path, name) for name in "ab"]
    while not all((tmp_path / f"ready-{name}").exists() for name in "ab"):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.005)
    (tmp_path / "go").touch()
    told = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    computed = (tmp_path / "computed").read_text()
    assert computed in ("a", "b")
    assert [output.strip() for output, _ in told] == [computed, computed]


def test_a_process_killed_while_it_computes_holds_nobody_up(tmp_path: Path) -> None:
    process = start(
        """if True:
        import sys, time
        from pathlib import Path
        from sdw_core.cache import StageCache
        def compute():
            print("computing", flush=True)
            time.sleep(60)
        StageCache(Path(sys.argv[1])).result("stage", sys.argv[2], compute)
        """,
        tmp_path,
        KEY,
    )
    assert process.stdout
    assert process.stdout.readline() == "computing\n"
    kill(process)
    assert entries(tmp_path) == []
    assert_equal(StageCache(tmp_path).result("stage", KEY, small_result), small_result())


COMPUTE = """if True:
    import sys
    from pathlib import Path
    import torch
    from sdw_core.cache import StageCache, StageResult
    def compute():
        print("computing", flush=True)
        sys.stdin.readline()
        return StageResult({"x": torch.arange(4.0)})
    StageCache(Path(sys.argv[1])).result("stage", sys.argv[2], compute)
"""


def test_a_wait_is_told_for_as_long_as_it_lasts_and_can_be_ended(tmp_path: Path) -> None:
    told: list[str] = []

    @contextmanager
    def waiting() -> Iterator[GoOn]:
        told.append("begins")
        yield lambda: go_on()
        told.append("ends")

    def stop() -> None:
        raise StopRequested("Stopped.")

    cache = StageCache(tmp_path, waiting)
    other = start(COMPUTE, tmp_path, KEY)
    assert other.stdin
    assert other.stdout
    assert other.stdout.readline() == "computing\n"
    go_on = stop
    with pytest.raises(StopRequested):
        cache.result("stage", KEY, never)
    assert told == ["begins"]

    def let_it_end() -> None:
        if not other.stdin.closed:
            other.stdin.close()

    go_on = let_it_end
    found = cache.result("stage", KEY, never)
    assert found.tensors["x"].tolist() == [0, 1, 2, 3]
    assert told == ["begins", "begins", "ends"]
    assert other.wait() == 0
    cache.result("stage", KEY, never)
    assert len(told) == 3


WRITE = """if True:
    import itertools, sys, torch
    from pathlib import Path
    from sdw_core.cache import StageCache, StageResult
    cache = StageCache(Path(sys.argv[1]))
    for turn in itertools.count():
        result = StageResult({"x": torch.full((1 << 20,), turn)}, {"turn": turn})
        cache.result("stage", StageCache.key("stage", turn, {}), lambda: result)
"""


def test_a_process_killed_while_it_writes_leaves_no_broken_entry(tmp_path: Path) -> None:
    process = start(WRITE, tmp_path)
    while len(entries(tmp_path)) < 3:
        assert process.poll() is None
        time.sleep(0.0005)
    kill(process)
    cache, whole = StageCache(tmp_path), len(entries(tmp_path))
    for turn in range(whole):
        result = cache.result("stage", StageCache.key("stage", turn, {}), never)
        assert result.document == {"turn": turn}
        assert torch.equal(result.tensors["x"], torch.full((1 << 20,), turn))
    next_key = StageCache.key("stage", whole, {})  # the one that was being written
    assert_equal(cache.result("stage", next_key, small_result), small_result())
