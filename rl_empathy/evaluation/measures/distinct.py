"""How different are the words of the answers to one post, and of all answers?"""

from collections.abc import Sequence

from rl_empathy.evaluation.measures.measure import Described, Evaluated, Measured
from rl_empathy.evaluation.words import Language, ngrams, tokenize

DESCRIBED = {
    "text/distinct_2": Described(
        "higher", "different word pairs among the answers to one post; falls with length"
    ),
    "text/distinct_1": Described(
        "higher", "different words among the answers to one post; falls with length"
    ),
    "text/distinct_1_corpus": Described(
        "higher", "different words among all answers; falls with their number"
    ),
    "text/distinct_2_corpus": Described(
        "higher", "different word pairs among all answers; falls with their number"
    ),
}


def measured(evaluated: Evaluated) -> Measured:
    answers = {prompt: [one.answer for one in several] for prompt, several in evaluated.completions.items()}
    values: dict[str, dict[str, list[float]]] = {}
    corpus: dict[str, float] = {}
    for n in (1, 2):
        by_prompt = {prompt: distinct(texts, n, evaluated.language) for prompt, texts in answers.items()}
        if found := {prompt: [value] for prompt, value in by_prompt.items() if value is not None}:
            values[f"text/distinct_{n}"] = found
        whole = distinct([text for texts in answers.values() for text in texts], n, evaluated.language)
        if whole is not None:
            corpus[f"text/distinct_{n}_corpus"] = whole
    return Measured(values=values, corpus=corpus)


def distinct(texts: Sequence[str], n: int, language: Language) -> float | None:
    """Distinct-n: different n-grams over all n-grams of the texts together (Li et al., arXiv:1510.03055).

    None when there is no n-gram. It falls with the amount of text: compare like with like.
    """
    found = [ngram for text in texts for ngram in ngrams(tokenize(text, language), n)]
    return len(set(found)) / len(found) if found else None
