import math

import pytest
import torch

from rl_empathy.algorithms.corrections import (
    decoupled_weights,
    mask_weights,
    no_weights,
    sequence_mask_weights,
    tis_weights,
)

START = torch.tensor([2.0, 3.0, 0.25, 1.0], dtype=torch.float64).log()  # π_p/μ of four tokens, with μ = 1
ROLLOUT = torch.zeros(4, dtype=torch.float64)
TRAINED = torch.ones(4, dtype=torch.bool)


def test_without_a_correction_every_token_weighs_one():
    weights = no_weights(START)
    assert weights.values.tolist() == [1, 1, 1, 1]
    assert not weights.touched.any()


def test_decoupled_takes_the_whole_ratio():
    assert decoupled_weights(START, ROLLOUT).values.tolist() == pytest.approx([2, 3, 0.25, 1])


def test_decoupled_bounds_a_ratio_that_would_overflow_and_says_so():
    weights = decoupled_weights(torch.tensor([0.0]), torch.tensor([-1000.0]))
    assert weights.values.isfinite().all()
    assert weights.touched.tolist() == [True]


def test_tis_cuts_ratios_above_the_cap():
    weights = tis_weights(START, ROLLOUT, cap=2.5)
    assert weights.values.tolist() == pytest.approx([2, 2.5, 0.25, 1])
    assert weights.touched.tolist() == [False, True, False, False]


def test_mask_leaves_out_tokens_outside_the_bounds():
    weights = mask_weights(START, ROLLOUT, low=0.5, high=2.5)
    assert weights.values.tolist() == pytest.approx([2, 0, 0, 1])
    assert weights.touched.tolist() == [False, True, True, False]


def test_sequence_mask_leaves_out_completions_by_the_geometric_mean_of_their_ratios():
    # The first has sqrt(2 * 3) = 2.449, the second sqrt(0.25 * 1) = 0.5.
    completions = torch.tensor([7, 7, 9, 9])
    bounds = {"low": 0.4, "high": 2.4, "cap": 2.0}
    weights = sequence_mask_weights(START, ROLLOUT, completions, TRAINED, **bounds)
    assert weights.values.tolist() == pytest.approx([0, 0, 0.25, 1])
    assert weights.touched.tolist() == [True, True, False, False]


def test_sequence_mask_means_over_trained_tokens_only_and_truncates_the_rest_as_tis_does():
    completions = torch.tensor([0, 0, 1, 1])
    mask = torch.tensor([True, False, True, True])
    weights = sequence_mask_weights(START, ROLLOUT, completions, mask, low=0.4, high=2.4, cap=1.5)
    assert weights.values.tolist() == pytest.approx([1.5, 1.5, 0.25, 1])  # the first has 2.0 now, and stays
    assert weights.touched.tolist() == [True, True, False, False]


@pytest.mark.parametrize("start", [[math.log(0.9)] * 4, [0.0] * 4])
def test_near_the_policy_all_corrections_agree(start):
    start = torch.tensor(start, dtype=torch.float64)
    same = [
        decoupled_weights(start, ROLLOUT),
        tis_weights(start, ROLLOUT, cap=2.0),
        mask_weights(start, ROLLOUT, low=0.5, high=5.0),
        sequence_mask_weights(start, ROLLOUT, torch.arange(4), TRAINED, low=0.5, high=5.0, cap=2.0),
    ]
    assert all(weights.values.tolist() == same[0].values.tolist() for weights in same)
