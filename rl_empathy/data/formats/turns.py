"""Dialogues as rows: the turns of two people, and which of the replies are the references."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rl_empathy.data.formats.fields import text_of
from rl_empathy.data.records import Record
from rl_empathy.data.sources import Source
from rl_empathy.errors import DataError
from rl_empathy.observability.shown import shown
from rl_empathy.types import Message, Reference, Role, Row


def messages_of(
    record: Record,
    turns: Sequence[Mapping[str, Any]],
    roles: Mapping[str, Role],
    *,
    keys: tuple[str, str],
    name: str,
) -> tuple[Message, ...]:
    """The turns as messages; what one person says in several turns in a row is one message.

    Args:
        record: Where they stand.
        turns: In their order.
        roles: What the names of the speakers mean.
        keys: Keys of a turn's speaker and of its text.
        name: The turns, as errors name them.

    Raises:
        DataError: A speaker is none of those, or a turn has no text.
    """
    messages: list[Message] = []
    for turn in turns:
        speaker, text = (turn.get(key) for key in keys)
        if not isinstance(speaker, str) or speaker not in roles:
            raise DataError(
                f"{record.where}: {name}.{keys[0]}: must be one of {', '.join(roles)}, got {shown(speaker)}"
            )
        message = Message(role=roles[speaker], content=text_of(record, f"{name}.{keys[1]}", text))
        if messages and messages[-1].role == message.role:
            message = replace(message, content=f"{messages.pop().content}\n{message.content}")
        messages.append(message)
    return tuple(messages)


def rows_of_turns(
    record: Record, row_id: str, messages: Sequence[Message], source: Source, metadata: Mapping[str, str]
) -> list[Row]:
    """A row for the last reply to the help-seeker, or, with `data.replies: every`, one for each.

    Raises:
        DataError: There is no reply.
    """
    ends = [
        end
        for end in range(1, len(messages))
        if (messages[end - 1].role, messages[end].role) == ("user", "assistant")
    ]
    if not ends:
        raise DataError(f"{record.where}: turns: no user message has a reply")
    wanted = ends if source.replies == "every" else ends[-1:]
    return [
        Row(
            id=row_id if len(wanted) == 1 else f"{row_id}-{number}",
            messages=tuple(messages[:end]),
            references=(Reference(text=messages[end].content),),
            metadata=metadata,
        )
        for number, end in enumerate(wanted, start=1)
    ]
