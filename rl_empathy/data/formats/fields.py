"""What every reader does with a record: a field, a text, an id, or the error of that row."""

import difflib
from typing import Any

from rl_empathy.data.records import Record
from rl_empathy.data.text import cleaned, is_missing
from rl_empathy.errors import DataError
from rl_empathy.observability.shown import shown
from rl_empathy.types import Message


def field_of(record: Record, name: str) -> Any:
    """The value of a field; DataError where there is none."""
    if name not in record.data:
        near = difflib.get_close_matches(name, map(str, record.data), n=1)
        hint = f"; did you mean {shown(near[0])}?" if near else ""
        there = ", ".join(map(str, record.data))
        raise DataError(f"{record.where}: there is no field {shown(name)}; there are {there}{hint}")
    return record.data[name]


def text_of(record: Record, name: str, value: object) -> str:
    """A value as cleaned text; DataError where it is none, or empty."""
    # `_comma_` is how EmpatheticDialogues, and whoever made a table of it, writes a comma.
    text = cleaned(value.replace("_comma_", ",")) if isinstance(value, str) else ""
    if is_missing(text):
        raise DataError(f"{record.where}: {name}: must be a text that is not empty, got {shown(value)}")
    return text


def id_of(record: Record, name: str) -> str:
    """The value of a field as an id."""
    value = field_of(record, name)
    if is_missing(value) or isinstance(value, list | dict):
        raise DataError(f"{record.where}: {name}: must be a text or a number, got {shown(value)}")
    return str(value)


def topic_of(value: object) -> dict[str, str]:
    """Metadata of a row with this topic; none where it is missing."""
    return {} if is_missing(value) else {"topic": str(value).strip()}


def dicts_of(record: Record, name: str) -> list[dict[str, Any]]:
    """The value of a field, which is a list of objects."""
    items = field_of(record, name)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise DataError(f"{record.where}: {name}: must be a list of objects, got {shown(items)}")
    return items


def number_of(record: Record, name: str, value: object) -> int:
    """A value as a whole number; 0 where it is missing."""
    if is_missing(value):
        return 0
    try:
        # pandas writes the whole numbers of a column with gaps as 3.0
        return int(str(value).removesuffix(".0"))
    except ValueError:
        raise DataError(f"{record.where}: {name}: must be a whole number, got {shown(value)}") from None


def prompt_of(text: str) -> tuple[Message, ...]:
    """A conversation that is one post."""
    return (Message(role="user", content=text),)


def optional_text_of(record: Record, name: str) -> str:
    """The text of a field; "" where it is missing."""
    value = record.data.get(name)
    if is_missing(value):
        return ""
    if not isinstance(value, str):
        raise DataError(f"{record.where}: {name}: must be a text, got {shown(value)}")
    return value
