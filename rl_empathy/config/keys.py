"""The keys of the run file, read off the types: names, nested sections, dotted paths."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rl_empathy.config.run_file import RunFile

KeyPath = tuple[str | int, ...]
"""Where a value stands in a run file: ("rewards", "terms", 0, "weight")."""
_PART = re.compile(r"([^\[\]]+)((?:\[\d+\])*)")


@cache
def section_keys(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """The keys of a section as they are written in YAML, in declaration order."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a field may hold: alone, optional, several to choose from, or the entries of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in sections_in(part)]


def keys_at(path: KeyPath) -> list[str]:
    """The keys that may stand at `path`; none where none are declared."""
    return list(dict.fromkeys(key for section in sections_at(path) for key in section_keys(section)))


def kinds_at(path: KeyPath) -> list[str]:
    """The kinds of section of which one may stand at `path`."""
    fields = [section.model_fields["kind"] for section in sections_at(path) if "kind" in section.model_fields]
    return [kind for field in fields for kind in get_args(field.annotation)]


def sections_at(path: KeyPath) -> list[type[BaseModel]]:
    """The sections of which one may stand at `path`; none where no keys are declared."""
    sections: list[type[BaseModel]] = [RunFile]
    for key in path:
        if isinstance(key, int):
            continue
        fields = [found for section in sections if (found := section_keys(section).get(key))]
        sections = [inner for field in fields for inner in sections_in(field.annotation)]
    return sections


def dotted_keys(section: type[BaseModel] = RunFile, prefix: str = "") -> Iterator[str]:
    """Every key of the run file: `run`, `run.name`, …, `rewards.terms[].weight` for an entry of a list."""
    for key, field in section_keys(section).items():
        yield prefix + key
        inner = sections_in(field.annotation)
        inside = f"{prefix}{key}{'[]' if is_list(field) else ''}."
        yield from dict.fromkeys(key for each in inner for key in dotted_keys(each, inside))


def is_list(field: FieldInfo) -> bool:
    return getattr(field.annotation, "__origin__", None) is tuple


def dotted(path: KeyPath) -> str:
    """A path as a reader writes it: rewards.terms[0].weight."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}"
    return text.removeprefix(".")


def parsed(text: str) -> KeyPath:
    """The path that `dotted` writes as this text.

    Raises:
        ValueError: It is no path.
    """
    path: KeyPath = ()
    for part in text.split("."):
        if not (found := _PART.fullmatch(part)):
            raise ValueError(f"{text!r} is no path of a key")
        path += (found[1], *map(int, re.findall(r"\d+", found[2])))
    return path


def default_list(path: KeyPath) -> list[Any] | None:
    """The list that stands at `path` where a run file gives none, as plain data; None where no list does."""
    section: type[BaseModel] | None = RunFile
    value: Any = None
    for key in path:
        field = section_keys(section).get(str(key)) if section else None
        value = field.default if field else None
        section = type(value) if isinstance(value, BaseModel) else None
    if not isinstance(value, tuple):
        return None
    return [
        entry.model_dump(mode="json", by_alias=True, exclude_unset=True)
        if isinstance(entry, BaseModel)
        else entry
        for entry in value
    ]
