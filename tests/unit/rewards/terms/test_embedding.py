"""The embedding term on spans whose score is given."""

import asyncio
import itertools
from dataclasses import replace

import pytest

from rl_empathy.config.sections.rewards import EmbeddingTerm
from rl_empathy.rewards.parts import Parts
from rl_empathy.rewards.terms.embedding import Embedding
from rl_empathy.rewards.view import view_of
from rl_empathy.schema import named_schema
from tests.fakes import make_group

SCHEMA = named_schema("chain_of_empathy")
SCORES = (-0.9, -0.2, 0.0, 0.3, 0.9)


class LastWord:
    """A reward model that reads its score off the answer's last word."""

    threshold = 0.1

    def scores(self, question, answers):
        return [float(answer.split()[-1]) for answer in answers]


def completion(score):
    """One whose answer has this score; None: it has no answer."""
    if score is None:
        return "I am sorry to hear that."
    words = iter(("sorrow", "distance", "a friend", "patience", "listening"))
    spans = {span.name: next(words) for span in SCHEMA.spans} | {SCHEMA.answer: f"I hear you {score}"}
    return SCHEMA.render(spans)


def term_scores(scores, **keys):
    texts = [completion(score) for score in scores]
    group = make_group(size=len(texts))
    written = tuple(replace(c, text=text) for c, text in zip(group.completions, texts, strict=True))
    parsed = [SCHEMA.parse(text, strict=True) for text in texts]
    view = view_of(replace(group, completions=written), parsed, SCHEMA, "answer")
    term = Embedding(
        EmbeddingTerm(kind="embedding", **keys),
        Parts(language="en", reward_models={"reward_modeling": LastWord()}),
    )
    return asyncio.run(term.score(view))


@pytest.mark.parametrize(
    ("mode", "threshold", "weight"),
    itertools.product(("raw", "gated", "binary"), (-0.5, 0.0, 0.5), (1.0, 0.2, -1.0)),
)
def test_no_answer_never_beats_a_bad_one(mode, threshold, weight):
    *bad, missing = term_scores((*SCORES, None), mode=mode, threshold=threshold, weight=weight)
    assert weight * missing <= min(weight * score for score in bad)


@pytest.mark.parametrize(("weight", "worst"), [(1.0, 0.0), (-1.0, 1.0)])
def test_a_missing_answer_gets_the_worst_score_of_its_term_whatever_the_weight_is(weight, worst):
    assert term_scores((None, 0.7), weight=weight) == [worst, 0.7]


@pytest.mark.parametrize(
    ("mode", "scores"),
    [
        ("raw", [0, 0, 0, 0.3, 0.9, 0]),
        ("gated", [0, 0, 0, 0.3, 0.9, 0]),
        ("binary", [0, 0, 0, 1, 1, 0]),
    ],
)
def test_the_modes_by_hand(mode, scores):
    assert term_scores((*SCORES, None), mode=mode) == pytest.approx(scores)


def test_a_threshold_of_the_run_file_takes_the_place_of_the_reward_models():
    assert term_scores((0.3, 0.9), mode="binary", threshold=0.5) == [0, 1]


def test_a_group_without_answers_asks_the_reward_model_nothing():
    assert term_scores((None, None)) == [0, 0]
