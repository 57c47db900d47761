"""BLEU with the references, of every answer and of all together."""

from collections.abc import Sequence
from typing import NamedTuple

from sacrebleu.metrics.bleu import BLEU, BLEUScore

from rl_empathy.evaluation.measures.measure import Described, Evaluated, Measured
from rl_empathy.evaluation.words import Language

DESCRIBED = {
    "text/bleu": Described("higher", "runs of up to four words shared with the references, 0 to 100"),
    "text/bleu_corpus": Described("higher", "BLEU of all answers together, 0 to 100"),
}


def measured(evaluated: Evaluated) -> Measured:
    pairs = [
        (row, one.answer) for row in evaluated.rows if row.references for one in evaluated.completions[row.id]
    ]
    if not pairs:
        return Measured()
    references = [[reference.text for reference in row.references] for row, _ in pairs]
    scores = bleu([answer for _, answer in pairs], references, evaluated.language)
    values: dict[str, list[float]] = {}
    for (row, _), score in zip(pairs, scores.sentences, strict=True):
        values.setdefault(row.id, []).append(score)
    return Measured(values={"text/bleu": values}, corpus={"text/bleu_corpus": scores.corpus})


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
