"""The keys of the run file, read off the types: names, nested sections, dotted paths."""

from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rl_empathy.config.run_file import RunFile

KeyPath = tuple[str | int, ...]
"""Where a value stands in a run file: ("grpo", "rewards", 0, "weight")."""


@cache
def section_keys(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """The keys of a section as they are written in YAML, in declaration order."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds: alone, optional, one choice of several, or the entry of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := section_in(part))), None)


def section_at(path: KeyPath) -> type[BaseModel] | None:
    """The section that stands at `path`, or None where no keys are declared."""
    section: type[BaseModel] | None = RunFile
    for key in path:
        if isinstance(key, int):
            continue
        if section is None or (field := section_keys(section).get(key)) is None:
            return None
        section = section_in(field.annotation)
    return section


def dotted_keys(section: type[BaseModel] = RunFile, prefix: str = "") -> Iterator[str]:
    """Every key of the run file: `run`, `run.name`, …, `grpo.rewards[].weight` for an entry of a list."""
    for key, field in section_keys(section).items():
        yield prefix + key
        if inner := section_in(field.annotation):
            yield from dotted_keys(inner, f"{prefix}{key}{'[]' if is_list(field) else ''}.")


def is_list(field: FieldInfo) -> bool:
    return getattr(field.annotation, "__origin__", None) is tuple


def dotted(path: KeyPath) -> str:
    """A path as a reader writes it: grpo.rewards[0].weight."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}"
    return text.removeprefix(".")
