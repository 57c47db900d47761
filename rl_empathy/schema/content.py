"""What the text of a span must be: words, other words than in the other spans, and no delimiter of anything."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal, get_args

ContentError = Literal["wordless", "repeated", "delimiter_inside"]
CONTENT_ERRORS: tuple[ContentError, ...] = get_args(ContentError)

_LETTER = re.compile(r"[^\W_\u115f\u1160\u3164\uffa0]")  # the four are fillers: letters that nobody sees
_SYLLABLE = re.compile(
    r"[\u3005-\u3007\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff]"
)
_LETTERS_OF_SYLLABLE = 3
_INVISIBLE = re.compile(
    r"[\u00ad\u034f\u061c\u115f\u1160\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufdd0-\ufdef"
    r"\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]"
)
_KNOWN_DELIMITER = re.compile(
    r"</?(?:empathy_think|L[1-4]|answer|think|thinking|reasoning|s|bos|eos|pad|unk|im_start|im_end)>"
    r"|<(?:start|end)_of_(?:turn|text)>"
    r"|<\|[\w▁-]{1,64}\|?>|<[\w▁-]{1,64}\|>|<｜[\w▁-]{1,64}｜>"
    r"|\[\|[\w-]{1,64}\|\]|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS)\]|<</?SYS>>",
    re.IGNORECASE,
)


def letters(text: str) -> int:
    """Letters and digits of any script.

    A Han character, a kana or a Hangul syllable counts as three: a word has about two of them. Punctuation, emoji
    and characters that nobody sees count nothing.
    """
    return len(_LETTER.findall(text)) + (_LETTERS_OF_SYLLABLE - 1) * len(_SYLLABLE.findall(text))


def known_delimiter(text: str, forbidden: Sequence[str] = ()) -> str:
    """The first delimiter in a text, of a shipped schema or of the usual chat templates; "" for none.

    Characters that nobody sees do not hide one.

    Args:
        text: Of a span.
        forbidden: Further delimiters, those of the run's own chat template.
    """
    seen = _INVISIBLE.sub("", text)
    found = _KNOWN_DELIMITER.search(seen) or _any_of(tuple(forbidden)).search(seen)
    return found.group() if found else ""


@lru_cache(maxsize=8)
def _any_of(delimiters: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, delimiters)) or r"(?!)", re.IGNORECASE)


def is_marker(token: str) -> bool:
    """Whether a token looks like structure, as <think>, [INST] and <|x|> do; not a word, and not white space."""
    return len(token) > 1 and any(mark in token for mark in "<[|｜")


def content_errors(
    texts: Mapping[str, str], min_letters: Mapping[str, int], forbidden: Sequence[str]
) -> dict[ContentError, str]:
    """What is wrong with the texts of the spans: the kinds of error, each with the first span that has it.

    Args:
        texts: The spans that were found, by name.
        min_letters: Fewest letters of each span; see `letters`.
        forbidden: Delimiters beside those that are known everywhere.
    """
    errors = dict[ContentError, str]()
    words = dict[str, str]()
    for name, text in texts.items():
        if letters(text) < min_letters[name]:
            errors.setdefault("wordless", f"span {name!r} has fewer than {min_letters[name]} letters")
        if delimiter := known_delimiter(text, forbidden):
            errors.setdefault("delimiter_inside", f"span {name!r} contains the delimiter {delimiter!r}")
        same = _words(text)
        if same and same in words:
            errors.setdefault("repeated", f"spans {words[same]!r} and {name!r} hold the same words")
        words.setdefault(same, name)
    return errors


def _words(text: str) -> str:
    """The letters alone, without case: texts that differ in marks, numbers or emoji say the same."""
    found = "".join(_LETTER.findall(text)).casefold()
    return re.sub(r"\d", "", found) or found
