"""Layouts in which chats and instructions are passed on: ShareGPT's, OpenAI's messages, Alpaca's."""

from collections.abc import Callable, Mapping

from rl_empathy.data.formats.fields import dicts_of, id_of, optional_text_of, prompt_of, text_of
from rl_empathy.data.formats.making import Items, rows_of
from rl_empathy.data.formats.turns import messages_of, rows_of_turns
from rl_empathy.data.records import Record
from rl_empathy.data.sources import Source, records
from rl_empathy.types import Reference, Role, Row

SHAREGPT_ROLES: Mapping[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
MESSAGE_ROLES: Mapping[str, Role] = {
    "user": "user",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
}


def read_sharegpt(source: Source) -> Items:
    """{"id": …, "conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}, …]}."""
    return rows_of(records(source), _chat(source, "conversations", SHAREGPT_ROLES, ("from", "value")))


def read_messages(source: Source) -> Items:
    """{"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}, …]}."""
    return rows_of(records(source), _chat(source, "messages", MESSAGE_ROLES, ("role", "content")))


def read_alpaca(source: Source) -> Items:
    """{"instruction": …, "input": …, "output": …}: the post is the instruction, and the input below it."""

    def row(record: Record) -> Row:
        post = "\n\n".join(filter(None, (optional_text_of(record, key) for key in ("instruction", "input"))))
        return Row(
            id=_id(record),
            messages=prompt_of(text_of(record, "instruction", post)),
            references=(Reference(text=text_of(record, "output", record.data.get("output"))),),
            metadata={"language": source.language},
        )

    return rows_of(records(source), row)


def _chat(
    source: Source, name: str, roles: Mapping[str, Role], keys: tuple[str, str]
) -> Callable[[Record], list[Row]]:
    def rows(record: Record) -> list[Row]:
        messages = messages_of(record, dicts_of(record, name), roles, keys=keys, name=name)
        return rows_of_turns(record, _id(record), messages, source, {"language": source.language})

    return rows


def _id(record: Record) -> str:
    return id_of(record, "id") if "id" in record.data else f"row-{record.number}"
