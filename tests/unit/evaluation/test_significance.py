"""Stars: what a test over prompts and a correction for many measures leave of chance."""

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.stats import ttest_1samp
from sklearn.feature_selection import SelectFdr

from rl_empathy.evaluation.intervals import Interval
from rl_empathy.evaluation.significance import MIN_PROMPTS, sign_flip_p_value, significant

ABOVE_ZERO = Interval(mean=1.0, low=0.5, high=1.5, num_prompts=30)


@dataclass(frozen=True)
class Difference:
    measure: str
    p_value: float | None
    interval: Interval = ABOVE_ZERO


def test_a_difference_of_one_sign_on_every_prompt_has_the_smallest_p_value() -> None:
    # 2 of 2^20 patterns lie so far out; of 9,999 drawn ones none, and the observed one counts: 2 · 1 / 10,000
    assert sign_flip_p_value([0.5] * 20, seed=0) == pytest.approx(2e-4)


def test_no_difference_at_all_is_no_evidence() -> None:
    assert sign_flip_p_value([0.0] * 30, seed=0) == 1.0


def test_the_p_value_of_many_prompts_is_that_of_the_t_test() -> None:
    differences = np.random.default_rng(3).normal(0.15, 1, size=300)
    assert sign_flip_p_value(list(differences), seed=0) == pytest.approx(
        ttest_1samp(differences, 0).pvalue, abs=0.01
    )


def test_fewer_than_twenty_prompts_have_no_p_value_and_no_star() -> None:
    assert sign_flip_p_value([1.0] * (MIN_PROMPTS - 1), seed=0) is None
    assert significant([Difference("reward/mean", None)]) == set()


def test_of_many_measures_those_stand_that_benjamini_and_hochberg_let_stand() -> None:
    p_values = [0.0008, 0.0018, 0.0035, 0.02, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216]
    # The largest i with p_i <= i · 0.01 / 10 is 2: 0.0018 <= 0.002, and 0.0035 > 0.003.
    assert significant([Difference(str(i), p) for i, p in enumerate(p_values)]) == {"0", "1"}

    def score(columns, target):
        return np.ones(10), np.array(p_values)

    selected = SelectFdr(score, alpha=0.01).fit(np.ones((2, 10)), [0, 1])
    assert set(np.flatnonzero(selected.get_support()).astype(str)) == {"0", "1"}


def test_a_difference_whose_interval_holds_zero_never_stands() -> None:
    around_zero = Interval(mean=0.1, low=-0.1, high=0.3, num_prompts=30)
    assert significant([Difference("reward/mean", 0.0001, around_zero)]) == set()
