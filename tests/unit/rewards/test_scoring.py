"""How terms become the rewards of a group, and what happens when a term fails."""

import asyncio
import inspect
import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch

from rl_empathy.config.sections.rewards import FunctionTerm
from rl_empathy.errors import RewardError, RoleTimeoutError
from rl_empathy.rewards.scoring import RewardScorer, ScoredTerm
from rl_empathy.schema import named_schema
from tests.fakes import make_group

SCHEMA = named_schema("chain_of_empathy")


class Judge:
    """Gives 1 to every completion, but raises at the given calls."""

    def __init__(self, *raises_at):
        self.calls, self._raises_at = 0, raises_at

    def __call__(self, view):
        self.calls += 1
        if self.calls in self._raises_at:
            raise ConnectionError("the judge is away")
        return [1.0] * len(view.completions)


class Calling:
    """A term that gives what a function gives."""

    def __init__(self, function, *, blocks=False):
        self._function, self.blocks = function, blocks

    async def score(self, view):
        given = self._function(view)
        return await given if inspect.isawaitable(given) else given


def scored_term(function, name="term0", *, blocks=False, has_worked=False, **keys):
    config = FunctionTerm(kind="function", function="a.function", name=name, **({"retries": 0} | keys))
    return ScoredTerm(config, Calling(function, blocks=blocks), has_worked=has_worked)


def scorer(*terms, retries=0, have_worked=False):
    """Of functions, each with its weight."""
    return RewardScorer(
        SCHEMA,
        [
            scored_term(function, f"term{i}", weight=weight, retries=retries, has_worked=have_worked)
            for i, (function, weight) in enumerate(terms)
        ],
        lambda ids: "x" * len(ids),
    )


def rewards_of(scoring, *groups):
    """The rewards of groups that are scored one after the other."""

    async def all_of_them():
        return [await scoring.score(group) for group in groups or [make_group()]]

    rewards = asyncio.run(all_of_them())
    return rewards if groups else rewards[0]


def test_totals_are_the_weighted_sums_of_the_terms():
    rewards = rewards_of(scorer((Judge(), 2.0), (lambda view: [0.5, -1.0], 1.0)))
    assert rewards.terms == {"term0": (1.0, 1.0), "term1": (0.5, -1.0)}
    assert rewards.totals == (2.5, 1.0)


@pytest.mark.parametrize(
    "score",
    [None, float("nan"), float("inf"), float("-inf"), 10**400, np.float32("nan"), torch.tensor(np.nan)],
)
def test_a_score_that_is_none_or_not_finite_leaves_its_completion_out_and_is_no_zero(score):
    rewards = rewards_of(scorer((Judge(), 1.0), (lambda view: [0.5, score], 1.0)))
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
    assert rewards_of(scorer((lambda view: given, 1.0))).totals == (0.5, 1.0)


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
        rewards_of(scorer((lambda view: given, 1.0), retries=3))


@pytest.mark.parametrize("given", [{0: 1.0, 1: 2.0}, [1.0], None])
def test_what_is_no_list_of_scores_ends_the_run_also_when_the_term_has_worked(given):
    with pytest.raises(RewardError, match="term0, prompt row-0"):
        rewards_of(scorer((lambda view: given, 1.0), have_worked=True))


def test_a_word_among_the_scores_of_a_term_that_has_worked_costs_its_completion_only_and_is_told(caplog):
    answers = iter([[1.0, 1.0], [1.0, "n/a"]])
    scoring = scorer((lambda view: next(answers), 1.0))
    assert rewards_of(scoring, make_group(), make_group())[1].totals == (1.0, None)
    assert "reward term term0, prompt row-0, completion 1 has no score: it gave 'n/a' (str)" in caplog.text


class AsynchronousJudge:
    """Answers on an event loop, always the same one; its first answer does not come."""

    def __init__(self):
        self.loops, self.calls = set(), 0

    async def __call__(self, view):
        self.loops.add(asyncio.get_running_loop())
        self.calls += 1
        await asyncio.sleep(0)
        if self.calls == 1:
            raise ConnectionError("the judge is away")
        return [1.0] * len(view.completions)


def test_a_coroutine_is_awaited_asked_again_and_keeps_its_event_loop():
    judge = AsynchronousJudge()
    scoring = scorer((judge, 1.0), retries=1)
    assert [rewards.totals for rewards in rewards_of(scoring, make_group(), make_group())] == [(1.0, 1.0)] * 2
    assert judge.calls == 3
    assert len(judge.loops) == 1


async def asynchronous_generator(view):
    yield 1.0


def test_an_asynchronous_generator_is_no_list_of_scores():
    with pytest.raises(RewardError, match=r"\(async_generator\)"):
        rewards_of(scorer((asynchronous_generator, 1.0)))


def test_without_terms_no_completion_has_a_reward():
    assert rewards_of(scorer()).totals == (None, None)


def test_a_term_that_raises_once_is_asked_again():
    judge = Judge(1)
    assert rewards_of(scorer((judge, 1.0), retries=1)).totals == (1.0, 1.0)
    assert judge.calls == 2


def test_a_term_that_worked_in_the_process_before_leaves_its_group_without_rewards_and_ends_nothing():
    scoring = scorer((Judge(1), 1.0), have_worked=True)
    first, second = rewards_of(scoring, make_group(), make_group())
    assert (first.totals, second.totals) == ((None, None), (1.0, 1.0))


def test_a_term_that_worked_before_and_keeps_raising_leaves_its_group_without_rewards():
    scoring = scorer((Judge(2, 3), 1.0), retries=1)
    rewards = rewards_of(scoring, make_group(), make_group(), make_group())
    assert [each.totals for each in rewards] == [(1.0, 1.0), (None, None), (1.0, 1.0)]


def test_a_term_that_never_worked_is_an_error_that_names_it_and_the_prompt():
    with pytest.raises(RewardError, match=r"term0, prompt row-0: ConnectionError: the judge is away"):
        rewards_of(scorer((Judge(1, 2), 1.0), retries=1))


def test_a_wrong_number_of_scores_is_an_error():
    with pytest.raises(RewardError, match="1 scores for 2 completions"):
        rewards_of(scorer((lambda view: [1.0], 1.0)))


def test_a_clipped_score_stays_in_its_range_and_none_stays_none():
    term = scored_term(lambda view: [-7.0, 0.5, 7.0, None], clip=(-1.0, 1.0))
    rewards = rewards_of(RewardScorer(SCHEMA, [term], lambda ids: "x" * len(ids)), make_group(size=4))
    assert rewards[0].terms == {"term0": (-1.0, 0.5, 1.0, None)}


def test_terms_are_asked_side_by_side():
    """Each waits for the other: one after the other, neither would end."""
    met = {}

    def waits_for(mine, other):
        async def function(view):
            met.setdefault(mine, asyncio.Event()).set()
            await met.setdefault(other, asyncio.Event()).wait()
            return [1.0] * len(view.completions)

        return function

    terms = [scored_term(waits_for("a", "b"), "a"), scored_term(waits_for("b", "a"), "b")]
    assert rewards_of(RewardScorer(SCHEMA, terms, lambda ids: "x" * len(ids))).totals == (2.0, 2.0)


async def never(view):
    await asyncio.Event().wait()


def test_a_term_that_is_late_is_asked_again_and_then_has_no_scores():
    late = iter([never, never, lambda view: [1.0, 1.0]])
    term = scored_term(lambda view: next(late)(view), deadline_s=0.01, retries=1, has_worked=True)
    rewards = rewards_of(RewardScorer(SCHEMA, [term], lambda ids: "x" * len(ids)), make_group(), make_group())
    assert [each.totals for each in rewards] == [(None, None), (1.0, 1.0)]


def test_a_thread_that_does_not_end_is_told_by_term_and_prompt_and_costs_the_process():
    term = scored_term(never, blocks=True, deadline_s=0.01, retries=5, has_worked=True)
    with pytest.raises(
        RoleTimeoutError, match=r"term0, prompt row-0 did not end within 0\.01 s \(deadline_s\)"
    ):
        rewards_of(RewardScorer(SCHEMA, [term], lambda ids: "x" * len(ids)))


def test_a_term_on_a_thread_has_one_group_at_a_time_and_its_deadline_counts_from_its_own_turn():
    under_way = []

    async def counted(view):
        under_way.append(len(under_way))
        assert len(under_way) == 1
        await asyncio.sleep(0.05)
        under_way.clear()
        return [1.0] * len(view.completions)

    scoring = RewardScorer(
        SCHEMA, [scored_term(counted, blocks=True, deadline_s=0.2)], lambda ids: "x" * len(ids)
    )

    async def all_at_once():
        return await asyncio.gather(*(scoring.score(make_group()) for _ in range(8)))

    assert [rewards.totals for rewards in asyncio.run(all_at_once())] == [(1.0, 1.0)] * 8
