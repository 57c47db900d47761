"""Measures of text: small functions of strings, the same for both languages up to the tokenizer.

English is cut into words as rouge-score does, Chinese by jieba; BLEU keeps sacrebleu's own tokenizers.
"""

import logging
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from rouge_score import tokenize as rouge_tokenize  # type: ignore[import-untyped]
from sacrebleu.metrics.bleu import BLEU, BLEUScore

from rl_empathy.evaluation.stop_words import CHINESE_STOP_WORDS, ENGLISH_STOP_WORDS

Language = Literal["en", "zh"]

COPY_WORDS = 4
"""Words in a row that count as copied when the prompt has them too."""


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


def rouge_l(candidate: str, references: Sequence[str], language: Language) -> float:
    """ROUGE-L F1 with the reference that it is highest for, in 0..1.

        P = LCS / words of the candidate,  R = LCS / words of the reference,  F = 2 P R / (P + R)

    Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", sec. 3.1. Equals
    `RougeScorer(["rougeL"]).score_multi` of rouge-score; the longest common subsequence is found faster.

    Raises:
        ValueError: There is no reference.
    """
    if not references:
        raise ValueError("ROUGE-L needs at least one reference")
    words = tokenize(candidate, language)
    return max(_rouge_l_f1(words, tokenize(reference, language)) for reference in references)


def _rouge_l_f1(candidate: Sequence[str], reference: Sequence[str]) -> float:
    common = _lcs_length(candidate, reference)
    return 2 * common / (len(candidate) + len(reference)) if common else 0.0


def _lcs_length(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest common subsequence; one row of the table is one integer (Hyyro 2004, fig. 2)."""
    positions: dict[str, int] = {}
    for index, word in enumerate(left):
        positions[word] = positions.get(word, 0) | 1 << index
    every = (1 << len(left)) - 1
    row = every
    for word in right:
        matches = row & positions.get(word, 0)
        row = ((row + matches) | (row - matches)) & every
    return (row ^ every).bit_count()


class Bleu(NamedTuple):
    """BLEU in 0..100, of all candidates together and of each."""

    corpus: float
    sentences: tuple[float, ...]


def bleu(candidates: Sequence[str], references: Sequence[Sequence[str]], language: Language) -> Bleu:
    """BLEU-4 of candidates[i] against all of references[i], as sacrebleu computes it (arXiv:1804.08771).

    Tokenizer 13a for English, zh (one token a Chinese character) for Chinese; exponential smoothing. A
    sentence's score uses the orders that it has n-grams for (effective order), the corpus score all four.

    Raises:
        ValueError: A candidate has no reference.
    """
    if any(not several for several in references):
        raise ValueError("BLEU needs at least one reference for every candidate")
    metric = BLEU(tokenize="zh" if language == "zh" else "13a", effective_order=True)
    scores = [metric.sentence_score(*pair) for pair in zip(candidates, references, strict=True)]
    return Bleu(_corpus_bleu(scores), tuple(score.score for score in scores))


def _corpus_bleu(scores: Sequence[BLEUScore]) -> float:
    """BLEU of the summed n-gram counts: the same as `BLEU().corpus_score`, without counting again."""
    if not scores:
        return 0.0
    return BLEU.compute_bleu(
        correct=[sum(counts) for counts in zip(*(score.counts for score in scores), strict=True)],
        total=[sum(totals) for totals in zip(*(score.totals for score in scores), strict=True)],
        sys_len=sum(score.sys_len for score in scores),
        ref_len=sum(score.ref_len for score in scores),
    ).score


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


def distinct(texts: Sequence[str], n: int, language: Language) -> float | None:
    """Distinct-n: different n-grams over all n-grams of the texts together (Li et al., arXiv:1510.03055).

    None when there is no n-gram. It falls with the amount of text: compare like with like.
    """
    ngrams = [ngram for text in texts for ngram in _ngrams(tokenize(text, language), n)]
    return len(set(ngrams)) / len(ngrams) if ngrams else None


def copy_rate(text: str, prompt: str, language: Language) -> float | None:
    """Share of the text's runs of four words that occur in the prompt, in 0..1; None when it has no such run.

    Precision of 4-grams, each occurrence counted: one minus the share of novel n-grams (See et al.,
    arXiv:1704.04368, fig. 6).
    """
    ngrams = _ngrams(tokenize(text, language), COPY_WORDS)
    known = set(_ngrams(tokenize(prompt, language), COPY_WORDS))
    return sum(ngram in known for ngram in ngrams) / len(ngrams) if ngrams else None


def content_words(text: str, language: Language) -> frozenset[str]:
    """The different words, stop words out: three letters or more in English, two characters in Chinese."""
    shortest, stop_words = (3, ENGLISH_STOP_WORDS) if language == "en" else (2, CHINESE_STOP_WORDS)
    words = tokenize(text, language)
    return frozenset(word for word in words if len(word) >= shortest and word not in stop_words)


def grounding(trace_text: str, post: str, other_post: str, language: Language) -> float:
    """1 when the trace shares more content words with this very post than with the other one, 0 when fewer.

    A tie is 0.5 where the trace shares some with both. A trace that shares none with either says nothing of any post,
    so it is 0, as an empty one is: chance is below 0.5. Our own measure. Words are compared as they are, so "sleep" and
    "sleeping" differ.
    """
    said = content_words(trace_text, language)
    here = len(said & content_words(post, language))
    there = len(said & content_words(other_post, language))
    if here == there:
        return 0.5 if here else 0.0
    return float(here > there)


class TfidfSimilarity:
    """Cosine of TF-IDF vectors of character 2- to 4-grams: overlap in letters, no likeness of meaning.

    Document frequencies come from the texts it is made with; no parameter is trained.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        # Here, because scikit-learn takes seconds to import and most evaluations have a neural encoder.
        from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]

        if not any(len(text.strip()) > 1 for text in texts):
            raise ValueError(f"TF-IDF needs text to count; got {len(texts)} texts of at most one character")
        self._vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(2, 4), sublinear_tf=True).fit(texts)

    def similarities(self, left: Sequence[str], right: Sequence[str]) -> list[float]:
        """Cosine of left[i] and right[i], in 0..1; 0 when one of them has no known n-gram."""
        if len(left) != len(right):
            raise ValueError(f"similarities are of pairs, and there are {len(left)} and {len(right)} texts")
        if not left:
            return []
        product = self._vectorizer.transform(left).multiply(self._vectorizer.transform(right))
        return [min(1.0, float(cosine)) for cosine in product.sum(axis=1).ravel().tolist()[0]]
