"""Text as words, the same for both languages up to the tokenizer: English as rouge-score does, Chinese by jieba."""

import logging
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from rouge_score import tokenize as rouge_tokenize  # type: ignore[import-untyped]

from rl_empathy.evaluation.stop_words import CHINESE_STOP_WORDS, ENGLISH_STOP_WORDS

Language = Literal["en", "zh"]


@lru_cache(maxsize=1)
def _jieba() -> Any:
    """The segmenter with its bundled dictionary, loaded once and silently (it warns and logs)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import jieba  # type: ignore[import-untyped]

        jieba.setLogLevel(logging.CRITICAL)
        jieba.initialize()
    return jieba


@lru_cache(maxsize=8192)
def tokenize(text: str, language: Language) -> tuple[str, ...]:
    """Cut text into lower-case words, without punctuation.

    English: runs of a-z and 0-9, as rouge-score without its stemmer. Chinese: jieba's words (default mode).
    """
    if language == "en":
        return tuple(rouge_tokenize.tokenize(text, None))
    return tuple(word.lower() for word in _jieba().cut(text) if any(char.isalnum() for char in word))


def ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Every run of n words."""
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


def content_words(text: str, language: Language) -> frozenset[str]:
    """The different words, stop words out: three letters or more in English, two characters in Chinese."""
    shortest, stop_words = (3, ENGLISH_STOP_WORDS) if language == "en" else (2, CHINESE_STOP_WORDS)
    words = tokenize(text, language)
    return frozenset(word for word in words if len(word) >= shortest and word not in stop_words)
