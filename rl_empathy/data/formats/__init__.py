"""One reader a format: each gives rows in the order of the source, a DataError in place of a wrong one.

own           our own rows, and any table by a column mapping
chats         ShareGPT, OpenAI messages, Alpaca
supporters    ESConv, EmpatheticDialogues
counselchat, smile, psyqa   the sets of these names
turns         dialogues as rows
fields        a record's fields as text, id, number
making        records in, rows out
"""

from collections.abc import Callable
from dataclasses import dataclass

from rl_empathy.data.formats.chats import read_alpaca, read_messages, read_sharegpt
from rl_empathy.data.formats.counselchat import counselchat_items, read_counselchat
from rl_empathy.data.formats.making import Items
from rl_empathy.data.formats.own import read_columns, read_rows
from rl_empathy.data.formats.psyqa import read_psyqa
from rl_empathy.data.formats.smile import read_smile
from rl_empathy.data.formats.supporters import read_empathetic_dialogues, read_esconv
from rl_empathy.data.sources import Source

__all__ = ["FORMATS", "Format", "counselchat_items", "read"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A layout of counselling text."""

    read: Callable[[Source], Items]
    language: str | None = None
    """The only language that a set has; None: any."""
    on_hub: bool = False
    """A data set of a hub can have it; otherwise it is one of files."""


FORMATS = {
    "rows": Format(read=read_rows),
    "columns": Format(read=read_columns, on_hub=True),
    "sharegpt": Format(read=read_sharegpt, on_hub=True),
    "messages": Format(read=read_messages, on_hub=True),
    "alpaca": Format(read=read_alpaca, on_hub=True),
    "counselchat": Format(read=read_counselchat, language="en", on_hub=True),
    "smile": Format(read=read_smile, language="zh"),
    "psyqa": Format(read=read_psyqa, language="zh"),
    "esconv": Format(read=read_esconv, language="en"),
    "empathetic_dialogues": Format(read=read_empathetic_dialogues, language="en"),
}


def read(source: Source, format: str) -> Items:
    """Read a source in one of the formats; equal ids of different prompts are errors."""
    return FORMATS[format].read(source)
