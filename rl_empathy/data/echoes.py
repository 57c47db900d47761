"""Replies that buy nearness to a post without answering it.

copy        the post itself
quote       a stretch of the post in quotation marks
shuffled    the post's content words in any order
rewritten   the post sentence by sentence, with its pronouns turned round
warmth      comfort that fits every post
question    the post thrown back as questions

Each comes in two forms: as negatives, varied and with the phrases of TRAINING; as probes for the table of what echoes
earn, in one plain form and with the phrases of PROBES.
"""

import random
import re
from collections.abc import Callable, Mapping
from typing import Literal, get_args

from rl_empathy.data.corruptions import joined, sentences
from rl_empathy.data.echo_phrases import PROBES, TRAINING, Language, Phrases

EchoKind = Literal["copy", "quote", "shuffled", "rewritten", "warmth", "question"]
ECHO_KINDS: tuple[EchoKind, ...] = get_args(EchoKind)

QUOTED = {"en": 40, "zh": 60}
"""Words, in Chinese characters, at the beginning of a post that a probe quotes."""
_CHINESE = re.compile(r"[\u3400-\u9fff]")
_PRONOUN = re.compile(r"\b(?:i'm|i am|i've|i'll|i'd|i|me|myself|my|mine|we|us|our|ours)\b", re.IGNORECASE)
_TURNED = {
    "i'm": "you're", "i am": "you are", "i've": "you've", "i'll": "you'll", "i'd": "you'd", "i": "you", "me": "you",
    "myself": "yourself", "my": "your", "mine": "yours", "we": "you", "us": "you", "our": "your", "ours": "yours",
}  # fmt: skip
_OTHER_FORMS = (("I was", "you were"), ("我们", "你们"), ("我", "你"))
_QUOTATION = (("“", "”"), ('"', '"'), ("'", "'"), ("「", "」"), ("‘", "’"))
_FUNCTION_WORDS = """
the and for that this with was are not but his her him she they them you your has have had its just can will
what when how who why from about would been there were very get got did does don our out all any too also
"""
"""Words that are left out of an English post's content words, beside those of two letters and fewer."""

Maker = Callable[[str, Phrases, random.Random], str]
"""(post, phrases, generator) -> echo."""


def language_of(text: str) -> Language:
    """Chinese where one character in five is Chinese."""
    return "zh" if 5 * len(_CHINESE.findall(text)) >= len(text) else "en"


def negative_echo(kind: EchoKind, post: str, rng: random.Random) -> str:
    """An echo of a post as training draws it: one of many forms."""
    return _NEGATIVES[kind](post, TRAINING[language_of(post)], rng)


def probe_echo(kind: EchoKind, post: str, rng: random.Random) -> str:
    """An echo of a post as the table of what echoes earn has it, in words that training does not see."""
    return _PROBES[kind](post, PROBES[language_of(post)], rng)


def turned_round(text: str) -> str:
    """The text with the first person turned into the second: "I lost my job" becomes "you lost your job"."""
    for mine, yours in _OTHER_FORMS:
        text = text.replace(mine, yours)
    return _PRONOUN.sub(lambda found: _TURNED[found[0].lower()], text)


def content_words(text: str) -> list[str]:
    """The words of a text that carry its content, in their order; Chinese characters in pairs."""
    if language_of(text) == "zh":
        return re.findall(r"[\u3400-\u9fff]{2}", text) or list(text)
    words = re.findall(r"[^\W_]+", text)
    return (
        [word for word in words if len(word) > 2 and word.lower() not in _FUNCTION_WORDS.split()]
        or words
        or [text]
    )


def _copy(post: str, phrases: Phrases, rng: random.Random) -> str:
    parts = sentences(post)
    start = rng.randrange(len(parts))
    forms = (
        [post],
        parts[start:],
        [*parts[start:], *parts[:start]],
        [*parts[start:], _comfort(phrases, rng)],
    )
    return joined(rng.choice(forms))


def _quote(post: str, phrases: Phrases, rng: random.Random) -> str:
    words = units(post)
    length = max(1, int(len(words) * rng.uniform(0.2, 0.9)))
    start = rng.choice([0, rng.randrange(len(words) - length + 1)])
    opening, closing = rng.choice(_QUOTATION)
    quoted = opening + _rejoined(post, words[start : start + length]) + closing
    return quoted if rng.random() < 0.5 else joined([quoted, rng.choice(phrases.warmth)])


def _quoted_beginning(post: str, phrases: Phrases, rng: random.Random) -> str:
    del phrases, rng
    return f'"{_rejoined(post, units(post)[: QUOTED[language_of(post)]])}"'


def _shuffled(post: str, phrases: Phrases, rng: random.Random) -> str:
    words = content_words(post) if rng.random() < 0.7 else units(post)
    kept = [word.lower() for word in rng.sample(words, max(1, int(len(words) * rng.uniform(0.1, 1.0))))]
    comfort = [_comfort(phrases, rng)] if rng.random() < 0.5 else []
    return joined([*comfort, *kept] if rng.random() < 0.5 else [*kept, *comfort])


def _shuffled_content(post: str, phrases: Phrases, rng: random.Random) -> str:
    del phrases
    words = content_words(post)
    return joined(rng.sample(words, len(words)))


def _rewritten(post: str, phrases: Phrases, rng: random.Random) -> str:
    parts = sentences(post)
    kept = parts[: max(1, int(len(parts) * rng.uniform(0.4, 1.0)))] if rng.random() < 0.5 else parts
    return _restated(kept, phrases, rng)


def _rewritten_whole(post: str, phrases: Phrases, rng: random.Random) -> str:
    return _restated(sentences(post), phrases, rng)


def _restated(parts: list[str], phrases: Phrases, rng: random.Random) -> str:
    turned = [turned_round(part) for part in parts]
    return joined([rng.choice(phrases.restatements).format(sentence=_lowered(part)) for part in turned])


def _warmth(post: str, phrases: Phrases, rng: random.Random) -> str:
    del post
    return _comfort(phrases, rng)


def _comfort(phrases: Phrases, rng: random.Random) -> str:
    return joined(rng.sample(phrases.warmth, rng.randint(1, 5)))


def _questions(post: str, phrases: Phrases, rng: random.Random) -> str:
    words = units(turned_round(post))
    asked = []
    for template in rng.sample(phrases.questions, rng.randint(1, 3)):
        length = min(len(words), rng.randint(2, 8))
        start = rng.randrange(len(words) - length + 1)
        asked.append(template.format(words=_rejoined(post, words[start : start + length])))
    return joined(asked)


def units(text: str) -> list[str]:
    """Words of an English text, characters of a Chinese one."""
    return list(text) if language_of(text) == "zh" else text.split() or [text]


def _rejoined(text: str, units: list[str]) -> str:
    return ("" if language_of(text) == "zh" else " ").join(units)


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


_NEGATIVES: Mapping[EchoKind, Maker] = {
    "copy": _copy, "quote": _quote, "shuffled": _shuffled, "rewritten": _rewritten, "warmth": _warmth,
    "question": _questions,
}  # fmt: skip
_PROBES: Mapping[EchoKind, Maker] = {
    "copy": lambda post, *_: post, "quote": _quoted_beginning, "shuffled": _shuffled_content,
    "rewritten": _rewritten_whole, "warmth": _warmth, "question": _questions,
}  # fmt: skip
