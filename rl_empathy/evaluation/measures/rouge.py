"""ROUGE-L with the references."""

from collections.abc import Iterator, Sequence

from rl_empathy.evaluation.measures.measure import Described, Evaluated, Measured, ReadCompletion, of_each
from rl_empathy.evaluation.words import Language, tokenize
from rl_empathy.types import Row

DESCRIBED = {
    "text/rouge_l": Described("higher", "word order that the answer shares with the nearest reference (F1)"),
}


def measured(evaluated: Evaluated) -> Measured:
    def values(one: ReadCompletion, row: Row) -> Iterator[tuple[str, float]]:
        if row.references:
            references = [reference.text for reference in row.references]
            yield "text/rouge_l", rouge_l(one.answer, references, evaluated.language)

    return of_each(evaluated, values)


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
