import math

import pytest
import torch

from rl_empathy.algorithms.corrections import no_weights, tis_weights
from rl_empathy.algorithms.losses import infonce_loss, policy_loss, sft_loss, triplet_loss


def loss_of(now, old, advantages, mask=None, weights=None, num_tokens=None):
    now = torch.tensor(now, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(len(now), dtype=torch.bool) if mask is None else torch.tensor(mask)
    old = torch.tensor(old, dtype=torch.float64)
    out = policy_loss(
        now,
        old,
        no_weights(old) if weights is None else weights,
        torch.tensor(advantages, dtype=torch.float64),
        mask,
        clip_low=0.2,
        clip_high=0.28,
        num_tokens=num_tokens or int(mask.sum()),
    )
    return out, now


def test_on_policy_the_loss_is_minus_the_mean_advantage():
    out, _ = loss_of([-1.0, -2.0], [-1.0, -2.0], [3.0, -1.0])
    assert out.loss.item() == pytest.approx(-(3.0 - 1.0) / 2)
    assert not out.clipped.any()


def test_a_ratio_above_the_upper_bound_is_clipped_for_a_good_token():
    out, now = loss_of([math.log(2.0)], [0.0], [1.0])  # ratio 2, bound 1.28
    assert out.loss.item() == pytest.approx(-1.28)
    out.loss.backward()
    assert now.grad.item() == 0  # a clipped token gets no gradient
    assert out.clipped.tolist() == [True]


def test_a_ratio_above_the_upper_bound_is_not_clipped_for_a_bad_token():
    out, now = loss_of([math.log(2.0)], [0.0], [-1.0])
    assert out.loss.item() == pytest.approx(2.0)
    out.loss.backward()
    assert now.grad.item() == pytest.approx(2.0)


def test_a_ratio_below_the_lower_bound_is_clipped_for_a_bad_token():
    out, _ = loss_of([math.log(0.5)], [0.0], [-1.0])  # max(0.5, 0.8) = 0.8 with the sign
    assert out.loss.item() == pytest.approx(0.8)


def test_a_weight_multiplies_the_loss_and_carries_no_gradient_of_its_own():
    start, rollout = torch.tensor([0.0], dtype=torch.float64), torch.tensor([-1.0], dtype=torch.float64)
    weights = tis_weights(start, rollout, cap=2.0)  # e, cut to 2
    out, now = loss_of([0.0], [0.0], [1.5], weights=weights)  # now/start = 1: loss = -2 * 1 * A
    assert out.loss.item() == pytest.approx(-2.0 * 1.5)
    out.loss.backward()
    assert now.grad.item() == pytest.approx(-2.0 * 1.5)
    assert out.clipped.tolist() == [True]


def test_masked_tokens_change_nothing_even_when_they_are_not_finite():
    whole, _ = loss_of([-1.0, -2.0], [-1.1, -2.0], [1.0, 2.0], num_tokens=2)
    padded, _ = loss_of(
        [-1.0, -2.0, float("nan")], [-1.1, -2.0, 0.0], [1.0, 2.0, 7.0], mask=[True, True, False], num_tokens=2
    )
    assert padded.loss.item() == pytest.approx(whole.loss.item())


def test_micro_batches_add_up_to_the_whole():
    now, rollout, advantages = [-1.0, -2.0, -0.5], [-1.2, -1.9, -0.5], [1.0, -2.0, 0.5]
    whole, _ = loss_of(now, rollout, advantages, num_tokens=3)
    parts = [
        loss_of(now[a:b], rollout[a:b], advantages[a:b], num_tokens=3)[0].loss for a, b in ((0, 1), (1, 3))
    ]
    assert sum(parts).item() == pytest.approx(whole.loss.item())


def test_sft_loss_is_the_mean_negative_log_likelihood_of_the_masked_tokens():
    logprobs = torch.tensor([-1.0, -3.0, -100.0])
    mask = torch.tensor([True, True, False])
    assert sft_loss(logprobs, mask, num_tokens=2).item() == pytest.approx(2.0)


def test_triplet_loss_is_zero_once_the_margin_is_kept():
    anchor = torch.tensor([[1.0, 0.0]])
    far = torch.tensor([[0.0, 1.0]])
    assert triplet_loss(anchor, anchor, far, margin=0.3).item() == 0  # 0.3 - 1 + 0 < 0
    assert triplet_loss(anchor, far, anchor, margin=0.3).item() == pytest.approx(1.3)  # 0.3 - 0 + 1


def test_infonce_of_equal_cosines_is_the_log_of_the_number_of_candidates():
    same = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    loss = infonce_loss(same, same, same, torch.zeros(2, 4, dtype=torch.bool), temperature=0.05)
    assert loss.item() == pytest.approx(math.log(4))  # two answers and two negatives, all alike


def test_infonce_leaves_out_candidates_that_are_right_answers_to_the_anchor():
    east, north = [1.0, 0.0], [0.0, 1.0]
    anchors, positives = torch.tensor([east, north]), torch.tensor([east, north])
    negatives = torch.tensor([north, east])  # negative 1 is a right answer to question 0
    is_own = torch.tensor([[True, False, False, True], [False, True, False, False]])
    loss = infonce_loss(anchors, positives, negatives, is_own, temperature=1.0)
    # question 0: its pair (cosine 1) among pair, positive 1 (0), negative 0 (0); negative 1 (1) is left out
    # question 1: its pair (1) among pair, positive 0 (0), negative 0 (1), negative 1 (0)
    first, second = math.log(math.e + 2) - 1, math.log(2 * math.e + 2) - 1
    assert loss.item() == pytest.approx((first + second) / 2)


def test_infonce_gives_a_right_answer_of_the_anchor_no_gradient():
    anchors, positives = torch.eye(2), torch.eye(2)
    negatives = torch.tensor([[0.6, 0.8], [0.8, 0.6]], requires_grad=True)
    is_own = torch.tensor([[True, False, True, False], [False, True, True, False]])  # negative 0 of both
    infonce_loss(anchors, positives, negatives, is_own, temperature=1.0).backward()
    assert negatives.grad is not None
    assert negatives.grad[0].tolist() == [0, 0]
    assert negatives.grad[1].abs().min() > 0
