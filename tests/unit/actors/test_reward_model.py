"""What the reward model's actor makes of the terms of the run file, before an embedding that is given."""

from types import SimpleNamespace

import pytest

from rl_empathy.actors.reward_model import RewardModel
from rl_empathy.config.sections import RewardTermConfig
from rl_empathy.schema import named_schema
from tests.fakes import make_group


@pytest.mark.parametrize(("weight", "worst"), [(1.0, 0.0), (-1.0, 1.0)])
def test_a_missing_answer_gets_the_worst_score_of_its_term_whatever_the_weight_is(weight, worst):
    actor = object.__new__(RewardModel)  # its constructor loads models
    actor._schema = named_schema("chain_of_empathy")
    actor._embedding = SimpleNamespace(threshold=0.5, scores=lambda question, answers: [0.7] * len(answers))
    term = actor._term(RewardTermConfig(function="answer", weight=weight))
    parsed = [actor._schema.parse(text, strict=True) for text in ("", "<answer>I hear you.</answer>")]
    assert term.weight == weight
    assert term.function(make_group(), parsed) == [worst, 0.7]
