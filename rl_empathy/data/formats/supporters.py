"""Dialogues of help-seekers with supporters: ESConv, EmpatheticDialogues."""

from collections.abc import Iterator, Mapping
from itertools import groupby

from rl_empathy.data.formats.fields import dicts_of, topic_of
from rl_empathy.data.formats.making import Items, rows_of
from rl_empathy.data.formats.turns import messages_of, rows_of_turns
from rl_empathy.data.records import Record, split_line_records
from rl_empathy.data.sources import Source, records
from rl_empathy.errors import DataError
from rl_empathy.types import Role, Row

ESCONV_ROLES: Mapping[str, Role] = {
    "seeker": "user",
    "speaker": "user",
    "usr": "user",
    "supporter": "assistant",
    "listener": "assistant",
    "sys": "assistant",
}
"""As in ESConv, in FailedESConv, and in the files that later papers made of it."""


def read_esconv(source: Source) -> Items:
    """ESConv and FailedESConv (CC BY-NC 4.0): a JSON list of dialogues, each with its situation and its turns."""

    def rows(record: Record) -> list[Row]:
        turns = dicts_of(record, "dialog")
        text = "content" if any("content" in turn for turn in turns) else "text"
        messages = messages_of(record, turns, ESCONV_ROLES, keys=("speaker", text), name="dialog")
        told = {name: str(record.data[name]) for name in ("emotion_type", "situation") if name in record.data}
        metadata = {"language": "en"} | told | topic_of(record.data.get("problem_type"))
        return rows_of_turns(record, f"esconv-{record.number}", messages, source, metadata)

    return rows_of(records(source), rows)


def read_empathetic_dialogues(source: Source) -> Items:
    """EmpatheticDialogues (CC BY-NC 4.0): an utterance a line; those with an odd number are the help-seeker's."""
    assert source.path is not None, "a format of files"

    def rows(record: Record) -> list[Row]:
        lines = dicts_of(record, "utterances")
        turns = [{"speaker": _speaker(record, line), "utterance": line["utterance"]} for line in lines]
        roles: Mapping[str, Role] = {"seeker": "user", "listener": "assistant"}
        messages = messages_of(record, turns, roles, keys=("speaker", "utterance"), name="utterances")
        situation = lines[0]["prompt"].replace("_comma_", ",")
        metadata = {"language": "en", "situation": situation} | topic_of(lines[0]["context"])
        return rows_of_turns(record, str(record.data["conv_id"]), messages, source, metadata)

    return rows_of(_conversations(source), rows)


def _conversations(source: Source) -> Iterator[Record | DataError]:
    """The lines of each conversation as one record; they stand one after the other."""
    assert source.path is not None
    items = split_line_records(source.path, encoding=source.encoding)
    for name, lines in groupby(items, lambda item: isinstance(item, Record) and item.data["conv_id"]):
        several = list(lines)
        wrong = [line for line in several if isinstance(line, DataError)]
        first = several[0]
        if wrong or not isinstance(first, Record):
            yield from wrong
            continue
        data = {"conv_id": name, "utterances": [line.data for line in several if isinstance(line, Record)]}
        yield Record(first.where, data, first.place)


def _speaker(record: Record, line: Mapping[str, str]) -> str:
    number = line["utterance_idx"]
    if not number.isdecimal():
        raise DataError(f"{record.where}: utterance_idx: must be a number from 1, got {number!r}")
    return "seeker" if int(number) % 2 else "listener"
