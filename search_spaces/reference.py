"""Every key of a spec, its type, its default and its meaning, as Markdown.

python -m search_spaces.reference > docs/configuration.md
"""

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sdw_core.registry import Registry
from sdw_core.validation import submodels
from search_spaces.constraints import Constraint
from search_spaces.ranges import Choice, FloatRange, IntRange
from search_spaces.spec import Objective, StudySpec

HEAD = """\
# Configuration

Every key of a spec, made from the models by `python -m search_spaces.reference`.

A spec is a YAML file with three parts: `study` says how the study runs, `pipeline` holds the
settings of each stage, and `search` maps paths below `pipeline` to ranges that Optuna draws from.
`--set KEY=VALUE` replaces a value, by its path from the document's root. Unknown keys are errors.
`module:Name` is a part of your own, and `options` are its settings: [extending.md](extending.md).
"""
SEARCH = """
## `search`

Keys are paths below `pipeline`, such as `weighting.temperature`; values are one of these ranges:
"""


def reference() -> str:
    """The whole page."""
    parts = [HEAD, *_section("", StudySpec), SEARCH]
    for model in (FloatRange, IntRange, Choice):
        kind = model.model_fields["type"].annotation
        parts += [f"\n`type: {get_args(kind)[0]}`\n", _table("", model, {"type"})]
    return "\n".join(parts).rstrip() + "\n"


def _section(path: str, model: type[BaseModel]) -> list[str]:
    parts = []
    plain = {n for n, f in model.model_fields.items() if not submodels(f.annotation)}
    if path:
        parts += [f"\n## `{path}`\n", (model.__doc__ or "").splitlines()[0] + "\n"]
        parts.append(_table(path, model, set(model.model_fields) - plain))
    for name, field in model.model_fields.items():
        below = submodels(field.annotation)
        for each in below:
            parts += _section(f"{path}.{name}".lstrip("."), each)
        for listed, model in (("objectives", Objective), ("constraints", Constraint)):
            if name == listed:
                head = f"\nEach of `{path}.{name}`:\n"
                parts += [head, _table(f"{path}.{name}", model, set())]
    return parts


def _table(path: str, model: type[BaseModel], skipped: set[str]) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if name not in skipped:
            meaning = field.description or ""
            rows.append(f"| `{name}` | {_type(field)} | {_default(field)} | {meaning} |")
    return "\n".join(rows) if len(rows) > 2 else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if isinstance(default, tuple):
        return ", ".join(f"`{entry.metric}: {entry.mode}`" for entry in default)
    return "`null`" if default is None else f"`{str(default).lower()}`"


def _type(field: FieldInfo) -> str:
    parts = [limit for limit in field.metadata if isinstance(limit, Registry)]
    text = _part(parts[0]) if parts else _name(field.annotation)
    bounds = []
    for limit in field.metadata:
        for sign, symbol in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<=")):
            if getattr(limit, sign, None) is not None:
                bounds.append(f"{symbol} {getattr(limit, sign):g}")
    return " ".join([text, *bounds])


def _part(registry: Registry) -> str:
    return " \\| ".join(f"`{name}`" for name in (*registry.builtin, "module:Name"))


def _name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        base = _name(arguments[0])
        return f"{base} > 0" if any(getattr(a, "gt", None) == 0 for a in arguments[1:]) else base
    if origin is Literal:
        return " \\| ".join(f"`{choice}`" for choice in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_name(part) for part in arguments)
    if origin is dict:
        return "mapping"
    if origin is tuple:
        return "list"
    return {NoneType: "null", str: "text", int: "int", float: "float", bool: "bool"}.get(
        annotation, getattr(annotation, "__name__", str(annotation))
    )


if __name__ == "__main__":
    print(reference(), end="")
