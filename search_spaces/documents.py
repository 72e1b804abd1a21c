"""YAML that loses nothing: no key stands twice, and a value is what its author sees.

`StrictLoader` reads scalars as PyYAML does: for what PyYAML wrote (study.yaml) or Ray will read
(cluster.yaml). `SpecLoader` reads what people type, by the core schema of YAML 1.2: `1e-2` is a
number and `010` is ten; `1:30:00`, `2026-01-01` and `no` are text, though a setting that is true or
false takes `yes`, `no`, `on` and `off` as well.
"""

import re
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from sdw_core.errors import InputError

MOST_VALUES = 100_000
"""Values that a document may hold, each alias counted as all that it stands for."""
_TAG = "tag:yaml.org,2002:"
# What PyYAML raises: its own errors, and Python's for 2001-99-99, !!bool 3 and many brackets.
_NOT_YAML = (yaml.YAMLError, ValueError, LookupError, RecursionError)


class _Refused(yaml.YAMLError):
    """What a document does, and the way out: the rest of a sentence about it."""


class StrictLoader(yaml.SafeLoader):
    """PyYAML's own schema; refuses a key that stands twice and aliases that grow without bound."""

    def get_single_node(self) -> Node | None:
        """The document's tree, checked before anything is made of it."""
        root: Node | None = super().get_single_node()
        if root is not None:
            self._measure(root, "", {})
        return root

    def _measure(self, node: Node, path: str, sizes: dict[Node, int | None]) -> int:
        """How many values a node stands for; `sizes` holds None for those around it."""
        if node in sizes:
            known = sizes[node]
            if known is None:
                raise _Refused(
                    f"has an alias inside of what it stands for, at {_place(node)}; write it out."
                )
            return known
        sizes[node] = None
        size = 1
        if isinstance(node, SequenceNode):
            for index, item in enumerate(node.value):
                size += self._measure(item, f"{path}[{index}]", sizes)
        elif isinstance(node, MappingNode):
            self._require_unique_keys(node, path)
            for key, value in node.value:
                below = f"{path}.{key.value}" if path else str(key.value)
                size += self._measure(key, below, sizes) + self._measure(value, below, sizes)
        if size > MOST_VALUES:
            raise _Refused(f"holds more than {MOST_VALUES} values; drop aliases or data.")
        sizes[node] = size
        return size

    def _require_unique_keys(self, node: MappingNode, path: str) -> None:
        first: dict[Any, Node] = {}
        for key, _ in node.value:
            self._require_key(key)
            if not isinstance(key, ScalarNode):  # PyYAML refuses it
                continue
            merges = key.tag == f"{_TAG}merge"
            name = key.value if merges else self.construct_object(key)
            if name in first:
                shown = _shown(f"{path}.{key.value}" if path else str(key.value))
                raise _Refused(
                    f"gives the key {shown} twice, at {_place(first[name])} and at {_place(key)}; "
                    "make one of the two."
                )
            first[name] = key

    def _require_key(self, key: Node) -> None:
        """Any key is one to PyYAML."""


class SpecLoader(StrictLoader):
    """The core schema of YAML 1.2, and `_` between digits; keys are text, and no tags are read."""

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """A node without a tag: what is text is told by quotes."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise _Refused(
                f"has the tag {_shown(tag)} at {_place(event)}, and tags are not read; leave it "
                "out, and put text in quotes."
            )
        return super().compose_node(parent, index)

    def _require_key(self, key: Node) -> None:
        if key.tag not in (f"{_TAG}str", f"{_TAG}merge") or not key.value:
            shown = _shown(key.value) if isinstance(key, ScalarNode) else "a list or a mapping"
            raise _Refused(
                f"has a key that is not text, {shown} at {_place(key)}; put the key in quotes, or "
                "name it."
            )


def _integer(loader: SpecLoader, node: ScalarNode) -> int:
    digits = node.value.replace("_", "")
    number = int(digits, 0 if digits.lstrip("+-")[:2] in ("0x", "0o") else 10)
    str(number)  # raises ValueError for thousands of digits, as `int` does for decimal ones
    return number


def _real(loader: SpecLoader, node: ScalarNode) -> float:
    return float(re.sub(r"\.(?=inf|nan)", "", node.value.replace("_", "").lower()))


SpecLoader.yaml_implicit_resolvers = {}
for _name, _pattern in {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?([0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+)",
    "float": r"[-+]?(\.[0-9][0-9_]*|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    "merge": r"<<",
}.items():
    SpecLoader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(rf"(?:{_pattern})\Z"), None)
SpecLoader.add_constructor(f"{_TAG}bool", lambda loader, node: node.value.lower() == "true")
SpecLoader.add_constructor(f"{_TAG}int", _integer)
SpecLoader.add_constructor(f"{_TAG}float", _real)


def read_yaml(text: str, what: str, loader: type[StrictLoader] = SpecLoader) -> Any:
    """The value that YAML text holds.

    Args:
        text: one document.
        what: begins the sentence of a refusal: "The spec file 'a.yaml'".
        loader: how its scalars are read.

    Raises:
        InputError: the text is no YAML, or says something twice.
    """
    try:
        return yaml.load(text, Loader=loader)
    except _Refused as error:
        raise InputError(f"{what} {error}") from None
    except _NOT_YAML as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(f"{what} is not valid YAML{where}; correct it.") from None


def ends_in_comment(text: str) -> bool:
    """Whether YAML text, which `read_yaml` has read, goes on where its value has ended."""
    root = yaml.compose(text, Loader=SpecLoader)
    return bool(text[root.end_mark.index if root else 0 :].strip())


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}...")


def _place(at: Any) -> str:
    mark = at.start_mark
    return f"line {mark.line + 1}, column {mark.column + 1}"
