"""YAML that loses nothing: what a scalar means, and what is said twice or unclear and refused."""

import ast
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sdw_core.errors import InputError
from search_spaces import load_comparison, load_spec, shipped_comparisons, shipped_specs
from search_spaces.documents import SpecLoader, StrictLoader, read_yaml
from search_spaces.spec import read_document
from study.folder import StudyFolder
from study.manifests import read_cluster

ROOT = Path(__file__).parents[2]


def refusal(text: str, loader: type[StrictLoader] = SpecLoader) -> str:
    with pytest.raises(InputError) as caught:
        read_yaml(text, "The file", loader)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 300
    return sentence


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("1e-2", 0.01), ("3e-4", 3e-4), ("1E+3", 1000.0), ("1_000", 1000), ("-.5", -0.5)],
        *[("08", 8), ("010", 10), ("0o17", 15), ("0x1F", 31), ("-0x1f", -31), ("1.", 1.0)],
        *[(".inf", math.inf), ("-.INF", -math.inf), ("~", None), ("", None), ("NULL", None)],
        *[("true", True), ("False", False), ("1:30:00", "1:30:00"), ("2026-01-01", "2026-01-01")],
        *[(word, word) for word in ("yes", "No", "on", "off", "y", "inf", "1.2.3", "1,5", "0b1")],
        *[("'1e-2'", "1e-2"), ("\ufeffa: 1\r\nb: 2\r\n", {"a": 1, "b": 2})],
        ("x: &x {a: 1, b: 1}\ny: {<<: *x, a: 2}", {"x": {"a": 1, "b": 1}, "y": {"a": 2, "b": 1}}),
    ],
)
def test_a_scalar_is_what_its_author_sees(text, value):
    read = read_yaml(text, "The file")
    assert (read, type(read)) == (value, type(value))


def test_what_is_no_number_stays_none():
    assert math.isnan(read_yaml(".nan", "The file"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: {c: 1, c: 2}", ["'b.c' twice", "line 2, column 5", "line 2, column 11"]),
        ("a: 1\n'a': 2", ["'a' twice", "line 1, column 1", "line 2, column 1"]),
        ("- {a: 1, a: 1}", ["'[0].a' twice"]),
        ("y: {<<: {a: 1}, <<: {b: 1}}", ["'y.<<' twice"]),
        *[(f"{key}: x", ["not text", "line 1, column 1"]) for key in ("3", "null", "true", "1e3")],
        *[(f"{key}: x", ["not text"]) for key in ("[a]", "{a: b}", "''", "? {a: b}\n")],
        ("a: !!python/object:os.system x", ["tag", "line 1, column 4"]),
        ("a: !!int '3'", ["tag"]),
        ("a: &a [*a]", ["alias", "line 1, column 4"]),
        ("a: *b", ["line 1, column 4"]),
        ("a: 1\n---\na: 2", ["line 2, column 1"]),
        ("<<: 3", ["line 1"]),
        *[(text, ["not valid YAML"]) for text in ("a: \x00", "[" * 3000, "9" * 5000, "[1")],
    ],
)
def test_what_is_said_twice_or_is_unclear_is_refused(text, words):
    sentence = refusal(text)
    for word in words:
        assert word in sentence


def test_aliases_that_grow_without_bound_are_refused():
    laugh = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    merges = (
        laugh.replace("[x, x", "{x: 1}\nz: [x, x").replace("[*", "{<<: [*").replace("]\n", "]}\n")
    )
    for text in (laugh, merges):
        for loader in (SpecLoader, StrictLoader):
            assert "values" in refusal(text, loader) or "YAML" in refusal(text, loader)
    assert "values" in refusal(laugh)


@pytest.mark.parametrize("text", ["1: a\n1.0: b", "yes: a\non: b", "a: 1\na: 2"])
def test_equal_keys_are_refused_as_pyyaml_reads_them_too(text):
    assert "twice" in refusal(text, StrictLoader)


@pytest.mark.parametrize("text", ["a: !!bool 3", "2001-99-99", "[a]: 1", "!!python/name:a b"])
def test_what_pyyaml_cannot_read_is_one_sentence(text):
    assert "not valid YAML" in refusal(text, StrictLoader)


words = st.sampled_from(
    [*"ab:{}[],-&*!?#|>'\"% \n\t", "<<", "1e-2", "a: ", "- ", "&x ", "*x ", "!!"]
)


@settings(max_examples=300)
@given(st.lists(words, max_size=12).map("".join))
def test_any_text_is_read_or_refused(text):
    for loader in (SpecLoader, StrictLoader):
        try:
            read_yaml(text, "The file", loader)
        except InputError as error:
            assert "\n" not in str(error)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=200)
@given(values | st.sampled_from(["1e-2", "no", "08", "0o7", "1:30", "<<", "=", "~", "2026-01-01"]))
def test_what_pyyaml_wrote_is_read_as_it_was_written(value):
    assert read_yaml(yaml.safe_dump(value), "The file", StrictLoader) == value


def test_a_spec_that_gives_a_section_twice_is_refused_and_says_where(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text(
        "study: {name: twice}\npipeline:\n  dataset: x\n  distill: {outer_steps: 2}\n"
        "  distill:\n    inner_steps: 3\n"
    )
    for load in (load_spec, load_comparison):
        with pytest.raises(InputError, match=r"'pipeline\.distill' twice") as caught:
            load(str(path))
        for part in ("twice.yaml", "line 4, column 3", "line 5, column 3"):
            assert part in str(caught.value)
    with pytest.raises(InputError, match="'name' twice"):
        load_spec("quickstart", ["study={name: a, name: b}"])


def test_a_studys_and_a_clusters_file_say_nothing_twice(tmp_path):
    folder = StudyFolder.create(load_spec("quickstart"), tmp_path)
    spec = folder.path / "study.yaml"
    spec.write_text(spec.read_text() + "pipeline: {dataset: x}\n")
    with pytest.raises(InputError, match="'pipeline' twice"):
        StudyFolder(folder.path).spec()
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text((ROOT / "cluster.yaml").read_text() + "max_workers: 7\n")
    with pytest.raises(InputError, match="'max_workers' twice"):
        read_cluster(cluster)


def test_a_studys_file_is_read_as_it_was_written(tmp_path):
    """Of the first version, which took `1e-2` as text; so its trials are of that text."""
    choices = "search.weighting.temperature={type: categorical, choices: ['1e-2', 0.1]}"
    spec = load_spec("quickstart", [choices])
    folder = StudyFolder.create(spec, tmp_path)
    assert "- 1e-2\n" in (folder.path / "study.yaml").read_text()
    assert folder.spec().search == spec.search


def test_numbers_with_an_exponent_are_numbers_wherever_they_stand(tmp_path):
    """In a spec with a byte order mark and Windows' line ends, as an editor there leaves it."""
    lines = [
        "study: {name: numbers, trials: 8}",
        "pipeline:",
        "  dataset: sdw/hopper-replay-mini-v0",
        "  expert: {learning_rate: 3e-4}",
        "  distill: {tf32: off, outer_lr: 1e-2}",
        "search:",
        "  weighting.temperature: {type: categorical, choices: [1e-2, 1]}",
        "  distill.inner_lr: {type: float, low: 1e-2, high: 1e-1, log: yes}",
    ]
    path = tmp_path / "numbers.yaml"
    path.write_bytes("\ufeff".encode() + "\r\n".join(lines).encode())
    spec = load_spec(str(path))
    assert spec.search["weighting.temperature"].choices == (0.01, 1)
    assert (spec.pipeline.distill.tf32, spec.search["distill.inner_lr"].log) == (False, True)
    assert (spec.pipeline.expert.learning_rate, spec.pipeline.distill.outer_lr) == (3e-4, 0.01)


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("study.time_budget=1:30:00", "a number, not '1:30:00'"),
        ("study.time_budget=2026-01-01", "a number"),
        ("study.time_budget=.inf", "finite"),
        ("study.trials=true", "a whole number, not 'true'"),
        ("study.trials=yes", "a whole number"),
        ("study.concurrency=false", "a whole number or `auto`"),
        ("pipeline.distill.outer_lr=true", "a number"),
        ("search.weighting.clip_quantile={type: float, low: .nan, high: 1}", "finite"),
        ("search.weighting.temperature={type: categorical, choices: [.nan]}", "finite"),
        ("search.distill.width={type: categorical, choices: [yes, true]}", "not valid"),
        ("pipeline.distill.width={type: int}", "a whole number"),
        ("pipeline.dataset=my #1.hdf5", "comment"),
        ("pipeline.dataset=#1.hdf5", "comment"),
        ("study.name=", "text"),
    ],
)
def test_a_value_of_another_kind_is_refused(override, word):
    with pytest.raises(InputError) as caught:
        load_spec("quickstart", [override])
    assert word in str(caught.value)


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("study.name=no", lambda spec: spec.study.name == "no"),
        ("study.name=2026-01-01", lambda spec: spec.study.name == "2026-01-01"),
        ("pipeline.dataset='my #1.hdf5'", lambda spec: spec.pipeline.dataset == "my #1.hdf5"),
        ("pipeline.distill.tf32=on", lambda spec: spec.pipeline.distill.tf32 is True),
        ("study.trials=1e1", lambda spec: spec.study.trials == 10),
        ("study.trials=010", lambda spec: spec.study.trials == 10),
    ],
)
def test_a_value_is_read_as_it_is_meant(override, read):
    assert read(load_spec("quickstart", [override]))


@pytest.mark.parametrize("section", ["search: 3", "search: [a]", "search: abc"])
def test_an_override_below_what_is_no_section_is_refused(tmp_path, section):
    path = tmp_path / "spec.yaml"
    path.write_text(f"study: {{name: a}}\npipeline: {{dataset: x}}\n{section}\n")
    for override in ("search.weighting.temperature.low=1", "pipeline.device=cpu"):
        with pytest.raises(InputError, match="search"):
            load_spec(str(path), [override])


@pytest.mark.parametrize("name", [*shipped_specs().items(), *shipped_comparisons().items()])
def test_shipped_files_read_as_pyyaml_reads_them(name):
    assert read_document(name[1]) == yaml.safe_load(name[1].read_text())


def test_yaml_is_read_in_one_place():
    """So that the next file that is read cannot lose a key."""
    for path in [
        file
        for part in ("sdw_core", "search_spaces", "study")
        for file in (ROOT / part).rglob("*.py")
    ]:
        readers = {
            node.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "yaml"
        }
        if path.name != "documents.py":
            assert readers <= {"safe_dump", "YAMLError"}, path
