"""Ways to spoil an answer that a careless reward model would still like."""

import random
import re
from collections.abc import Callable, Sequence

_SENTENCE = re.compile(r"[^.!?。！？\n]+(?:[.!?。！？]+[\"”’』」]?|\n|$)")
_WORD = re.compile(r"[\u3400-\u9fff]{1,2}|[^\s\u3400-\u9fff]+")
_CHINESE = re.compile(r"[\u3400-\u9fff]")

Corruption = Callable[[str, str, str, random.Random], str]
"""(answer, question, another answer, generator) -> spoilt answer."""


def corrupted(answer: str, question: str, other: str, rng: random.Random) -> str:
    """Spoil an answer in one of the ways, drawn evenly."""
    return rng.choice(CORRUPTIONS)(answer, question, other, rng)


def mixed(answer: str, question: str, other: str, rng: random.Random) -> str:
    """Sentences of two answers, alternating in a drawn order: nothing follows from anything."""
    mine, theirs = sentences(answer), sentences(other)
    pool = rng.sample(mine, (len(mine) + 1) // 2) + rng.sample(theirs, (len(theirs) + 1) // 2)
    rng.shuffle(pool)
    return joined(pool)


def fragment(answer: str, question: str, other: str, rng: random.Random) -> str:
    """The first tenth to third of an answer, broken off."""
    words = _WORD.findall(answer)
    return joined(words[: max(1, int(len(words) * rng.uniform(0.1, 0.33)))])


def word_salad(answer: str, question: str, other: str, rng: random.Random) -> str:
    """All its words, in any order."""
    words = _WORD.findall(answer)
    rng.shuffle(words)
    return joined(words)


def repeated(answer: str, question: str, other: str, rng: random.Random) -> str:
    """One of its sentences, again and again, to about the same length."""
    sentence = rng.choice(sentences(answer))
    return joined([sentence] * max(2, len(answer) // len(sentence)))


def prefaced(answer: str, question: str, other: str, rng: random.Random) -> str:
    """An answer to another question that begins with a sentence of this one."""
    return joined([rng.choice(sentences(question)), other])


CORRUPTIONS: tuple[Corruption, ...] = (mixed, fragment, word_salad, repeated, prefaced)


def sentences(text: str) -> list[str]:
    """Split after full stops, question and exclamation marks, and line breaks; at least one part."""
    return [part.strip() for part in _SENTENCE.findall(text) if part.strip()] or [text]


def joined(parts: Sequence[str]) -> str:
    """Parts in a row: with a space between them, in Chinese with none."""
    return ("" if _CHINESE.search(parts[0]) else " ").join(parts)
