"""Text as people typed it: cleaned of markup, folded for comparison, shortened for error texts."""

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Sequence

from rl_empathy.data.markup import plain_text
from rl_empathy.types import Message

_INVISIBLE = re.compile("[\u200b\u2060\ufeff\u00ad]")  # joiners stay: they hold emoji and letters together
_NOT_WORD = re.compile(r"[\W_]+")
_UNWRITABLE = re.compile("[\ud800-\udfff\x00]")
_MISSING = {"", "nan", "<na>", "na", "n/a", "#n/a", "null", "none", "nat"}


def cleaned(text: str) -> str:
    """Turn HTML and odd white space into plain paragraphs; text without markup keeps its words."""
    text = _INVISIBLE.sub("", plain_text(text)).replace("\u00a0", " ")
    text = re.sub(r"[ \t\u3000]+", " ", text)
    return re.sub(r" ?\n(?: ?\n)+ ?", "\n\n", re.sub(r" ?\n ?", "\n", text)).strip()


def is_missing(value: object) -> bool:
    """Whether a table has no value here: None, NaN, white space, or a word that pandas or a database writes for it."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and value.strip().casefold() in _MISSING)


def conversation_key(messages: Sequence[Message]) -> str:
    """The whole conversation, folded message by message: two prompts are the same when these are equal."""
    return "\n".join(f"{message.role}:{folded(message.content)}" for message in messages)


def folded(text: str) -> str:
    """Text without case, white space and punctuation: two posts are the same prompt when these are equal."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return _NOT_WORD.sub("", plain) or plain.strip()


def unwritable(text: str) -> str:
    """Say what a text holds that no text file can, such as half an emoji; empty where it holds nothing of the kind."""
    match = _UNWRITABLE.search(text)
    if match is None:
        return ""
    code = ord(match.group())
    what = "half of a character outside the basic plane, such as half an emoji" if code else "NUL"
    return f"\\u{code:04x} ({what})"


def hashed(text: str) -> str:
    """A hash to draw by: the same on every machine, and of this text alone."""
    return hashlib.sha256(text.encode()).hexdigest()


def shown(value: object, limit: int = 40) -> str:
    """Give a value as error texts show it: at most `limit` characters, since transcripts are private.

    Every text can be printed: a character that UTF-8 has no bytes for, such as half an emoji, is escaped.
    """
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text[: 16 * limit].split()).encode("utf-8", "backslashreplace").decode()
    quoted = text if len(text) <= limit else text[: limit - 1] + "…"
    return f'"{quoted}"' if isinstance(value, str) else quoted


def joined_post(title: str, body: str) -> str:
    """Join a title and a body to one post, without saying the same twice."""
    title, body = cleaned(title), cleaned(body)
    if not title or title.casefold() in body.casefold():
        return body
    if not body or body.casefold() in title.casefold():
        return title
    return f"{title}\n{body}"
