"""Bootstrap intervals: over prompts, paired, and honest where there is nothing to resample."""

import math

import numpy as np
import pytest

from rl_empathy.evaluation.intervals import Interval, bootstrap_difference, bootstrap_mean, prompt_means


def width(interval: Interval) -> float:
    assert interval.low is not None
    assert interval.high is not None
    return interval.high - interval.low


def test_the_interval_of_a_constant_is_the_constant() -> None:
    interval = bootstrap_mean({f"p{i}": [0.25, 0.25] for i in range(9)}, samples=200, seed=0)
    assert (interval.mean, interval.low, interval.high, interval.num_prompts) == (0.25, 0.25, 0.25, 9)


def test_every_prompt_counts_the_same_however_many_completions_it_has() -> None:
    assert bootstrap_mean({"p": [1, 1, 1, 1], "q": [0]}, samples=50, seed=0).mean == 0.5


def test_prompts_without_values_are_left_out() -> None:
    assert prompt_means({"p": [1, 2], "q": []}) == {"p": 1.5}


def test_one_prompt_has_a_mean_and_no_interval() -> None:
    interval = bootstrap_mean({"p": [1, 0]}, samples=50, seed=0)
    assert interval == Interval(mean=0.5, low=None, high=None, num_prompts=1)
    assert str(interval) == "0.500"
    assert not interval.excludes_zero


def test_the_interval_of_many_prompts_is_that_of_the_normal_approximation() -> None:
    values = np.random.default_rng(1).normal(size=400)
    interval = bootstrap_mean({str(i): [value] for i, value in enumerate(values)}, samples=4000, seed=0)
    half_width = 1.96 * values.std() / math.sqrt(400)
    assert interval.low == pytest.approx(values.mean() - half_width, abs=0.01)
    assert interval.high == pytest.approx(values.mean() + half_width, abs=0.01)


def test_completions_of_a_prompt_do_not_narrow_the_interval() -> None:
    once = bootstrap_mean({"p": [0], "q": [1], "r": [0]}, samples=100, seed=3)
    often = bootstrap_mean({"p": [0] * 50, "q": [1] * 50, "r": [0] * 50}, samples=100, seed=3)
    assert once == often


def test_the_seed_decides_the_interval() -> None:
    values = {str(i): [math.sin(i)] for i in range(20)}
    assert bootstrap_mean(values, 50, seed=1) == bootstrap_mean(values, 50, seed=1)
    assert bootstrap_mean(values, 50, seed=1) != bootstrap_mean(values, 50, seed=2)


def test_a_paired_difference_is_narrower_than_the_models_apart() -> None:
    # prompts differ by up to 10, the models by 0.5 ± 0.1 on every prompt
    before = {str(i): [float(i)] for i in range(11)}
    after = {str(i): [i + 0.5 + 0.1 * (-1) ** i] for i in range(11)}
    difference = bootstrap_difference(before, after, samples=500, seed=0)
    alone = bootstrap_mean(before, samples=500, seed=0)
    assert difference.mean == pytest.approx(0.5 + 0.1 / 11)
    assert width(difference) < 0.05 * width(alone)
    assert difference.excludes_zero


def test_a_difference_is_of_the_prompts_that_both_have() -> None:
    difference = bootstrap_difference(
        {"p": [1], "q": [2], "r": [0]}, {"q": [5], "r": [3], "s": [9]}, 50, seed=0
    )
    assert (difference.mean, difference.num_prompts) == (3.0, 2)


def test_no_difference_does_not_exclude_zero() -> None:
    same = {"p": [1.0], "q": [2.0]}
    assert not bootstrap_difference(same, same, 50, seed=0).excludes_zero


def test_nothing_to_average_is_an_error() -> None:
    with pytest.raises(ValueError, match="no prompt has a value"):
        bootstrap_mean({"p": []}, 50, seed=0)
    with pytest.raises(ValueError, match="no prompt has a value"):
        bootstrap_difference({"p": [1]}, {"q": [1]}, 50, seed=0)


def test_a_value_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(ValueError, match="not finite"):
        bootstrap_mean({"p": [math.nan], "q": [1]}, 50, seed=0)
