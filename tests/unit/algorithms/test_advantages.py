import pytest
import torch

from rl_empathy.algorithms.advantages import group_advantages


def advantages(rewards, valid=None, kind="group_std"):
    rewards = torch.tensor([rewards], dtype=torch.float64)
    valid = torch.ones_like(rewards, dtype=torch.bool) if valid is None else torch.tensor([valid])
    return group_advantages(rewards, valid, kind=kind)[0].tolist()


def test_group_std_centres_and_scales_by_the_population_deviation():
    # mean 1, deviations -1 0 0 1, population variance 2/4
    root = 0.5**0.5
    assert advantages([0, 1, 1, 2]) == pytest.approx([-1 / root, 0, 0, 1 / root])


def test_group_mean_only_centres():
    assert advantages([0, 1, 1, 2], kind="group_mean") == pytest.approx([-1, 0, 0, 1])


def test_rloo_compares_with_the_mean_of_the_others():
    assert advantages([0, 1, 2], kind="rloo") == pytest.approx([0 - 1.5, 1 - 1, 2 - 0.5])


def test_equal_rewards_give_zero_not_noise():
    assert advantages([0.1 + 0.2, 0.3, 0.3]) == pytest.approx([0, 0, 0])


def test_a_failed_completion_leaves_its_group_alone():
    with_failure = advantages([0, 99, 2], valid=[True, False, True], kind="group_mean")
    assert with_failure == pytest.approx([-1, 0, 1])


def test_a_group_of_one_has_no_baseline():
    with pytest.raises(ValueError, match="1 valid"):
        advantages([1, 2], valid=[True, False])
