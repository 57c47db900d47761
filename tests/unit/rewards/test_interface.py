"""How terms become the rewards of a group, and what happens when a term fails."""

import asyncio
import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch

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


@pytest.mark.parametrize(
    "score",
    [None, float("nan"), float("inf"), float("-inf"), 10**400, np.float32("nan"), torch.tensor(np.nan)],
)
def test_a_score_that_is_none_or_not_finite_leaves_its_completion_out_and_is_no_zero(score):
    rewards = scorer((Judge(), 1.0), (lambda group, parsed: [0.5, score], 1.0)).score(make_group())
    assert rewards.totals == (1.5, None)


@pytest.mark.parametrize(
    "given",
    [
        (0.5, 1),
        [np.float32(0.5), np.int64(1)],
        [torch.tensor(0.5), True],
        np.array([0.5, 1.0]),
        torch.tensor([0.5, 1.0]),
        (score for score in (0.5, 1.0)),
        {0: 0.5, 1: 1.0}.values(),
        [Fraction(1, 2), np.bool_(True)],
    ],
    ids=lambda given: type(given).__name__,
)
def test_anything_that_has_a_number_for_each_completion_in_order_is_read(given):
    assert scorer((lambda group, parsed: given, 1.0)).score(make_group()).totals == (0.5, 1.0)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({0: 0.5, 1: 1.0}, r"\{0: 0\.5, 1: 1\.0\} \(dict\)"),
        ({"text": 0.5, "other": 1.0}, r"\(dict\)"),
        ({0.5, 1.0}, r"\(set\)"),
        ("10", r"'10' \(str\)"),
        (b"10", r"\(bytes\)"),
        (0.5, r"0\.5 \(float\)"),
        (None, r"None \(NoneType\)"),
        (torch.tensor(0.5), r"\(Tensor\)"),
        (itertools.repeat(0.5), r"more than 2 scores for 2 completions"),
        ([0.5], r"1 scores for 2 completions"),
        ([0.5, "n/a"], r"completion 1: it gave 'n/a' \(str\)"),
        ([(0.5, "kind"), (0.1, "cold")], r"completion 0: it gave \(0\.5, 'kind'\) \(tuple\)"),
        ((0.5, "kind"), r"completion 1: it gave 'kind' \(str\)"),
        ([0.5, 1j], r"1j \(complex\)"),
        (torch.ones(2, 1), r"completion 0: it gave .*\(Tensor\)"),
    ],
)
def test_anything_else_is_an_error_that_names_the_term_the_prompt_and_what_came(given, shown):
    with pytest.raises(
        RewardError, match=rf"reward term term0, prompt row-0.*{shown}.*one number a completion"
    ):
        scorer((lambda group, parsed: given, 1.0), retries=3).score(make_group())


@pytest.mark.parametrize("given", [{0: 1.0, 1: 2.0}, [1.0], None])
def test_what_is_no_list_of_scores_ends_the_run_also_when_the_term_has_worked(given):
    with pytest.raises(RewardError, match="term0, prompt row-0"):
        scorer((lambda group, parsed: given, 1.0), have_worked=True).score(make_group())


def test_a_word_among_the_scores_of_a_term_that_has_worked_costs_its_completion_only_and_is_told(caplog):
    answers = iter([[1.0, 1.0], [1.0, "n/a"]])
    scoring = scorer((lambda group, parsed: next(answers), 1.0))
    scoring.score(make_group())
    assert scoring.score(make_group()).totals == (1.0, None)
    assert "reward term term0, prompt row-0, completion 1 has no score: it gave 'n/a' (str)" in caplog.text


class AsynchronousJudge:
    """Answers on an event loop, always the same one; its first answer does not come."""

    def __init__(self):
        self.loops, self.calls = set(), 0

    async def __call__(self, group, parsed):
        self.loops.add(asyncio.get_running_loop())
        self.calls += 1
        await asyncio.sleep(0)
        if self.calls == 1:
            raise ConnectionError("the judge is away")
        return [1.0] * len(parsed)


def test_a_coroutine_is_awaited_asked_again_and_keeps_its_event_loop():
    judge = AsynchronousJudge()
    scoring = scorer((judge, 1.0), retries=1)
    assert [scoring.score(make_group()).totals for _ in range(2)] == [(1.0, 1.0)] * 2
    assert judge.calls == 3
    assert len(judge.loops) == 1


async def plain_coroutine_function(group, parsed):
    return [0.25, 0.5]


def test_an_async_function_is_found_by_its_path_and_awaited():
    function = load_function(f"{__name__}.plain_coroutine_function")
    assert scorer((function, 1.0)).score(make_group()).totals == (0.25, 0.5)


async def asynchronous_generator(group, parsed):
    yield 1.0


def test_an_asynchronous_generator_is_no_list_of_scores():
    with pytest.raises(RewardError, match=r"\(async_generator\)"):
        scorer((asynchronous_generator, 1.0)).score(make_group())


def test_without_terms_no_completion_has_a_reward():
    assert scorer().score(make_group()).totals == (None, None)


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


@pytest.mark.parametrize("path", ["no_such_module.f", "tests.rewards.no_such_function", "dotless", "math.pi"])
def test_a_function_that_cannot_be_found_is_an_error_with_its_path(path):
    with pytest.raises(ConfigError, match=path):
        load_function(path)
