"""Documents validated as Pydantic models; what does not fit is refused in one sentence."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from reprlib import Repr
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from sdw_core.errors import InputError

Model = TypeVar("Model", bound=BaseModel)
_MOST_SHOWN = 80
"""Characters of a text that a message quotes."""
_MOST_CHOICES = 20
"""Choices that a message lists."""


def parse(model: type[Model], document: Any, where: str) -> Model:
    """Validate `document` as a `model`; `where` names the document's root in messages.

    Raises:
        InputError: one sentence with the path, what was received and the nearest valid choice.
    """
    if not isinstance(document, Mapping):
        raise InputError(
            f"{where or 'the document'} must be a mapping of keys to values, not {shown(document)}."
        )
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise InputError(sentence_of(model, document, error, where)) from None


def checked(value: Any, kind: Any, name: str) -> Any:
    """An argument of a call, held to the rules of a setting.

    Args:
        value: what was given.
        kind: the type that it must have, such as `config.Count`.
        name: the argument's.

    Raises:
        InputError: one sentence with the rule and what was received.
    """
    field: Any = {name: (kind, ...)}
    return getattr(parse(create_model("Arguments", **field), {name: value}, ""), name)


def nearest(word: str, choices: Iterable[str]) -> str:
    """A hint that ends a sentence: the nearest choice, or else all of them, or some of many.

    A choice that has the word among its own is nearer than one that is spelled like it.

    >>> nearest("steps", ["outer_steps", "states"])
    'did you mean `outer_steps`?'
    """
    valid = sorted(choices)
    holding = [choice for choice in valid if word in str(choice).split("_")]
    close = get_close_matches(word[:_MOST_SHOWN], holding or valid, n=1, cutoff=0.6)
    if close:
        return f"did you mean `{as_key(close[0])}`?"
    some = valid
    if len(valid) > _MOST_CHOICES:
        some = get_close_matches(word[:_MOST_SHOWN], valid, n=_MOST_CHOICES // 2, cutoff=0)
    more = f" and {len(valid) - len(some)} more" if len(some) < len(valid) else ""
    return "the choices are " + ", ".join(f"`{as_key(choice)}`" for choice in some) + f"{more}."


def _below(place: str, word: str, fields: Mapping[str, FieldInfo]) -> str | None:
    """A hint at the one place below where a key would be right, if it has just one."""
    models = {name: submodels(field.annotation) for name, field in fields.items()}
    found = [name for name, below in models.items() if any(word in m.model_fields for m in below)]
    if len(found) != 1:
        return None
    return f"did you mean `{place.removesuffix(as_key(word))}{found[0]}.{word}`?"


def submodels(annotation: Any) -> list[type[BaseModel]]:
    """The models that a value may be (`Model`, `Model | None`, `One | Other`); [] of a setting."""
    if get_origin(annotation) is Annotated:
        return submodels(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [model for argument in get_args(annotation) for model in submodels(argument)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return []


def sentence_of(
    model: type[BaseModel], document: Mapping[Any, Any], error: ValidationError, where: str
) -> str:
    """The first error; errors of the same value (one a member of a union) make one sentence.

    A member of a union that takes the value itself, and refuses something in it, was meant.
    """
    located = [(_locate(document, details), details) for details in error.errors()]
    path, details = located[0]
    if path:
        of_the_value = [each for each in located if each[0][: len(path)] == path]
        path, details = max(of_the_value, key=lambda each: len(each[0]))
    if not path:  # half a surrogate pair, in a key
        return (
            f"{where or 'the document'} must hold {_rule(details)} only, not "
            f"{shown(details['input'])}."
        )
    place = ".".join(([where] if where else []) + [as_key(part) for part in path])
    if details["type"] == "missing" and isinstance(path[-1], int):  # of a list
        count = sum(at[:-1] == path[:-1] for at, _ in located) + len(details["input"])
        return (
            f"`{place.rpartition('.')[0]}` must be a list of {count}, not "
            f"{shown(details['input'])}."
        )
    if details["type"] == "missing":
        return f"`{place}` is missing: it has no default and must be given."
    if details["type"] == "extra_forbidden":
        word, fields = str(path[-1]), _fields(model, details["loc"][:-1])
        return f"unknown key `{place}`: {_below(place, word, fields) or nearest(word, fields)}"
    if details["type"] == "invalid_key":
        return f"a key must be text, and `{place}` is not: put it in quotes."
    received, kind = shown(details["input"]), details["type"]
    if kind == "part":
        return f"`{place}` cannot be {received}: {details['msg']}."
    rules = list(dict.fromkeys(_rule(other) for at, other in located if at == path))
    if len(rules) == 1 and kind == "literal_error":
        choices = _literal_choices(details["ctx"]["expected"])
        word = details["input"] if isinstance(details["input"], str) else received
        return f"`{place}` cannot be {received}: {nearest(word, choices)}"
    if kind == "union_tag_invalid":
        tag, choices = details["ctx"]["tag"], _literal_choices(details["ctx"]["expected_tags"])
        key = details["ctx"]["discriminator"].strip("'")
        return f"`{place}.{key}` cannot be {shown(tag)}: {nearest(tag, choices)}"
    field = _fields(model, details["loc"][:-1]).get(str(path[-1]))
    if kind == "string_pattern_mismatch" and field and field.description:
        return f"`{place}` cannot be {received}: it is {field.description}."
    return f"`{place}` must be {' or '.join(rules)}, not {received}."


_RULES = {
    "greater_than": "greater than {gt:.10g}",
    "greater_than_equal": "at least {ge:.10g}",
    "less_than": "less than {lt:.10g}",
    "less_than_equal": "at most {le:.10g}",
    "finite_number": "a finite number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "path_type": "a path",
    "string_type": "text",
    "string_unicode": "valid text",
    "string_pattern_mismatch": "text that matches {pattern}",
    "string_too_long": "text of {max_length} characters at most",
    "string_too_short": "text of {min_length} characters or more",
    "none_required": "null",
    "model_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "tuple_type": "a list",
    "list_type": "a list",
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of {max_length} at most",
    "union_tag_not_found": "a mapping with the key {discriminator}",
}


def _rule(details: ErrorDetails) -> str:
    """What the value must be, to follow "must be"."""
    context = details.get("ctx", {})
    if details["type"] == "literal_error":
        return " or ".join(f"`{choice}`" for choice in _literal_choices(context["expected"]))
    if details["type"] in _RULES:
        return _RULES[details["type"]].format(**context)
    message = details["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _locate(document: Any, details: ErrorDetails) -> tuple[str | int, ...]:
    """Keys and indices that lead to the value: pydantic's location without the unions' tags."""
    path: list[str | int] = []
    for index, part in enumerate(details["loc"]):
        is_last = index == len(details["loc"]) - 1
        a_key = isinstance(document, Mapping) and part in document
        listed = isinstance(document, list | tuple) and isinstance(part, int)
        an_index = listed and int(part) < len(document)
        if a_key or an_index:
            document = document[part]
        elif not (is_last and details["type"] in ("missing", "invalid_key")):
            continue
        path.append(part)
    return tuple(path)


def _fields(model: type[BaseModel], location: Iterable[str | int]) -> dict[str, FieldInfo]:
    """The keys that are valid at pydantic's location below `model`.

    Its parts are keys, which lead on to the models below; tags, which choose one of several; and
    names in a container, which lead nowhere.
    """
    models = [model]
    for part in location:
        fields = [f for each in models if (f := each.model_fields.get(str(part)))]
        below = [model for field in fields for model in _models(field.annotation)]
        tagged = [each for each in models if part in _tags(each)]
        untagged = [each for each in models if not _tags(each)]  # of any tag
        models = below or tagged or untagged or models
    return {name: field for each in models for name, field in each.model_fields.items()}


def _tags(model: type[BaseModel]) -> set[Any]:
    """Literals with one value only: what tells the members of a union apart."""
    literals = [get_args(field.annotation) for field in model.model_fields.values()]
    return {values[0] for values in literals if len(values) == 1}


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation is made of, below its unions and containers."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def _literal_choices(expected: str) -> list[str]:
    return [choice.strip(" '") for choice in expected.replace(" or ", ", ").split(", ")]


def as_key(part: str | int) -> str:
    """A key as a message names it: as it is, if it can be seen and is not too long to read."""
    text = str(part)
    return text if text.isprintable() and len(text) <= _MOST_SHOWN else shown(part)


def shown(value: Any) -> str:
    """A value as a message quotes it: on one line, and no longer than a reader looks at."""
    brief = Repr()
    brief.maxstring = brief.maxother = _MOST_SHOWN
    text = " ".join(brief.repr(value).split())
    return text if len(text) <= 2 * _MOST_SHOWN else f"{text[: 2 * _MOST_SHOWN]}..."
