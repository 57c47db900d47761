"""The answer term on spans whose cosine is given."""

import itertools

import pytest

from rl_empathy.rewards.answer import AnswerReward
from rl_empathy.schema import named_schema
from tests.fakes import make_group

SCHEMA = named_schema("chain_of_empathy")
COSINES = (-0.9, -0.2, 0.0, 0.3, 0.9)


def cosines_of(post, answers):
    return [float(answer.split()[-1]) for answer in answers]


def parsed(cosine):
    """A completion whose answer has this cosine; None: it has no answer."""
    if cosine is None:
        return SCHEMA.parse("I am sorry to hear that.", strict=True)
    words = iter(("sorrow", "distance", "a friend", "patience", "listening"))
    spans = {span.name: next(words) for span in SCHEMA.spans} | {SCHEMA.answer: f"I hear you {cosine}"}
    return SCHEMA.parse(SCHEMA.render(spans), strict=True)


@pytest.mark.parametrize(
    ("mode", "threshold", "weight"),
    itertools.product(("raw", "gated", "binary"), (-0.5, 0.0, 0.5), (1.0, 0.2, -1.0)),
)
def test_no_answer_never_beats_a_bad_one(mode, threshold, weight):
    term = AnswerReward(cosines_of, SCHEMA, mode=mode, threshold=threshold, weight=weight)
    *bad, missing = term(make_group(size=6), [parsed(cosine) for cosine in (*COSINES, None)])
    assert weight * missing <= min(weight * score for score in bad)


@pytest.mark.parametrize(
    ("mode", "scores"),
    [
        ("raw", [0, 0, 0, 0.3, 0.9, 0]),
        ("gated", [0, 0, 0, 0.3, 0.9, 0]),
        ("binary", [0, 0, 0, 1, 1, 0]),
    ],
)
def test_the_modes_by_hand(mode, scores):
    term = AnswerReward(cosines_of, SCHEMA, mode=mode, threshold=0.1)
    assert term(make_group(size=6), [parsed(cosine) for cosine in (*COSINES, None)]) == pytest.approx(scores)
