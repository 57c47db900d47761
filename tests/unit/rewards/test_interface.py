"""How terms become the rewards of a group, and what happens when a term fails."""

import pytest

from rl_empathy.errors import ConfigError, RewardError
from rl_empathy.rewards.form import format_reward
from rl_empathy.rewards.interface import RewardScorer, RewardTerm, load_function
from rl_empathy.schema import named_schema
from tests.fakes import make_group

SCHEMA = named_schema("chain_of_empathy")


class Judge:
    """Gives 1 to every completion, but raises at the given calls."""

    def __init__(self, *raises_at):
        self.calls, self._raises_at = 0, raises_at

    def __call__(self, group, parsed):
        self.calls += 1
        if self.calls in self._raises_at:
            raise ConnectionError("the judge is away")
        return [1.0] * len(parsed)


def scorer(*terms, retries=0, have_worked=False):
    return RewardScorer(
        SCHEMA,
        [RewardTerm(name=f"term{i}", function=f, weight=weight) for i, (f, weight) in enumerate(terms)],
        lambda ids: "x" * len(ids),
        retries=retries,
        have_worked=have_worked,
    )


def test_totals_are_the_weighted_sums_of_the_terms():
    rewards = scorer((Judge(), 2.0), (lambda group, parsed: [0.5, -1.0], 1.0)).score(make_group())
    assert rewards.terms == {"term0": (1.0, 1.0), "term1": (0.5, -1.0)}
    assert rewards.totals == (2.5, 1.0)


@pytest.mark.parametrize("score", [None, float("nan"), float("inf")])
def test_a_score_that_is_none_or_not_finite_leaves_its_completion_out_and_is_no_zero(score):
    rewards = scorer((Judge(), 1.0), (lambda group, parsed: [0.5, score], 1.0)).score(make_group())
    assert rewards.totals == (1.5, None)


def test_a_term_that_raises_once_is_asked_again():
    judge = Judge(1)
    assert scorer((judge, 1.0), retries=1).score(make_group()).totals == (1.0, 1.0)
    assert judge.calls == 2


def test_a_term_that_worked_in_the_process_before_leaves_its_group_without_rewards_and_ends_nothing():
    scoring = scorer((Judge(1), 1.0), have_worked=True)
    assert scoring.score(make_group()).totals == (None, None)
    assert scoring.score(make_group()).totals == (1.0, 1.0)


def test_a_term_that_worked_before_and_keeps_raising_leaves_its_group_without_rewards():
    scoring = scorer((Judge(2, 3), 1.0), retries=1)
    assert scoring.score(make_group()).totals == (1.0, 1.0)
    assert scoring.score(make_group()).totals == (None, None)
    assert scoring.score(make_group()).totals == (1.0, 1.0)


def test_a_term_that_never_worked_is_an_error_that_names_it_and_the_prompt():
    with pytest.raises(RewardError, match=r"term0, prompt row-0: ConnectionError: the judge is away"):
        scorer((Judge(1, 2), 1.0), retries=1).score(make_group())


def test_a_wrong_number_of_scores_is_an_error():
    with pytest.raises(RewardError, match="1 scores for 2 completions"):
        scorer((lambda group, parsed: [1.0], 1.0)).score(make_group())


def test_the_format_reward_keeps_the_contract():
    rewards = scorer((format_reward, 1.0)).score(make_group())
    assert rewards.totals == (0.0, 0.0)
    assert rewards.errors[0] != ()


@pytest.mark.parametrize("path", ["no_such_module.f", "tests.rewards.no_such_function", "dotless"])
def test_a_function_that_cannot_be_found_is_an_error_with_its_path(path):
    with pytest.raises(ConfigError, match=path):
        load_function(path)
