"""Our own rows, and any table by a column mapping."""

import re
from typing import Any

from rl_empathy.data.formats.fields import id_of, prompt_of, text_of, topic_of
from rl_empathy.data.formats.making import Items, rows_of
from rl_empathy.data.records import Record
from rl_empathy.data.rows import row_from_dict
from rl_empathy.data.sources import Source, records
from rl_empathy.errors import DataError
from rl_empathy.observability.shown import shown
from rl_empathy.types import Reference, Row

_STEP = re.compile(r"([^.\[\]]+)|\[(\d*)\]")


def read_rows(source: Source) -> Items:
    """Our own JSON lines; a row without metadata.language gets the source's."""

    def row(record: Record) -> Row:
        data = dict(record.data)
        if isinstance(metadata := data.get("metadata", {}), dict):
            data["metadata"] = {"language": source.language, **metadata}
        return row_from_dict(data, record.where)

    return rows_of(records(source), row, unique_ids=True)


def read_columns(source: Source) -> Items:
    """Any table by a column mapping; rows of equal prompts are merged later."""
    columns = source.columns
    assert columns is not None, "the configuration lets format: columns pass only with a mapping"

    def row(record: Record) -> Row:
        _require_no_utterances(record)
        answers = value_at(record, columns.answer) if columns.answer else []
        texts = answers if isinstance(answers, list) else [answers]
        topic = value_at(record, columns.topic) if columns.topic else None
        return Row(
            id=_id(record, columns.id) if columns.id else f"row-{record.number}",
            messages=prompt_of(text_of(record, columns.prompt, value_at(record, columns.prompt))),
            references=tuple(Reference(text=text_of(record, columns.answer or "", t)) for t in texts),
            metadata={"language": source.language} | topic_of(topic),
        )

    return rows_of(records(source), row)


def value_at(record: Record, path: str) -> Any:
    """The value of a column, or deeper in a record.

    Args:
        record: The record.
        path: A column's name; or a way into it: `answers[0].text` is the text of the first answer, `answers[].text` the
            list of all their texts.

    Raises:
        DataError: There is nothing at that place.
    """
    if path in record.data:
        return record.data[path]
    return _at(record, record.data, [(match[1], match[2]) for match in _STEP.finditer(path)], path)


def _at(record: Record, value: Any, steps: list[tuple[str | None, str | None]], path: str) -> Any:
    for depth, (name, number) in enumerate(steps):
        if name is not None and isinstance(value, dict) and name in value:
            value = value[name]
        elif name is None and isinstance(value, list) and not number:
            return [_at(record, item, steps[depth + 1 :], path) for item in value]
        elif name is None and isinstance(value, list) and int(number or 0) < len(value):
            value = value[int(number or 0)]
        else:
            what = "an object" if name is not None and depth else "a list of more entries"
            there = ", ".join(map(str, record.data)) if not depth else f"no {what} there: {shown(value)}"
            raise DataError(f"{record.where}: there is no field {shown(path)}; there are {there}")
    return value


def _id(record: Record, path: str) -> str:
    return id_of(Record(record.where, {path: value_at(record, path)}), path)


def _require_no_utterances(record: Record) -> None:
    if {"conv_id", "utterance_idx", "utterance"} <= record.data.keys():
        raise DataError(
            f"{record.where}: EmpatheticDialogues has one utterance a line, and format columns wants a post and its "
            "reply in one; set data.format: empathetic_dialogues"
        )
