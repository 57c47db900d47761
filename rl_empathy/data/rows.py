"""Our own row format: one JSON object a line, read strictly, written whole or not at all.

    {"id": "en-work-01", "prompt": "My manager …",
     "references": [{"text": "That sounds exhausting …", "votes": 9}],
     "trace": {"teacher": "author", "spans": {"L1": "…", "L2": "…", "L3": "…", "L4": "…"}},
     "metadata": {"topic": "work", "language": "en"}}

`messages` [{role, content}, …] takes the place of `prompt` when there is context. Only `id` and one of the
two are required. Values of metadata may be text, numbers or booleans, and are kept as text; NaN and a topic
"nan" (as pandas writes a missing one) are no entry.
"""

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from rl_empathy.data.text import is_missing
from rl_empathy.errors import DataError
from rl_empathy.observability.disk import whole_file
from rl_empathy.observability.shown import shown
from rl_empathy.types import Message, Reference, Row, Trace

_KEYS = ("id", "prompt", "messages", "references", "trace", "metadata")


def row_from_dict(data: object, where: str) -> Row:
    """Read a row strictly.

    Args:
        data: A decoded JSON value.
        where: File and line, for the error text.

    Raises:
        DataError: A key is unknown or missing, or a value is of the wrong type or empty.
    """
    fields = _object(data, where, "row", allowed=_KEYS)
    return Row(
        id=_text(fields, "id", where),
        messages=_messages(fields, where),
        references=_references(fields.get("references", []), where),
        trace=_trace(fields.get("trace"), where),
        metadata=_metadata(fields.get("metadata", {}), where),
    )


def row_to_dict(row: Row) -> dict[str, Any]:
    """Give the JSON object of a row; `row_from_dict` reads it back to an equal row."""
    data: dict[str, Any] = {"id": row.id}
    if len(row.messages) == 1:
        data["prompt"] = row.post
    else:
        data["messages"] = [{"role": m.role, "content": m.content} for m in row.messages]
    if row.references:
        data["references"] = [
            {"text": r.text} if r.votes is None else {"text": r.text, "votes": r.votes}
            for r in row.references
        ]
    if row.trace is not None:
        data["trace"] = {"teacher": row.trace.teacher, "spans": dict(row.trace.spans)}
    if row.metadata:
        data["metadata"] = dict(row.metadata)
    return data


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as JSON lines: the file is whole or as it was before."""
    write_json_lines(path, (row_to_dict(row) for row in rows))


def write_json_lines(path: Path, objects: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines, readable by their owner only: the file is whole or as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.writelines(json.dumps(data, ensure_ascii=False) + "\n" for data in objects)


def _fail(where: str, field: str, problem: str, value: object) -> NoReturn:
    raise DataError(f"{where}: {field}: {problem}, got {shown(value)}")


def _object(
    data: object, where: str, field: str, *, allowed: tuple[str, ...] | None = None
) -> dict[str, Any]:
    if not isinstance(data, dict):
        _fail(where, field, "must be an object", data)
    for key in data:
        if allowed is not None and key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(allowed)}"
            raise DataError(f"{where}: {field}: unknown key {shown(key)}; {hint}")
    return data


def _text(fields: Mapping[str, Any], key: str, where: str, prefix: str = "") -> str:
    value = fields.get(key)
    if not isinstance(value, str) or not value.strip():
        _fail(where, prefix + key, "must be a text that is not empty", value)
    return value


def _list(value: object, where: str, field: str) -> list[Any]:
    if not isinstance(value, list):
        _fail(where, field, "must be a list", value)
    return value


def _messages(fields: Mapping[str, Any], where: str) -> tuple[Message, ...]:
    if ("prompt" in fields) == ("messages" in fields):
        raise DataError(f"{where}: prompt: give exactly one of prompt and messages")
    if "prompt" in fields:
        return (Message(role="user", content=_text(fields, "prompt", where)),)
    messages = tuple(
        _message(item, where, f"messages[{index}]")
        for index, item in enumerate(_list(fields["messages"], where, "messages"))
    )
    if not messages or messages[-1].role != "user":
        _fail(where, "messages", "the last message must be the user's", [m.role for m in messages][-1:])
    return messages


def _message(item: object, where: str, field: str) -> Message:
    data = _object(item, where, field, allowed=("role", "content"))
    role = data.get("role")
    if role not in ("system", "user", "assistant"):
        _fail(where, f"{field}.role", "must be system, user or assistant", role)
    return Message(role=role, content=_text(data, "content", where, f"{field}."))


def _references(items: object, where: str) -> tuple[Reference, ...]:
    return tuple(
        _reference(item, where, f"references[{index}]")
        for index, item in enumerate(_list(items, where, "references"))
    )


def _reference(item: object, where: str, field: str) -> Reference:
    data = _object(item, where, field, allowed=("text", "votes"))
    votes = data.get("votes")
    if votes is not None and (not isinstance(votes, int) or isinstance(votes, bool)):
        _fail(where, f"{field}.votes", "must be a whole number", votes)
    return Reference(text=_text(data, "text", where, f"{field}."), votes=votes)


def _trace(value: object, where: str) -> Trace | None:
    if value is None:
        return None
    data = _object(value, where, "trace", allowed=("teacher", "spans"))
    spans = _object(data.get("spans"), where, "trace.spans")
    texts = {name: _text(spans, name, where, "trace.spans.") for name in spans}
    return Trace(spans=texts, teacher=_text(data, "teacher", where, "trace."))


def _metadata(value: object, where: str) -> dict[str, str]:
    result = {}
    for key, item in _object(value, where, "metadata").items():
        if item is not None and is_missing(item) and (key == "topic" or isinstance(item, float)):
            continue
        if not isinstance(item, str | int | float):
            _fail(where, f"metadata.{key}", "must be text, a number or a boolean", item)
        result[key] = item if isinstance(item, str) else json.dumps(item)
    return result
