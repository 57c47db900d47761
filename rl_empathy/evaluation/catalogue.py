"""What every measure is, and in which direction it is better."""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple


class Described(NamedTuple):
    """A measure for the reader of a table."""

    better: Literal["higher", "lower", "neither"]
    meaning: str


_MEASURES = {
    "reward/mean": Described("higher", "weighted sum of the reward terms, which stage grpo trains on"),
    "text/similarity_to_post": Described("neither", "likeness of answer and post: a copy of the post has 1"),
    "text/copy_fraction": Described("lower", "runs of four words in the answer that the post has too"),
    "schema/valid_fraction": Described("higher", "completions that keep the form of the schema, and end"),
    "rollout/truncated_fraction": Described("lower", "completions that were cut at max_completion_tokens"),
    "text/answer_length_characters": Described("neither", "characters of the answer; 0 where there is none"),
    "text/rouge_l": Described("higher", "word order that the answer shares with the nearest reference (F1)"),
    "text/distinct_2": Described(
        "higher", "different word pairs among the answers to one post; falls with length"
    ),
    "trace/grounded_fraction": Described(
        "higher", "reasoning that names more of its own post than of another one; chance is below 0.5"
    ),
    "text/bleu": Described("higher", "runs of up to four words shared with the references, 0 to 100"),
    "text/bleu_corpus": Described("higher", "BLEU of all answers together, 0 to 100"),
    "text/distinct_1": Described(
        "higher", "different words among the answers to one post; falls with length"
    ),
    "text/distinct_1_corpus": Described(
        "higher", "different words among all answers; falls with their number"
    ),
    "text/distinct_2_corpus": Described(
        "higher", "different word pairs among all answers; falls with their number"
    ),
    "rollout/completion_length_tokens": Described("neither", "in tokens of the model's own tokenizer"),
}
_FAMILIES = (
    (
        r"reward/(.+)/mean",
        Described("higher", "the reward term {0}, before its weight, which stage grpo trains on"),
    ),
    (r"schema/error/(.+)_fraction", Described("lower", "completions with the schema error {0}")),
    (r"span/(.+)/present_fraction", Described("higher", "completions that have the span {0}")),
    (r"span/(.+)/length_characters", Described("neither", "characters of the span {0}, where it is there")),
)
_TOTAL, *_REST = tuple(_MEASURES)[:9]


def leading(terms: Sequence[str]) -> tuple[str, ...]:
    """The measures that a table leads with; copying stands beside every likeness.

    Args:
        terms: Reward terms that are among them, by name.
    """
    return (_TOTAL, *(f"reward/{term}/mean" for term in terms), *_REST)


def described(measure: str) -> Described:
    """What a measure is.

    Raises:
        KeyError: No measure has that name.
    """
    if measure in _MEASURES:
        return _MEASURES[measure]
    for pattern, family in _FAMILIES:
        if match := re.fullmatch(pattern, measure):
            return family._replace(meaning=family.meaning.format(*match.groups()))
    raise KeyError(measure)
