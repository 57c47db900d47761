"""What a measure is, and what it is given."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from rl_empathy.evaluation.scored import ScoredCompletion
from rl_empathy.evaluation.words import Language
from rl_empathy.schema import OutputSchema, ParsedCompletion
from rl_empathy.types import Row


class Described(NamedTuple):
    """A measure for the reader of a table."""

    better: Literal["higher", "lower", "neither"]
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadCompletion:
    """A completion, read both ways: strict for validity, lenient for the text of its spans."""

    scored: ScoredCompletion
    strict: ParsedCompletion
    lenient: ParsedCompletion
    answer: str
    """Its answer, "" where it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """What one model wrote on the held-out rows, and what the measures of an evaluation share."""

    rows: Sequence[Row]
    completions: Mapping[str, Sequence[ReadCompletion]]
    """By row id."""
    schema: OutputSchema
    language: Language
    other_posts: Mapping[str, str]
    """By row id: the post of another row, the same for every model; empty when there is one row only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a measure gives: by its name and by row id the values of the completions; and values of all together."""

    values: Mapping[str, Mapping[str, list[float]]] = field(default_factory=dict)
    corpus: Mapping[str, float] = field(default_factory=dict)


class Measure(Protocol):
    """A file of `evaluation/measures/`, or anything else with these two."""

    @property
    def DESCRIBED(self) -> Mapping[str, Described]:  # noqa: N802
        """What each of its names means; a name may be a pattern with one group, which {0} stands for."""

    def measured(self, evaluated: Evaluated) -> Measured: ...


def of_each(
    evaluated: Evaluated, values: Callable[[ReadCompletion, Row], Iterable[tuple[str, float]]]
) -> Measured:
    """Measure every completion by itself.

    Args:
        evaluated: What was written.
        values: Names and values of one completion; what does not apply to it is left out.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for row in evaluated.rows:
        for one in evaluated.completions[row.id]:
            for name, value in values(one, row):
                found.setdefault(name, {}).setdefault(row.id, []).append(value)
    return Measured(values=found)
