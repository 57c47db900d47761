"""SMILE (CC0): Chinese posts with first replies, or whole dialogues (github.com/qiuhuachuan/smile)."""

from collections.abc import Mapping

from rl_empathy.data.formats.fields import dicts_of, field_of, id_of, prompt_of, text_of
from rl_empathy.data.formats.making import Items, rows_of
from rl_empathy.data.formats.turns import messages_of, rows_of_turns
from rl_empathy.data.records import Record
from rl_empathy.data.sources import Source, dialogue_records
from rl_empathy.types import Reference, Role, Row

ROLES: Mapping[str, Role] = {
    "user": "user",
    "assistant": "assistant",
    "client": "user",
    "counselor": "assistant",
}
"""Roles in SMILE's turns, as they are and as SMILE's own files name them."""


def read_smile(source: Source) -> Items:
    """A post and its first reply; `turns` counts only where one of the two is missing.

    Then the row is the longest conversation in `turns` that the assistant goes on with. SMILE's own layout, one
    file a dialogue, is such turns; the source is a file or their folder.
    """

    def rows(record: Record) -> list[Row]:
        row_id, metadata = f"smile-{id_of(record, 'id')}", {"language": "zh"}
        if "turns" in record.data and not ("question" in record.data and "answer" in record.data):
            turns = dicts_of(record, "turns")
            messages = messages_of(record, turns, ROLES, keys=("role", "content"), name="turns")
            return rows_of_turns(record, row_id, messages, source, metadata)
        reference = Reference(text=text_of(record, "answer", field_of(record, "answer")))
        post = prompt_of(text_of(record, "question", field_of(record, "question")))
        return [Row(id=row_id, messages=post, references=(reference,), metadata=metadata)]

    return rows_of(dialogue_records(source), rows)
