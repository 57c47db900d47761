"""How much of the answer stands in the post?"""

from collections.abc import Iterator

from rl_empathy.evaluation.measures.measure import Described, Evaluated, Measured, ReadCompletion, of_each
from rl_empathy.evaluation.words import Language, ngrams, tokenize
from rl_empathy.types import Row, conversation_text

COPY_WORDS = 4
"""Words in a row that count as copied when the prompt has them too."""
DESCRIBED = {
    "text/copy_fraction": Described("lower", "runs of four words in the answer that the post has too"),
}


def measured(evaluated: Evaluated) -> Measured:
    def values(one: ReadCompletion, row: Row) -> Iterator[tuple[str, float]]:
        copied = copy_rate(one.answer, conversation_text(row.messages), evaluated.language)
        if copied is not None:
            yield "text/copy_fraction", copied

    return of_each(evaluated, values)


def copy_rate(text: str, prompt: str, language: Language) -> float | None:
    """Share of the text's runs of four words that occur in the prompt, in 0..1; None when it has no such run.

    Precision of 4-grams, each occurrence counted: one minus the share of novel n-grams (See et al.,
    arXiv:1704.04368, fig. 6).
    """
    written = ngrams(tokenize(text, language), COPY_WORDS)
    known = set(ngrams(tokenize(prompt, language), COPY_WORDS))
    return sum(ngram in known for ngram in written) / len(written) if written else None
