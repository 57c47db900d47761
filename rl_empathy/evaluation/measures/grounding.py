"""Is the reasoning about this very post?"""

from collections.abc import Iterator

from rl_empathy.evaluation.measures.measure import Described, Evaluated, Measured, ReadCompletion, of_each
from rl_empathy.evaluation.words import Language, content_words
from rl_empathy.types import Row

DESCRIBED = {
    "trace/grounded_fraction": Described(
        "higher", "reasoning that names more of its own post than of another one; chance is below 0.5"
    ),
}


def measured(evaluated: Evaluated) -> Measured:
    def values(one: ReadCompletion, row: Row) -> Iterator[tuple[str, float]]:
        other = evaluated.other_posts.get(row.id)
        if other is not None and len(evaluated.schema.span_names) > 1:
            trace = evaluated.schema.reasoning(one.lenient)
            yield "trace/grounded_fraction", grounding(trace, row.post, other, evaluated.language)

    return of_each(evaluated, values)


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
