"""Text as people typed it: cleaned of markup, folded for comparison."""

import hashlib
import math
import re
import unicodedata
from collections.abc import Sequence

from rl_empathy.data.markup import plain_text
from rl_empathy.types import Message

_INVISIBLE = re.compile("[\u200b\u2060\ufeff\u00ad]")  # joiners stay: they hold emoji and letters together
_NOT_WORD = re.compile(r"[\W_]+")
_NO_ASCII_WORD = {code: None for code in range(128) if not chr(code).isalnum()}
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
    if text.isascii():  # the same, and several times as fast
        lower = text.lower()
        return lower.translate(_NO_ASCII_WORD) or lower.strip()
    plain = unicodedata.normalize("NFKC", text).casefold()
    return _NOT_WORD.sub("", plain) or plain.strip()


def hashed(text: str) -> str:
    """A hash to draw by: the same on every machine, and of this text alone."""
    return hashlib.sha256(text.encode()).hexdigest()


def joined_post(title: str, body: str) -> str:
    """Join a title and a body to one post, without saying the same twice."""
    title, body = cleaned(title), cleaned(body)
    if not title or title.casefold() in body.casefold():
        return body
    if not body or body.casefold() in title.casefold():
        return title
    return f"{title}\n{body}"
