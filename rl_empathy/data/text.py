"""Text as people typed it: cleaned of markup, folded for comparison, shortened for error texts."""

import html
import json
import re
import unicodedata

_BREAK = re.compile(r"<\s*(?:br\s*/?|/p|/div|/li|/h[1-6]|/blockquote)\s*>", re.IGNORECASE)
_TAG = re.compile(
    r"</?(?:p|br|div|span|ul|ol|li|b|i|u|em|strong|a|h[1-6]|blockquote|font|img|code|pre)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_INVISIBLE = re.compile("[\u200b-\u200d\u2060\ufeff\u00ad]")
_NOT_WORD = re.compile(r"[\W_]+")


def cleaned(text: str) -> str:
    """Turn HTML and odd white space into plain paragraphs; text without markup keeps its words."""
    text = html.unescape(_TAG.sub("", _BREAK.sub("\n\n", text)))
    text = _INVISIBLE.sub("", text).replace("\u00a0", " ").replace("\r\n", "\n").replace("\r", "\n")
    text = re.sub(r"[ \t\u3000]+", " ", text)
    return re.sub(r" ?\n(?: ?\n)+ ?", "\n\n", re.sub(r" ?\n ?", "\n", text)).strip()


def folded(text: str) -> str:
    """Text without case, white space and punctuation: two posts are the same prompt when these are equal."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return _NOT_WORD.sub("", plain) or plain.strip()


def shown(value: object, limit: int = 40) -> str:
    """Give a value as error texts show it: at most `limit` characters, since transcripts are private."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
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
