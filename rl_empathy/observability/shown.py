"""How values stand in errors and logs: short, since transcripts are private, and such that they can be printed."""

import json
import re

_UNWRITABLE = re.compile("[\ud800-\udfff\x00]")


def shown(value: object, limit: int = 40) -> str:
    """Give a value as error texts show it: at most `limit` characters, since transcripts are private.

    Every text can be printed: a character that UTF-8 has no bytes for, such as half an emoji, is escaped.
    """
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text[: 16 * limit].split()).encode("utf-8", "backslashreplace").decode()
    quoted = text if len(text) <= limit else text[: limit - 1] + "…"
    return f'"{quoted}"' if isinstance(value, str) else quoted


def unwritable(text: str) -> str:
    """Say what a text holds that no text file can, such as half an emoji; empty where it holds nothing of the kind."""
    match = _UNWRITABLE.search(text)
    if match is None:
        return ""
    code = ord(match.group())
    what = "half of a character outside the basic plane, such as half an emoji" if code else "NUL"
    return f"\\u{code:04x} ({what})"
