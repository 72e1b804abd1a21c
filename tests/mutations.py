"""Documents made wrong, reproducibly: what a fuzz feeds to whatever reads what others wrote."""

import copy
from collections.abc import Iterator
from random import Random
from typing import Any

RAW = {
    "@huge@": "9" * 5000,
    "@overflow@": "1e400",
    "@deep@": "[" * 20_000 + "]" * 20_000,
    "@unclosed@": "{" * 5000,
    "@NaN@": "NaN",
    "@inf@": "-Infinity",
    "@hex@": "0x" + "f" * 6000,
}
"""What no Python value is written as: the text to put in the place of these."""
NASTY: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 3.5, -0.0, 2**31, 2**63, 10**12, 10**400, 1e300, 1e-320),
    *("", " ", "x", "1", "0.3", "\n", "\x00", "\x1b[31m", "\u202e", "\ud800", "[bold]", "<<"),
    *("a" * 100_000, "/dev/zero", "../..", "os:path", "Hopper-v5", "Pendulum-v1", "Hopper-v3"),
    *([], {}, [[]], {"": 0}, [1, 2], [None], {"a": {"a": {"a": 1}}}, list(range(3000))),
    *RAW,
]


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values below a document."""
    items: Any = ()
    if isinstance(document, dict):
        items = document.items()
    elif isinstance(document, list):
        items = enumerate(document)
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def mutated(document: Any, random: Random) -> Any:
    """A document with one to three values, keys or parts changed."""
    document = copy.deepcopy(document)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        found = list(places(document))
        if not found:
            break
        *above, key = random.choice(found)
        parent = document
        for part in above:
            parent = parent[part]
        _change(parent, key, random, document, found)
    return document


def _change(
    parent: Any, key: Any, random: Random, document: Any, found: list[tuple[Any, ...]]
) -> None:
    value = parent[key]
    kind = random.randrange(8)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        name = random.choice(NASTY)
        parent[name if isinstance(name, str) else repr(name)[:50]] = parent.pop(key)
    elif kind == 2 and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            parent[key] = value * random.choice((-1, 0.5, 2, 10, 1000, 10**9))
        except OverflowError:
            parent[key] = "@overflow@"
    elif kind == 3 and isinstance(value, list):
        value.extend(copy.deepcopy(value) or [1])
    elif kind == 4 and isinstance(value, dict):
        value[random.choice(("extra", "xml_file", "id", "kwargs"))] = random.choice(NASTY)
    elif kind == 5:  # a part of the document in another's place
        other = document
        for part in random.choice(found):
            other = other[part]
        parent[key] = copy.deepcopy(other)
    elif kind == 6 and isinstance(value, str):
        at = random.randrange(len(value) + 1)
        parent[key] = value[:at] + str(random.choice(("\n", "/", ":", "0", "\x7f"))) + value[at:]
    else:
        parent[key] = copy.deepcopy(random.choice(NASTY))


def with_raw(text: str, quote: str = '"') -> str:
    """Written text with what no Python value is written as."""
    for mark, raw in RAW.items():
        text = text.replace(f"{quote}{mark}{quote}", raw)
    return text


def mutated_bytes(content: bytes, random: Random) -> bytes:
    """Bytes with one to four of them, or a stretch, changed, taken out, added or put elsewhere."""
    changed = bytearray(content)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(changed) + 1)
        end = min(len(changed), at + random.choice((1, 2, 8, 100)))
        kind = random.randrange(5)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            del changed[at:end]
        elif kind == 2:
            changed[at:at] = random.randbytes(random.choice((1, 4, 50)))
        elif kind == 3:
            changed[at:at] = changed[at:end]
        else:
            part = bytes(changed[at:end])
            del changed[at:end]
            where = random.randrange(len(changed) + 1)
            changed[where:where] = part
    return bytes(changed)


def is_a_sentence(text: str) -> bool:
    """Whether a refusal is one line, legible, no longer than anyone reads, and ends."""
    return text.isprintable() and len(text) < 1000 and text[-1] in ".?"
