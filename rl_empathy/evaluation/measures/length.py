"""How long is the answer?"""

from collections.abc import Iterator

from rl_empathy.evaluation.measures.measure import Described, Evaluated, Measured, ReadCompletion, of_each
from rl_empathy.types import Row

DESCRIBED = {
    "text/answer_length_characters": Described("neither", "characters of the answer; 0 where there is none"),
}


def measured(evaluated: Evaluated) -> Measured:
    def values(one: ReadCompletion, row: Row) -> Iterator[tuple[str, float]]:
        yield "text/answer_length_characters", float(len(one.answer))

    return of_each(evaluated, values)
