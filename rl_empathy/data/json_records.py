"""The objects of JSON files, each with its place in the file; see `records`."""

import json
import re
from pathlib import Path
from typing import Any

from rl_empathy.data.records import MAX_DEPTH, UTF_8, Record, Records, checked, undecoded
from rl_empathy.errors import DataError
from rl_empathy.observability.shown import shown

_MARKS = re.compile(r'"[^"\\\n]*(?:\\.[^"\\\n]*)*"|[\[\]{},]')
"""Strings, and what structures a JSON text; a string ends on its line, as JSON says."""
_MARKS_OVER_LINES = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},]', re.DOTALL)
_BETWEEN = re.compile(r'"(?:[\s:,\[\]{}\d.+-]|true|false|null|NaN)*"')
_SPACE = re.compile(r"\s*")
_CLOSER = {"[": "]", "{": "}"}


def json_line_records(path: Path, *, encoding: str = UTF_8) -> Records:
    """The objects of a file with one JSON object a line."""
    with path.open(encoding=encoding, errors="surrogateescape", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _json_record(line, f"{path}:{number}", encoding)


def json_list_records(path: Path, *, encoding: str = UTF_8) -> Records:
    """The objects of a file that is one JSON list, each with the line on which it begins.

    Raises:
        DataError: An item has no end, or text follows the list.
    """
    text = path.read_bytes().decode(encoding, "surrogateescape")
    end = text.index("[")
    line, counted, num_items = 1, 0, 0
    while True:
        start = _SPACE.match(text, end + 1).end()  # type: ignore[union-attr]
        line, counted = line + text.count("\n", counted, start), start
        found = _json_item(text, start, f"{path}:{line}", encoding)
        if found is None:
            raise DataError(
                f"{path}:{line}: not a JSON list: a quote or a bracket of the item that begins here is left open, or "
                f"closed twice; {_unread(text, line, start)}, after {num_items} items"
            )
        item, end = found
        if text[start:end].strip() or text[end] == ",":
            num_items += 1
            yield item._replace(place=str(num_items)) if isinstance(item, Record) else item
        if text[end] == "]":
            break
    if rest := text[end + 1 :].strip():
        line += text.count("\n", counted, text.index(rest[0], end + 1))
        raise DataError(
            f"{path}:{line}: the JSON list ends, and then comes {shown(rest)}; "
            f"{_unread(text, line, end + 1)}, after {num_items} items"
        )


def _json_record(text: str, where: str, encoding: str) -> Record | DataError:
    if problem := undecoded(text, encoding):
        return DataError(f"{where}: {problem}")
    try:
        data = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        return DataError(f"{where}: not JSON ({error.msg}, column {error.colno}), got {shown(text)}")
    except RecursionError:
        return DataError(f"{where}: nested deeper than {MAX_DEPTH} levels")
    except ValueError as error:  # a key that is there twice, or an integer of thousands of digits
        return DataError(f"{where}: not to be read ({str(error).partition(';')[0]})")
    if not isinstance(data, dict):
        return DataError(f"{where}: row: must be an object, got {_shown(data)}")
    return checked(where, data)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {shown(twice)} is there twice")
    return data


def _json_item(text: str, start: int, where: str, encoding: str) -> tuple[Record | DataError, int] | None:
    """The item of a list that begins at `start`, and where the comma or the bracket after it stands.

    None: it is broken, and nobody can say where it ends.
    """
    for marks in (_MARKS, _MARKS_OVER_LINES):
        end = _json_item_end(marks, text, start)
        if end >= 0:
            item = _json_record(text[start:end], where, encoding)
            if isinstance(item, Record) or not _swaps_quotes(marks, text[start:end]):
                return item, end
    return None


def _json_item_end(marks: re.Pattern[str], text: str, start: int) -> int:
    """Where the comma or the bracket after a list's item stands; -1 when its brackets do not pair."""
    closers: list[str] = []
    for match in marks.finditer(text, start):
        mark = match.group()
        if mark in _CLOSER:
            closers.append(_CLOSER[mark])
        elif mark in ("]", "}") and closers:
            if closers.pop() != mark:
                return -1
        elif mark in ("]", ",") and not closers:
            return match.start()
        elif mark == "}":
            return -1
    return -1


def _swaps_quotes(marks: re.Pattern[str], text: str) -> bool:
    """Whether a string of a broken item holds what stands between two strings: a quote too many or too few.

    From such a quote on, what is outside a string is taken for its inside, the next items' brackets, too.
    """
    strings = (mark for mark in marks.findall(text) if mark[0] == '"')
    return any(("," in string or ":" in string) and _BETWEEN.fullmatch(string) for string in strings)


def _unread(text: str, line: int, start: int) -> str:
    last = text.count("\n") + (not text.endswith("\n"))
    return f"the lines {line} to {last} ({len(text) - start} of {len(text)} characters) are unread"


def _shown(data: object) -> str:
    """`shown` for a value of unknown depth."""
    return f"a {type(data).__name__}" if isinstance(data, list) else shown(data)
