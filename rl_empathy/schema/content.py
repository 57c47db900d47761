"""What the text of a span must be: words, other words than in the other spans, and no delimiter of anything."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal, get_args

ContentError = Literal["wordless", "repeated", "delimiter_inside"]
CONTENT_ERRORS: tuple[ContentError, ...] = get_args(ContentError)

_LETTER = re.compile(r"[^\W_\u115f\u1160\u3164\uffa0]")  # the four are fillers: letters that nobody sees
_SYLLABLE = re.compile(
    r"[\u0900-\u0dff\u0f00-\u109f\u1200-\u13ff\u1780-\u17b3\ua000-\ua4cf\uaa60-\uaa7f\uabc0-\uabff"
    r"\u3005-\u3007\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff66-\uff9f"
    r"\U00020000-\U0003ffff]"
)
"""Characters that write a syllable or a word: of India, Tibet, Burma, Ethiopia, Cambodia; Cherokee, Yi, kana, Han,
Hangul."""
_LETTERS_OF_SYLLABLE = 3
_NO_ASCII_LETTER = re.compile("[^a-z]+")
_INVISIBLE = re.compile(
    r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    r"\u202a-\u202e\u2060-\u206f\u2800\u3164\ufdd0-\ufdef\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3"
    r"\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
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

    A character that writes a syllable or a word (Han, kana, Hangul, Devanagari, …) counts as three: a word has about
    two of them. Punctuation, emoji, marks and characters that nobody sees count nothing.
    """
    written = "".join(_LETTER.findall(text))
    return len(written) + (_LETTERS_OF_SYLLABLE - 1) * len(_SYLLABLE.findall(written))


def is_seen(text: str) -> bool:
    """Whether a text shows a reader anything. Fillers, spaces and a combining mark without a letter show nothing."""
    return any(unicodedata.category(character)[0] not in "CMZ" for character in _INVISIBLE.sub("", text))


def known_delimiter(text: str, forbidden: Sequence[str] = ()) -> str:
    """The first delimiter in a text, of a shipped schema or of the usual chat templates; "" for none.

    Neither characters that nobody sees nor another width (＜think＞) hide one.

    Args:
        text: Text of a span.
        forbidden: Further delimiters: the schema's own, and those of the run's chat template.
    """
    seen = _INVISIBLE.sub("", text)
    others = _any_of(tuple(forbidden))
    for form in dict.fromkeys((seen, unicodedata.normalize("NFKC", seen))):
        if found := _KNOWN_DELIMITER.search(form) or others.search(form):
            return found.group()
    return ""


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
    """What a text says, to compare with: texts that differ in case, width, marks, numbers or emoji say the same.

    All texts of numbers alone say the same, too; a text without letters gives "".
    """
    if text.isascii():  # the same, and ten times as fast
        said = _NO_ASCII_LETTER.sub("", text.lower())
    else:
        plain = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).casefold()
        said = "".join(c for c in plain if c.isalpha() or _SYLLABLE.match(c))
    return said or "0" * (letters(text) > 0)
