"""The equal-error point, by hand."""

import pytest
import torch

from rl_empathy.algorithms.thresholds import equal_error_threshold, error_rates


def test_threshold_lies_in_the_middle_of_the_gap_when_scores_separate() -> None:
    # candidates 0.15 (FAR 1/2, FRR 0), 0.5 (0, 0), 0.85 (0, 1/2)
    threshold = equal_error_threshold(torch.tensor([0.9, 0.8]), torch.tensor([0.1, 0.2]))
    assert threshold == pytest.approx(0.5)


def test_threshold_balances_the_two_errors_when_scores_overlap() -> None:
    # sorted: n.1 n.2 p.3 n.4 p.5 p.6; at 0.35: FAR 1/3 (0.4), FRR 1/3 (0.3)
    positives, negatives = torch.tensor([0.5, 0.3, 0.6]), torch.tensor([0.4, 0.1, 0.2])
    threshold = equal_error_threshold(positives, negatives)
    assert threshold == pytest.approx(0.35)
    assert error_rates(positives, negatives, threshold=threshold) == pytest.approx((1 / 3, 1 / 3))


def test_threshold_does_not_depend_on_how_many_negatives_there_are_per_positive() -> None:
    positives, negatives = torch.tensor([0.5, 0.3, 0.6]), torch.tensor([0.4, 0.1, 0.2])
    assert equal_error_threshold(positives, negatives.repeat(7)) == pytest.approx(
        equal_error_threshold(positives, negatives)
    )


def test_threshold_takes_the_nearest_to_balance_when_no_point_is_equal() -> None:
    # candidates: 0.25 (FAR 1/2, FRR 0), 0.35 (1/2, 1/3), 0.5 (0, 1/3) …; the smallest gap is 1/6 at 0.35
    threshold = equal_error_threshold(torch.tensor([0.3, 0.6, 0.7]), torch.tensor([0.2, 0.4]))
    assert threshold == pytest.approx(0.35)


def test_threshold_of_equal_scores_is_that_score() -> None:
    assert equal_error_threshold(torch.tensor([0.5, 0.5]), torch.tensor([0.5])) == 0.5


def test_a_score_at_the_threshold_is_accepted() -> None:
    rates = error_rates(torch.tensor([0.5]), torch.tensor([0.5]), threshold=0.5)
    assert rates == (1.0, 0.0)


def test_threshold_rejects_a_side_without_scores() -> None:
    with pytest.raises(ValueError, match="got 1 positive and 0 negative"):
        equal_error_threshold(torch.tensor([0.5]), torch.tensor([]))
