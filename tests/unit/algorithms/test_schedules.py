import pytest

from rl_empathy.algorithms.schedules import warmup_constant, warmup_cosine, warmup_length


def test_warm_up_is_linear_and_reaches_the_peak():
    factors = [warmup_cosine(step, warmup_steps=4, num_steps=10) for step in (1, 2, 4)]
    assert factors == [0.25, 0.5, 1.0]


def test_cosine_ends_at_a_tenth_and_passes_the_middle_half_way():
    assert warmup_cosine(10, warmup_steps=0, num_steps=10) == pytest.approx(0.1)
    assert warmup_cosine(5, warmup_steps=0, num_steps=10) == pytest.approx(0.1 + 0.9 * 0.5)


def test_constant_stays_at_the_peak():
    assert [warmup_constant(step, warmup_steps=2) for step in (1, 2, 9)] == [0.5, 1.0, 1.0]
    assert warmup_constant(1, warmup_steps=0) == 1.0


def test_a_warm_up_below_one_is_a_share_of_the_steps():
    assert warmup_length(0.1, num_steps=60) == 6
    assert warmup_length(0.1, num_steps=6) == 1  # 0.6, rounded
    assert warmup_length(0.1, num_steps=4) == 0  # 0.4, rounded: no warm-up
    assert [warmup_length(steps, num_steps=60) for steps in (0, 1, 8)] == [0, 1, 8]
