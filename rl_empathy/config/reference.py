"""The page of all keys of a run file, written from the types: `rl-empathy config --reference`."""

import json
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, JsonValue
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from rl_empathy.config.keys import is_list, section_keys, sections_in
from rl_empathy.config.run_file import RunFile

_NAMES: dict[Any, str] = {
    bool: "true|false",
    int: "int",
    float: "float",
    str: "text",
    Any: "any value",
    JsonValue: "any value",
}


def reference_text() -> str:
    """Every key with its type, its default, and what it means (with its unit); one paragraph a section."""
    lines = ["Keys of a run file. A key is written `section.key=value` on the command line.", ""]
    for key, field in section_keys(RunFile).items():
        whole = [section for section in sections_in(field.annotation) if section is field.annotation]
        lines.append(f"{key} - {_first_line(whole[0])}" if whole else key)
        lines += [*_entry(key, field, _default(field)), ""]
    return "\n".join(lines)


def _entry(key: str, field: FieldInfo, default: Any) -> Iterator[str]:
    choices = sections_in(field.annotation)
    if choices != [field.annotation]:
        yield f"  {key}: {type_text(field.annotation, field.metadata)} = {_default_text(default)}"
        if field.description:
            yield f"      {' '.join(field.description.split())}"
    prefix = f"{key}{'[]' if is_list(field) else ''}"
    given = default if isinstance(default, BaseModel) else None
    if len(choices) < 2:
        for section in choices:
            yield from _entries(prefix, section, section_keys(section), given)
        return
    shared = set.intersection(*(set(section_keys(section)) for section in choices))
    kinds = "|".join(type_text(section.model_fields["kind"].annotation) for section in choices)
    yield f"  {prefix}.kind: one of {kinds} = (needed)"
    yield "      Which it is; the keys of each kind follow those that all have."
    yield from _entries(prefix, choices[0], shared - {"kind"}, None)
    for section in choices:
        yield f"  {prefix}, kind {type_text(section.model_fields['kind'].annotation)}"
        yield f"      {_first_line(section)}"
        yield from _entries(prefix, section, section_keys(section).keys() - shared, None)


def _entries(
    prefix: str, section: type[BaseModel], names: Collection[str], given: BaseModel | None
) -> Iterator[str]:
    for name, field in section_keys(section).items():
        if name in names:
            own = next(key for key, other in section.model_fields.items() if other is field)
            yield from _entry(f"{prefix}.{name}", field, getattr(given, own) if given else _default(field))


def _first_line(section: type[BaseModel]) -> str:
    return (section.__doc__ or "").splitlines()[0]


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True)


def type_text(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """A type in a few words: `int ≥ 1`, `one of a|b`, `list of text`, `float > 0 or null`."""
    arguments = get_args(annotation)
    match get_origin(annotation):
        case origin if origin is Annotated:
            parts = [part.metadata if isinstance(part, FieldInfo) else [part] for part in arguments[1:]]
            return type_text(arguments[0], [*metadata, *chain(*parts)])
        case origin if origin is Literal:
            return ("one of " if len(arguments) > 1 else "") + "|".join(str(value) for value in arguments)
        case origin if origin is Union or origin is UnionType:
            kinds = [type_text(part, metadata) for part in arguments if part is not NoneType]
            return " or ".join([*dict.fromkeys(kinds), *(["null"] if NoneType in arguments else [])])
        case origin if origin is tuple:
            return f"list of {type_text(arguments[0])}"
        case origin if origin is dict:
            return f"mapping of {type_text(arguments[0])} to {type_text(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    return _NAMES.get(annotation, str(annotation)) + _range_text(metadata)


def _range_text(metadata: Sequence[Any]) -> str:
    pairs = ((name, getattr(entry, name, None)) for entry in metadata for name in ("ge", "gt", "le", "lt"))
    bounds = {name: value for name, value in pairs if value is not None}
    if bounds.keys() == {"ge", "le"}:
        return f" {bounds['ge']}..{bounds['le']}"
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return "".join(f" {signs[name]} {value}" for name, value in bounds.items())


def _default_text(default: Any) -> str:
    if default is PydanticUndefined:
        return "(needed)"
    if isinstance(default, str) and default.strip():
        return default
    return json.dumps(to_jsonable_python(default, by_alias=True), ensure_ascii=False)
